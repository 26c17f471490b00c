"""Shrink and enlarge again: the detail a small picture has lost, at the full size.

Source: MATLAB's imresize as described in spec/ipt.md section 9: a = -0.5, kernel widened by the scale when shrinking
(antialias), rows renormalised, mirrored border, output size ceil(n / scale). Both ways are this filter (OpenCV's has no
antialias and another a). The small picture is rounded to 8 bits, as its file would be.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError

from . import Pixels, Rng, check_pixels

CUBIC_A = -0.5  # Keys' kernel as MATLAB sets it; spec/ipt.md 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Bicubic down by `scale` and up to the original size.

    Attributes:
        scale: factor between the sizes.
    """

    name: ClassVar[str] = "bicubic"
    scale: int = 2

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 2 <= self.scale <= 8:
            raise ConfigError(f"bicubic.scale must be 2 to 8, got {self.scale}")

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a blurred copy of a (3, H, W) float32 image; draws nothing."""
        check_pixels(image_CHW, where="bicubic")
        _, height, width = image_CHW.shape
        small = resize_bicubic(
            image_CHW, math.ceil(height / self.scale), math.ceil(width / self.scale), scale=1 / self.scale
        )
        stored = np.floor(np.clip(small * 255, 0, 255) + 0.5) / 255  # MATLAB's uint8(): half away from zero
        large = resize_bicubic(stored, height, width, scale=float(self.scale))
        return np.ascontiguousarray(np.clip(large, 0, 1), dtype=np.float32)


def resize_bicubic(image_CHW: NDArray[np.floating], height: int, width: int, *, scale: float) -> NDArray[np.float64]:
    """Resize as MATLAB's imresize does.

    Args:
        image_CHW: (C, H, W), any float type.
        height: rows of the result.
        width: columns of the result.
        scale: nominal factor; places the samples, so that odd sizes stay aligned.

    Returns:
        (C, height, width) float64, neither rounded nor clipped.
    """
    rows = _weights(image_CHW.shape[1], height, scale)
    columns = _weights(image_CHW.shape[2], width, scale)
    return _gather(_gather(image_CHW.astype(np.float64), rows, axis=1), columns, axis=2)


@functools.lru_cache(maxsize=64)
def _weights(size: int, new_size: int, scale: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return mirrored source indices and normalised weights, both (taps, new_size)."""
    widen = min(scale, 1.0)
    support = 4.0 / widen
    centre = (np.arange(new_size) + 0.5) / scale - 0.5
    first = np.floor(centre - support / 2).astype(np.intp)
    indices = first + np.arange(math.ceil(support) + 2)[:, None]
    weights = widen * _cubic(widen * (centre - indices))
    weights /= weights.sum(axis=0, keepdims=True)
    folded = np.mod(indices, 2 * size)
    return np.where(folded < size, folded, 2 * size - 1 - folded), weights


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, t = CUBIC_A, np.abs(x)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _gather(
    image_CHW: NDArray[np.float64], taps: tuple[NDArray[np.intp], NDArray[np.float64]], axis: int
) -> NDArray[np.float64]:
    indices, weights = taps
    shape = [1, 1, 1]
    shape[axis] = weights.shape[1]
    total: NDArray[np.float64] = np.take(image_CHW, indices[0], axis=axis) * weights[0].reshape(shape)
    for index, weight in zip(indices[1:], weights[1:], strict=True):
        if weight.any():
            total += np.take(image_CHW, index, axis=axis) * weight.reshape(shape)
    return total
