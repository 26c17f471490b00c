"""Multiply by noise: the grain of coherent imaging (radar, ultrasound, laser light), strong where the picture is bright.

Source: spec/ipt.md 8.4: x' = x + x n, n Gaussian. imagecorruptions takes n from 0.15 to 0.6; the default stays at the lower
end. Clipped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from . import Parameters, Pixels, Rng, check_pixels, clipped, render_drawn
from ._batch import batch_method, generators, normal_fields, per_picture
from ._draws import between, check_range, draw_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Multiplicative Gaussian noise, independent per channel.

    Attributes:
        min_sigma_frac: standard deviation as a share of the pixel's own value; lower end.
        max_sigma_frac: upper end.
    """

    name: ClassVar[str] = "speckle"
    min_sigma_frac: float = 0.1
    max_sigma_frac: float = 0.3

    def __post_init__(self) -> None:
        """Check ranges."""
        check_range(self.name, "sigma_frac", self.min_sigma_frac, self.max_sigma_frac, least=0, most=2)

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw strength and seed."""
        return {"sigma_frac": between(rng, self.min_sigma_frac, self.max_sigma_frac), "seed": draw_seed(rng)}

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a noisy copy."""
        check_pixels(image_CHW, where=self.name)
        noise = np.random.default_rng(parameters["seed"]).standard_normal(image_CHW.shape, np.float32)
        return clipped(image_CHW + image_CHW * (noise * np.float32(parameters["sigma_frac"])))

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return noisy copies of a batch."""
        noise = normal_fields(generators(parameters, x_BCHW), x_BCHW.shape[1:], x_BCHW)
        sigma = per_picture((values["sigma_frac"] for values in parameters), x_BCHW)
        return (x_BCHW + x_BCHW * (noise * sigma)).clamp(0, 1)
