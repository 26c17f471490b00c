"""What a filter sees of an image or patch: header facts, luma, colours, and what several scores share, computed once.

Derivatives of a patch see one pixel beyond it, so they equal those of the whole image: no value depends on where a patch's
border falls. Colours are decoded when a score first asks for them, and never otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from .blocks import BLOCK_PX, BlockSums, gradient_blocks, squared_length
from .core.records import Image, ImageFacts

Number = TypeVar("Number", np.int16, np.float32, np.int64)
NOISE_CELL_PX = 64
NOISE_QUANTILE = 0.25
"""Share of cells (smoothest first) that decide the noise level: noise is everywhere, texture is not."""
NOISE_MAX_CELLS = 512
"""Of a picture with more cells, evenly spaced rows of cells are measured."""


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
    def rgb_extremes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Largest and smallest of the three channels of `quarter(rgb)`, each (H // 4, W // 4) uint8."""
        ...

    @property
    def grey(self) -> NDArray[np.uint8]:
        """(H, W) uint8 luma."""
        ...

    @property
    def grey_histogram(self) -> NDArray[np.float64]:
        """(256,) float64: number of pixels at each level of luma."""
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

    def gradient_cell_variance(self, cell_px: int) -> NDArray[np.float64]:
        """Variance of `sobel_magnitude` in whole square cells: (H // cell, W // cell); a smaller region is one cell."""
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

    @property
    def has_rgb(self) -> bool:
        """True once colour was decoded."""
        return "rgb" in self.__dict__

    @cached_property
    def rgb_extremes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Largest and smallest channel at quarter size; see `channel_extremes`."""
        return channel_extremes(quarter(self.rgb))

    @cached_property
    def grey_histogram(self) -> NDArray[np.float64]:
        """(256,) float64 counts."""
        return histogram(self.grey)

    @cached_property
    def sobel_magnitude(self) -> NDArray[np.float32]:
        """(H, W) float32 gradient magnitude; borders mirrored without repeating the edge (OpenCV's reflect101)."""
        return sobel_magnitude(self.grey)

    @cached_property
    def laplacian(self) -> NDArray[np.int16]:
        """(H, W) int16 Laplacian, kernel [0 1 0; 1 -4 1; 0 1 0]."""
        return laplacian(self.grey)

    @cached_property
    def noise_sigma_levels(self) -> float:
        """Noise level of the image; see `noise_sigma`."""
        return noise_sigma(self.grey)

    @cached_property
    def gradient_blocks(self) -> BlockSums:
        """Sums of the gradient magnitude and its square per 8 x 8 block; the sides must be >= 8 px."""
        return gradient_blocks(self.grey)

    def gradient_cell_variance(self, cell_px: int) -> NDArray[np.float64]:
        """(H // cell, W // cell) float64, cells counted from the origin."""
        height, width = self.grey.shape
        return _cell_variance(self, 0, 0, height, width, cell_px, lambda: self.sobel_magnitude)


@dataclass(frozen=True)
class PatchView:
    """View of a square region of an image; its values are those of the whole image's planes."""

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
    def rgb_extremes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Largest and smallest channel at quarter size: slices of the image's where the patch starts at a multiple of 4."""
        if self.y % 4 or self.x % 4:
            return channel_extremes(quarter(self.rgb))
        y, x, side = self.y // 4, self.x // 4, self.size_px // 4
        high, low = self.image.rgb_extremes
        return high[y : y + side, x : x + side], low[y : y + side, x : x + side]

    @property
    def grey(self) -> NDArray[np.uint8]:
        """(size, size) uint8."""
        return self.image.grey[self._rows, self._columns]

    @cached_property
    def grey_histogram(self) -> NDArray[np.float64]:
        """(256,) float64 counts."""
        return histogram(self.grey)

    @cached_property
    def sobel_magnitude(self) -> NDArray[np.float32]:
        """(size, size) float32."""
        grey, inner = self._with_rim()
        return sobel_magnitude(grey)[inner]

    @cached_property
    def laplacian(self) -> NDArray[np.int16]:
        """(size, size) int16."""
        grey, inner = self._with_rim()
        return laplacian(grey)[inner]

    @property
    def noise_sigma_levels(self) -> float:
        """Noise level of the whole image: a camera's noise is a property of the picture, texture is not."""
        return self.image.noise_sigma_levels

    def gradient_cell_variance(self, cell_px: int) -> NDArray[np.float64]:
        """(size // cell, size // cell) float64, cells counted from the patch's corner."""
        size = self.size_px
        return _cell_variance(self.image, self.y, self.x, size, size, cell_px, lambda: self.sobel_magnitude)

    @property
    def _rows(self) -> slice:
        return slice(self.y, self.y + self.size_px)

    @property
    def _columns(self) -> slice:
        return slice(self.x, self.x + self.size_px)

    def _with_rim(self) -> tuple[NDArray[np.uint8], tuple[slice, slice]]:
        """Cut the luma with one pixel more on every side that has one, and say where the patch lies in it."""
        top, left = max(self.y - 1, 0), max(self.x - 1, 0)
        y, x, size = self.y - top, self.x - left, self.size_px
        grey = self.image.grey[top : self.y + size + 1, left : self.x + size + 1]
        return grey, (slice(y, y + size), slice(x, x + size))


def sobel_magnitude(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return sqrt(Sx^2 + Sy^2), (H, W) float32, of a (H, W) uint8 plane; 3x3 Sobel, borders reflect101."""
    gradient = np.stack([cv2.Sobel(grey, cv2.CV_16S, *order, ksize=3) for order in ((1, 0), (0, 1))])
    energy = squared_length(np.asarray(gradient, dtype=np.int16), np.empty(gradient.shape, np.float32))
    return np.sqrt(energy, out=energy)


def laplacian(grey: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return luma * [0 1 0; 1 -4 1; 0 1 0], (H, W) int16, of a (H, W) uint8 plane; borders reflect101."""
    return np.asarray(cv2.Laplacian(grey, cv2.CV_16S, ksize=1), dtype=np.int16)


def histogram(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Count the pixels at each of the 256 levels of a (H, W) uint8 plane: (256,) float64, exact below 2^24 a level."""
    return cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel().astype(np.float64)


def quarter(rgb: Image) -> Image:
    """Shrink (H, W, 3) uint8 to a quarter of each side: the rounded mean of the middle 2 x 2 of every 4 x 4 pixels.

    Ragged borders are left out; a picture with a side under 4 px stays as it is.
    """
    height, width = rgb.shape[0] // 4, rgb.shape[1] // 4
    if not height or not width:
        return rgb
    whole = rgb[: 4 * height, : 4 * width]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def channel_extremes(rgb: Image) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the largest and the smallest of the three channels of each pixel, each (H, W) uint8."""
    red, green, blue = cv2.split(rgb)
    high, low = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    return np.asarray(high, dtype=np.uint8), np.asarray(low, dtype=np.uint8)


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
    each 64-px cell gives median(|r|) / (0.6745 * 6); the 25 % quantile over cells is returned. Of a picture with more
    than 512 cells (2 MP) only every k-th row of cells is measured, with the smallest k that leaves at most about 512.

    Args:
        grey: (H, W) uint8.

    Returns:
        Sigma in 8-bit levels, >= 0; 0.0 for an image under 3 px on a side.

    Source:
        Immerkaer, CVIU 1996 (mask); Donoho 1994 (median / 0.6745). The quantile over cells is ours.
    """
    if min(grey.shape) < 3:
        return 0.0
    num_y, num_x = ((side - 1) // 2 for side in grey.shape)  # sampled residuals: pixels 1, 3, 5, ...
    side = min(NOISE_CELL_PX // 2, num_y)
    rows = num_y // side
    step = -(-rows * max(1, num_x // side) // NOISE_MAX_CELLS)
    medians = [_cell_medians(grey[2 * side * row : 2 * side * (row + 1) + 1]) for row in range(0, rows, step)]
    return float(np.quantile(np.concatenate(medians), NOISE_QUANTILE)) / (0.6745 * 6.0)


def _cell_medians(band: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the median of |residual| of each cell of one row of cells."""
    filtered = np.asarray(cv2.Sobel(band, cv2.CV_16S, 2, 2, ksize=3), dtype=np.int16)  # second differences both ways
    ordered = np.sort(np.abs(cells(filtered[1:-1:2, 1:-1:2], NOISE_CELL_PX // 2)[0]), axis=-1)
    count = ordered.shape[-1]
    return (ordered[:, (count - 1) // 2] + ordered[:, count // 2].astype(np.float64)) / 2


def _cell_variance(
    image: ImageView,
    y: int,
    x: int,
    height: int,
    width: int,
    cell_px: int,
    magnitude: Callable[[], NDArray[np.float32]],
) -> NDArray[np.float64]:
    """Take the variances from the image's block sums where the cells lie on the blocks, from the pixels elsewhere."""
    if y % BLOCK_PX or x % BLOCK_PX or cell_px % BLOCK_PX or min(height, width) < cell_px:
        return np.asarray(cells(magnitude(), cell_px).var(axis=-1, dtype=np.float64))
    return image.gradient_blocks.cell_variance(slice(y, y + height), slice(x, x + width), cell_px)
