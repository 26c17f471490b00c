"""Pictures whose perceptual hashes are nearly equal, also mirrored or turned; a thumbnail decides where 64 bits could lie.

A hash of 64 bits says little of a smooth picture: two skies may differ in 8 of them, as a picture and its edited copy may. So a
wide radius finds candidates, and the correlation of the two 16 x 16 thumbnails, turned alike, decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.records import Fingerprint
from .hamming import collapse, hashes_from_hex, matches_within
from .rules import Dedup

SIDE_PX = 16
TURNS = (
    "as it is", "turned by 90 degrees", "turned by 180 degrees", "turned by 270 degrees", "mirrored",
    "mirrored and turned by 90 degrees", "mirrored top to bottom", "mirrored and turned by 270 degrees",
)  # fmt: skip
"""In the order of `curate.dedup.phash.dihedral_of`."""
BLOCK_ROWS = 256
"""Thumbnails compared with a whole class of equal hashes at a time."""
NUM_NEAREST = 16
"""Of pictures of one hash (black frames, "image not available") each is paired with so many of the best; `near` asks again for
those that are left."""

Best = dict[tuple[int, int], tuple[int, int, float]]


def perceptual_pairs(prints: Sequence[Fingerprint], dedup: Dedup) -> list[tuple[int, int, str]]:
    """Find pairs within `dedup.radius_bits` whose thumbnails agree.

    Args:
        prints: of N pictures, in the order of keeping, best first.
        dedup: radius, turns, and how well thumbnails must agree.

    Returns:
        (i, j, how) with i < j, each pair once, in order; `how` says the distance, the turn and the correlation. Complete but
        for pictures that share a hash with many others: each of those is paired with the best few.
    """
    num_turns = len(TURNS) if dedup.turned else 1
    hashes = hashes_from_hex([value for one in prints for value in one.phashes[:num_turns]]).reshape(-1, num_turns)
    thumbnails = _unit_rows(np.stack([thumbnail_of(one) for one in prints]))
    classes = collapse(hashes[:, 0])
    members = np.split(np.argsort(classes.inverse, kind="stable"), np.cumsum(np.bincount(classes.inverse))[:-1])
    variants = hashes[classes.members]
    near = matches_within(classes.values, variants, radius_bits=dedup.radius_bits)
    best: Best = {}
    for turned, straight in zip(near.first.tolist(), near.second.tolist(), strict=True):
        for number in range(num_turns):
            bits = int(variants[turned, number] ^ classes.values[straight]).bit_count()
            alone = turned == straight and len(members[turned]) == 1  # a symmetric picture is near its own mirror image
            if bits <= dedup.radius_bits and not alone:
                _compare(thumbnails, members[straight], members[turned], (bits, number), dedup.min_thumbnail_ncc, best)
    return [(i, j, _how(*best[i, j])) for i, j in sorted(best)]


def thumbnail_of(one: Fingerprint) -> NDArray[np.uint8]:
    """Return the (16, 16) uint8 thumbnail."""
    return np.frombuffer(bytes.fromhex(one.thumbnail), np.uint8).reshape(SIDE_PX, SIDE_PX)


def _compare(
    thumbnails: NDArray[np.float32],
    straight: NDArray[np.int64],
    turned: NDArray[np.int64],
    what: tuple[int, int],
    min_ncc: float,
    best: Best,
) -> None:
    """Compare two classes of equal hashes, block by block, and note who agrees."""
    bits, number = what
    right = _turned(thumbnails[turned], number).reshape(len(turned), -1)
    for start in range(0, len(straight), BLOCK_ROWS):
        rows = straight[start : start + BLOCK_ROWS]
        # the same product in the same order whatever the block: a pair at the threshold must not depend on it
        agree = np.einsum("ik,jk->ij", thumbnails[rows].reshape(len(rows), -1).astype(np.float64), right)
        agree[rows[:, None] == turned[None]] = -2
        for at, ncc in zip(rows.tolist(), agree, strict=True):
            for place in np.flatnonzero(ncc >= min_ncc)[:NUM_NEAREST].tolist():
                ends = sorted((at, int(turned[place])))
                mine = (bits, number, float(ncc[place]))
                best[ends[0], ends[1]] = min(best.get((ends[0], ends[1]), mine), mine)


def _unit_rows(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = thumbnails.astype(np.float64)
    values -= values.mean(axis=(1, 2), keepdims=True)
    norm = np.sqrt((values * values).sum(axis=(1, 2), keepdims=True))
    return np.asarray(values / np.maximum(norm, 1.0), np.float32)


def _turned(thumbnails: NDArray[np.float32], number: int) -> NDArray[np.float64]:
    mirrored = thumbnails[:, :, ::-1] if number >= 4 else thumbnails
    return np.ascontiguousarray(np.rot90(mirrored, number % 4, axes=(1, 2)), np.float64)


def _how(bits: int, number: int, ncc: float) -> str:
    turned = f", {TURNS[number]}" if number else ""
    return f"{bits} of 64 bits differ{turned}, thumbnails agree to {ncc:.3f}"
