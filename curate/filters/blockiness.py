"""Measure the 8x8 blocks that JPEG leaves in the decoded pixels; gates only if a recipe says so.

Every coefficient of the 8x8 DCT is compared with those of the four neighbouring blocks (second differences), once on
the 8 px grid and once on the grid moved by (4, 4): without blocks both give the same. Valid on the file's own pixels
only, never after a resize. Texture that repeats every 8 px looks like blocks to it.

Source: Bhardwaj & Pankajakshan, "A JPEG blocking artifact detector for image forensics", Signal Processing: Image
Communication 68, 2018, as in the code of DiverSeg (ECCV 2024). Threshold: 30 is said to be BHI filtering's (second-hand);
it means a JPEG quality of about 85.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View
from ._grid import BLOCK_PX, block_dct, grid_start

MIN_SIDE_PX = 40
SMALLEST_VARIATION_LEVELS = 0.01
"""Below it a coefficient does not vary at all; it keeps a flat picture from dividing by nothing."""

ROUNDING_LEVELS = 2e-4
"""Variations below it are the rounding of float32 products, which differs between places of a matrix on some machines."""

ROWS_AT_ONCE = 16  # rows of blocks; keeps what is computed of a 512-px patch in the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on blockiness: higher means more visible blocks."""

    name: ClassVar[str] = "blockiness"
    level: ClassVar[str] = "patch"
    columns: ClassVar[Mapping[str, type]] = {"blockiness": float}
    max_blockiness: float = 30.0  # BHI filtering's number, second-hand; about JPEG quality 85

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.max_blockiness > 0:
            raise ConfigError(f"blockiness.max_blockiness must be > 0, got {self.max_blockiness}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the sum over the 64 coefficients of |V' - V| / V, >= 0, no unit; None under 40 px on a side.

        Kodak 1, 8 and 23: 1.2 to 1.5 as PNG, 3 to 21 at JPEG quality 95, 24 to 45 at 85, 52 to 121 at 75.
        """
        y, x = grid_start(view)
        return {"blockiness": blockiness(view.grey[y:, x:])}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if known and not above the threshold."""
        value = scores["blockiness"]
        if value is None:
            return Verdict(keep=False, reason="too-small")
        return KEEP if value <= self.max_blockiness else Verdict(keep=False, reason="blocky")


def blockiness(plane: NDArray[np.uint8]) -> float | None:
    """Compare the variation of DCT coefficients between blocks on the grid and on the grid moved by half a block.

    Args:
        plane: (H, W) uint8 luma whose first pixel starts a block. Not modified.

    Returns:
        >= 0, no unit; 0.0 for a constant plane, None under 40 px on a side.
    """
    if min(plane.shape) < MIN_SIDE_PX:
        return None
    on_grid = _variation(plane)
    off_grid = _variation(plane[BLOCK_PX // 2 :, BLOCK_PX // 2 :])
    return float((np.abs(off_grid - on_grid) / np.maximum(on_grid, SMALLEST_VARIATION_LEVELS)).sum())


def _variation(plane: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean over interior blocks of the length of (horizontal, vertical) second difference of each coefficient; (64,)."""
    rows, columns = (side // BLOCK_PX for side in plane.shape)
    total = np.zeros(BLOCK_PX**2)
    for first in range(0, rows - 2, ROWS_AT_ONCE):
        blocks = block_dct(plane[BLOCK_PX * first : BLOCK_PX * (first + ROWS_AT_ONCE + 2)])
        twice = 2.0 * blocks[:, 1:-1, 1:-1]
        across = blocks[:, 1:-1, :-2] + blocks[:, 1:-1, 2:]
        across -= twice
        down = blocks[:, :-2, 1:-1] + blocks[:, 2:, 1:-1]
        down -= twice
        across *= across  # not cv2.magnitude: its last bit depends on where the buffers happen to lie
        down *= down
        across += down
        total += np.sqrt(across, out=across).reshape(BLOCK_PX**2, -1).sum(axis=1, dtype=np.float64)
    total /= (rows - 2) * (columns - 2)
    return np.where(total < ROUNDING_LEVELS, 0.0, total)
