"""Pillow's LANCZOS reduction of a luma plane as matrix products: the same pixels in about half of Pillow's time.

Pillow filters columns, rounds to 8 bits, then filters rows; so do we. Its weights are integers of 22 bits, ours float32: a
pixel in some thousands differs by one level.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

LOBES = 3
_CHUNK = 12


def lanczos_shrink(plane: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Shrink a plane with Lanczos' kernel of 3 lobes, stretched by the scale.

    Args:
        plane: (H, W) uint8. Not modified.
        height: rows of the result, 1 .. H.
        width: columns of the result, 1 .. W.

    Returns:
        (height, width) uint8, within one level of `PIL.Image.resize((width, height), Resampling.LANCZOS)`.

    Source:
        Pillow's Resample.c (support, phase and normalisation of the weights).
    """
    columns = _shrink_rows(np.asarray(cv2.transpose(plane), dtype=np.uint8), width)
    return _shrink_rows(np.asarray(cv2.transpose(columns), dtype=np.uint8), height)


def _shrink_rows(plane: NDArray[np.uint8], num_rows: int) -> NDArray[np.uint8]:
    """Filter and decimate along the first axis; a few output rows at a time are one small matrix product."""
    out = np.empty((num_rows, plane.shape[1]), np.uint8)
    first, weights = _weights(len(plane), num_rows)
    taps = np.arange(weights.shape[1])
    for top in range(0, num_rows, _CHUNK):
        start = first[top : top + _CHUNK] - first[top]
        matrix = np.zeros((len(start), start[-1] + len(taps)), np.float32)
        matrix[np.arange(len(start))[:, None], start[:, None] + taps] = weights[top : top + _CHUNK]
        source = plane[first[top] : first[top] + matrix.shape[1]].astype(np.float32)
        filtered = matrix[:, : len(source)] @ source  # weights beyond the plane's end are zero
        np.clip(np.rint(filtered, out=filtered), 0, 255, out=filtered)
        out[top : top + _CHUNK] = filtered
    return out


def _weights(num_in: int, num_out: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the first input row of each output row, and (num_out, taps) weights that sum to 1."""
    scale = num_in / num_out
    centre = (np.arange(num_out) + 0.5) * scale
    first = np.maximum((centre - LOBES * scale + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + LOBES * scale + 0.5).astype(np.int64), num_in)
    index = first[:, None] + np.arange(int((end - first).max()))
    phase = (index - centre[:, None] + 0.5) / scale
    inside = (np.abs(phase) < LOBES) & (index < end[:, None])
    weights = np.where(inside, np.sinc(phase) * np.sinc(phase / LOBES), 0.0)
    return first, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
