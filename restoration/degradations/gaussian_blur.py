"""Blur as lenses and resizing do: Gaussian, generalised Gaussian or plateau, round or stretched.

Source: spec/ipt.md 8.3 and 8.7: the six kernels, their odds and ranges of Real-ESRGAN's first stage (BasicSR), half of the
shapes below 1 and half above. `sigma_law="variance"` draws squared widths uniformly, as BSRGAN does for stretched kernels.
Border mirrored without repeating the edge.
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
from ._draws import between, check_name, check_range, check_shares, choose, odd_between
from ._filters import Kernel, convolve, convolve_batch
from ._kernels import gaussian_kernel

SHAPES = ("gaussian", "gaussian", "generalised", "generalised", "plateau", "plateau")
KINDS = ("iso", "aniso", "generalised_iso", "generalised_aniso", "plateau_iso", "plateau_aniso")
LAWS = ("sigma", "variance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A kernel drawn for every picture.

    Attributes:
        kind_shares: odds of iso, aniso, generalised_iso, generalised_aniso, plateau_iso, plateau_aniso.
        min_size_px: side of the kernel, odd; lower end.
        max_size_px: upper end.
        min_sigma_px: width along each axis; lower end.
        max_sigma_px: upper end.
        sigma_law: draw uniformly the `sigma`, or the `variance` (its square).
        min_generalised_beta: shape of generalised Gaussians, below 1: long tails; half of the draws lie between it and 1.
        max_generalised_beta: the other half lies between 1 and it.
        min_plateau_beta: shape of plateaus, at most 1; half of the draws lie between it and 1 (at 1: are exactly 1).
        max_plateau_beta: the other half lies between 1 and it.
    """

    name: ClassVar[str] = "gaussian_blur"
    kind_shares: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    min_size_px: int = 7
    max_size_px: int = 21
    min_sigma_px: float = 0.6  # Real-ESRGAN: 0.2, which changes nothing; its chain says so itself
    max_sigma_px: float = 3.0
    sigma_law: str = "sigma"
    min_generalised_beta: float = 0.5
    max_generalised_beta: float = 4.0
    min_plateau_beta: float = 1.0  # spec/ipt.md 8.3: range [1, 2], half of the draws on each side of 1
    max_plateau_beta: float = 2.0

    def __post_init__(self) -> None:
        """Check ranges."""
        check_shares(self.name, "kind_shares", self.kind_shares, len(KINDS))
        check_range(self.name, "size_px", self.min_size_px, self.max_size_px, least=1, most=101)
        if not self.min_size_px % 2 or not self.max_size_px % 2:
            raise ConfigError(f"gaussian_blur sizes must be odd, got {self.min_size_px} and {self.max_size_px}")
        check_range(self.name, "sigma_px", self.min_sigma_px, self.max_sigma_px, least=0, most=50)
        check_name(self.name, "sigma_law", self.sigma_law, LAWS)
        if not 0.1 <= self.min_generalised_beta <= 1 <= self.max_generalised_beta <= 16:
            raise ConfigError(
                "gaussian_blur needs 0.1 <= min_generalised_beta <= 1 <= max_generalised_beta <= 16, "
                f"got {self.min_generalised_beta} and {self.max_generalised_beta}"
            )
        if not 0.1 <= self.min_plateau_beta <= 1 <= self.max_plateau_beta <= 16:
            raise ConfigError(
                "gaussian_blur needs 0.1 <= min_plateau_beta <= 1 <= max_plateau_beta <= 16, "
                f"got {self.min_plateau_beta} and {self.max_plateau_beta}"
            )

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw kind, size, widths, angle and shape."""
        kind = choose(rng, KINDS, self.kind_shares)
        sigma_x = self._draw_sigma(rng)
        round_one = kind.endswith("iso") and not kind.endswith("aniso")
        return {
            "kind": kind, "size_px": odd_between(rng, self.min_size_px, self.max_size_px), "sigma_x_px": sigma_x,
            "sigma_y_px": sigma_x if round_one else self._draw_sigma(rng),
            "angle_deg": 0.0 if round_one else between(rng, 0, 180), "beta": self._draw_beta(rng, kind),
        }  # fmt: skip

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

    def _draw_sigma(self, rng: Rng) -> float:
        if self.sigma_law == "variance":
            return math.sqrt(between(rng, self.min_sigma_px**2, self.max_sigma_px**2))
        return between(rng, self.min_sigma_px, self.max_sigma_px)

    def _draw_beta(self, rng: Rng, kind: str) -> float:
        if not kind.startswith(("generalised", "plateau")):
            return 1.0
        low, high = (
            (self.min_plateau_beta, self.max_plateau_beta)
            if kind.startswith("plateau")
            else (self.min_generalised_beta, self.max_generalised_beta)
        )
        return between(rng, low, 1) if rng.uniform() < 0.5 else between(rng, 1, high)


def _kernel(parameters: Parameters) -> Kernel:
    shape = SHAPES[KINDS.index(parameters["kind"])]
    return gaussian_kernel(
        parameters["size_px"], parameters["sigma_x_px"], parameters["sigma_y_px"], parameters["angle_deg"], shape,
        parameters["beta"],
    )  # fmt: skip
