"""Where patches are cut: a grid from the origin, or from the phase that keeps most texture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .core.errors import ConfigError
from .core.records import ImageFacts
from .view import ImageView

ALIGN_PX = 8
"""Phases are multiples of JPEG's block, so that statistics of the 8-px grid stay valid; in `source` of the MCU."""
TEXTURE_MIN = 20.0
"""Mean squared Laplacian of a patch worth keeping, as in filters/sharpness.py; in (8-bit levels)^2."""
PHASES = ("origin", "search")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """How the grid lies.

    Attributes:
        stride_px: step between patches; None = the patch size, so that patches do not overlap.
        phase: `origin` starts at the top left pixel; `search` starts where the whole patches hold most texture.
    """

    stride_px: int | None = None
    phase: str = "origin"

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.stride_px is not None and not self.stride_px >= ALIGN_PX:
            raise ConfigError(f"grid.stride_px must be >= {ALIGN_PX}, got {self.stride_px}")
        if self.phase not in PHASES:
            raise ConfigError(f"grid.phase must be one of {', '.join(PHASES)}, got {self.phase!r}")


def grid_origins(view: ImageView, grid: Grid, size_px: int, align_px: tuple[int, int]) -> list[tuple[int, int]]:
    """List the (y, x) of every whole patch, row by row.

    Args:
        view: the picture.
        grid: stride and phase.
        size_px: side of the patches.
        align_px: rows and columns that a phase is a multiple of; multiples of 8 (see `alignment`).
    """
    height, width = view.grey.shape
    stride = grid.stride_px or size_px
    y0, x0 = (0, 0) if grid.phase == "origin" else _best_phase(view, stride, size_px, align_px)
    rows, columns = range(y0, height - size_px + 1, stride), range(x0, width - size_px + 1, stride)
    return [(y, x) for y in rows for x in columns]


def alignment(pictures: Sequence[ImageFacts], extension: str) -> tuple[int, int]:
    """Say what phases must be multiples of: 8 px, and for patches cut as JPEG the coded unit of every picture."""
    units = [picture.jpeg for picture in pictures if picture.jpeg is not None and extension == "jpg"]
    height = math.lcm(ALIGN_PX, *(unit.mcu_height for unit in units))
    return height, math.lcm(ALIGN_PX, *(unit.mcu_width for unit in units))


def _best_phase(view: ImageView, stride: int, size_px: int, align: tuple[int, int]) -> tuple[int, int]:
    """Maximise the summed texture of the patches worth keeping, over phases that lose no row or column of patches.

    Ties go to the smallest (y, x), so a flat picture keeps its origin.
    """
    energy = _summed_energy(view.laplacian)
    height, width = view.grey.shape
    best, best_phase = 0.0, (0, 0)
    for y0 in range(0, (height - size_px) % stride + 1, align[0]):
        rows = np.arange(y0, height - size_px + 1, stride)
        for x0 in range(0, (width - size_px) % stride + 1, align[1]):
            columns = np.arange(x0, width - size_px + 1, stride)
            texture = _box_means(energy, rows, columns, size_px)
            total = float(texture[texture >= TEXTURE_MIN].sum())
            if total > best * (1 + 1e-9):
                best, best_phase = total, (y0, x0)
    return best_phase


def _summed_energy(laplacian: NDArray[np.int16]) -> NDArray[np.float64]:
    """Summed-area table (H / 8 + 1, W / 8 + 1) of the squared Laplacian; phases and sizes are multiples of 8."""
    height, width = (n // ALIGN_PX * ALIGN_PX for n in laplacian.shape)
    cut = laplacian[:height, :width].astype(np.float32)
    small = cv2.resize(cut * cut, (width // ALIGN_PX, height // ALIGN_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.integral(small.astype(np.float64)), dtype=np.float64)


def _box_means(
    table: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64], size_px: int
) -> NDArray[np.float64]:
    top, left, side = rows[:, None] // ALIGN_PX, columns[None, :] // ALIGN_PX, size_px // ALIGN_PX
    total = table[top + side, left + side] - table[top, left + side] - table[top + side, left] + table[top, left]
    return np.asarray(total / max(1, side * side), dtype=np.float64)
