"""Gradient statistics of a whole plane, kept as sums per 8 x 8 block, so that cells on any 8-aligned grid cost nothing more.

The plane is filtered once, in bands that stay in the processor's cache; no plane of floats is ever held. From the sums of
a value and of its square the variance of any rectangle of blocks follows: Var = E[v^2] - E[v]^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

BLOCK_PX = 8
_BAND_PX = 16
_FOLD = np.ones(BLOCK_PX)


@dataclass(frozen=True, slots=True)
class BlockSums:
    """Sums of a plane's values and squares over its whole 8 x 8 blocks; ragged borders are left out.

    Attributes:
        total: (rows, columns) float64, sum of the values of each block.
        square: (rows, columns) float64, sum of their squares.
    """

    total: NDArray[np.float64]
    square: NDArray[np.float64]

    def cell_variance(self, rows: slice, columns: slice, cell_px: int) -> NDArray[np.float64]:
        """Return the variance of every whole square cell of a region.

        Args:
            rows: the region's rows in pixels, starting at a multiple of 8.
            columns: its columns, likewise.
            cell_px: side of a cell, a multiple of 8, at most the region's sides.

        Returns:
            (region height // cell_px, region width // cell_px) float64, >= 0; relative error about 1e-6 of E[v^2].
        """
        mean = _fold_cells(self.total, rows, columns, cell_px) / cell_px**2
        return np.maximum(_fold_cells(self.square, rows, columns, cell_px) / cell_px**2 - mean**2, 0.0)


def gradient_blocks(grey: NDArray[np.uint8]) -> BlockSums:
    """Sum |Sobel| and |Sobel|^2 (3 x 3, borders mirrored as OpenCV's reflect101) over the blocks of a plane.

    Args:
        grey: (H, W) uint8, H and W >= 8. Not modified.

    Returns:
        Sums over (H // 8, W // 8) blocks; gradients in 8-bit levels times the kernel's gain of 8.
    """
    height, width = grey.shape[0] // BLOCK_PX * BLOCK_PX, grey.shape[1]
    total = np.empty((height // BLOCK_PX, width), np.float32)
    square = np.empty_like(total)
    buffers = _Buffers.of_width(width)
    for top in range(0, height, _BAND_PX):
        bottom = min(top + _BAND_PX, height)
        part = slice(top // BLOCK_PX, bottom // BLOCK_PX)
        energy = _band_energy(grey, top, bottom, buffers).reshape(-1, BLOCK_PX, width)
        np.add.reduce(energy, axis=1, out=square[part])  # integers under 2^24: exact in any order
        np.add.reduce(np.sqrt(energy, out=energy), axis=1, out=total[part])
    return BlockSums(total=_fold_columns(total), square=_fold_columns(square))


@dataclass(frozen=True, slots=True)
class _Buffers:
    """Room for one band: (2, band + 2, W) int16 gradients; (2, band, W) float32."""

    integers: NDArray[np.int16]
    floats: NDArray[np.float32]

    @classmethod
    def of_width(cls, width: int) -> _Buffers:
        return cls(np.empty((2, _BAND_PX + 2, width), np.int16), np.empty((2, _BAND_PX, width), np.float32))


def _band_energy(grey: NDArray[np.uint8], top: int, bottom: int, buffers: _Buffers) -> NDArray[np.float32]:
    start = max(top - 1, 0)  # one row more on either side, where there is one
    band = grey[start : bottom + 1]
    gradient = buffers.integers[:, : len(band)]
    cv2.spatialGradient(band, gradient[0], gradient[1])
    return squared_length(gradient[:, top - start : bottom - start], buffers.floats[:, : bottom - top])


def squared_length(gradient: NDArray[np.int16], room: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return x^2 + y^2 of (2, H, W) gradients in `room[0]`; exact, being integers of at most 2 * 1020^2 < 2^24.

    OpenCV's `magnitude` is faster, but its last bit depends on where its buffers happen to lie: scores must not.
    """
    np.copyto(room, gradient)
    np.multiply(room, room, out=room)
    energy: NDArray[np.float32] = room[0]
    energy += room[1]
    return energy


def _fold_columns(sums: NDArray[np.float32]) -> NDArray[np.float64]:
    rows, columns = sums.shape[0], sums.shape[1] // BLOCK_PX
    whole = sums[:, : columns * BLOCK_PX].astype(np.float64)
    return np.asarray((whole.reshape(-1, BLOCK_PX) @ _FOLD).reshape(rows, columns), dtype=np.float64)


def _fold_cells(sums: NDArray[np.float64], rows: slice, columns: slice, cell_px: int) -> NDArray[np.float64]:
    side = cell_px // BLOCK_PX
    num_y, num_x = (rows.stop - rows.start) // cell_px, (columns.stop - columns.start) // cell_px
    y, x = rows.start // BLOCK_PX, columns.start // BLOCK_PX
    region = sums[y : y + num_y * side, x : x + num_x * side]
    cells = region.reshape(num_y, side, num_x, side)
    return np.asarray(cells.sum(axis=(1, 3), dtype=np.float64))
