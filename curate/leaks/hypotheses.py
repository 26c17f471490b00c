"""From single matches of keypoints to places where a benchmark picture may stand: matches that agree vote together.

One match places the whole picture, since a keypoint has a position, a size and a direction. Matches of the same picture that
place each other's keypoints where they are support each other (the generalised Hough transform of Lowe 2004, section 7.3,
without bins and their borders).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .planes import Matrix

_MAX_GROUP = 1200  # matches of one picture that are compared with each other, nearest first


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteConfig:
    """Which matches count, and when they agree.

    Attributes:
        max_distance: of descriptors of norm 512; unlike keypoints are about 190 apart.
        max_lone_distance: for a match that no other supports.
        min_inliers: matches that must agree; 1 lets near lone ones through.
        max_level_gap: between the mean levels around two keypoints.
        max_contrast_octaves: between their contrasts, as a power of two.
        min_scale, max_scale: photograph pixels per benchmark pixel; x0.5 to x2 and what a keypoint's size errs.
        max_scale_ratio: between two matches that agree.
        max_turn_degrees: the same.
        close_px, close_scale_ratio, close_turn_degrees: the same, of a placement refined on pixels.
        num_fits: of a similarity to the matches that agree, each to those that the last placed best.
        slack_px: how far from its predicted place a keypoint may lie, in benchmark pixels ...
        slack_frac: ... and of the distance between the two keypoints.
    """

    max_distance: float = 170.0
    max_lone_distance: float = 120.0
    min_inliers: int = 1
    max_level_gap: float = 32.0
    max_contrast_octaves: float = 1.0
    min_scale: float = 0.36
    max_scale: float = 2.8
    max_scale_ratio: float = 1.6
    max_turn_degrees: float = 25.0
    close_px: float = 2.5
    close_scale_ratio: float = 1.3
    close_turn_degrees: float = 15.0
    num_fits: int = 6
    slack_px: float = 4.0
    slack_frac: float = 0.15


@dataclass(frozen=True, slots=True)
class Matches:
    """Pairs of keypoints, one array row each.

    Attributes:
        picture: (M,) index of the benchmark picture.
        flip: (M,) bool, the benchmark is mirrored first.
        linear: (M, 2, 2) and shift: (M, 2): benchmark pixels to photograph pixels.
        scale, turn: (M,) magnification and rotation in degrees.
        source: (M, 2) keypoint in the benchmark; target: (M, 2) in the photograph.
        distance: (M,) of the descriptors.
    """

    picture: NDArray[np.int32]
    flip: NDArray[np.bool_]
    linear: NDArray[np.float64]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    turn: NDArray[np.float64]
    source: NDArray[np.float64]
    target: NDArray[np.float64]
    distance: NDArray[np.float32]

    def take(self, rows: NDArray[np.intp]) -> Matches:
        """Return some matches."""
        return Matches(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A place where a picture may stand.

    Attributes:
        picture: index of the benchmark picture.
        matrix: (2, 3) benchmark to photograph pixels.
        seeds: (x, y) in the benchmark, of the match amid those that agree and of the best; one, if they are the same.
        target: (x, y) in the photograph, of the first.
        num_inliers: matches that agree, itself included.
        distance: of the best match's descriptors.
    """

    picture: int
    matrix: Matrix
    seeds: tuple[tuple[float, float], ...]
    target: tuple[float, float]
    num_inliers: int
    distance: float


def make_matches(
    found: NDArray[np.float32], own: NDArray[np.float32], picture: NDArray[np.int32], flip: NDArray[np.bool_],
    distance: NDArray[np.float32],
) -> Matches:  # fmt: skip
    """Turn pairs of keypoints into placements.

    Args:
        found: (M, 4) places in the photograph.
        own: (M, 4) places in the benchmark.
        picture: (M,) the benchmark's index.
        flip: (M,) matched its mirror image.
        distance: (M,) of the descriptors.
    """
    there, here = np.asarray(found, np.float64), np.asarray(own, np.float64)
    scale = there[:, 2] / here[:, 2]
    turn = (there[:, 3] - np.where(flip, 180 - here[:, 3], here[:, 3])) % 360
    cos, sin = scale * np.cos(np.deg2rad(turn)), scale * np.sin(np.deg2rad(turn))
    linear = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)
    linear[flip, :, 0] *= -1
    shift = there[:, :2] - np.einsum("mij,mj->mi", linear, here[:, :2])
    return Matches(picture, flip, linear, shift, scale, turn, here[:, :2], there[:, :2], distance)


def make_hypotheses(matches: Matches, config: VoteConfig) -> list[Hypothesis]:
    """Group matches that agree; most supported first, then nearest."""
    allowed = (matches.scale >= config.min_scale) & (matches.scale <= config.max_scale)
    matches = matches.take(np.flatnonzero(allowed & (matches.distance <= config.max_distance)))
    if not len(matches.picture):
        return []
    order = np.lexsort((matches.distance, matches.flip, matches.picture))
    matches = matches.take(order)
    group = matches.picture.astype(np.int64) * 2 + matches.flip
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    ends = np.r_[starts[1:], len(group)]
    found = [
        hypothesis
        for start, end in zip(starts, ends, strict=True)
        for hypothesis in _of_group(matches.take(np.arange(start, min(end, start + _MAX_GROUP))), config)
    ]
    return sorted(found, key=lambda h: (-h.num_inliers, h.distance, h.picture, h.target))


def count_supporters(matches: Matches, picture: int, matrix: Matrix, config: VoteConfig) -> int:
    """Count keypoints that stand where a refined placement puts them, at its size and direction.

    Of 184 small crops every one had 5 at least, of four photographs with chance likenesses each had 1 (2026-11).

    Args:
        matches: all of the photograph.
        picture: index of the benchmark picture.
        matrix: (2, 3) benchmark to photograph pixels, refined on pixels.
        config: how closely.
    """
    flip = bool(np.linalg.det(matrix[:, :2]) < 0)
    side = -1.0 if flip else 1.0
    turn = np.rad2deg(np.arctan2(side * matrix[1, 0], side * matrix[0, 0]))
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    error = np.linalg.norm(matches.source @ matrix[:, :2].T + matrix[:, 2] - matches.target, axis=1)
    near = (matches.picture == picture) & (matches.flip == flip) & (error <= config.close_px * scale)
    near &= np.abs(np.log(matches.scale / scale)) <= np.log(config.close_scale_ratio)
    near &= np.abs((matches.turn - turn + 180) % 360 - 180) <= config.close_turn_degrees
    return len(np.unique(np.rint(matches.target[near]), axis=0))


def _of_group(matches: Matches, config: VoteConfig) -> list[Hypothesis]:
    """Take the match with most supporters, then the best of the rest, until lone distant ones are left."""
    agree = _agreement(matches, config)
    left = np.ones(len(agree), bool)
    found = []
    while left.any():
        votes = np.where(left, (agree & left).sum(1), -1)
        best = int(votes.argmax())  # the nearest descriptor of equals, since matches are sorted by it
        inliers = np.flatnonzero(agree[best] & left)
        num = len(np.unique(np.rint(matches.target[inliers]), axis=0))
        lonely = votes[best] <= 1 and matches.distance[left].min() > config.max_lone_distance
        if lonely or votes[best] < config.min_inliers:
            break
        left[inliers] = False
        left[best] = False
        nearest = matches.distance[inliers].min() if len(inliers) else matches.distance[best]
        if num >= config.min_inliers and (num > 1 or nearest <= config.max_lone_distance):
            found.append(_hypothesis(matches, best, inliers, num, config))
    return found


def _hypothesis(matches: Matches, best: int, inliers: NDArray[np.intp], num: int, config: VoteConfig) -> Hypothesis:
    matrix = np.hstack([matches.linear[best], matches.shift[best][:, None]])
    if num >= 3:
        matrix = _fit_closely(matches.take(inliers), matrix, config)
    amid = best
    if len(inliers):
        middle = np.median(matches.source[inliers], axis=0)
        amid = int(inliers[np.square(matches.source[inliers] - middle).sum(1).argmin()])
    seeds = [(float(matches.source[row, 0]), float(matches.source[row, 1])) for row in dict.fromkeys((amid, best))]
    x, y = matches.target[amid].tolist()
    return Hypothesis(int(matches.picture[best]), matrix, tuple(seeds), (x, y), num, float(matches.distance[best]))


def _agreement(matches: Matches, config: VoteConfig) -> NDArray[np.bool_]:
    """(M, M) bool: row i places keypoint j where it is, at about its size and direction."""
    apart = matches.source[None] - matches.source[:, None]
    predicted = matches.target[:, None] + np.einsum("iab,ijb->ija", matches.linear, apart)
    error = np.linalg.norm(predicted - matches.target[None], axis=2) / matches.scale[:, None]
    slack = config.slack_px + config.slack_frac * np.linalg.norm(apart, axis=2)
    ratio = np.abs(np.log(matches.scale[:, None] / matches.scale[None])) <= np.log(config.max_scale_ratio)
    turn = np.abs((matches.turn[:, None] - matches.turn[None] + 180) % 360 - 180) <= config.max_turn_degrees
    return np.asarray((error <= slack) & ratio & turn)


def _fit_closely(matches: Matches, matrix: Matrix, config: VoteConfig) -> Matrix:
    """Fit a similarity to matches that agree roughly, then again and again to those it places most closely.

    A fence or a row of windows gives many matches that are one post aside.
    """
    use = np.ones(len(matches.picture), bool)
    for _ in range(config.num_fits):
        if np.count_nonzero(use) < 3:
            break
        matrix = _fit(matches.source[use], matches.target[use], bool(matches.flip[0]), matrix)
        error = np.linalg.norm(matches.source @ matrix[:, :2].T + matrix[:, 2] - matches.target, axis=1)
        use = error <= np.maximum(np.median(error), config.slack_px / 2 * matches.scale)
    return matrix


def _fit(source: NDArray[np.float64], target: NDArray[np.float64], flip: bool, default: Matrix) -> Matrix:
    """Fit a similarity to pairs of points by least squares (Umeyama 1991 in the plane, as complex numbers)."""
    a = source[:, 0] + 1j * source[:, 1]
    b = target[:, 0] + 1j * target[:, 1]
    a = -a.conj() if flip else a
    da, db = a - a.mean(), b - b.mean()
    power = float((da.conj() @ da).real)
    if power < 1:
        return default
    factor = (da.conj() @ db) / power
    shift = b.mean() - factor * a.mean()
    side = -1.0 if flip else 1.0
    return np.array([[side * factor.real, -factor.imag, shift.real], [side * factor.imag, factor.real, shift.imag]])
