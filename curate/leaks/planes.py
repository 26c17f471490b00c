"""Looking at a benchmark picture and at the place where it may stand in a photograph, side by side at half size.

A benchmark's plane is its grey picture at half size: what a copy of half the size still shows. The photograph is
area-averaged to the same resolution before it is turned, so nothing aliases, and both are band-passed: JPEG and resizing
change the finest detail, retouching the coarsest.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Matrix = NDArray[np.float64]  # (2, 3), from (x, y, 1) to (x, y)
Window = tuple[int, int, int, int]  # u, v, width, height in a benchmark's half-size plane

FROM_HALF: Matrix = np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5]])  # half-size to full-size pixel centres
_FINE_SIGMA_PX, _COARSE_SIGMA_PX = 0.8, 4.0  # of the band that is compared, in half-size pixels


def halve(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Halve a (H, W) uint8 picture by area; an odd last row or column is left out."""
    even = grey[: grey.shape[0] // 2 * 2, : grey.shape[1] // 2 * 2]
    return np.asarray(cv2.resize(even, (even.shape[1] // 2, even.shape[0] // 2), interpolation=cv2.INTER_AREA))


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """Return the map that does `inner` first."""
    return np.hstack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2:] + outer[:, 2:]])


def apply(matrix: Matrix, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Map (N, 2) points."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], dtype=np.float64)


def scale_of(matrix: Matrix) -> float:
    """Return the map's linear magnification."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def corners(window: Window) -> NDArray[np.float64]:
    """Return the (4, 2) outer corners of a window, in pixel-centre coordinates."""
    u, v, width, height = window
    return np.array([[u, v], [u + width, v], [u + width, v + height], [u, v + height]], np.float64) - 0.5


def sample(grey: NDArray[np.uint8], matrix: Matrix, window: Window) -> tuple[Plane, NDArray[np.bool_]] | None:
    """Fetch what the photograph shows where `matrix` puts a window of a half-size plane.

    Args:
        grey: (H, W) uint8 photograph.
        matrix: half-size benchmark pixels to photograph pixels.
        window: of the half-size plane.

    Returns:
        (h, w) float32 levels and (h, w) bool, which of them lie in the photograph; None if none do.
    """
    height, width = grey.shape
    outline = apply(matrix, corners(window))
    left, top = np.maximum(np.floor(outline.min(0)).astype(int) - 2, 0)
    right, bottom = np.minimum(np.ceil(outline.max(0)).astype(int) + 3, (width, height))
    if right - left < 2 or bottom - top < 2:
        return None
    crop = grey[top:bottom, left:right]
    factor = scale_of(matrix)
    to_crop = np.array([[1.0, 0.0, -left], [0.0, 1.0, -top]])
    if factor > 1.05:
        small = (max(1, round(crop.shape[1] / factor)), max(1, round(crop.shape[0] / factor)))
        fx, fy = small[0] / crop.shape[1], small[1] / crop.shape[0]
        to_crop = compose(np.array([[fx, 0, 0.5 * fx - 0.5], [0, fy, 0.5 * fy - 0.5]]), to_crop)
        crop = np.asarray(cv2.resize(crop, small, interpolation=cv2.INTER_AREA), np.uint8)
    u, v, w, h = window
    moved = compose(matrix, np.array([[1.0, 0.0, u], [0.0, 1.0, v]]))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(crop, compose(to_crop, moved), (w, h), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    xs = moved[0, 0] * np.arange(w) + moved[0, 1] * np.arange(h)[:, None] + moved[0, 2]
    ys = moved[1, 0] * np.arange(w) + moved[1, 1] * np.arange(h)[:, None] + moved[1, 2]
    inside = (xs >= -0.5) & (xs <= width - 0.5) & (ys >= -0.5) & (ys <= height - 0.5)
    return patch.astype(np.float32), inside


def bandpass(levels: Plane) -> Plane:
    """Keep detail of about 2 to 10 pixels of a (H, W) float32 plane."""
    return cv2.GaussianBlur(levels, (0, 0), _FINE_SIGMA_PX) - cv2.GaussianBlur(levels, (0, 0), _COARSE_SIGMA_PX)


def correlate(one: Plane, other: Plane, mask: NDArray[np.bool_]) -> float:
    """Return the normalised cross-correlation of two planes where `mask` holds; 0 where either is constant."""
    a, b = one[mask].astype(np.float64), other[mask].astype(np.float64)
    if len(a) < 2:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0
