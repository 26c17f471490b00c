"""The 8x8 grid of a JPEG as the filters see it: where it starts in the upright picture, and the DCT of its blocks."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..view import View

BLOCK_PX = 8
_FLIPPED_ROWS, _FLIPPED_COLUMNS = frozenset({3, 4, 7, 8}), frozenset({2, 3, 6, 7})


def grid_start(view: View) -> tuple[int, int]:
    """Return the first row and column of a view, 0..7 each, on which a block of the file's own 8 px grid starts.

    EXIF orientations that mirror a side put the grid's origin at the far border, so a side that is no multiple of 8
    moves the grid. For formats without blocks it is the grid the patch would have been on.
    """
    facts = view.facts
    y = facts.height if facts.orientation in _FLIPPED_ROWS else 0
    x = facts.width if facts.orientation in _FLIPPED_COLUMNS else 0
    return (y - int(getattr(view, "y", 0))) % BLOCK_PX, (x - int(getattr(view, "x", 0))) % BLOCK_PX


def block_dct(plane: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Transform every whole 8x8 block, all of them in one matrix product.

    Args:
        plane: (H, W) uint8, the grid starting at its first pixel; ragged borders are left out.

    Returns:
        (64, H // 8, W // 8) float32: orthonormal DCT-II of `plane - 128`, coefficients in row-major order (vertical
        frequency first).
    """
    rows, columns = plane.shape[0] // BLOCK_PX, plane.shape[1] // BLOCK_PX
    cut = plane[: rows * BLOCK_PX, : columns * BLOCK_PX].reshape(rows, BLOCK_PX, columns, BLOCK_PX)
    pixels = np.ascontiguousarray(cut.transpose(1, 3, 0, 2)).astype(np.float32).reshape(64, rows * columns)
    pixels -= 128.0
    return (_dct64() @ pixels).reshape(64, rows, columns)


@cache
def _dct64() -> NDArray[np.float32]:
    """(64, 64): the Kronecker product of the 8-point orthonormal DCT-II with itself."""
    k, n = np.mgrid[0:8, 0:8]
    dct = np.cos(np.pi * (2 * n + 1) * k / 16) * np.where(k == 0, np.sqrt(1 / 8), np.sqrt(2 / 8))
    return np.kron(dct, dct).astype(np.float32)
