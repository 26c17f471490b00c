"""Pictures of which one shows a part of the other: crops, also of one photograph in two ways, turned, mirrored and edited.

A picture is described once, by the strongest keypoints of its reduced plane; two pictures are compared by descriptions alone. A
description is about 3 KB, so a million pictures are 3 GB of parquet, and comparing them holds about half of that in memory.

Source: SIFT (Lowe, IJCV 2004, by OpenCV), each descriptor as 128 bits, one where a component is above the descriptor's median;
words are bits of a descriptor (locality-sensitive hashing by bit sampling, Indyk & Motwani 1998). OURS: everything else.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..core.errors import ManifestError
from ..leaks.keypoints import mirror_descriptors

NUM_KEYPOINTS = 128
DESCRIPTOR_BYTES = 16
CONTRAST_FRAC = 0.02  # half of Lowe's: soft photographs keep enough
NUM_WORDS, WORD_BITS = 8, 24
"""Words of a descriptor: true matches differ in a tenth of the bits, so of eight words about half survive once."""
MAX_CANDIDATES = 32
"""Pictures that each one is compared with in full: those that share most rare words with it."""
MAX_OWNERS = 64
"""A word of more keypoints than this says nothing (foliage, rows of windows)."""
MAX_DISTANCE_BITS = 20
"""Between matching descriptors; unrelated pictures have 2 such pairs of keypoints of 128 (half of them)."""
MAX_ERROR_FRAC = 0.01
"""How far a keypoint may lie from where the transform puts it, as share of the longer side."""
MIN_SCALE = 0.2
"""Least scale between two reduced pictures that show the same: smaller ones are accidents."""
MIN_SHARED_PX = 9
"""Thumbnail pixels that two pictures must share to be compared by them."""
MIN_MATCHES = 6
"""Fewer matches are not worth fitting a transform to."""

_HEADER = np.dtype([("height", "<u2"), ("width", "<u2"), ("num", "<u2")])
_POINT = np.dtype([("x", "<u2"), ("y", "<u2"), ("bits", "u1", (DESCRIPTOR_BYTES,))])


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """How two pictures overlap.

    Attributes:
        num_inliers: keypoints that agree on one similarity transform.
        covered: share of the first that shows in the second, 0..1.
        covers: share of the second that shows in the first, 0..1.
        region: the second's corners (x, y), top left first and clockwise, in the first, as shares of the first's width and
            height; may lie outside.
        region_in_second: the same the other way round.
        mirrored: the second is a mirror image.
    """

    num_inliers: int
    covered: float
    covers: float
    region: tuple[tuple[float, float], ...]
    region_in_second: tuple[tuple[float, float], ...]
    mirrored: bool


def describe(grey: NDArray[np.uint8]) -> bytes:
    """Describe one picture by its strongest keypoints.

    Args:
        grey: (H, W) uint8 luma, reduced to a common size by the caller. Not modified.

    Returns:
        Bytes that `partial_pairs` compares; deterministic.
    """
    sift = cv2.SIFT.create(nfeatures=0, contrastThreshold=CONTRAST_FRAC)
    points = sift.detect(grey, None)
    table = np.array([(p.response, p.pt[0], p.pt[1], p.size, p.angle) for p in points], np.float32).reshape(-1, 5)
    order = np.lexsort((table[:, 4], table[:, 3], table[:, 2], table[:, 1], -table[:, 0]))[:NUM_KEYPOINTS]
    found = np.zeros(len(order), _POINT)
    if len(order):
        _, raw = sift.compute(grey, [points[index] for index in order])
        bits = raw > np.median(raw, axis=1, keepdims=True)
        found["bits"] = np.packbits(bits, axis=1)
        for name, column, side in (("x", 1, grey.shape[1]), ("y", 2, grey.shape[0])):
            found[name] = np.clip(np.rint(table[order, column] / side * 65535), 0, 65535)
    header = np.array([(grey.shape[0], grey.shape[1], len(order))], _HEADER)
    return header.tobytes() + found.tobytes()


def partial_pairs(descriptions: Sequence[bytes]) -> list[tuple[int, int, Part]]:
    """Find all pairs of which one shows a part of the other.

    Args:
        descriptions: of N pictures, by `describe`.

    Returns:
        (i, j, how) with i < j, in order; `how` is of i as the first and j as the second.

    Raises:
        ManifestError: a description is damaged.
    """
    pictures = [_parse(one) for one in descriptions]
    found = []
    with threadpool_limits(1):  # matrices of 128 x 128: threads would only wait for each other
        for i, j in _candidates(pictures):
            part = _compare(pictures[i], pictures[j])
            if part is not None:
                found.append((i, j, part))
    return found


def shared_correlation(
    first: NDArray[np.uint8], second: NDArray[np.uint8], region: Sequence[tuple[float, float]]
) -> float:
    """Compare what two pictures show where they overlap: one watermark on two pictures has keypoints that agree, too.

    Args:
        first: (S, S) uint8 thumbnail.
        second: (S, S) uint8 thumbnail.
        region: as in `Part`.

    Returns:
        Correlation of the two over the shared part, -1..1; 0.0 where too little is shared, or is flat.
    """
    side = first.shape[0]
    matrix = cv2.getAffineTransform(np.array([[0, 0], [1, 0], [1, 1]], np.float32), np.array(region[:3], np.float32))
    places = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(places, places)
    at_x, at_y = (row[0] * x + row[1] * y + row[2] for row in matrix)
    inside = (at_x >= 0) & (at_x <= 1) & (at_y >= 0) & (at_y <= 1)
    seen = cv2.remap(
        first.astype(np.float32), (at_x * side - 0.5).astype(np.float32), (at_y * side - 0.5).astype(np.float32),
        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    one, other = seen[inside].astype(np.float64), second[inside].astype(np.float64)
    if len(one) < MIN_SHARED_PX or not one.std() * other.std():
        return 0.0
    return float(((one - one.mean()) * (other - other.mean())).mean() / (one.std() * other.std()))


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    size: tuple[int, int]  # height, width of the reduced plane
    xy: NDArray[np.float64]  # (K, 2) in its pixels
    bits: NDArray[np.uint8]  # (K, 128)

    def mirrored(self) -> _Picture:
        flipped = np.stack([self.size[1] - self.xy[:, 0], self.xy[:, 1]], axis=1)
        return _Picture(self.size, flipped, mirror_descriptors(self.bits))


def _parse(description: bytes) -> _Picture:
    size = _HEADER.itemsize
    header = np.frombuffer(description[:size], _HEADER) if len(description) >= size else None
    if header is None or len(description) != size + int(header["num"][0]) * _POINT.itemsize:
        raise ManifestError(
            f"a description of keypoints has {len(description)} bytes: it is damaged; run `curate verify`"
        )
    height, width = int(header["height"][0]), int(header["width"][0])
    points = np.frombuffer(description[size:], _POINT)
    xy = np.stack([points["x"] * (width / 65535), points["y"] * (height / 65535)], axis=1)
    return _Picture((height, width), xy, np.unpackbits(points["bits"], axis=1))


def _candidates(pictures: Sequence[_Picture]) -> list[tuple[int, int]]:
    """Pairs that share most rare words, as they are or mirrored: for each picture its best `MAX_CANDIDATES`."""
    owner = np.repeat(np.arange(len(pictures), dtype=np.int64), [len(one.bits) for one in pictures])
    if not len(owner):
        return []
    bits = np.concatenate([one.bits for one in pictures])
    mirrored = mirror_descriptors(bits)
    pairs, weights = [], []
    for which in _word_bits():
        words = _words(bits[:, which])
        for queries in (words, _words(mirrored[:, which])):
            point, other, weight = _meetings(words, owner, queries)
            low, high = np.minimum(owner[point], owner[other]), np.maximum(owner[point], owner[other])
            pairs.append(low * len(pictures) + high)
            weights.append(weight)
    pair, place = np.unique(np.concatenate(pairs), return_inverse=True)
    score = np.bincount(place, np.concatenate(weights), minlength=len(pair)).astype(np.float64)
    best = _best_of_each(pair // len(pictures), pair % len(pictures), score)
    return [(int(one) // len(pictures), int(one) % len(pictures)) for one in pair[best]]


def _best_of_each(one: NDArray[np.int64], other: NDArray[np.int64], score: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the pairs that are among the best of either of their pictures."""
    picture, pair = np.concatenate([one, other]), np.concatenate([np.arange(len(one))] * 2)
    order = np.lexsort((pair, -score[pair], picture))
    rank = np.arange(len(order)) - np.searchsorted(picture[order], picture[order], "left")
    best = np.zeros(len(one), np.bool_)
    best[pair[order[rank < MAX_CANDIDATES]]] = True
    return best


@functools.cache
def _word_bits() -> tuple[NDArray[np.intp], ...]:
    """Choose the bits of each word, once for ever."""
    rng = np.random.default_rng(0)
    return tuple(np.sort(rng.choice(8 * DESCRIPTOR_BYTES, WORD_BITS, replace=False)) for _ in range(NUM_WORDS))


def _words(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.asarray(bits.astype(np.int64) @ (1 << np.arange(WORD_BITS, dtype=np.int64)), np.int64)


def _meetings(
    words: NDArray[np.int64], owner: NDArray[np.int64], queries: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Keypoints of different pictures, one of `queries` and one of `words`, that share a word, and how rare the word is."""
    order = np.argsort(words, kind="stable")
    in_order = words[order]
    low, high = np.searchsorted(in_order, queries, "left"), np.searchsorted(in_order, queries, "right")
    num = np.where(high - low <= MAX_OWNERS, high - low, 0)
    point = np.repeat(np.arange(len(queries)), num)
    counted = np.arange(len(point)) - np.repeat(np.cumsum(num) - num, num)
    other = order[np.repeat(low, num) + counted]
    apart = owner[point] != owner[other]
    return point[apart], other[apart], (1.0 / np.repeat(num, num))[apart]


def _compare(one: _Picture, other: _Picture) -> Part | None:
    """Fit the best similarity transform, as it is or mirrored."""
    fits = [(_fit(one, seen), seen, flag) for seen, flag in ((other, False), (other.mirrored(), True))]
    found = [(fit, seen, flag) for fit, seen, flag in fits if fit is not None]
    if not found:
        return None
    (matrix, num), seen, mirrored = max(found, key=lambda item: item[0][1])
    region_in_second = _mapped(one.size, matrix)
    region = _mapped(seen.size, np.asarray(cv2.invertAffineTransform(matrix), np.float64))
    if mirrored:
        region_in_second[:, 0] = seen.size[1] - region_in_second[:, 0]
        region = region[[1, 0, 3, 2]]  # of the second as it is
    covered, covers = _share(region, one.size), _share(region_in_second, other.size)
    return Part(
        num_inliers=num, covered=covered, covers=covers, region=_as_shares(region, one.size),
        region_in_second=_as_shares(region_in_second, other.size), mirrored=mirrored,
    )  # fmt: skip


def _fit(one: _Picture, other: _Picture) -> tuple[NDArray[np.float64], int] | None:
    """Match descriptors that are nearest both ways, then find the transform from `one` to `other` most of them agree on."""
    if not len(one.bits) or not len(other.bits):
        return None
    signs = [2 * picture.bits.astype(np.float32) - 1 for picture in (one, other)]
    distance = (8 * DESCRIPTOR_BYTES - signs[0] @ signs[1].T) / 2
    there, back = distance.argmin(axis=1), distance.argmin(axis=0)
    mine = np.flatnonzero((back[there] == np.arange(len(there))) & (distance.min(axis=1) <= MAX_DISTANCE_BITS))
    if len(mine) < MIN_MATCHES:
        return None
    source, target = one.xy[mine], other.xy[there[mine]]
    error_px = MAX_ERROR_FRAC * max(*one.size, *other.size)
    matrix, inliers = cv2.estimateAffinePartial2D(
        source, target, method=cv2.RANSAC, ransacReprojThreshold=error_px, maxIters=1000, confidence=0.999
    )
    if not np.any(matrix):  # None where there is no agreement at all
        return None
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    places = {tuple(place) for place in np.rint(target[inliers.ravel() > 0] / error_px).astype(int).tolist()}
    if not MIN_SCALE <= scale <= 1 / MIN_SCALE:
        return None
    return np.asarray(matrix, np.float64), len(places)  # several keypoints at one place count once


def _mapped(size: tuple[int, int], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    height, width = size
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)
    return np.asarray(corners @ matrix[:, :2].T + matrix[:, 2], np.float64)


def _share(region: NDArray[np.float64], size: tuple[int, int]) -> float:
    """Share of a picture that a region covers."""
    height, width = size
    whole = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    area, _ = cv2.intersectConvexConvex(whole, np.asarray(cv2.convexHull(region.astype(np.float32))))
    return min(1.0, float(area) / (height * width))


def _as_shares(region: NDArray[np.float64], size: tuple[int, int]) -> tuple[tuple[float, float], ...]:
    return tuple((round(float(x) / size[1], 4), round(float(y) / size[0], 4)) for x, y in region)
