"""The last word on a suspected leak: are the pixels the same?

A hypothesis places the benchmark picture on the photograph. A small window around its seed is compared first; if it
correlates, the placement is refined there (ECC), the area of agreement is grown over the whole picture, refined again, and
its bounding rectangle is judged as a whole, with all that does not agree in it. Crops are rectangles, chance likenesses are
not.

Source: ECC: Evangelidis & Psarakis, TPAMI 2008 (OpenCV's). Thresholds: benchmarks/results/leaks_*.json.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .planes import Matrix, Plane, Window, bandpass, compose, correlate, sample

Mask = NDArray[np.bool_]
_SEED_STEPS, _AREA_STEPS, _ECC_CHANGE, _ECC_BLUR_PX = 8, 25, 1e-4, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig:
    """How pixels are compared; lengths in half-size benchmark pixels.

    Attributes:
        seed_px: side of the first window.
        min_seed_ncc: correlation there before refinement.
        min_refined_ncc: correlation there, after it.
        small_seed_px, min_small_seed_ncc: the same for a second, smaller window.
        max_seed_gap_levels: difference of mean levels there.
        grow_px: side of the window after the first refinement.
        min_grown_px: least side of what agrees in it.
        box_px: side of the box in which local agreement is measured.
        min_box_ncc: least local correlation of textured agreement.
        min_texture_levels: standard deviation (band-passed) from which a box is textured.
        max_flat_levels: how far the mean levels of two flat boxes may lie apart.
        min_border_frac: least agreement along each border of the rectangle; what sticks out less is cut off.
        border_px: what is not judged along its borders: there the band sees what lies beyond a pasted crop.
        max_stretch: largest ratio of the two magnifications; copies are not stretched.
        min_side_px: least side of the rectangle of agreement: 80 px of the benchmark; the smallest crop has 128.
        min_ncc: least correlation over it.
        max_differ_frac: largest share of its textured pixels that does not agree.
        min_supporters: keypoints that must agree on the refined placement, unless the pixels are surer:
        min_lone_ncc, max_lone_differ_frac, min_lone_textured_px2, min_lone_isotropy: what they must show then. An edge between
            two flat areas equals many others.
        max_gain_ratio: largest ratio of contrasts.
    """

    seed_px: int = 32
    min_seed_ncc: float = 0.5
    min_refined_ncc: float = 0.8
    small_seed_px: int = 18
    min_small_seed_ncc: float = 0.55
    max_seed_gap_levels: float = 32.0
    grow_px: int = 96
    min_grown_px: int = 26
    box_px: int = 13
    min_box_ncc: float = 0.5
    min_texture_levels: float = 1.2
    max_flat_levels: float = 10.0
    min_border_frac: float = 0.6
    border_px: int = 6
    max_stretch: float = 1.08
    min_side_px: int = 40
    min_ncc: float = 0.8
    max_differ_frac: float = 0.25
    max_gain_ratio: float = 2.0
    min_supporters: int = 3
    min_lone_ncc: float = 0.95
    max_lone_differ_frac: float = 0.05
    min_lone_textured_px2: int = 2000
    min_lone_isotropy: float = 0.12


@dataclass(frozen=True, slots=True)
class Agreement:
    """Where and how well a benchmark picture agrees with a photograph; statistics are over the window.

    Attributes:
        matrix: (2, 3) half-size benchmark pixels to photograph pixels, refined.
        window: rectangle of agreement in half-size pixels with its borders, and a quarter of a box that blurs these.
        ncc: correlation of band-passed levels.
        num_textured: textured pixels that agree.
        differ_frac: share of textured pixels (in either) that do not.
        gain: ratio of the band-passed contrasts, photograph to benchmark.
        isotropy: ratio of the eigenvalues of the structure tensor; 0 is one straight edge.
    """

    matrix: Matrix
    window: Window
    ncc: float
    num_textured: int
    differ_frac: float
    gain: float
    isotropy: float


@dataclass(frozen=True, slots=True)
class _Pair:
    """Benchmark and photograph over one window: levels, the same band-passed, and where the photograph is."""

    own_levels: Plane
    levels: Plane
    own: Plane
    other: Plane
    inside: Mask

    def cut(self, part: tuple[slice, slice]) -> _Pair:
        return _Pair(*(getattr(self, name)[part] for name in self.__slots__))


def is_leak(agreement: Agreement, num_supporters: int, config: VerifyConfig) -> bool:
    """Judge an agreement that so many keypoints support (`hypotheses.count_supporters`)."""
    if not 1 / config.max_gain_ratio <= agreement.gain <= config.max_gain_ratio:
        return False
    if num_supporters >= config.min_supporters:
        return agreement.ncc >= config.min_ncc and agreement.differ_frac <= config.max_differ_frac
    return (
        agreement.ncc >= config.min_lone_ncc
        and agreement.differ_frac <= config.max_lone_differ_frac
        and agreement.num_textured >= config.min_lone_textured_px2
        and agreement.isotropy >= config.min_lone_isotropy
    )


def verify(
    grey: NDArray[np.uint8], plane: NDArray[np.uint8], matrix: Matrix, seeds: NDArray[np.float64], config: VerifyConfig
) -> Agreement | None:
    """Compare a photograph with a benchmark picture put on it by `matrix`.

    Args:
        grey: (H, W) uint8 photograph.
        plane: (h, w) uint8 benchmark at half size.
        matrix: half-size benchmark pixels to photograph pixels.
        seeds: (N, 2) points (u, v) of the plane, one of whose surroundings should agree.
        config: thresholds.

    Returns:
        The agreement, to be judged by `is_leak`; None if it was lost on the way.
    """
    start = _start(grey, plane, matrix, seeds, config)
    if start is None:
        return None
    seed, matrix = start
    for side in (config.grow_px, 2 * max(plane.shape)):
        window = _window_around(seed, side, plane.shape)
        pair = _look(grey, plane, matrix, window)
        area = None if pair is None else _find_area(pair, config)
        if area is None or min(_box(area)[2:]) < config.min_grown_px:
            return None
        matrix, _ = _refine(grey, plane, matrix, window, area, _AREA_STEPS)
        if _stretch(matrix) > config.max_stretch:
            return None
    pair = _look(grey, plane, matrix, window)
    area = None if pair is None else _find_area(pair, config)
    if pair is None or area is None or min(_box(area)[2:]) < config.min_side_px:
        return None
    return _measure(pair, _box(area), matrix, window, config)


def _start(
    grey: NDArray[np.uint8], plane: NDArray[np.uint8], matrix: Matrix, seeds: NDArray[np.float64], config: VerifyConfig
) -> tuple[tuple[float, float], Matrix] | None:
    """Return the first seed whose surroundings correlate, in a large or a small window, and the placement refined there.

    A seed at the border of a pasted crop needs the small one.
    """
    for side, least in ((config.seed_px, config.min_seed_ncc), (config.small_seed_px, config.min_small_seed_ncc)):
        for u, v in seeds.tolist():
            window = _window_around((u, v), side, plane.shape)
            pair = _look(grey, plane, matrix, window)
            if pair is None or not _looks_alike(pair, least, config):
                continue
            refined, ncc = _refine(grey, plane, matrix, window, pair.inside, _SEED_STEPS)
            if ncc >= config.min_refined_ncc:
                return (u, v), refined
    return None


def _looks_alike(pair: _Pair, least_ncc: float, config: VerifyConfig) -> bool:
    if abs(float((pair.levels - pair.own_levels).mean())) > config.max_seed_gap_levels:
        return False
    contrast = float(pair.other.std()) / max(1e-6, float(pair.own.std()))
    if not 1 / config.max_gain_ratio <= contrast <= config.max_gain_ratio:
        return False
    return correlate(pair.own, pair.other, pair.inside) >= least_ncc


def _window_around(seed: tuple[float, float], side: int, shape: tuple[int, ...]) -> Window:
    u, v = (max(0, round(at) - side // 2) for at in seed)
    right, bottom = (min(end, round(at) + side - side // 2) for at, end in zip(seed, shape[::-1], strict=True))
    return u, v, max(1, right - u), max(1, bottom - v)


def _look(grey: NDArray[np.uint8], plane: NDArray[np.uint8], matrix: Matrix, window: Window) -> _Pair | None:
    fetched = sample(grey, matrix, window)
    if fetched is None or not fetched[1].any():
        return None
    levels, inside = fetched
    u, v, width, height = window
    own = plane[v : v + height, u : u + width].astype(np.float32)
    levels = np.where(inside, levels, own - own[inside].mean() + levels[inside].mean())
    return _Pair(own, levels, bandpass(own), bandpass(levels), inside)


def _refine(
    grey: NDArray[np.uint8], plane: NDArray[np.uint8], matrix: Matrix, window: Window, mask: Mask, num_steps: int
) -> tuple[Matrix, float]:
    """Move the placement to where the window correlates best, and say how well; unchanged where that fails."""
    pair = _look(grey, plane, matrix, window)
    if pair is None:
        return matrix, 0.0
    use = pair.inside & mask
    before = correlate(pair.own, pair.other, use)
    try:
        warp = _align(pair.own, pair.other, use, num_steps)
    except cv2.error:  # lost its way, or a mask without texture
        return matrix, before
    u, v = window[:2]
    there = np.array([[1.0, 0.0, u], [0.0, 1.0, v]])
    back = np.array([[1.0, 0.0, -u], [0.0, 1.0, -v]])
    refined = compose(matrix, compose(there, compose(warp, back)))
    again = _look(grey, plane, refined, window)
    after = 0.0 if again is None else correlate(again.own, again.other, use & again.inside)
    return (refined, after) if after >= before else (matrix, before)


def _align(own: Plane, other: Plane, use: Mask, num_steps: int) -> Matrix:
    """Map `own` onto `other`; the mask of OpenCV's ECC lies on the picture that it moves, here `own`."""
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, num_steps, _ECC_CHANGE)
    start, mask = np.eye(2, 3, dtype=np.float32), use.astype(np.uint8) * np.uint8(255)
    _, inverse = cv2.findTransformECC(other, own, start, cv2.MOTION_AFFINE, stop, mask, _ECC_BLUR_PX)
    return np.asarray(cv2.invertAffineTransform(np.asarray(inverse, np.float64)), np.float64)


def _find_area(pair: _Pair, config: VerifyConfig) -> Mask | None:
    """Find the rectangle of agreement with most texture, and in it what agrees and hangs together."""
    textured, flat, _ = _local_agreement(pair, config)
    agree = (textured | flat) & pair.inside
    _, labels = cv2.connectedComponents(agree.astype(np.uint8), connectivity=4)
    counts = np.bincount(labels[textured & pair.inside], minlength=1)
    counts[0] = 0
    if not counts.max():
        return None
    area = labels == int(counts.argmax())
    left, top, width, height = _trim(area, pair.inside, _box(area), config.min_border_frac)
    left, top = left + config.border_px, top + config.border_px
    width, height = max(0, width - 2 * config.border_px), max(0, height - 2 * config.border_px)
    kept = np.zeros_like(area)
    kept[top : top + height, left : left + width] = area[top : top + height, left : left + width]
    return kept if kept.any() else None


def _trim(area: Mask, inside: Mask, box: Window, least: float) -> Window:
    """Cut the emptiest border of a rectangle off until all four are full enough: chance agreement makes tendrils.

    A border is as full as what of it lies in the photograph.
    """
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    while right - left > 1 and bottom - top > 1:
        full = [
            int(area[line].sum()) / max(1, int(inside[line].sum()))
            for line in (
                np.s_[top:bottom, left], np.s_[top, left:right], np.s_[top:bottom, right - 1], np.s_[bottom - 1, left:right]
            )
        ]  # fmt: skip
        worst = int(np.argmin(full))
        if full[worst] >= least:
            break
        left, top, right, bottom = left + (worst == 0), top + (worst == 1), right - (worst == 2), bottom - (worst == 3)
    return left, top, right - left, bottom - top


def _box(area: Mask) -> Window:
    rows, columns = np.flatnonzero(area.any(1)), np.flatnonzero(area.any(0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def _measure(pair: _Pair, box: Window, matrix: Matrix, window: Window, config: VerifyConfig) -> Agreement:
    """Judge the rectangle around an area of agreement, and all that is in it."""
    left, top, width, height = box
    part = np.s_[top : top + height, left : left + width]
    textured, _, any_texture = (mask[part] for mask in _local_agreement(pair, config))
    pair = pair.cut(part)
    num_agree, num = (int((mask & pair.inside).sum()) for mask in (textured, any_texture))
    return Agreement(
        matrix=matrix,
        window=_widen(
            (window[0] + left, window[1] + top, width, height), config.border_px + config.box_px // 4, window
        ),
        ncc=correlate(pair.own, pair.other, pair.inside),
        num_textured=num_agree,
        differ_frac=1 - num_agree / max(num, 1),
        gain=float(pair.other[pair.inside].std() / max(1e-6, float(pair.own[pair.inside].std()))),
        isotropy=_isotropy(pair.own),
    )


def _widen(box: Window, by: int, limit: Window) -> Window:
    left, top = max(box[0] - by, limit[0]), max(box[1] - by, limit[1])
    right = min(box[0] + box[2] + by, limit[0] + limit[2])
    bottom = min(box[1] + box[3] + by, limit[1] + limit[3])
    return left, top, right - left, bottom - top


def _local_agreement(pair: _Pair, config: VerifyConfig) -> tuple[Mask, Mask, Mask]:
    """Return where textures correlate, where both are flat with the same mean level, and where either is textured."""

    def mean(plane: Plane) -> Plane:
        return np.asarray(cv2.boxFilter(plane, -1, (config.box_px, config.box_px)), np.float32)

    a, b = mean(pair.own), mean(pair.other)
    var_a, var_b = (np.maximum(mean(p * p) - m * m, 1e-6) for p, m in ((pair.own, a), (pair.other, b)))
    ncc = (mean(pair.own * pair.other) - a * b) / np.sqrt(var_a * var_b)
    least = config.min_texture_levels**2
    textured = (ncc >= config.min_box_ncc) & (var_a >= least) & (var_b >= least / 2)
    near = np.abs(mean(pair.levels - pair.own_levels)) <= config.max_flat_levels
    flat = (var_a < 2 * least) & (var_b < 2 * least) & near
    return textured, flat, textured | (var_a >= 2 * least) | (var_b >= 2 * least)


def _isotropy(own: Plane) -> float:
    gx, gy = cv2.Sobel(own, cv2.CV_32F, 1, 0).ravel(), cv2.Sobel(own, cv2.CV_32F, 0, 1).ravel()
    xx, yy, xy = float(gx @ gx), float(gy @ gy), float(gx @ gy)
    root = float(np.hypot(xx - yy, 2 * xy))
    return (xx + yy - root) / (xx + yy + root) if xx + yy > 0 else 0.0


def _stretch(matrix: Matrix) -> float:
    values = np.linalg.svd(matrix[:, :2], compute_uv=False)
    return float(values[0] / max(values[1], 1e-9))
