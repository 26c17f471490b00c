"""Blur by a lens out of focus: every point becomes a disc.

Source: spec/ipt.md 8.3. Radii from just visible to imagecorruptions' third step; the disc's edge is antialiased by area
(MATLAB's fspecial('disk')), without imagecorruptions' further Gaussian.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from . import Parameters, Pixels, Rng, check_pixels, clipped, render_drawn
from ._batch import batch_method
from ._draws import between, check_range
from ._filters import convolve, convolve_batch
from ._kernels import disc_kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A disc of a radius drawn for every picture.

    Attributes:
        min_radius_px: lower end.
        max_radius_px: upper end.
    """

    name: ClassVar[str] = "defocus_blur"
    min_radius_px: float = 1.0
    max_radius_px: float = 6.0

    def __post_init__(self) -> None:
        """Check ranges."""
        check_range(self.name, "radius_px", self.min_radius_px, self.max_radius_px, least=0.1, most=50)

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw the radius."""
        return {"radius_px": between(rng, self.min_radius_px, self.max_radius_px)}

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a blurred copy."""
        check_pixels(image_CHW, where=self.name)
        return clipped(convolve(image_CHW, disc_kernel(parameters["radius_px"])))

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return blurred copies of a batch."""
        return convolve_batch(x_BCHW, [disc_kernel(values["radius_px"]) for values in parameters]).clamp(0, 1)
