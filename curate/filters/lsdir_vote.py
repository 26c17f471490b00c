"""LSDIR's two image tests at scale 1/4: a blur window and a vote of flat cells. Gates in recipe `lsdir` only.

Source: ofsoundof/lsdir_tools (data_crawling_tool.py defaults): Pillow LANCZOS to (w // 4, h // 4), Var(Laplacian) in
150..8000, 240-px cells (ragged ones count), cell flat when Var|Sobel| < 800, image rejected when >= 50 % are flat.
Differs from it in one point: our luma plane is shrunk, not the RGB image (equal up to rounding to 8 bit; see
`curate.shrink` for the LANCZOS).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..shrink import lanczos_shrink
from ..view import View, laplacian, sobel_magnitude
from .sharpness import laplacian_variance

SCALE = 4
CELL_PX = 240
CELL_MIN_VARIANCE = 800.0
"""(8-bit levels)^2 at scale 1/4; part of what `lsdir_flat_frac` means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on LSDIR's published numbers."""

    name: ClassVar[str] = "lsdir_vote"
    level: ClassVar[str] = "image"
    columns: ClassVar[Mapping[str, type]] = {"lsdir_flat_frac": float, "lsdir_laplacian_variance": float}
    min_laplacian_variance: float = 150.0
    max_laplacian_variance: float = 8000.0
    flat_vote_frac: float = 0.5

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.min_laplacian_variance <= self.max_laplacian_variance:
            raise ConfigError(
                "lsdir_vote: wanted 0 <= min_laplacian_variance <= max_laplacian_variance, "
                f"got {self.min_laplacian_variance} and {self.max_laplacian_variance}"
            )
        if not 0 < self.flat_vote_frac <= 1:
            raise ConfigError(f"lsdir_vote.flat_vote_frac must be in (0, 1], got {self.flat_vote_frac}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the share of flat cells and Var(Laplacian), both at scale 1/4; None for images under 4 px."""
        height, width = view.grey.shape
        if height < SCALE or width < SCALE:
            return {"lsdir_flat_frac": None, "lsdir_laplacian_variance": None}
        small = lanczos_shrink(view.grey, height // SCALE, width // SCALE)
        return {
            "lsdir_flat_frac": _flat_share(sobel_magnitude(small)),
            "lsdir_laplacian_variance": laplacian_variance(laplacian(small)),
        }

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep inside the blur window and under the flat vote."""
        blur, flat = scores["lsdir_laplacian_variance"], scores["lsdir_flat_frac"]
        if blur is None or flat is None:
            return Verdict(keep=False, reason="too-small")
        if not self.min_laplacian_variance <= blur <= self.max_laplacian_variance:
            return Verdict(keep=False, reason="blurry" if blur < self.min_laplacian_variance else "noisy")
        return KEEP if flat < self.flat_vote_frac else Verdict(keep=False, reason="flat")


def _flat_share(magnitude: NDArray[np.float32]) -> float:
    rows, columns = math.ceil(magnitude.shape[0] / CELL_PX), math.ceil(magnitude.shape[1] / CELL_PX)
    flat = [
        magnitude[r * CELL_PX : (r + 1) * CELL_PX, c * CELL_PX : (c + 1) * CELL_PX].var(dtype=np.float64)
        < CELL_MIN_VARIANCE
        for r in range(rows)
        for c in range(columns)
    ]
    return float(np.mean(flat))
