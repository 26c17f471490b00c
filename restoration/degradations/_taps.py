"""Resampling as a list of source pixels and weights per output pixel, the same list on the host and on the device.

`matlab_bicubic` is the benchmarks' filter (spec/ipt.md 9). `area`, `bilinear`, `bicubic` and `nearest` are what OpenCV and
torch do without antialias, which the degradation chains are defined by: area weighs by exact coverage when shrinking and
is bilinear when enlarging; bicubic has a = -0.75; the edge pixel is repeated.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ._batch import upload

Floats = NDArray[np.floating]

MODES = ("area", "bilinear", "bicubic", "nearest")
MATLAB_A = -0.5  # Keys' kernel as MATLAB sets it; spec/ipt.md 9
OPENCV_A = -0.75  # as OpenCV and torch set it; spec/ipt.md 9


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """One axis: `indices` and `weights`, both (T, new size), of `size` source pixels; weights of a column sum to 1.

    Equal only to itself, so that it can be a cache's key.
    """

    size: int
    indices: NDArray[np.intp]
    weights: NDArray[np.float64]


@functools.lru_cache(maxsize=256)
def matlab_bicubic(size: int, new_size: int, scale: float) -> Taps:
    """Build MATLAB's imresize: the kernel is widened when shrinking, the border mirrored with its edge pixel."""
    widen = min(scale, 1.0)
    support = 4.0 / widen
    centre = (np.arange(new_size) + 0.5) / scale - 0.5
    first = np.floor(centre - support / 2).astype(np.intp)
    indices = first + np.arange(math.ceil(support) + 2)[:, None]
    weights = widen * _cubic(widen * (centre - indices), MATLAB_A)
    folded = np.mod(indices, 2 * size)
    return _kept(size, np.where(folded < size, folded, 2 * size - 1 - folded), weights)


@functools.lru_cache(maxsize=256)
def taps_of(mode: str, size: int, new_size: int) -> Taps:
    """Build one of `MODES`; pixels are squares, and the two pictures cover the same area."""
    ratio = size / new_size
    places = np.arange(new_size)
    if mode == "nearest":
        indices = np.floor((places + 0.5) * ratio).astype(np.intp)[None]
        return _kept(size, indices, np.ones_like(indices, dtype=np.float64))
    if mode == "area" and new_size < size:
        low, high = places * ratio, (places + 1) * ratio
        indices = np.floor(low + 1e-9).astype(np.intp) + np.arange(math.ceil(ratio) + 2)[:, None]
        weights = np.maximum(np.minimum(high, indices + 1) - np.maximum(low, indices), 0)
        return _kept(size, indices, weights)
    centre = (places + 0.5) * ratio - 0.5
    reach = 2 if mode == "bicubic" else 1
    indices = np.floor(centre).astype(np.intp) + np.arange(1 - reach, 1 + reach)[:, None]
    offsets = centre - indices
    return _kept(size, indices, _cubic(offsets, OPENCV_A) if reach == 2 else 1 - np.abs(offsets))


@functools.lru_cache(maxsize=256)
def smooth_steps(size: int, new_size: int) -> Taps:
    """Build the interpolation of value noise: from the first to the last node, flat at every node (3t^2 - 2t^3)."""
    place = np.linspace(0, size - 1, new_size) if new_size > 1 else np.array([(size - 1) / 2])
    left = np.minimum(np.floor(place).astype(np.intp), size - 2)
    share = place - left
    share = share * share * (3 - 2 * share)
    return _kept(size, np.stack([left, left + 1]), np.stack([1 - share, share]))


def resample(image_CHW: Floats, rows: Taps, columns: Taps, dtype: str = "float32") -> Floats:
    """Resample (C, H, W) to (C, new H, new W) in the given float type, rows first; neither rounded nor clipped."""
    channels, _, width = image_CHW.shape
    down, across = sparse_matrix(rows, dtype), sparse_matrix(columns, dtype)
    tall = np.stack([down @ plane for plane in image_CHW.astype(dtype, copy=False)])
    turned = across @ np.ascontiguousarray(tall.reshape(-1, width).T)
    resampled: Floats = np.ascontiguousarray(turned.T).reshape(channels, tall.shape[1], -1)
    return resampled


@functools.lru_cache(maxsize=256)
def sparse_matrix(taps: Taps, dtype: str = "float64") -> Any:
    """Give the taps as a sparse (new size, size) matrix: a sum of products in a fixed order, on one thread."""
    new_size = taps.indices.shape[1]
    places = np.broadcast_to(np.arange(new_size), taps.indices.shape)
    entries = (taps.weights.ravel(), (places.ravel(), taps.indices.ravel()))
    return sparse.coo_array(entries, shape=(new_size, taps.size)).tocsr().astype(dtype)


def resample_batch(x_BCHW: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Do the same on the device; sums of products, no matrix product that could be TF32."""
    return _gather_batch(_gather_batch(x_BCHW, rows, dim=2), columns, dim=3)


def _kept(size: int, indices: NDArray[np.intp], weights: NDArray[np.float64]) -> Taps:
    """Normalise every column and leave out rows of zeros."""
    used = weights.any(axis=1)
    weights = weights[used] / weights[used].sum(axis=0, keepdims=True)
    return Taps(size, np.clip(indices[used], 0, size - 1), weights)


def _cubic(x: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    t = np.abs(x)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _gather_batch(x_BCHW: Tensor, taps: Taps, dim: int) -> Tensor:
    shape = [1, 1, 1, 1]
    shape[dim] = taps.indices.shape[1]
    indices, weights = upload(taps.indices.astype(np.int64), x_BCHW), upload(taps.weights, x_BCHW)
    total = x_BCHW.index_select(dim, indices[0]) * weights[0].view(shape)
    for index, weight in zip(indices[1:], weights[1:], strict=True):
        total = torch.addcmul(total, x_BCHW.index_select(dim, index), weight.view(shape))
    return total
