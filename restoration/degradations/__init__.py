"""Damage made on the fly, one file each: `class Plugin` (frozen dataclass) with `apply(image_CHW, rng) -> image_CHW`.

An image is (3, H, W) float32 in [0, 1], RGB. `apply` never writes to its input, always returns the input's shape and
dtype, and draws from `rng` alone. Adding a degradation is adding a file; the contract test finds it by itself.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ImageError

Pixels = NDArray[np.float32]
"""(3, H, W) float32, nominally in [0, 1], RGB."""

Rng = np.random.Generator | np.random.RandomState
"""RandomState only because published protocols are defined by its stream; everything of ours draws from Generator."""


class Degradation(Protocol):
    """What every `Plugin` of this folder can do."""

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy."""
        ...


def check_pixels(image_CHW: Pixels, *, where: str) -> None:
    """Raise ImageError unless `image_CHW` is (3, H, W) float32 with at least one pixel."""
    if image_CHW.dtype != np.float32 or image_CHW.ndim != 3 or image_CHW.shape[0] != 3 or 0 in image_CHW.shape:
        raise ImageError(
            f"{where}: wanted a (3, H, W) float32 image, got shape {image_CHW.shape}, dtype {image_CHW.dtype}"
        )


def to_levels(image_CHW: Pixels) -> NDArray[np.uint8]:
    """Round to 8 bits: (3, H, W) float32 in [0, 1], clipped, to (H, W, 3) uint8, C-contiguous."""
    levels_CHW = np.clip(np.rint(image_CHW * np.float32(255)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels_CHW.transpose(1, 2, 0))


def to_pixels(image_HWC: NDArray[np.uint8 | np.uint16]) -> Pixels:
    """Turn (H, W, 3) uint8 or uint16 into (3, H, W) float32 in [0, 1], C-contiguous: the only such conversion in the package.

    The same picture in 8 and in 16 bits (times 257) gives the same floats.
    """
    full = np.float32(np.iinfo(image_HWC.dtype).max)
    return np.ascontiguousarray(image_HWC.transpose(2, 0, 1), dtype=np.float32) / full
