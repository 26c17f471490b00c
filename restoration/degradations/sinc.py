"""Cut off high frequencies sharply: the ringing and overshoot of oversharpened and badly resized pictures.

Source: spec/ipt.md 8.3 and 8.7: BasicSR's circular low-pass; cutoff pi/3 to pi for kernels below 13 px, pi/5 to pi from there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from curate.core.errors import ConfigError

from . import Parameters, Pixels, Rng, check_pixels, clipped, render_drawn
from ._batch import batch_method
from ._draws import between, check_range, odd_between
from ._filters import convolve, convolve_batch
from ._kernels import sinc_kernel

LARGE_SIZE_PX = 13  # from here on `min_large_cutoff_frac` is the lower end; spec/ipt.md 8.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A cutoff drawn for every picture.

    Attributes:
        min_size_px: side of the kernel, odd; lower end.
        max_size_px: upper end.
        min_cutoff_frac: cutoff as a share of the highest frequency (pi), kernels below 13 px; lower end.
        min_large_cutoff_frac: the same from 13 px on.
        max_cutoff_frac: upper end of both.
    """

    name: ClassVar[str] = "sinc"
    min_size_px: int = 7
    max_size_px: int = 21
    min_cutoff_frac: float = 1 / 3
    min_large_cutoff_frac: float = 1 / 5
    max_cutoff_frac: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges."""
        check_range(self.name, "size_px", self.min_size_px, self.max_size_px, least=1, most=101)
        if not self.min_size_px % 2 or not self.max_size_px % 2:
            raise ConfigError(f"sinc sizes must be odd, got {self.min_size_px} and {self.max_size_px}")
        for low in (self.min_cutoff_frac, self.min_large_cutoff_frac):
            check_range(self.name, "cutoff_frac", low, self.max_cutoff_frac, least=0.05, most=1)

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw size and cutoff."""
        size = odd_between(rng, self.min_size_px, self.max_size_px)
        low = self.min_cutoff_frac if size < LARGE_SIZE_PX else self.min_large_cutoff_frac
        return {"size_px": size, "cutoff_rad": math.pi * between(rng, low, self.max_cutoff_frac)}

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a copy with ringing."""
        check_pixels(image_CHW, where=self.name)
        return clipped(convolve(image_CHW, sinc_kernel(parameters["size_px"], parameters["cutoff_rad"])))

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return copies of a batch with ringing."""
        kernels = [sinc_kernel(values["size_px"], values["cutoff_rad"]) for values in parameters]
        return convolve_batch(x_BCHW, kernels).clamp(0, 1)
