"""An encoder without weights: colour, contrast and edge directions on a grid; raw pixels as tokens.

For machines without the ViT's weights, for tests and as a control. It knows nothing of content: use it knowingly.

Source: rows in the spirit of HOG (Dalal and Triggs, CVPR 2005) without block normalisation; tokens are the raw 8x8 px
luma blocks of spec/tripled.md section 6.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ._loading import Encoded, check_batch

_GRID = 4  # cells along each side: coarse layout
_NUM_DIRECTIONS = 8  # over 180 degrees, as HOG's 9 rounded to a power of two
_TOKEN_PX = 8  # spec/tripled.md section 6.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Colour and texture statistics on a 4x4 grid (192 numbers) and 784 luma blocks of 8x8 px."""

    name: ClassVar[str] = "handcrafted"
    label: ClassVar[str] = "handcrafted (colour and edge statistics, no weights)"
    weights_sha256: ClassVar[str] = ""
    input_px: ClassVar[int] = 224
    uses_torch: ClassVar[bool] = False
    pools_tokens: ClassVar[bool] = False  # its tokens are raw pixels

    @property
    def settings(self) -> Mapping[str, str]:
        """Nothing is to be chosen."""
        return {}

    def encode(self, images_NHWC: NDArray[np.uint8]) -> Encoded:
        """Encode a batch.

        Args:
            images_NHWC: (N, 224, 224, 3) uint8 RGB. Not modified.

        Returns:
            Rows (N, 192) and tokens (N, 784, 64), float32.
        """
        check_batch(images_NHWC, self.input_px)
        greys_NHW = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images_NHWC])
        pairs = zip(images_NHWC, greys_NHW, strict=True)
        return Encoded(rows=np.stack([_row(image, grey) for image, grey in pairs]), tokens=_tokens(greys_NHW))


def _row(image: NDArray[np.uint8], grey: NDArray[np.integer]) -> NDArray[np.float32]:
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    strength, degrees = cv2.cartToPolar(across, down, angleInDegrees=True)
    bins = (np.asarray(degrees) * np.float32(_NUM_DIRECTIONS / 180)).astype(np.int64) % _NUM_DIRECTIONS
    side = grey.shape[0] // _GRID
    cell = np.arange(grey.shape[0]) // side
    places = (cell[:, None] * _GRID + cell) * _NUM_DIRECTIONS + bins
    edges = np.bincount(places.ravel(), weights=np.ravel(strength), minlength=_GRID * _GRID * _NUM_DIRECTIONS)
    colours = [_cell_means(image[..., channel] / np.float32(255)) for channel in range(3)]
    luma = grey.astype(np.float32) / np.float32(255)
    variance = np.maximum(_cell_means(luma * luma) - _cell_means(luma) ** 2, 0)
    return np.concatenate([*colours, np.sqrt(variance), edges / (side * side * 255)]).astype(np.float32)


def _cell_means(plane_HW: NDArray[np.generic]) -> NDArray[np.float64]:
    side = plane_HW.shape[0] // _GRID
    cells = plane_HW.reshape(_GRID, side, _GRID, side)
    return np.asarray(cells.mean(axis=(1, 3), dtype=np.float64)).reshape(-1)


def _tokens(greys_NHW: NDArray[np.generic]) -> NDArray[np.float32]:
    num, side, _ = greys_NHW.shape
    along = side // _TOKEN_PX
    blocks = greys_NHW.reshape(num, along, _TOKEN_PX, along, _TOKEN_PX).transpose(0, 1, 3, 2, 4)
    return blocks.reshape(num, along * along, _TOKEN_PX**2).astype(np.float32) / np.float32(255)
