"""SIFT keypoints of a picture of any size, few enough to match and spread over the whole picture.

OpenCV's SIFT keeps two dozen float planes of four times the picture, so a picture is worked on in tiles; a keypoint belongs
to the tile in whose core it lies. Every cell of the picture keeps its strongest keypoints, fine and coarse apart, so that
smooth areas have some too. Nothing depends on threads: OpenCV sorts what its threads find.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

DESCRIPTOR_LENGTH = 128
_EMPTY = ((4, np.float32), (2, np.float32), (DESCRIPTOR_LENGTH, np.uint8))
_NORM_LEVELS = 512.0  # of a stored descriptor, as OpenCV's own; a component rarely passes 255


@dataclass(frozen=True, slots=True, kw_only=True)
class KeypointConfig:
    """How keypoints are found.

    Attributes:
        contrast_frac: least contrast of a blob; a quarter of Lowe's 0.04, because smooth crops must keep keypoints.
        edge_ratio: largest ratio of principal curvatures (Lowe 2004, section 4.1: 10).
        core_px: side of a tile without its margin; 640 px with margins take about 100 MB.
        margin_px: what a tile sees beyond its core; keypoints of up to a tenth of it in sigma see all they need.
        cell_px: side of the cells in which the strongest are kept.
        num_fine, num_coarse: keypoints a cell keeps below and above `coarse_px`.
        coarse_px: diameter (OpenCV's `size`) from which a keypoint is coarse; JPEG blocks and blur spare these.
    """

    contrast_frac: float = 0.01
    edge_ratio: float = 12.0
    core_px: int = 544
    margin_px: int = 48
    cell_px: int = 32
    num_fine: int = 4
    num_coarse: int = 2
    coarse_px: float = 4.0


@dataclass(frozen=True, slots=True)
class Keypoints:
    """Keypoints of one picture, tile by tile, cell by cell, strongest first.

    Attributes:
        places: (N, 4) float32: x, y, diameter in pixels, angle in degrees clockwise from the x axis.
        looks: (N, 2) float32: mean level of the surroundings (8-bit levels), contrast of the blob (log2 of OpenCV's
            response). A copy has the same, so they rule out most chance matches.
        descriptors: (N, 128) uint8 RootSIFT, norm about 512.
    """

    places: NDArray[np.float32]
    looks: NDArray[np.float32]
    descriptors: NDArray[np.uint8]


def find_keypoints(grey: NDArray[np.uint8], config: KeypointConfig) -> Keypoints:
    """Find keypoints.

    Args:
        grey: (H, W) uint8.
        config: how.

    Source:
        Lowe, IJCV 2004 (SIFT, by OpenCV); Arandjelovic & Zisserman, CVPR 2012 (RootSIFT: square root of the L1-normed
        descriptor). Ours keeps a number per cell instead of the strongest of the picture.
    """
    sift = cv2.SIFT.create(
        nfeatures=0,
        contrastThreshold=config.contrast_frac,
        edgeThreshold=config.edge_ratio,
        enable_precise_upscale=True,
    )
    found = [
        _find_in_tile(sift, grey, y, x, config)
        for y in range(0, grey.shape[0], config.core_px)
        for x in range(0, grey.shape[1], config.core_px)
    ]
    return join(found)


def join(parts: list[Keypoints]) -> Keypoints:
    """Put keypoints of several places together."""
    return Keypoints(*(np.concatenate([getattr(part, name) for part in parts]) for name in Keypoints.__slots__))


def mirror_descriptors(descriptors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the descriptors of the mirrored picture: rows of the 4 x 4 grid and the 8 directions change sides."""
    grid = descriptors.reshape(-1, 4, 4, 8)
    return np.ascontiguousarray(grid[:, ::-1][..., (-np.arange(8)) % 8]).reshape(-1, DESCRIPTOR_LENGTH)


def _find_in_tile(sift: cv2.SIFT, grey: NDArray[np.uint8], y: int, x: int, config: KeypointConfig) -> Keypoints:
    top, left = max(y - config.margin_px, 0), max(x - config.margin_px, 0)
    reach = config.core_px + config.margin_px
    tile = np.ascontiguousarray(grey[top : y + reach, left : x + reach])
    points = sift.detect(tile, None)
    rows = [(p.pt[0] + left, p.pt[1] + top, p.size, p.angle, p.response) for p in points]
    table = np.array(rows, np.float32).reshape(-1, 5)
    chosen = _choose(table, y, x, config)
    if not len(chosen):
        return Keypoints(*(np.zeros((0, width), kind) for width, kind in _EMPTY))
    _, raw = sift.compute(tile, [points[i] for i in chosen])
    places = table[chosen, :4]
    levels = _mean_levels(tile, places - np.array([left, top, 0, 0], np.float32))
    return Keypoints(places, np.stack([levels, np.log2(table[chosen, 4])], 1), _root(np.asarray(raw, np.float32)))


def _choose(table: NDArray[np.float32], y: int, x: int, config: KeypointConfig) -> NDArray[np.intp]:
    """Return the rows of the strongest keypoints of each cell of the core, fine and coarse ones counted apart."""
    column = np.floor((table[:, 0] - x) / config.cell_px).astype(np.int64)
    row = np.floor((table[:, 1] - y) / config.cell_px).astype(np.int64)
    per_side = config.core_px // config.cell_px
    inside = (column >= 0) & (row >= 0) & (column < per_side) & (row < per_side)
    coarse = (table[:, 2] >= config.coarse_px).astype(np.int64)
    bucket = (row * per_side + column) * 2 + coarse
    order = np.lexsort((table[:, 3], table[:, 2], table[:, 1], table[:, 0], -table[:, 4], bucket))
    order = order[inside[order]]
    sorted_bucket = bucket[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_bucket, sorted_bucket)
    limit = np.where(sorted_bucket % 2 == 1, config.num_coarse, config.num_fine)
    return order[rank < limit]


def _mean_levels(tile: NDArray[np.uint8], places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average a square of two diameters around each keypoint, as far as it lies in the tile."""
    sums = cv2.integral(tile)
    start = np.maximum(np.rint(places[:, :2] - places[:, 2:3]).astype(int), 0)
    end = np.minimum(np.rint(places[:, :2] + places[:, 2:3]).astype(int) + 1, tile.shape[::-1])
    (x0, y0), (x1, y1) = start.T, end.T
    total = sums[y1, x1].astype(np.int64) - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    return np.asarray(total / ((x1 - x0) * (y1 - y0)), np.float32)


def _root(raw: NDArray[np.float32]) -> NDArray[np.uint8]:
    total = np.maximum(raw.sum(axis=1, keepdims=True), 1)
    return np.asarray(np.clip(np.rint(np.sqrt(raw / total) * _NORM_LEVELS), 0, 255), np.uint8)
