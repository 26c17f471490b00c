"""Blur by movement: a straight line, or the path of a shaken hand.

Source: spec/ipt.md 8.3. `line` is MATLAB's fspecial('motion'); `path` is the random walk of Boracchi and Foi as DeblurGAN
uses it. Lengths up to 30 px are what a patch of 128 to 512 px can still be restored from. The blur is the same all over the
picture and linear in sRGB values; real shake varies over the field and adds up light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from . import Parameters, Pixels, Rng, check_pixels, clipped, render_drawn
from ._batch import batch_method
from ._draws import between, check_range, check_share, draw_seed
from ._filters import Kernel, convolve, convolve_batch
from ._kernels import line_kernel, path_kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A movement drawn for every picture.

    Attributes:
        min_length_px: of the movement; lower end.
        max_length_px: upper end.
        path_share: of the pictures, that are shaken along a path; the others move straight.
    """

    name: ClassVar[str] = "motion_blur"
    min_length_px: float = 5.0
    max_length_px: float = 30.0
    path_share: float = 0.5

    def __post_init__(self) -> None:
        """Check ranges."""
        check_range(self.name, "length_px", self.min_length_px, self.max_length_px, least=1, most=200)
        check_share(self.name, "path_share", self.path_share)

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw kind, length, and angle or seed."""
        length = between(rng, self.min_length_px, self.max_length_px)
        if rng.uniform() < self.path_share:
            return {"kind": "path", "length_px": length, "seed": draw_seed(rng)}
        return {"kind": "line", "length_px": length, "angle_deg": between(rng, 0, 180)}

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a blurred copy."""
        check_pixels(image_CHW, where=self.name)
        return clipped(convolve(image_CHW, _kernel(parameters)))

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return blurred copies of a batch."""
        return convolve_batch(x_BCHW, [_kernel(values) for values in parameters]).clamp(0, 1)


def _kernel(parameters: Parameters) -> Kernel:
    if parameters["kind"] == "path":
        return path_kernel(parameters["length_px"], parameters["seed"])
    return line_kernel(parameters["length_px"], parameters["angle_deg"])
