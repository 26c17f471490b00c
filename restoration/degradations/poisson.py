"""Add shot noise: the statistics of counting photons, so that bright areas are noisier than dark ones.

Source: spec/ipt.md 8.4: x' = x + s (Poisson(x P) / P - x), variance s^2 x / P. BasicSR takes P from the number of distinct
levels (256 for a photograph) and varies s; KAIR varies P = 10^U(2, 4) and draws half of the pictures grey. Both are fields.
The defaults (P from 30 to 300) are visible but not extreme: imagecorruptions goes from 60 to 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from . import Parameters, Pixels, Rng, check_pixels, clipped, render_drawn
from ._batch import batch_method, flags, generators, per_picture
from ._draws import between, check_range, check_share, draw_seed, log_between

LUMA = (0.299, 0.587, 0.114)  # BT.601


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Shot noise of a drawn exposure.

    Attributes:
        min_peak_photons: photons a white pixel counts; lower end, every factor of two equally likely.
        max_peak_photons: upper end.
        min_scale: the noise is multiplied by this; lower end.
        max_scale: upper end.
        grey_share: of the pictures, whose noise is that of their luma, the same in all channels.
    """

    name: ClassVar[str] = "poisson"
    min_peak_photons: float = 30.0
    max_peak_photons: float = 300.0
    min_scale: float = 1.0
    max_scale: float = 1.0
    grey_share: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        check_range(self.name, "peak_photons", self.min_peak_photons, self.max_peak_photons, least=0.5, most=1e6)
        check_range(self.name, "scale", self.min_scale, self.max_scale, least=0, most=10)
        check_share(self.name, "grey_share", self.grey_share)

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw exposure, scale, kind and seed."""
        return {
            "peak_photons": log_between(rng, self.min_peak_photons, self.max_peak_photons),
            "scale": between(rng, self.min_scale, self.max_scale),
            "grey": bool(rng.uniform() < self.grey_share),
            "seed": draw_seed(rng),
        }

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a noisy copy."""
        check_pixels(image_CHW, where=self.name)
        peak = parameters["peak_photons"]
        true = np.clip(image_CHW, 0, 1)
        if parameters["grey"]:
            true = np.tensordot(np.array(LUMA, np.float32), true, axes=1)[None]
        counted = np.random.default_rng(parameters["seed"]).poisson(true * np.float64(peak)) / peak
        return clipped(image_CHW + parameters["scale"] * (counted - true))

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return noisy copies of a batch."""
        peak = per_picture((values["peak_photons"] for values in parameters), x_BCHW)
        scale = per_picture((values["scale"] for values in parameters), x_BCHW)
        luma = sum(weight * x_BCHW[:, channel : channel + 1] for channel, weight in enumerate(LUMA))
        grey = flags((values["grey"] for values in parameters), x_BCHW)
        true = torch.where(grey, luma, x_BCHW).clamp(0, 1)
        expected = true.detach() * peak
        counted = torch.stack([
            torch.poisson(rates, generator=stream)
            for rates, stream in zip(expected, generators(parameters, x_BCHW), strict=True)
        ])  # fmt: skip
        noise = counted / peak - true
        return (x_BCHW + scale * torch.where(grey, noise[:, :1], noise)).clamp(0, 1)
