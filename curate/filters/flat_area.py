"""Drop patches that are mostly flat, without mistaking noise for detail.

Source: LSDIR's flat test (ofsoundof/lsdir_tools: Var|Sobel| per cell, 50 % vote) on 64-px cells at full resolution with
Million-IRD's rule (more than 50 % flat area is dropped); the noise term is ours: iid noise of standard deviation sigma
adds 5.15 sigma^2 to Var|Sobel| (measured: 5.11 to 5.25 for sigma 2 to 20).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View

CELL_PX = 64
CELL_MIN_VARIANCE = 150.0
"""(8-bit levels)^2; part of what `flat_area` means. Value: LSDIR's quality evaluator at full scale."""
NOISE_GAIN = 5.15
"""Var|Sobel| of iid Gaussian noise with sigma = 1 level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the share of flat cells of a patch."""

    name: ClassVar[str] = "flat_area"
    level: ClassVar[str] = "patch"
    columns: ClassVar[Mapping[str, type]] = {"flat_area": float}
    max_flat_area_frac: float = 0.5  # Million-IRD: "more than 50 % flat area"

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.max_flat_area_frac <= 1:
            raise ConfigError(f"flat_area.max_flat_area_frac must be in 0..1, got {self.max_flat_area_frac}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the share of 64-px cells with Var|Sobel| - 5.15 sigma^2 < 150."""
        flat = view.gradient_cell_variance(CELL_PX) - NOISE_GAIN * view.noise_sigma_levels**2 < CELL_MIN_VARIANCE
        return {"flat_area": float(flat.mean())}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if the share is known and not above the threshold."""
        share = scores["flat_area"]
        return KEEP if share is not None and share <= self.max_flat_area_frac else Verdict(keep=False, reason="flat")
