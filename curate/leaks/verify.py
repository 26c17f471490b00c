"""The last word on a suspected leak: are the pixels the same?

A hypothesis places the benchmark picture on the photograph. A small window around its seed is compared first; if it
correlates, the placement is refined there (ECC), the area of agreement is grown over the whole picture, refined again, and
judged: enough of it textured, well correlated, and textured in more than one direction, since one straight edge equals
every other.

Source: ECC: Evangelidis & Psarakis, TPAMI 2008 (OpenCV's). Thresholds: benchmarks/results/leaks_*.json.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .planes import Matrix, Plane, Window, bandpass, compose, correlate, sample

Mask = NDArray[np.bool_]
_ECC_STEPS, _ECC_CHANGE, _ECC_BLUR_PX = 25, 1e-4, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig:
    """How pixels are compared; lengths in half-size benchmark pixels.

    Attributes:
        seed_px: side of the first window.
        min_seed_ncc: correlation there before refinement.
        grow_px: side of the window after the first refinement.
        box_px: side of the box in which local agreement is measured.
        min_box_ncc: least local correlation of textured agreement.
        min_texture_levels: standard deviation (band-passed) from which a box is textured.
        max_flat_levels: how far the mean levels of two flat boxes may lie apart.
        min_area_px2: least textured agreement.
        min_score: least correlation of the whole area.
        min_isotropy: least ratio of the structure tensor's eigenvalues over the area: 0 is one straight edge.
    """

    seed_px: int = 32
    min_seed_ncc: float = 0.35
    grow_px: int = 96
    box_px: int = 13
    min_box_ncc: float = 0.5
    min_texture_levels: float = 1.2
    max_flat_levels: float = 10.0
    min_area_px2: int = 500
    min_score: float = 0.75
    min_isotropy: float = 0.05


@dataclass(frozen=True, slots=True)
class Agreement:
    """Where and how well a benchmark picture agrees with a photograph.

    Attributes:
        matrix: (2, 3) half-size benchmark pixels to photograph pixels, refined.
        window: bounding box of the area of agreement.
        score: correlation of the band-passed levels over the area.
        area_px2: its textured part.
        isotropy: ratio of the eigenvalues of its structure tensor.
    """

    matrix: Matrix
    window: Window
    score: float
    area_px2: int
    isotropy: float


def verify(
    grey: NDArray[np.uint8], plane: NDArray[np.uint8], matrix: Matrix, seed: tuple[float, float], config: VerifyConfig
) -> Agreement | None:
    """Compare a photograph with a benchmark picture put on it by `matrix`.

    Args:
        grey: (H, W) uint8 photograph.
        plane: (h, w) uint8 benchmark at half size.
        matrix: half-size benchmark pixels to photograph pixels.
        seed: point (u, v) of the plane whose surroundings should agree.
        config: thresholds.

    Returns:
        The agreement, judged by `is_leak`; None if it is lost on the way.
    """
    window = _window_around(seed, config.seed_px, plane.shape)
    pair = _pair(grey, plane, matrix, window)
    if pair is None or correlate(pair[0], pair[1], pair[2]) < config.min_seed_ncc:
        return None
    best: Agreement | None = None
    for side in (config.seed_px, config.grow_px, 2 * max(plane.shape)):
        window = _window_around(seed, side, plane.shape)
        mask = None if best is None else _grow(grey, plane, matrix, window, seed, config)[0]
        matrix = _refine(grey, plane, matrix, window, mask)
        best = _grow(grey, plane, matrix, window, seed, config)[1]
        if best is None or best.area_px2 * 4 < config.min_area_px2:
            return None
    return best


def is_leak(agreement: Agreement, config: VerifyConfig) -> bool:
    """Judge an agreement."""
    return (
        agreement.area_px2 >= config.min_area_px2
        and agreement.score >= config.min_score
        and agreement.isotropy >= config.min_isotropy
    )


def _window_around(seed: tuple[float, float], side: int, shape: tuple[int, ...]) -> Window:
    u, v = (max(0, round(at) - side // 2) for at in seed)
    right, bottom = (min(end, round(at) + side - side // 2) for at, end in zip(seed, shape[::-1], strict=True))
    return u, v, max(1, right - u), max(1, bottom - v)


def _pair(
    grey: NDArray[np.uint8], plane: NDArray[np.uint8], matrix: Matrix, window: Window
) -> tuple[Plane, Plane, Mask, Plane, Plane] | None:
    """Return benchmark and photograph band-passed over a window, where both are, and their levels."""
    fetched = sample(grey, matrix, window)
    if fetched is None or not fetched[1].any():
        return None
    levels, inside = fetched
    u, v, width, height = window
    own = plane[v : v + height, u : u + width].astype(np.float32)
    levels = np.where(inside, levels, own - own[inside].mean() + levels[inside].mean())
    return bandpass(own), bandpass(levels), inside, own, levels


def _refine(grey: NDArray[np.uint8], plane: NDArray[np.uint8], matrix: Matrix, window: Window, mask: Mask | None) -> Matrix:
    """Move the placement to where the window correlates best; unchanged where that fails."""
    pair = _pair(grey, plane, matrix, window)
    if pair is None:
        return matrix
    own, other, inside, _, _ = pair
    use = inside if mask is None else inside & mask
    before = correlate(own, other, use)
    try:
        warp = _align(own, other, use)
    except cv2.error:  # lost its way, or a mask without texture
        return matrix
    u, v = window[:2]
    there = np.array([[1.0, 0.0, u], [0.0, 1.0, v]])
    back = np.array([[1.0, 0.0, -u], [0.0, 1.0, -v]])
    refined = compose(matrix, compose(there, compose(warp, back)))
    again = _pair(grey, plane, refined, window)
    if again is None or correlate(again[0], again[1], use & again[2]) < before:
        return matrix
    return refined


def _align(own: Plane, other: Plane, use: Mask) -> Matrix:
    """Map `own` onto `other`; the mask of OpenCV's ECC lies on the picture that it moves, here `own`."""
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ECC_STEPS, _ECC_CHANGE)
    start, mask = np.eye(2, 3, dtype=np.float32), use.astype(np.uint8) * 255
    _, inverse = cv2.findTransformECC(other, own, start, cv2.MOTION_AFFINE, stop, mask, _ECC_BLUR_PX)
    return np.asarray(cv2.invertAffineTransform(inverse.astype(np.float64)))


def _grow(
    grey: NDArray[np.uint8],
    plane: NDArray[np.uint8],
    matrix: Matrix,
    window: Window,
    seed: tuple[float, float],
    config: VerifyConfig,
) -> tuple[Mask | None, Agreement | None]:
    """Find the connected area of agreement, and measure it."""
    pair = _pair(grey, plane, matrix, window)
    if pair is None:
        return None, None
    own, other, inside, own_levels, levels = pair
    textured, flat = _local_agreement(own, other, own_levels, levels, config)
    agree = (textured | flat) & inside
    _, labels = cv2.connectedComponents(agree.astype(np.uint8), connectivity=4)
    counts = np.bincount(labels[textured & inside], minlength=1)
    if not len(counts) or counts.max() == 0:
        return None, None
    counts[0] = 0
    area = labels == int(counts.argmax())
    rows, columns = np.flatnonzero(area.any(1)), np.flatnonzero(area.any(0))
    u, v = window[:2]
    box = (u + columns[0], v + rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    score, num = correlate(own, other, area), int((area & textured).sum())
    return area, Agreement(matrix, tuple(map(int, box)), score, num, _isotropy(own, area))


def _local_agreement(own: Plane, other: Plane, own_levels: Plane, levels: Plane, config: VerifyConfig) -> tuple[Mask, Mask]:
    """Return where textures correlate, and where both are flat with the same mean level."""
    mean = lambda plane: cv2.boxFilter(plane, -1, (config.box_px, config.box_px))  # noqa: E731
    a, b = mean(own), mean(other)
    var_a, var_b = (np.maximum(mean(p * p) - m * m, 1e-6) for p, m in ((own, a), (other, b)))
    ncc = (mean(own * other) - a * b) / np.sqrt(var_a * var_b)
    least = config.min_texture_levels**2
    textured = (ncc >= config.min_box_ncc) & (var_a >= least) & (var_b >= least / 2)
    apart = mean(levels - own_levels)
    offset = float(np.median(apart[textured])) if textured.any() else 0.0
    flat = (var_a < least) & (var_b < least) & (np.abs(apart - offset) <= config.max_flat_levels)
    return textured, flat


def _isotropy(own: Plane, area: Mask) -> float:
    """Ratio of the structure tensor's eigenvalues over an area."""
    gx, gy = cv2.Sobel(own, cv2.CV_32F, 1, 0)[area], cv2.Sobel(own, cv2.CV_32F, 0, 1)[area]
    xx, yy, xy = float(gx @ gx), float(gy @ gy), float(gx @ gy)
    root = float(np.hypot(xx - yy, 2 * xy))
    return (xx + yy - root) / (xx + yy + root) if xx + yy > 0 else 0.0
