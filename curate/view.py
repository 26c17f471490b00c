"""What a filter sees of an image or patch: header facts, the luma plane and derivatives computed once and shared.

Derivatives are taken over the whole image and then cut, so a patch's values do not depend on where its border falls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from .core.records import Image, ImageFacts

Number = TypeVar("Number", np.int16, np.float32, np.int64)
NOISE_CELL_PX = 64
NOISE_QUANTILE = 0.25
"""Share of cells (smoothest first) that decide the noise level: noise is everywhere, texture is not."""


class View(Protocol):
    """Read-only view of a region; all planes have the region's height and width."""

    @property
    def facts(self) -> ImageFacts:
        """Header facts of the whole image."""
        ...

    @property
    def num_bytes(self) -> int:
        """Size of the whole image's file."""
        ...

    @property
    def rgb(self) -> Image:
        """(H, W, 3) uint8 sRGB."""
        ...

    @property
    def grey(self) -> NDArray[np.uint8]:
        """(H, W) uint8 luma."""
        ...

    @property
    def sobel_magnitude(self) -> NDArray[np.float32]:
        """(H, W) float32: sqrt(Sx^2 + Sy^2) of the luma, 3x3 Sobel."""
        ...

    @property
    def laplacian(self) -> NDArray[np.int16]:
        """(H, W) int16: luma * [0 1 0; 1 -4 1; 0 1 0]."""
        ...

    @property
    def noise_sigma_levels(self) -> float:
        """Noise standard deviation of the whole image in 8-bit levels, robust to texture."""
        ...


@dataclass(frozen=True)
class ImageView:
    """View of a whole image. Planes are computed on first use and kept.

    Attributes:
        facts: header facts.
        num_bytes: size of the file.
        grey: (H, W) uint8 luma.
        load_rgb: decodes the colours; called at most once, when a score first asks for `rgb`. A recipe whose scores need
            no colour never pays for decoding it.
    """

    facts: ImageFacts
    num_bytes: int
    grey: NDArray[np.uint8]
    load_rgb: Callable[[], Image]

    @cached_property
    def rgb(self) -> Image:
        """(H, W, 3) uint8 sRGB; decoded on first use."""
        return self.load_rgb()

    @cached_property
    def sobel_magnitude(self) -> NDArray[np.float32]:
        """(H, W) float32 gradient magnitude; borders mirrored without repeating the edge (OpenCV's reflect101)."""
        grad_x = cv2.Sobel(self.grey, cv2.CV_32F, 1, 0, ksize=3)
        grad_y = cv2.Sobel(self.grey, cv2.CV_32F, 0, 1, ksize=3)
        return np.asarray(cv2.magnitude(grad_x, grad_y), dtype=np.float32)

    @cached_property
    def laplacian(self) -> NDArray[np.int16]:
        """(H, W) int16 Laplacian, kernel [0 1 0; 1 -4 1; 0 1 0]."""
        return np.asarray(cv2.Laplacian(self.grey, cv2.CV_16S, ksize=1), dtype=np.int16)

    @cached_property
    def noise_sigma_levels(self) -> float:
        """Noise level of the image; see `noise_sigma`."""
        return noise_sigma(self.grey)


@dataclass(frozen=True)
class PatchView:
    """View of a square region of an image; every plane is a slice of the image's."""

    image: ImageView
    y: int
    x: int
    size_px: int

    @property
    def facts(self) -> ImageFacts:
        """Header facts of the whole image."""
        return self.image.facts

    @property
    def num_bytes(self) -> int:
        """Size of the whole image's file."""
        return self.image.num_bytes

    @property
    def rgb(self) -> Image:
        """(size, size, 3) uint8."""
        return self.image.rgb[self._rows, self._columns]

    @property
    def grey(self) -> NDArray[np.uint8]:
        """(size, size) uint8."""
        return self.image.grey[self._rows, self._columns]

    @property
    def sobel_magnitude(self) -> NDArray[np.float32]:
        """(size, size) float32."""
        return self.image.sobel_magnitude[self._rows, self._columns]

    @property
    def laplacian(self) -> NDArray[np.int16]:
        """(size, size) int16."""
        return self.image.laplacian[self._rows, self._columns]

    @property
    def noise_sigma_levels(self) -> float:
        """Noise level of the whole image: a camera's noise is a property of the picture, texture is not."""
        return self.image.noise_sigma_levels

    @property
    def _rows(self) -> slice:
        return slice(self.y, self.y + self.size_px)

    @property
    def _columns(self) -> slice:
        return slice(self.x, self.x + self.size_px)


def cells(plane: NDArray[Number], cell_px: int) -> NDArray[Number]:
    """Cut (H, W) into whole square cells: returns (rows, columns, cell * cell); ragged borders are left out.

    A plane smaller than one cell is one cell.
    """
    height, width = plane.shape
    cell_h, cell_w = min(cell_px, height), min(cell_px, width)
    rows, columns = height // cell_h, width // cell_w
    cut = plane[: rows * cell_h, : columns * cell_w].reshape(rows, cell_h, columns, cell_w)
    return cut.swapaxes(1, 2).reshape(rows, columns, cell_h * cell_w)


def noise_sigma(grey: NDArray[np.uint8]) -> float:
    """Estimate the standard deviation of additive noise, robust to texture.

    The residual of Immerkaer's mask [1 -2 1; -2 4 -2; 1 -2 1] (gain 6 for iid noise) is taken at every second pixel;
    each 64-px cell gives median(|r|) / (0.6745 * 6); the 25 % quantile over cells is returned.

    Args:
        grey: (H, W) uint8.

    Returns:
        Sigma in 8-bit levels, >= 0; 0.0 for an image under 3 px on a side.

    Source:
        Immerkaer, CVIU 1996 (mask); Donoho 1994 (median / 0.6745). The quantile over cells is ours.
    """
    if min(grey.shape) < 3:
        return 0.0
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    filtered = np.asarray(cv2.filter2D(grey, cv2.CV_16S, mask), dtype=np.int16)
    residual = np.abs(filtered[1:-1:2, 1:-1:2])
    medians = np.median(cells(residual, NOISE_CELL_PX // 2), axis=-1)
    return float(np.quantile(medians, NOISE_QUANTILE)) / (0.6745 * 6.0)
