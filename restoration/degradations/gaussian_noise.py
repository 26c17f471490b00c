"""Add white Gaussian noise, independent per channel.

Source: spec/dynet.md 2.2 and 5 (PromptIR's pictures are clipped and floored to 8 bits after the noise; `storage="floor"`);
spec/ipt.md 8.4 (`none` is the unclipped float noise of the denoising literature). Noise is drawn in (H, W, 3) order, so
that a RandomState gives the very pictures of those protocols.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from curate.core.errors import ConfigError

from . import Pixels, Rng, check_pixels

STORAGES = ("floor", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Noise of one strength, or of a strength drawn anew for every picture.

    Attributes:
        min_sigma_levels: standard deviation in 8-bit levels; lower end of the range.
        max_sigma_levels: upper end; equal to the lower end for a fixed strength.
        storage: `floor`: clip to [0, 255] and drop the fraction, as the picture's file would; `none`: keep floats.
    """

    name: ClassVar[str] = "gaussian_noise"
    min_sigma_levels: float = 25.0  # the middle one of the field's 15, 25, 50
    max_sigma_levels: float = 25.0
    storage: str = "floor"

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.min_sigma_levels <= self.max_sigma_levels <= 255:
            raise ConfigError(
                "gaussian_noise needs 0 <= min_sigma_levels <= max_sigma_levels <= 255, "
                f"got {self.min_sigma_levels} and {self.max_sigma_levels}"
            )
        if self.storage not in STORAGES:
            raise ConfigError(f"gaussian_noise.storage must be one of {', '.join(STORAGES)}, got {self.storage!r}")

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a noisy copy of a (3, H, W) float32 image."""
        check_pixels(image_CHW, where="gaussian_noise")
        sigma = self.min_sigma_levels
        if self.max_sigma_levels > sigma:
            sigma = rng.uniform(sigma, self.max_sigma_levels)
        _, height, width = image_CHW.shape
        noise_CHW = rng.standard_normal((height, width, 3)).transpose(2, 0, 1)
        levels_CHW = np.round(image_CHW.astype(np.float64) * 255, 3) + noise_CHW * sigma  # 8-bit values exactly, again
        if self.storage == "floor":
            levels_CHW = np.floor(np.clip(levels_CHW, 0, 255))
        return np.ascontiguousarray(levels_CHW / 255, dtype=np.float32)
