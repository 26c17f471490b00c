"""A picture cut into overlapping tiles and put together again without a seam; knows nothing of networks.

Each tile is cut off a margin inside its border, where a network saw padding instead of the picture, and neighbours are blended
linearly across what they share beyond it. All tiles have one size and start on the same grid. Beside the picture and its
result, memory holds one row of tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import NumericsError

from .degradations import to_pixels
from .statistics import Place

Samples = NDArray[np.uint8 | np.uint16]
"""(H, W, 1) grey or (H, W, 3) RGB; white = the type's largest value."""

Batch = NDArray[np.float32]
"""(B, 3, h, w) float32, nominally in [0, 1]."""

RunTiles = Callable[[Batch, Sequence[Place]], Batch]
"""A network: tiles and where they lie to restored tiles, `scale` times as large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """How a picture is cut.

    Attributes:
        tile_px: side of a tile, a multiple of `align_px`; a picture no longer than this is not cut in that direction.
        overlap_px: what neighbours share at least.
        margin_px: what is cut off on each side of that; neighbours blend across the rest.
        align_px: tiles start at multiples of this, and the picture is padded to one by reflection.
        batch: tiles given to the network at once.
        scale: the network's enlargement.
    """

    tile_px: int
    overlap_px: int
    margin_px: int
    align_px: int = 8  # the grid of JPEG, which networks learn, and of three halvings
    batch: int = 1
    scale: int = 1


def restore_tiles(
    image: Samples, run: RunTiles, grid: Grid, *, on_tiles: Callable[[int, int], None] | None = None
) -> Samples:
    """Restore one picture tile by tile.

    Args:
        image: (H, W, 1 or 3) uint8 or uint16; not modified.
        run: the network; grey is given to it three times and averaged.
        grid: how to cut.
        on_tiles: called with (tiles done, tiles in all).

    Returns:
        (scale * H, scale * W, 1 or 3) of the same type, rounded and clipped.

    Raises:
        NumericsError: the network's output is not finite.
    """
    height, width = image.shape[:2]
    whole = padded_size(height, width, grid.align_px)
    rows, columns = (tile_spans(side, grid.tile_px, grid.overlap_px, grid.align_px) for side in whole)
    row_weights, column_weights = _blend(whole[0], rows, grid), _blend(whole[1], columns, grid)
    scale, num = grid.scale, len(rows) * len(columns)
    restored = np.empty((height * scale, width * scale, image.shape[2]), image.dtype)
    pending_CHW = np.zeros((3, (rows[0][1] - rows[0][0]) * scale, whole[1] * scale), np.float32)
    for number, (top, bottom) in enumerate(rows):
        for first in range(0, len(columns), grid.batch):
            spans = columns[first : first + grid.batch]
            tiles = np.stack([read_window(image, top, left, bottom - top, right - left) for left, right in spans])
            outputs = run(tiles, [Place(top, left, *whole) for left, _ in spans])
            if not np.isfinite(outputs).all():
                raise NumericsError("the network's output is not finite: these weights cannot be used")
            weights = column_weights[first : first + grid.batch]
            for (left, right), weight, output_CHW in zip(spans, weights, outputs, strict=True):
                output_CHW *= weight * row_weights[number][:, None]
                pending_CHW[:, :, left * scale : right * scale] += output_CHW
            if on_tiles:
                on_tiles(number * len(columns) + first + len(spans), num)
        _flush(
            pending_CHW, restored, top * scale, (rows[number + 1][0] if number + 1 < len(rows) else whole[0]) * scale
        )
    return restored


def read_window(image: Samples, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
    """Cut a window out as (3, height, width) float32; beyond the picture's last row and column it is reflected."""
    window = image[top : top + height, left : left + width]
    if window.shape[:2] != (height, width):
        rows, columns = (
            _reflected(start, length, side)
            for start, length, side in zip((top, left), (height, width), image.shape[:2], strict=True)
        )
        window = image[rows[:, None], columns]
    pixels_CHW = to_pixels(window)
    return pixels_CHW if len(pixels_CHW) == 3 else np.repeat(pixels_CHW, 3, axis=0)


def padded_size(height: int, width: int, align_px: int) -> tuple[int, int]:
    """Round both sides up to a multiple."""
    return -(-height // align_px) * align_px, -(-width // align_px) * align_px


def tile_spans(size: int, tile_px: int, overlap_px: int, align_px: int = 8) -> list[tuple[int, int]]:
    """Cover `size` pixels (a multiple of `align_px`) with equal tiles that share at least `overlap_px`, evenly spread.

    Example:
        >>> tile_spans(1000, 512, 24)
        [(0, 512), (488, 1000)]
    """
    if size <= tile_px:
        return [(0, size)]
    step = (tile_px - overlap_px) // align_px * align_px
    num = math.ceil((size - tile_px) / step) + 1
    starts = [(size - tile_px) * i // (num - 1) // align_px * align_px for i in range(num)]
    return [(start, start + tile_px) for start in starts]


def spread_windows(size: tuple[int, int], side_px: int, num: int, align_px: int = 8) -> list[tuple[int, int]]:
    """Choose about `num` windows (at most) of `side_px` on a regular grid over a picture of `size`: their top left corners."""
    height, width = (max(1, length // side_px) for length in size)
    rows = min(height, max(1, round(math.sqrt(num * size[0] / size[1]))))
    columns = min(width, max(1, num // rows))
    rows = min(height, max(1, num // columns))

    def starts(length: int, count: int) -> list[int]:
        free = max(0, length - side_px)
        return [int(free * (i + 0.5) / count) // align_px * align_px for i in range(count)]

    return [(top, left) for top in starts(size[0], rows) for left in starts(size[1], columns)]


def _flush(pending_CHW: NDArray[np.float32], restored: Samples, top: int, next_top: int) -> None:
    """Round the rows that no later tile touches into `restored`, and move the others up."""
    done = next_top - top
    band = restored[top:next_top]
    full = np.float32(np.iinfo(restored.dtype).max)
    values_CHW = pending_CHW[:, : band.shape[0], : band.shape[1]]
    values_CHW = values_CHW.mean(0, keepdims=True) if restored.shape[2] == 1 else values_CHW
    levels_CHW = np.rint(values_CHW * full)
    band[:] = np.clip(levels_CHW, 0, full, out=levels_CHW).transpose(1, 2, 0)
    kept = pending_CHW.shape[1] - done
    pending_CHW[:, :kept] = pending_CHW[:, done:]
    pending_CHW[:, kept:] = 0


def _reflected(start: int, length: int, size: int) -> NDArray[np.intp]:
    """Give the rows start .. start + length of a picture padded as `restoration.models.dynet.pad_to_multiple` does."""
    rows = np.arange(start, start + length)
    beyond = start + length - size
    return np.where(rows < size, rows, 2 * (size - 1) - rows if beyond < size else size - 1)


def _blend(size: int, spans: list[tuple[int, int]], grid: Grid) -> list[NDArray[np.float32]]:
    """One row of weights per tile: 0 on the margins, rising and falling linearly, summing to one at every pixel."""
    ramp = max(1, grid.overlap_px - 2 * grid.margin_px) * grid.scale
    margin, size = grid.margin_px * grid.scale, size * grid.scale
    rough = []
    for start, stop in ((start * grid.scale, stop * grid.scale) for start, stop in spans):
        position = np.arange(start, stop)
        rise = np.ones(stop - start) if start == 0 else (position - start - margin + 0.5) / ramp
        fall = np.ones(stop - start) if stop == size else (stop - margin - position - 0.5) / ramp
        rough.append(np.minimum(rise, fall).clip(0.0, 1.0))
    total = np.zeros(size)
    for (start, stop), weights in zip(spans, rough, strict=True):
        total[start * grid.scale : stop * grid.scale] += weights
    return [
        (weights / total[start * grid.scale : stop * grid.scale]).astype(np.float32)
        for (start, stop), weights in zip(spans, rough, strict=True)
    ]
