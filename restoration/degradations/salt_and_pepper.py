"""Turn some pixels white and some black: dead and hot pixels, errors of transmission.

Source: spec/ipt.md 8.4 (imagecorruptions' impulse noise: 0.03 to 0.27 of all samples, half of them white). Whole pixels by
default; `per_channel` hits every channel by itself, as imagecorruptions does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from . import Parameters, Pixels, Rng, check_pixels, clipped, render_drawn
from ._batch import batch_method, flags, generators, per_picture, uniform_fields
from ._draws import between, check_range, check_share, draw_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Impulses of a drawn density.

    Attributes:
        min_density_frac: share of pixels hit; lower end.
        max_density_frac: upper end.
        salt_share: of the impulses, that are white.
        per_channel: hit every channel by itself.
    """

    name: ClassVar[str] = "salt_and_pepper"
    min_density_frac: float = 0.01
    max_density_frac: float = 0.1
    salt_share: float = 0.5
    per_channel: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        check_range(self.name, "density_frac", self.min_density_frac, self.max_density_frac, least=0, most=1)
        check_share(self.name, "salt_share", self.salt_share)

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw density and seed."""
        return {
            "density_frac": between(rng, self.min_density_frac, self.max_density_frac),
            "salt_share": self.salt_share, "per_channel": self.per_channel, "seed": draw_seed(rng),
        }  # fmt: skip

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a copy with impulses."""
        check_pixels(image_CHW, where=self.name)
        channels = 3 if parameters["per_channel"] else 1
        fate = np.random.default_rng(parameters["seed"]).random((channels, *image_CHW.shape[1:]), np.float32)
        density, salt = parameters["density_frac"], parameters["salt_share"]
        value = (fate < np.float32(density * salt)).astype(np.float32)
        return clipped(np.where(fate < np.float32(density), value, image_CHW))

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return copies of a batch with impulses."""
        fields = uniform_fields(generators(parameters, x_BCHW), x_BCHW.shape[1:], x_BCHW)
        fate = torch.where(flags((values["per_channel"] for values in parameters), x_BCHW), fields, fields[:, :1])
        density = per_picture((values["density_frac"] for values in parameters), x_BCHW)
        salt = per_picture((values["salt_share"] for values in parameters), x_BCHW)
        return torch.where(fate < density, (fate < density * salt).float(), x_BCHW).clamp(0, 1)
