"""Pictures of any size through a network of bounded memory: overlapping tiles, blended so that no seam shows.

Beside the picture and its result, memory holds one row of tiles. Limit: channel attention sees one tile at a time, so tiles
of very different content may be treated a little differently; the blend hides the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import NumericsError
from curate.core.records import Image

from .degradations import Pixels, to_levels, to_pixels

ALIGN_PX = 8  # tiles start on the JPEG grid, which networks learn


def restore_image(image: Image, run_tile: Callable[[Pixels], Pixels], *, tile_px: int, overlap_px: int) -> Image:
    """Restore one picture tile by tile.

    Args:
        image: (H, W, 3) uint8 RGB; not modified.
        run_tile: the network: (3, h, w) float32 in [0, 1] to the same shape.
        tile_px: longest side of a tile.
        overlap_px: what neighbours share at least; weights rise linearly across it and add up to one everywhere.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    rows, columns = tile_spans(height, tile_px, overlap_px), tile_spans(width, tile_px, overlap_px)
    row_weights, column_weights = _blend_weights(height, rows, overlap_px), _blend_weights(width, columns, overlap_px)
    restored = np.empty_like(image)
    pending_CHW, top = np.zeros((3, 0, width), np.float32), 0
    for number, (start, stop) in enumerate(rows):
        pending_CHW = np.pad(pending_CHW, ((0, 0), (0, stop - top - pending_CHW.shape[1]), (0, 0)))
        for (left, right), weights in zip(columns, column_weights, strict=True):
            tile_CHW = run_tile(to_pixels(image[start:stop, left:right]))
            if not np.isfinite(tile_CHW).all():
                raise NumericsError("the network's output is not finite: these weights cannot be used")
            pending_CHW[:, start - top :, left:right] += tile_CHW * weights * row_weights[number][:, None]
        done = (rows[number + 1][0] if number + 1 < len(rows) else height) - top
        restored[top : top + done] = to_levels(pending_CHW[:, :done])
        pending_CHW, top = pending_CHW[:, done:], top + done
    return restored


def tile_spans(size: int, tile_px: int, overlap_px: int) -> list[tuple[int, int]]:
    """Cover `size` pixels with tiles that share at least `overlap_px`; starts lie on the JPEG grid.

    Example:
        >>> tile_spans(1000, 512, 32)
        [(0, 512), (488, 1000)]
    """
    if size <= tile_px:
        return [(0, size)]
    num = math.ceil((size - tile_px) / (tile_px - overlap_px - ALIGN_PX)) + 1
    starts = [int((size - tile_px) * i / (num - 1)) // ALIGN_PX * ALIGN_PX for i in range(num)]
    return [(start, min(start + tile_px, size)) for start in starts[:-1]] + [(starts[-1], size)]


def _blend_weights(size: int, spans: list[tuple[int, int]], overlap_px: int) -> list[NDArray[np.float32]]:
    """One row of weights per tile: rising and falling linearly towards neighbours, summing to one at every pixel."""
    rough = []
    for start, stop in spans:
        position = np.arange(start, stop)
        rise = np.ones(stop - start) if start == 0 else (position - start + 0.5) / overlap_px
        fall = np.ones(stop - start) if stop == size else (stop - position - 0.5) / overlap_px
        rough.append(np.minimum(np.minimum(rise, fall), 1.0))
    total = np.zeros(size)
    for (start, stop), weights in zip(spans, rough, strict=True):
        total[start:stop] += weights
    return [
        (weights / total[start:stop]).astype(np.float32) for (start, stop), weights in zip(spans, rough, strict=True)
    ]
