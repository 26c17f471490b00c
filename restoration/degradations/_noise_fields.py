"""Smooth random landscapes: the depth of a scene nobody measured, drifts of fog.

Value noise in octaves: grids of normal numbers, each twice as fine and weaker than the one before, interpolated and added.
Grids are small and drawn by NumPy on the host in both versions, so host and device agree; only the enlarging differs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import Pixels
from ._batch import upload
from ._taps import Taps, resample, resample_batch, smooth_steps

NUM_OCTAVES = 6  # cells of the finest grid: 64 per side
MIN_SPAN = 1e-6


def plasma(seed: int, roughness: float, height: int, width: int) -> Pixels:
    """Make an (H, W) field from 0 to 1.

    Args:
        seed: of the grids.
        roughness: weight of an octave over that of the one before it, 0 to 1.
        height: rows.
        width: columns.
    """
    total = np.zeros((1, height, width), np.float32)
    for grid, rows, columns in _octaves(seed, roughness, height, width):
        total += resample(grid[None], rows, columns)
    low, high = float(total.min()), float(total.max())
    field: Pixels = (total[0] - np.float32(low)) / np.float32(max(high - low, MIN_SPAN))
    return field


def plasma_batch(seeds: Sequence[int], roughness: Sequence[float], like: Tensor) -> Tensor:
    """Make the same fields on the device: (B, 1, H, W)."""
    height, width = like.shape[2:]
    fields = []
    for seed, weight in zip(seeds, roughness, strict=True):
        octaves = _octaves(seed, weight, height, width)
        total = sum(resample_batch(upload(grid, like)[None, None], rows, columns) for grid, rows, columns in octaves)
        assert isinstance(total, Tensor)
        fields.append((total - total.min()) / (total.max() - total.min()).clamp(min=MIN_SPAN))
    return torch.cat(fields)


def _octaves(seed: int, roughness: float, height: int, width: int) -> list[tuple[Pixels, Taps, Taps]]:
    rng = np.random.default_rng(seed)
    octaves = []
    for number in range(NUM_OCTAVES):
        nodes = 2 ** (number + 1) + 1
        grid = (roughness**number * rng.standard_normal((nodes, nodes))).astype(np.float32)
        octaves.append((grid, smooth_steps(nodes, height), smooth_steps(nodes, width)))
    return octaves
