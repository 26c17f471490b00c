"""Near-duplicates of whole pictures and of patches: who resembles whom, and which of them is kept.

A pure function of the fingerprints. Of every group the best is kept: most pixels, then the least compressed, then the sharpest,
then the first; what came in an earlier attempt, or lies in a corpus that is known already, goes before all others. A dropped
picture resembles its keeper itself; likeness is never handed on from one to the next.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .core.records import Fingerprint, ScannedImage
from .dedup.copies import Copy, Known
from .dedup.groups import keepers
from .dedup.rules import Dedup
from .overlap import Overlap

PERCEPTUAL, PARTIAL, SEMANTIC, TILE = "near-duplicate", "part-of", "semantic-duplicate", "same-tile"
"""Reasons: of a picture (by hash, as a part, by meaning), and of a patch."""
NEAR_REASONS = (PERCEPTUAL, PARTIAL, SEMANTIC)
CROWD = 8
"""Copies of one picture from which on some may have been overlooked: no rule that looks at the nearest takes fewer than 16."""
LOSSLESS_QUALITY = 101.0
"""Of pictures that are no JPEGs, where qualities are compared: more than any JPEG's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two pictures that are nearly the same, by their places; `how` is for people, `level` the reason a dropped one gets.

    `covered` is the share of `first` that shows in `second`, and `covers` the share of `second` that shows in `first`;
    `corners` are the second's corners in the first, as shares of its width and height, `corners_in_second` the other way.
    """

    first: int
    second: int
    level: str
    how: str
    covered: float = 1.0
    covers: float = 1.0
    corners: tuple[tuple[float, float], ...] = ()
    corners_in_second: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A patch to compare: hashes as 16 hex digits, `owner` is the picture it is from."""

    key: str
    phash: str
    average_hash: str
    owner: int


def find_pairs(prints: Sequence[Fingerprint], dedup: Dedup) -> list[Pair]:
    """Find all pairs that a rule calls nearly the same.

    Args:
        prints: of N pictures.
        dedup: the rules; those that are off find nothing.

    Returns:
        Pairs, ordered by level and place; a pair may be found by several rules.
    """
    pairs: list[Pair] = []
    if len(prints) < 2:
        return pairs
    if dedup.perceptual:
        from .dedup.perceptual import perceptual_pairs

        pairs += [Pair(first=i, second=j, level=PERCEPTUAL, how=how) for i, j, how in perceptual_pairs(prints, dedup)]
    if dedup.partial:
        from .dedup.partial import partial_pairs, shared_correlation
        from .dedup.perceptual import thumbnail_of

        for i, j, match in partial_pairs([base64.b64decode(one.keypoints) for one in prints]):
            if match.num_inliers < dedup.min_inliers:
                continue
            agree = shared_correlation(thumbnail_of(prints[i]), thumbnail_of(prints[j]), match.region)
            if agree >= dedup.min_part_ncc:
                how = f"{match.num_inliers} points agree, {match.covered:.0%} of the one in {match.covers:.0%} of the other"
                pairs.append(Pair(
                    first=i, second=j, level=PARTIAL, how=how, covered=match.covered, covers=match.covers,
                    corners=match.region, corners_in_second=match.region_in_second,
                ))  # fmt: skip
    if dedup.semantic:
        pairs += _semantic_pairs(prints, dedup)
    return pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """What near pictures mean for a corpus.

    Attributes:
        linked: pairs of places that are nearly the same: they go into one split.
        copies: place of a dropped picture -> its keeper.
        overlaps: pairs that share a part and are both kept, in the order of keeping of the worse one.
    """

    linked: Sequence[tuple[int, int]] = ()
    copies: Mapping[int, Copy] = field(default_factory=dict)
    overlaps: Sequence[Overlap] = ()


def find_likeness(
    images: Sequence[ScannedImage], known: Sequence[Known], rank: Sequence[int], dedup: Dedup
) -> Likeness:
    """Find near pictures and decide who of them is kept.

    Args:
        images: N pictures that could be kept, with fingerprints.
        known: M pictures that are kept anyway, with fingerprints; places N..N + M - 1.
        rank: (N,) order in which pictures are kept, best first (`ranks`).
        dedup: the rules.

    Returns:
        By places. Clean pictures with a degraded version are never dropped, nor any patch of them: that version may differ.
    """
    prints = [*(one.fingerprint for one in images), *(one.fingerprint for one in known)]
    order = np.array([*(len(known) + np.asarray(rank, np.int64)), *range(len(known))], np.int64)
    in_order = np.argsort(order, kind="stable").tolist()
    first_like: dict[Fingerprint | None, int] = {}
    for place in in_order:
        first_like.setdefault(prints[place], place)
    alike = {place: first_like[one] for place, one in enumerate(prints) if first_like[one] != place}
    left = [
        place for place in in_order if place not in alike
    ]  # equal ones are one: a thousand black frames are no million pairs
    pairs: list[Pair] = []
    keeper_of, how = dict(alike), dict[int, Pair]()
    while True:  # rules that look at the nearest few ask again for those that are left of a crowd
        found = [
            replace(pair, first=left[pair.first], second=left[pair.second])
            for pair in find_pairs([one for one in (prints[place] for place in left) if one is not None], dedup)
        ]
        pairs += found
        gone = _losers(_to_better(found, order, images, dedup), order, len(prints))
        for worse, (better, pair) in gone.items():
            keeper_of[worse], how[worse] = better, pair
        left = [place for place in left if place not in gone]
        followers = Counter(better for better, _ in gone.values())
        if max(followers.values(), default=0) < CROWD:
            break
    copies = _copies(images, known, keeper_of, how)
    linked = [*alike.items(), *((pair.first, pair.second) for pair in pairs)]
    overlaps = [] if not dedup.partial else _overlaps(pairs, order, images, copies)
    return Likeness(linked=linked, copies=copies, overlaps=overlaps)


def _losers(how: Mapping[tuple[int, int], Pair], order: NDArray[np.int64], num: int) -> dict[int, tuple[int, Pair]]:
    """Let the best of each neighbourhood keep its place: place of a dropped picture -> its keeper and why."""
    ends = np.array(sorted(how), np.int64).reshape(-1, 2)
    found = keepers(num, ends[:, 0], ends[:, 1], order)
    losers = np.flatnonzero(found != np.arange(num)).tolist()
    return {place: (int(found[place]), how[place, int(found[place])]) for place in losers}


def _copies(
    images: Sequence[ScannedImage], known: Sequence[Known], keeper_of: Mapping[int, int], how: Mapping[int, Pair]
) -> dict[int, Copy]:
    people = [*((one.ref.source, one.identity) for one in images), *((one.source, one.identity) for one in known)]
    paired = {place for place, image in enumerate(images) if image.pair_sha256}
    copies = {}
    for place in sorted(keeper_of):
        last, keeper = place, keeper_of[place]
        while keeper in keeper_of:  # of a crowd: the keeper of a keeper
            last, keeper = keeper, keeper_of[keeper]
        if place < len(images) and not paired & {place, keeper}:
            pair = how.get(place) or how.get(last)
            source, identity = people[keeper]
            copies[place] = Copy(
                reason=pair.level if pair else PERCEPTUAL, keeper=source, group=identity[:20],
                near=pair.how if pair else "equal fingerprints",
            )  # fmt: skip
    return copies


def _overlaps(
    pairs: Iterable[Pair], order: NDArray[np.int64], images: Sequence[ScannedImage], copies: Mapping[int, Copy]
) -> list[Overlap]:
    found = []
    for pair in pairs:
        ends = (pair.first, pair.second)
        if (
            pair.corners
            and max(ends) < len(images)
            and not any(end in copies or images[end].pair_sha256 for end in ends)
        ):
            worse, better = sorted(ends, key=lambda place: -int(order[place]))
            corners = pair.corners if worse == pair.first else pair.corners_in_second
            found.append(Overlap(worse=worse, better=better, corners=corners))
    return sorted(found, key=lambda one: (int(order[one.worse]), int(order[one.better])))


def _to_better(
    pairs: Iterable[Pair], order: NDArray[np.int64], images: Sequence[ScannedImage], dedup: Dedup
) -> dict[tuple[int, int], Pair]:
    """Take those pairs for whose sake the worse one may go: (worse, better) -> the first rule that says so."""
    how: dict[tuple[int, int], Pair] = {}
    for pair in pairs:
        worse, better = sorted((pair.first, pair.second), key=lambda place: -int(order[place]))
        inside = pair.covered if worse == pair.first else pair.covers
        paired = any(place < len(images) and images[place].pair_sha256 for place in (worse, better))
        if inside >= dedup.min_shared_frac and worse < len(images) and not paired:
            how.setdefault((worse, better), pair)
    return how


def ranks(images: Sequence[ScannedImage], rounds: Sequence[int]) -> NDArray[np.int64]:
    """Order pictures by how much they are worth keeping.

    Args:
        images: N candidates.
        rounds: of each, the attempt in which it came.

    Returns:
        (N,) int64; 0 is kept before all others.
    """
    order = sorted(range(len(images)), key=lambda place: (rounds[place], *_worth(images[place]), place))
    rank = np.empty(len(images), np.int64)
    rank[order] = np.arange(len(images))
    return rank


def find_tiles(tiles: Sequence[Tile], radius_bits: int) -> dict[int, int]:
    """Find patches that show the same tile as a better one of another picture.

    Args:
        tiles: in the order of keeping, best first; those of one owner are never compared.
        radius_bits: largest distance, for both kinds of hash.

    Returns:
        place of a dropped patch -> place of the one that is kept.
    """
    from .dedup.hamming import hashes_from_hex

    if len(tiles) < 2:
        return {}
    both = hashes_from_hex([value for tile in tiles for value in (tile.phash, tile.average_hash)]).reshape(-1, 2)
    owner = np.array([tile.owner for tile in tiles], np.int64)
    first, second = _near_tiles(both, radius_bits)
    apart = owner[first] != owner[second]
    found = keepers(len(tiles), first[apart], second[apart], np.arange(len(tiles)))
    return {place: int(keeper) for place, keeper in enumerate(found.tolist()) if keeper != place}


def _near_tiles(both: NDArray[np.uint64], radius_bits: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of rows that are near in both columns; of equal rows each is paired with the first of them."""
    from .dedup.hamming import matches_within, pairs_within

    rows, begin, inverse = np.unique(both, axis=0, return_index=True, return_inverse=True)
    values, place = np.unique(rows[:, 0], return_inverse=True)
    near = pairs_within(values, radius_bits=radius_bits)
    of_value = np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1])
    pairs = [(begin[inverse], np.arange(len(both)))]
    lead = np.array([members[0] for members in of_value], np.int64)
    single = np.array([len(members) == 1 for members in of_value], np.bool_)
    simple = single[near.first] & single[near.second]
    one, other = lead[near.first[simple]], lead[near.second[simple]]
    agree = np.bitwise_count(rows[one, 1] ^ rows[other, 1]) <= radius_bits
    pairs.append((begin[one[agree]], begin[other[agree]]))
    for i, j in zip(near.first[~simple].tolist(), near.second[~simple].tolist(), strict=True):
        found = matches_within(rows[of_value[i], 1], rows[of_value[j], 1], radius_bits=radius_bits)
        pairs.append((begin[of_value[j][found.first]], begin[of_value[i][found.second]]))
    for members in (members for members in of_value if len(members) > 1):  # one hash, different averages
        found = pairs_within(rows[members, 1], radius_bits=radius_bits)
        pairs.append((begin[members[found.first]], begin[members[found.second]]))
    first, second = (np.concatenate(side).astype(np.int64) for side in zip(*pairs, strict=True))
    different = first != second
    return first[different], second[different]


def _worth(image: ScannedImage) -> tuple[float, float, float]:
    """Best first: pixels, JPEG quality, detail; negated for sorting."""
    facts = image.facts
    assert facts is not None, "a candidate was decoded"
    quality = LOSSLESS_QUALITY if facts.jpeg is None else facts.jpeg.quality or 0.0
    detail = image.fingerprint.detail if image.fingerprint else 0.0
    return -float(facts.width * facts.height), -quality, -detail


def _semantic_pairs(prints: Sequence[Fingerprint], dedup: Dedup) -> list[Pair]:
    from .dedup.semantic import NearConfig, nearest_above

    rows = np.stack([np.frombuffer(base64.b64decode(one.embedding), "<f2") for one in prints])
    # one thread: the last bit of a cosine, and with it a pair at the threshold, must not depend on the number of cores
    near = nearest_above(rows, NearConfig(min_cosine=dedup.min_cosine, threads=1))
    return [
        Pair(first=i, second=j, level=SEMANTIC, how=f"cosine {value:.3f} by {dedup.semantic}")
        for i, j, value in zip(near.first.tolist(), near.second.tolist(), near.cosine.tolist(), strict=True)
    ]
