"""Find JPEGs that were JPEGs of another quality before: saved again, or dressed up as high quality.

Rounding a coefficient twice, first to the old step and then to the file's own, leaves gaps and peaks in its histogram. The
histogram one rounding would leave comes from the same pixels cut 4 px off the grid, where the old rounding does not show; the
score is how many bits per coefficient the best old step explains better than none. For nine low frequencies, on 16 tiles.

Sees a lower quality before a higher one clearly (12 Kodak pictures: 75 before 85 from 0.12 bits, 60 before 90 from 1.4), the
reverse weakly (85 before 75: 0.04 to 0.06, under the threshold) or not at all (95 before 75). Cannot see the same quality
twice, a crop that moved the grid, or a resize in between. A pattern that repeats every 8 px deceives it.

Source: Lukas & Fridrich, DFRWS 2003 (double quantisation, cropping as calibration); Popescu & Farid, IH 2004 (its gaps and
peaks); the likelihood ratio, its smoothing and the threshold are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError
from ..core.records import KEEP, UNTOUCHED, Score, Verdict
from ..view import View
from ._grid import BLOCK_PX, block_dct, grid_start

TILE_PX = 128
TILES_A_SIDE = 4
_ZIGZAG_START = ((0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0))
FREQUENCIES = {frequency: place for place, frequency in enumerate(_ZIGZAG_START, start=1)}
"""(vertical, horizontal) frequency and its place in a quantisation table."""
NUM_BINS = 24
MIN_COEFFICIENTS = 100
MAX_FIRST_STEP = 64
UNIFORM_FRAC = 0.02
"""Share of a predicted histogram that is spread evenly, so that one stray coefficient cannot decide."""
_OWN_LUMA = UNTOUCHED | {"oriented"}
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the evidence of an earlier JPEG compression; as a gate it drops every format but JPEG, as unknown."""

    name: ClassVar[str] = "double_compression"
    level: ClassVar[str] = "image"
    columns: ClassVar[Mapping[str, type]] = {"double_compression": float}
    max_double_compression: float = 0.2  # bits per coefficient; ours: Kodak pictures saved once reach 0.02

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.max_double_compression > 0:
            raise ConfigError(
                f"double_compression.max_double_compression must be > 0, got {self.max_double_compression}"
            )

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return bits per non-zero coefficient in favour of an earlier compression, >= 0.

        None for other formats, CMYK and RGB JPEGs, pixels changed by a profile, and pictures too small or too flat to tell.
        """
        steps = _luma_steps(view)
        if steps is None:
            return {"double_compression": None}
        y, x = grid_start(view)
        tiles = _tiles(view.grey[y:, x:])
        if tiles is None:
            return {"double_compression": None}
        gains = [
            gain
            for down, across in FREQUENCIES
            if (gain := _gain(*np.abs(tiles[:, 8 * down + across]), step=int(steps[down, across]))) is not None
        ]
        return {"double_compression": float(np.mean(gains)) if gains else None}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if known and not above the threshold."""
        value = scores["double_compression"]
        if value is None:
            return Verdict(keep=False, reason="compression-unknown")
        return KEEP if value <= self.max_double_compression else Verdict(keep=False, reason="compressed-twice")


def _luma_steps(view: View) -> NDArray[np.int64] | None:
    """(8, 8) luma quantisation steps as they lie in the upright picture; None where the luma plane is not the JPEG's own."""
    jpeg = view.facts.jpeg
    if jpeg is None or len(jpeg.luma_table) != BLOCK_PX**2 or set(view.facts.policy.split(",")) - _OWN_LUMA:
        return None
    if jpeg.num_components not in (1, 3) or (jpeg.num_components == 3 and jpeg.adobe_transform == 0):
        return None
    steps = np.zeros((BLOCK_PX, BLOCK_PX), np.int64)
    for (down, across), place in FREQUENCIES.items():
        steps[down, across] = jpeg.luma_table[place]
    return steps.T if view.facts.orientation >= 5 else steps


def _tiles(plane: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """DCT of up to 16 tiles, first on the grid, then moved by (4, 4): (2, 64, N)."""
    half = BLOCK_PX // 2
    side = min(TILE_PX, (min(plane.shape) - half) // BLOCK_PX * BLOCK_PX)
    if side < BLOCK_PX:
        return None
    starts = [
        sorted({(length - side - half) * k // (TILES_A_SIDE - 1) // BLOCK_PX * BLOCK_PX for k in range(TILES_A_SIDE)})
        for length in plane.shape
    ]
    corners = [(y, x) for y in starts[0] for x in starts[1]]
    on_grid = [block_dct(plane[y : y + side, x : x + side]).reshape(64, -1) for y, x in corners]
    off_grid = [block_dct(plane[y + half :, x + half :][:side, :side]).reshape(64, -1) for y, x in corners]
    return np.stack([np.hstack(on_grid), np.hstack(off_grid)])


def _gain(on_grid: NDArray[np.float32], off_grid: NDArray[np.float32], *, step: int) -> float | None:
    """Bits per coefficient by which the best earlier step explains a frequency better than none; None with too few."""
    if step < 1:
        return None
    levels = np.minimum(np.rint(on_grid / step).astype(np.int64), NUM_BINS + 1)
    seen = np.bincount(levels, minlength=NUM_BINS + 2)[1:-1].astype(np.float64)
    if seen.sum() < MIN_COEFFICIENTS:
        return None
    fine = np.bincount(np.minimum(off_grid, (NUM_BINS + 3) * step + MAX_FIRST_STEP).astype(np.int64)).astype(np.float64)
    values = np.arange(len(fine)) + 0.5
    bits = [float(seen @ np.log2(_predict(fine, values, step)))]
    for first in range(2, min(MAX_FIRST_STEP, 4 * step + 16)):
        if first != step:
            rounded = np.rint(values / first) * first
            bits.append(float(seen @ np.log2(_predict(fine, rounded, step))))
    return (max(bits) - bits[0]) / float(seen.sum())


def _predict(fine: Floats, values: NDArray[np.floating[Any]], step: int) -> Floats:
    """Histogram over levels 1..24 that rounding `values` (of which there are `fine`) to `step` gives; sums to 1."""
    levels = np.minimum(np.rint(values / step).astype(np.int64), NUM_BINS + 1)
    counts = np.bincount(levels, weights=fine, minlength=NUM_BINS + 2)[1:-1]
    counts = counts + 0.5 + UNIFORM_FRAC * counts.sum() / NUM_BINS
    return np.asarray(counts / counts.sum(), dtype=np.float64)
