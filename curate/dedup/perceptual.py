"""Pictures whose perceptual hashes are nearly equal, also mirrored or turned; a thumbnail decides where 64 bits could lie.

A hash of 64 bits says little of a smooth picture: two skies may differ in 8 of them, as a picture and its edited copy may. So a
wide radius finds candidates, and the correlation of the two 16 x 16 thumbnails, turned alike, decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.records import Fingerprint
from .hamming import pairs_within
from .rules import Dedup

SIDE_PX = 16
TURNS = (
    "as it is", "turned by 90 degrees", "turned by 180 degrees", "turned by 270 degrees", "mirrored",
    "mirrored and turned by 90 degrees", "mirrored top to bottom", "mirrored and turned by 270 degrees",
)  # fmt: skip
"""In the order of `curate.dedup.phash.dihedral_of`."""
BLOCK_PAIRS = 1 << 16
"""Pairs compared at a time: 2 x 64 MB of thumbnails."""


def perceptual_pairs(prints: Sequence[Fingerprint], dedup: Dedup) -> list[tuple[int, int, str]]:
    """Find pairs within `dedup.radius_bits` whose thumbnails agree.

    Args:
        prints: of N pictures.
        dedup: radius, turns, and how well thumbnails must agree.

    Returns:
        (i, j, how) with i < j, each pair once, in order; `how` says the distance, the turn and the correlation.
    """
    num_turns = len(TURNS) if dedup.turned else 1
    hashes = np.array([[int(value, 16) for value in one.phashes[:num_turns]] for one in prints], np.uint64)
    thumbnails = _unit_rows(
        np.stack([np.frombuffer(bytes.fromhex(one.thumbnail), np.uint8) for one in prints]).reshape(
            -1, SIDE_PX, SIDE_PX
        )
    )
    best: dict[tuple[int, int], tuple[int, int, float]] = {}
    for number in range(num_turns):
        first, second, distance = _near(hashes, number, dedup.radius_bits)
        for start in range(0, len(first), BLOCK_PAIRS):
            some = slice(start, start + BLOCK_PAIRS)
            one, other, bits = first[some], second[some], distance[some]
            agree = _correlation(thumbnails[one], thumbnails[other], number)
            for i, j, value, ncc in zip(one, other, bits, agree, strict=True):
                if ncc >= dedup.min_thumbnail_ncc:
                    pair = (min(int(i), int(j)), max(int(i), int(j)))
                    best[pair] = min(best.get(pair, (64, 0, 0.0)), (int(value), number, float(ncc)))
    return [(i, j, _how(*best[i, j])) for i, j in sorted(best)]


def _near(
    hashes: NDArray[np.uint64], number: int, radius_bits: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Compare the hash of each picture with that of every other one, turned."""
    if number == 0:
        return pairs_within(hashes[:, 0], radius_bits=radius_bits)
    first, second, distance = pairs_within(hashes[:, number], radius_bits=radius_bits, queries=hashes[:, 0])
    other = first != second
    return first[other], second[other], distance[other]


def _unit_rows(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = thumbnails.astype(np.float64)
    values -= values.mean(axis=(1, 2), keepdims=True)
    norm = np.sqrt((values * values).sum(axis=(1, 2), keepdims=True))
    return (values / np.maximum(norm, 1.0)).astype(np.float32)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32], number: int) -> NDArray[np.float64]:
    turned = np.rot90(other[:, :, ::-1] if number >= 4 else other, number % 4, axes=(1, 2))
    return np.asarray((one.astype(np.float64) * turned).sum(axis=(1, 2)), np.float64)


def _how(bits: int, number: int, ncc: float) -> str:
    turned = f", {TURNS[number]}" if number else ""
    return f"{bits} of 64 bits differ{turned}, thumbnails agree to {ncc:.3f}"
