"""Any size through a network of one size: tiles that overlap, blended so that no seam shows; nothing learned, differentiable.

Shapes: B pictures, C channels, H height, W width, P side of a tile; a result is `scale` times as large.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def run_in_tiles(
    x_BCHW: Tensor, run: Callable[[Tensor], Tensor], *, tile_px: int, overlap_px: int, scale: int, tiles_per_batch: int
) -> Tensor:
    """Run a network of fixed size over pictures of any size.

    Args:
        x_BCHW: any H, W >= 1; sides below `tile_px` are continued by reflection and cut back.
        run: (n, C, P, P) to (n, C, scale * P, scale * P).
        tile_px: P.
        overlap_px: what neighbours share at least; weights rise linearly across it and add up to one everywhere.
        scale: how many times larger the result is.
        tiles_per_batch: `run` gets at most so many tiles at once (or one tile of every picture, where that is more).

    Returns:
        (B, C, scale * H, scale * W), float32 or better.

    Example:
        >>> x = torch.rand(1, 3, 20, 9)
        >>> torch.allclose(run_in_tiles(x, lambda t: t, tile_px=8, overlap_px=3, scale=1, tiles_per_batch=4), x)
        True
    """
    B, C, H, W = x_BCHW.shape
    padded_BCHW = reflect_to_size(x_BCHW, max(H, tile_px), max(W, tile_px))
    rows, columns = (tile_starts(size, tile_px, overlap_px) for size in padded_BCHW.shape[-2:])
    places = [(top, left) for top in rows for left in columns]
    dtype = torch.promote_types(x_BCHW.dtype, torch.float32)
    window_P = _window(tile_px * scale, overlap_px * scale).to(x_BCHW.device, dtype)
    total_H, total_W = (_total(window_P, starts, scale) for starts in (rows, columns))
    sum_BCHW = window_P.new_zeros(B, C, len(total_H), len(total_W))
    num = max(1, tiles_per_batch // B)
    for first in range(0, len(places), num):
        some = places[first : first + num]
        tiles = torch.cat([padded_BCHW[..., top : top + tile_px, left : left + tile_px] for top, left in some])
        for (top, left), tile in zip(some, torch.split(run(tiles), B), strict=True):
            place = sum_BCHW[..., top * scale : (top + tile_px) * scale, left * scale : (left + tile_px) * scale]
            place += tile * (window_P[:, None] * window_P)
    return (sum_BCHW / (total_H[:, None] * total_W))[..., : H * scale, : W * scale]


def tile_starts(size: int, tile_px: int, overlap_px: int) -> list[int]:
    """Spread tiles evenly over `size` >= `tile_px` pixels, neighbours sharing at least `overlap_px`.

    Example:
        >>> tile_starts(100, 48, 12)
        [0, 26, 52]
    """
    gaps = math.ceil((size - tile_px) / (tile_px - overlap_px))
    return [round(i * (size - tile_px) / gaps) for i in range(gaps + 1)] if gaps else [0]


def reflect_to_size(x_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Continue pictures below and to the right by reflection, again and again where they are small."""
    for axis, wanted in ((-2, height), (-1, width)):
        size = x_BCHW.shape[axis]
        if wanted > size:
            period = max(1, 2 * size - 2)
            index = torch.arange(wanted, device=x_BCHW.device) % period
            x_BCHW = x_BCHW.index_select(axis, torch.minimum(index, period - index))
    return x_BCHW


def _window(size: int, overlap: int) -> Tensor:
    """Weights of one tile along an axis: 1 inside, falling linearly to almost 0 across the overlap."""
    from_edge = torch.arange(size) + 0.5
    from_edge = torch.minimum(from_edge, size - from_edge)
    return (from_edge / overlap).clamp(max=1.0) if overlap else torch.ones(size)


def _total(window_P: Tensor, starts: list[int], scale: int) -> Tensor:
    """Sum of all tiles' weights along an axis."""
    total = window_P.new_zeros(starts[-1] * scale + len(window_P))
    for start in starts:
        total[start * scale : start * scale + len(window_P)] += window_P
    return total
