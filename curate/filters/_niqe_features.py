"""NIQE's 36 natural-scene features of every 96x96 block, and the distance between two models of them.

Source: Mittal, Soundararajan & Bovik, IEEE Signal Processing Letters 20(3), 2013, and their released MATLAB code, followed
in constants, order and halving (bicubic with anti-aliasing). One difference: products of neighbours stop at a block's
border, theirs wrap around it.
"""

from __future__ import annotations

import math
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

BLOCK_PX = 96
NUM_FEATURES = 36
_WINDOW_PX, _WINDOW_SIGMA_PX = 7, 7 / 6
_HALVING = np.array([-3, -9, 29, 111, 111, 29, -9, -3], np.float32) / 256
"""Keys' cubic (a = -0.5) stretched by two and sampled midway between pixels: what MATLAB's and Pillow's halving amount to."""
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
Plane = NDArray[np.float32]
Features = NDArray[np.float64]


def block_features(grey: NDArray[np.uint8]) -> tuple[Features, Features]:
    """Measure every whole 96x96 block.

    Args:
        grey: (H, W) uint8 luma, H and W >= 96; ragged borders are left out. Not modified.

    Returns:
        features: (N, 36) float64, 18 at full and 18 at half size: shape and mean scale of the normalised luminance, then
            (shape, mean, left scale, right scale) of the products with four neighbours.
        sharpness: (N,) float64: mean local standard deviation of each block, in 8-bit levels.
    """
    rows, columns = grey.shape[0] // BLOCK_PX, grey.shape[1] // BLOCK_PX
    plane = grey[: rows * BLOCK_PX, : columns * BLOCK_PX].astype(np.float32)
    full, deviation = _normalise(plane)
    half, _ = _normalise(halve(plane))
    features = np.hstack([_scale_features(full, BLOCK_PX), _scale_features(half, BLOCK_PX // 2)])
    return features, _blocks(deviation, BLOCK_PX).mean(axis=(1, 2), dtype=np.float64)


def distance(features: Features, mean: Features, covariance: Features) -> float:
    """Return NIQE: the distance of a picture's model from the natural one; lower is more natural.

    Args:
        features: (N, 36), N >= 1; one block has no covariance and counts as the natural one's.
        mean: (36,) of the natural model.
        covariance: (36, 36) of the natural model.
    """
    away = features.mean(axis=0) - mean
    own = np.cov(features, rowvar=False) if len(features) > 1 else covariance
    return math.sqrt(max(0.0, float(away @ np.linalg.pinv((covariance + own) / 2, hermitian=True) @ away)))


def halve(plane: Plane) -> Plane:
    """Halve (H, W) float32, H and W even, as MATLAB's `imresize(x, 0.5)` does (borders repeat the edge pixel)."""
    border = cv2.BORDER_REPLICATE
    blurred = cv2.sepFilter2D(plane, cv2.CV_32F, _HALVING, _HALVING, anchor=(3, 3), borderType=border)
    return np.ascontiguousarray(blurred[::2, ::2], dtype=np.float32)


def _normalise(plane: Plane) -> tuple[Plane, Plane]:
    """Subtract the local mean and divide by the local deviation + 1; returns both results, (H, W) float32."""

    def local(values: Plane) -> Plane:
        size = (_WINDOW_PX, _WINDOW_PX)
        blurred = cv2.GaussianBlur(values, size, _WINDOW_SIGMA_PX, borderType=cv2.BORDER_REPLICATE)
        return np.asarray(blurred, dtype=np.float32)

    mean = local(plane)
    deviation: Plane = np.sqrt(np.abs(local(plane * plane) - mean * mean))
    normalised: Plane = (plane - mean) / (deviation + np.float32(1))
    return normalised, deviation


def _blocks(plane: Plane, side: int) -> Plane:
    """Cut (H, W) into (N, side, side); H and W are multiples of `side`."""
    rows, columns = plane.shape[0] // side, plane.shape[1] // side
    return plane.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)


def _scale_features(normalised: Plane, side: int) -> Features:
    """18 features of each block of one scale: (N, 18)."""
    blocks = _blocks(normalised, side)
    shape, left, right = _fit(blocks)
    parts = [shape, (left + right) / 2]
    for down, across in _SHIFTS:
        here = blocks[:, down:, max(0, across) : side + min(0, across)]
        there = blocks[:, : side - down, max(0, -across) : side - max(0, across)]
        shape, left, right = _fit(here * there)
        parts += [shape, (right - left) * _mean_factor()[_index(shape)], left, right]
    return np.stack(parts, axis=1)


def _fit(blocks: Plane) -> tuple[Features, Features, Features]:
    """Fit an asymmetric generalised Gaussian to each block by its moments: shape, left scale and right scale, (N,) each."""
    values = np.ascontiguousarray(blocks).reshape(len(blocks), -1)
    squares = values * values
    total = squares.sum(axis=1, dtype=np.float64)
    negative = values < 0
    num_left = np.count_nonzero(negative, axis=1)
    left_sum = np.einsum("ij,ij->i", squares, negative).astype(np.float64)
    num_right = np.count_nonzero(values > 0, axis=1)
    left = np.sqrt(left_sum / np.maximum(num_left, 1))
    right = np.sqrt(np.maximum(total - left_sum, 0) / np.maximum(num_right, 1))
    ratio = left / np.maximum(right, 1e-12)
    mean_abs = np.abs(values).mean(axis=1, dtype=np.float64)
    moment = mean_abs**2 / np.maximum(total / values.shape[1], 1e-24)
    wanted = moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes, table = _shapes()
    shape = shapes[np.clip(np.searchsorted(_midpoints(), wanted), 0, len(table) - 1)]
    scale = _scale_factor()[_index(shape)]
    return shape, left * scale, right * scale


@cache
def _shapes() -> tuple[Features, Features]:
    """Shapes 0.2, 0.201, ..., 10 and the moment ratio Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)) of each, rising."""
    shapes = np.arange(200, 10001) / 1000.0
    table = [math.exp(2 * math.lgamma(2 / a) - math.lgamma(1 / a) - math.lgamma(3 / a)) for a in shapes]
    return shapes, np.array(table)


@cache
def _midpoints() -> Features:
    table = _shapes()[1]
    return (table[1:] + table[:-1]) / 2


def _index(shape: Features) -> NDArray[np.int64]:
    return np.asarray(np.rint(shape * 1000.0), dtype=np.int64) - 200


@cache
def _scale_factor() -> Features:
    return np.array([math.exp((math.lgamma(1 / a) - math.lgamma(3 / a)) / 2) for a in _shapes()[0]])


@cache
def _mean_factor() -> Features:
    return np.array([math.exp(math.lgamma(2 / a) - math.lgamma(1 / a)) for a in _shapes()[0]])
