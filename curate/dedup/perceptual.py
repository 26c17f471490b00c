"""Pictures whose perceptual hashes are nearly equal, also mirrored or turned; a thumbnail decides where 64 bits could lie.

A hash of 64 bits says little of a smooth picture: two skies may differ in 8 of them, as a picture and its edited copy may. So a
wide radius finds candidates, and the correlation of the two 16 x 16 thumbnails, turned alike, decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.records import Fingerprint
from .hamming import matches_within
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
    near = matches_within(hashes[:, 0], hashes, radius_bits=dedup.radius_bits)
    best: dict[tuple[int, int], tuple[int, int, float]] = {}
    for start in range(0, len(near.first), BLOCK_PAIRS):
        turned, straight = (side[start : start + BLOCK_PAIRS] for side in (near.first, near.second))
        for number in range(num_turns):
            bits = np.bitwise_count(hashes[turned, number] ^ hashes[straight, 0])
            within = np.flatnonzero((bits <= dedup.radius_bits) & (turned != straight))
            agree = _correlation(thumbnails[straight[within]], thumbnails[turned[within]], number)
            for at, ncc in zip(
                within[agree >= dedup.min_thumbnail_ncc], agree[agree >= dedup.min_thumbnail_ncc], strict=True
            ):
                ends = sorted((int(turned[at]), int(straight[at])))
                mine = (int(bits[at]), number, float(ncc))
                best[ends[0], ends[1]] = min(best.get((ends[0], ends[1]), mine), mine)
    return [(i, j, _how(*best[i, j])) for i, j in sorted(best)]


def _unit_rows(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = thumbnails.astype(np.float64)
    values -= values.mean(axis=(1, 2), keepdims=True)
    norm = np.sqrt((values * values).sum(axis=(1, 2), keepdims=True))
    return np.asarray(values / np.maximum(norm, 1.0), np.float32)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32], number: int) -> NDArray[np.float64]:
    turned = np.rot90(other[:, :, ::-1] if number >= 4 else other, number % 4, axes=(1, 2))
    return np.asarray((one.astype(np.float64) * turned).sum(axis=(1, 2)), np.float64)


def _how(bits: int, number: int, ncc: float) -> str:
    turned = f", {TURNS[number]}" if number else ""
    return f"{bits} of 64 bits differ{turned}, thumbnails agree to {ncc:.3f}"
