"""Pictures that share a part: crops, and two crops of one photograph, which no hash of the whole picture can find.

A picture's description is made once, at scan time: the strongest SIFT keypoints of the picture at no more than 512 px, each a
place and 128 bits, 3.6 kB in all. Descriptions are compared without pixels: keypoints whose bits are near vote, and a pair of
pictures is reported when enough keypoints agree on one similarity transform, mirrored or not.

Source: Lowe, IJCV 2004 (SIFT; votes for a transform); Zhou et al., ACM MM 2012 (SIFT binarised by its own median).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..core.errors import ManifestError
from ..leaks.hypotheses import Matches, VoteConfig, make_hypotheses, make_matches
from ..leaks.index import one_thread
from ..leaks.keypoints import DESCRIPTOR_LENGTH, KeypointConfig, Keypoints, find_keypoints, mirror_descriptors

_MAGIC = b"KP1\0"
_HEADER = struct.Struct("<4sIIH")  # magic, height, width, number of keypoints
_PLACE = np.dtype([("place", "<u2", 4), ("bits", "u1", DESCRIPTOR_LENGTH // 8)])
_STEPS_PER_PX, _STEPS_PER_TURN = 64, 65536  # of a stored place
_EXACT_BELOW, _ROWS_PER_LIST, _MAX_LISTS, _NUM_PROBES, _ROWS_PER_CENTROID = 100_000, 256, 16384, 16, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialConfig:
    """What a description holds, and when two pictures share a part.

    Attributes:
        side_px: longer side of the plane that is described.
        num_keypoints: the strongest kept.
        keypoints: how they are found.
        max_bits: that near keypoints differ in, of 128; unlike ones differ in about 45.
        num_neighbours: of a keypoint that may vote; a pattern that many pictures show has more, and says nothing.
        min_votes: of a pair before its geometry is looked at.
        votes: when two keypoints agree, and how many must; unlike pictures among 330 had 4 at most.
    """

    side_px: int = 512
    num_keypoints: int = 150
    keypoints: KeypointConfig = field(
        default_factory=lambda: KeypointConfig(contrast_frac=0.004, num_fine=2, num_coarse=2)
    )
    max_bits: int = 26
    num_neighbours: int = 12
    min_votes: int = 6
    votes: VoteConfig = field(
        default_factory=lambda: VoteConfig(min_inliers=8, min_scale=0.2, max_scale=5, slack_px=6, slack_frac=0.05)
    )


@dataclass(frozen=True, slots=True)
class PartialPair:
    """Two pictures that share a part.

    Attributes:
        first, second: their positions in the list, first < second.
        transform: (a, b, c, d, e, f): the first's (x, y) stands at (a x + b y + c, d x + e y + f) of the second, in pixels.
        num_inliers: keypoints that agree on it.
        mirrored: the transform mirrors.
    """

    first: int
    second: int
    transform: tuple[float, ...]
    num_inliers: int
    mirrored: bool


def describe(grey: NDArray[np.uint8], config: PartialConfig | None = None) -> bytes:
    """Describe a picture for `partial_pairs`.

    Args:
        grey: (H, W) uint8 luma, any size.
        config: the same for all pictures that are compared.

    Returns:
        14 bytes and 24 for each keypoint, at most 150 of them; the same for the same pixels.
    """
    config = config or PartialConfig()
    factor = min(1.0, config.side_px / max(grey.shape))
    if factor < 1:
        size = (max(1, round(grey.shape[1] * factor)), max(1, round(grey.shape[0] * factor)))
        plane = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
    else:
        plane = grey
    found = find_keypoints(plane, config.keypoints)
    order = np.lexsort((*found.places.T, -found.looks[:, 1]))[: config.num_keypoints]
    found = Keypoints(found.places[order], found.looks[order], found.descriptors[order])
    rows = np.zeros(len(order), _PLACE)
    rows["place"][:, :3] = np.clip(np.rint(found.places[:, :3] * _STEPS_PER_PX), 0, np.iinfo(np.uint16).max)
    rows["place"][:, 3] = np.rint(found.places[:, 3] / 360 * _STEPS_PER_TURN).astype(np.int64) % _STEPS_PER_TURN
    rows["bits"] = _binarise(found.descriptors)
    return _HEADER.pack(_MAGIC, *grey.shape, len(rows)) + rows.tobytes()


def partial_pairs(descriptions: Sequence[bytes], config: PartialConfig | None = None) -> list[PartialPair]:
    """Find the pictures that share a part.

    Args:
        descriptions: of `describe`, one a picture; an empty one shares nothing.
        config: the same as `describe` had.

    Returns:
        Pairs ordered by (first, second); one a pair, the best supported transform.

    Raises:
        ManifestError: bytes that `describe` did not make.
    """
    config = config or PartialConfig()
    parts = [_parse(data, config, number) for number, data in enumerate(descriptions)]
    counts = [len(places) for places, _, _ in parts]
    if sum(counts) < 2:
        return []
    places = np.concatenate([places for places, _, _ in parts])
    bits = np.concatenate([bits for _, bits, _ in parts])
    owner = np.repeat(np.arange(len(parts)), counts)
    matches = [_match(places, bits, owner, flip, len(parts), config) for flip in (False, True)]
    every = Matches(*(np.concatenate([getattr(m, name) for m in matches]) for name in Matches.__slots__))
    found: dict[int, PartialPair] = {}
    for hypothesis in make_hypotheses(every, config.votes):
        if hypothesis.picture not in found:
            first, second = divmod(hypothesis.picture, len(parts))
            found[hypothesis.picture] = _pair(first, second, hypothesis.matrix, hypothesis.num_inliers, parts)
    return [found[key] for key in sorted(found)]


def _pair(first: int, second: int, matrix: NDArray[np.float64], num: int, parts: Sequence[_Part]) -> PartialPair:
    """Turn a transform between reduced planes into one between pictures, pixel centres to pixel centres."""
    a, b = parts[first][2], parts[second][2]
    linear = matrix[:, :2] * (a / b)
    shift = (matrix[:, :2] @ np.full(2, a / 2 - 0.5) + matrix[:, 2] + 0.5) / b - 0.5
    transform = tuple(round(float(value), 5) for value in np.column_stack([linear, shift]).ravel())
    return PartialPair(first, second, transform, num, bool(np.linalg.det(linear) < 0))


_Part = tuple[NDArray[np.float32], NDArray[np.uint8], float]  # places, bits, size of the plane by that of the picture


def _parse(data: bytes, config: PartialConfig, number: int) -> _Part:
    if not data:
        return np.zeros((0, 4), np.float32), np.zeros((0, DESCRIPTOR_LENGTH // 8), np.uint8), 1.0
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise ManifestError(f"description {number} of keypoints was not made by this version; scan the picture again")
    _, height, width, num = _HEADER.unpack_from(data)
    if len(data) != _HEADER.size + num * _PLACE.itemsize:
        raise ManifestError(f"description {number} of keypoints is cut: {len(data)} bytes for {num} keypoints")
    rows = np.frombuffer(data, _PLACE, num, _HEADER.size)
    units = np.array([1 / _STEPS_PER_PX] * 3 + [360 / _STEPS_PER_TURN], np.float32)
    return rows["place"] * units, rows["bits"], min(1.0, config.side_px / max(height, width))


def _match(
    places: NDArray[np.float32],
    bits: NDArray[np.uint8],
    owner: NDArray[np.intp],
    flip: bool,
    num_pictures: int,
    config: PartialConfig,
) -> Matches:
    """Pair near keypoints of unlike pictures; the mirror image of the first's with the second's where `flip`."""
    queries = _mirror(bits) if flip else bits
    distances, rows = _search(bits, queries, config.num_neighbours)
    query, guess = np.nonzero((distances <= config.max_bits) & (rows >= 0))
    row = rows[query, guess]
    distance = distances[query, guess].astype(np.float32)
    swap = owner[query] > owner[row]  # bits that are near mirrored are so both ways
    query, row = np.where(swap, row, query), np.where(swap, query, row)
    pair = owner[query] * num_pictures + owner[row]
    _, inverse, votes = np.unique(pair, return_inverse=True, return_counts=True)
    keep = np.flatnonzero((owner[query] != owner[row]) & (votes[inverse] >= config.min_votes))
    first, second = query[keep], row[keep]
    once = np.unique(np.stack([first, second]), axis=1, return_index=True)[1]
    keep, first, second = keep[once], first[once], second[once]
    flips = np.full(len(keep), flip)
    return make_matches(places[second], places[first], pair[keep], flips, distance[keep])


def _search(
    bits: NDArray[np.uint8], queries: NDArray[np.uint8], num: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return Hamming distances and rows of the nearest: exact for few rows, by inverted lists for many."""
    import faiss

    with one_thread():
        index: Any = faiss.IndexBinaryFlat(DESCRIPTOR_LENGTH)
        if len(bits) >= _EXACT_BELOW:
            num_lists = min(_MAX_LISTS, 1 << int(np.log2(len(bits) / _ROWS_PER_LIST)))
            chosen = np.random.default_rng(0).permutation(len(bits))[: num_lists * _ROWS_PER_CENTROID]
            index = faiss.IndexBinaryIVF(index, DESCRIPTOR_LENGTH, num_lists)
            index.train(bits[np.sort(chosen)])
            index.nprobe = _NUM_PROBES
        index.add(bits)
        distances, rows = index.search(queries, num)
    return distances, rows


def _binarise(descriptors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 128) uint8 to (N, 16): 1 where a component is above the descriptor's median."""
    middle = np.median(descriptors, axis=1, keepdims=True) if len(descriptors) else np.zeros((0, 1))
    return np.packbits(descriptors > middle, axis=1)


def _mirror(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.packbits(mirror_descriptors(np.unpackbits(bits, axis=1)), axis=1)
