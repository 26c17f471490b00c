"""All pairs of 64-bit hashes within a Hamming radius, without comparing every pair: multi-index search, complete.

A hash is cut into a few parts. Two hashes within the radius agree, in at least one part, to within that part's share of it
(pigeonhole: the shares plus one sum to more than the radius). For each part the hashes are sorted by it, and every flip of at
most so many of its bits leads to a run of candidates, whose whole distance is then counted.

faiss's IndexBinaryMultiHash searches the same way (3 parts of 21 bits, 2 flips) and was measured first; it takes over ten times
as long on a million random hashes (benchmarks/bench_dedup_scale.py), because each probe is a lookup in a hash map, where here a
flip is tried for all hashes at once, in sorted order, on plain arrays.

Equal hashes are one: a hundred thousand black frames are one value, not five thousand million pairs.

Source: Norouzi, Punjani, Fleet 2012, Fast Search in Hamming Space with Multi-Index Hashing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError

NUM_BITS = 64
MAX_RADIUS_BITS = (
    20  # of two unlike pictures a third of the bits or more differ; and the cost of a search doubles per bit
)
MIN_PARTS, MAX_PARTS = 3, 8  # a table of 2^22 run starts still fits the caches; wider parts would not
CANDIDATE_PER_PROBE = 4.0  # cost of a candidate in probes, measured (bench_dedup_scale)
CHUNK_CANDIDATES = 1 << 20  # 40 MB of temporary arrays


@dataclass(frozen=True, slots=True)
class Collapsed:
    """Hashes, each value once.

    Attributes:
        values: (U,) uint64, ascending.
        inverse: (N,) int64, `values[inverse]` are the hashes.
        members: (U,) int64, the first member with each value, `hashes[members]` are the values.
    """

    values: NDArray[np.uint64]
    inverse: NDArray[np.int64]
    members: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NearPairs:
    """Pairs of indices with their distance, sorted by first, then second.

    Attributes:
        first, second: (P,) int64.
        distance_bits: (P,) int64, 0..radius.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distance_bits: NDArray[np.int64]


def hashes_from_hex(texts: list[str]) -> NDArray[np.uint64]:
    """Turn hashes of 16 hex digits, as the manifest stores them, into (N,) uint64.

    Example:
        >>> hashes_from_hex(["00000000000000ff"]).tolist()
        [255]
    """
    return np.frombuffer(bytes.fromhex("".join(texts)), ">u8").astype(np.uint64)


def collapse(hashes: NDArray[np.uint64]) -> Collapsed:
    """Find the distinct values of (N,) uint64 hashes."""
    values, members, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return Collapsed(values, inverse.astype(np.int64), members.astype(np.int64))


def pairs_within(values: NDArray[np.uint64], *, radius_bits: int) -> NearPairs:
    """Find every pair of distinct hashes within a radius.

    Args:
        values: (U,) uint64, each once, in any order (`collapse(...).values`).
        radius_bits: 0..20; at 0 there are no pairs, as values are distinct.

    Returns:
        All pairs with first < second (indices of `values`) whose Hamming distance is at most `radius_bits`; none is missed.

    Raises:
        ConfigError: a radius out of range.
    """
    parts = _plan_parts(len(values), len(values), radius_bits)
    found = []
    for number, part in enumerate(parts):
        table = _Sorted.by(part, values)
        for left, right in _candidates_within(table):
            one, two, distance = _verify(table, table, left, right, parts[:number], radius_bits)
            found.append((np.minimum(one, two), np.maximum(one, two), distance))
    return _sorted_pairs(found)


def matches_within(values: NDArray[np.uint64], queries: NDArray[np.uint64], *, radius_bits: int) -> NearPairs:
    """Find, for every query, the hashes within a radius.

    Args:
        values: (U,) uint64, what is searched; in any order.
        queries: (M,) uint64, or (M, V) with V variants each (flips and rotations): the nearest variant counts.
        radius_bits: 0..20.

    Returns:
        All pairs of a query (`first`) and a value (`second`) within the radius, one per pair.

    Raises:
        ConfigError: a radius out of range.
    """
    variants = queries.T if queries.ndim == 2 else [queries]
    parts = _plan_parts(len(values), queries.size, radius_bits)
    found = []
    for number, part in enumerate(parts):
        table = _Sorted.by(part, values)
        runs = _Runs.of(table)
        for variant in variants:
            wanted = _Sorted.by(part, variant)
            for left, right in _candidates_for(wanted, runs):
                found.append(_verify(wanted, table, left, right, parts[:number], radius_bits))
    return _nearest(_sorted_pairs(found))


@dataclass(frozen=True, slots=True)
class _Part:
    """`width` bits from `shift` up; hashes that are near agree in one part to within `radius` of its bits."""

    shift: int
    width: int
    radius: int

    def of(self, values: NDArray[np.uint64]) -> NDArray[np.int32]:
        return ((values >> np.uint64(self.shift)) & np.uint64((1 << self.width) - 1)).astype(np.int32)

    def flips(self) -> Iterator[int]:
        """Return every mask of at most `radius` bits, 0 first."""
        for count in range(self.radius + 1):
            for bits in itertools.combinations(range(self.width), count):
                yield sum(1 << bit for bit in bits)


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Hashes sorted by one part.

    Attributes:
        part: what they are sorted by.
        order: (U,) int64, where each stood.
        values: (U,) uint64, the hashes in this order.
        keys: (U,) int32, their parts.
    """

    part: _Part
    order: NDArray[np.int64]
    values: NDArray[np.uint64]
    keys: NDArray[np.int32]

    @classmethod
    def by(cls, part: _Part, values: NDArray[np.uint64]) -> _Sorted:
        keys = part.of(values)
        order = np.argsort(keys, kind="stable")
        return cls(part, order, values[order], keys[order])


@dataclass(frozen=True, slots=True)
class _Runs:
    """Where in sorted hashes those with a given part stand.

    Attributes:
        starts: (2^width + 1,) int32: those whose part is k stand at `starts[k] : starts[k + 1]`.
        occupied: (2^width,) bool, where there are any: small enough for the caches, and most flips lead nowhere.
    """

    starts: NDArray[np.int32]
    occupied: NDArray[np.bool_]

    @classmethod
    def of(cls, table: _Sorted) -> _Runs:
        counts = np.bincount(table.keys, minlength=1 << table.part.width)
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), counts > 0)


_Candidates = Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]


def _candidates_within(table: _Sorted) -> _Candidates:
    """Yield pairs of positions whose parts are near each other, each pair once."""
    runs, position = _Runs.of(table), np.arange(len(table.keys))
    yield from _pair(position, position + 1, runs.starts[table.keys + 1])  # the rest of the own run
    clear = [np.flatnonzero(table.keys & (1 << bit) == 0) for bit in range(table.part.width)]
    for mask in itertools.islice(table.part.flips(), 1, None):
        position = clear[mask.bit_length() - 1]  # of two runs that meet, the one without the mask's top bit asks
        yield from _probe(position, table.keys[position] ^ np.int32(mask), runs)


def _candidates_for(wanted: _Sorted, runs: _Runs) -> _Candidates:
    """Yield pairs of a position among those wanted and one in the table whose parts are near each other, each pair once."""
    position = np.arange(len(wanted.keys))
    for mask in wanted.part.flips():
        yield from _probe(position, wanted.keys ^ np.int32(mask), runs)


def _probe(position: NDArray[np.int64], keys: NDArray[np.int32], runs: _Runs) -> _Candidates:
    met = np.flatnonzero(runs.occupied[keys])
    keys = keys[met]
    yield from _pair(position[met], runs.starts[keys], runs.starts[keys + 1])


def _pair(left: NDArray[np.int64], start: NDArray[Any], stop: NDArray[Any]) -> _Candidates:
    """Pair each left with everything from start to stop, about a million pairs at a time."""
    counts = stop - start
    ends = np.cumsum(counts, dtype=np.int64)
    first = 0
    while first < len(counts):
        base = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, base + CHUNK_CANDIDATES, "right")), first + 1)
        some = counts[first:last]
        offset = start[first:last] - (ends[first:last] - some - base)
        yield np.repeat(left[first:last], some), np.repeat(offset, some) + np.arange(int(ends[last - 1]) - base)
        first = last


def _verify(
    one: _Sorted, two: _Sorted, left: NDArray[np.int64], right: NDArray[np.int64],
    earlier: list[_Part], radius_bits: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Keep the pairs within the radius that no earlier part has found; return where their hashes stood."""
    difference = one.values[left] ^ two.values[right]
    near = np.flatnonzero(np.bitwise_count(difference) <= radius_bits)
    difference = difference[near]
    new = np.ones(len(near), np.bool_)
    for part in earlier:
        new &= np.bitwise_count(part.of(difference)) > part.radius
    left, right = left[near[new]], right[near[new]]
    return one.order[left], two.order[right], np.bitwise_count(difference[new]).astype(np.int64)


def _plan_parts(num_values: int, num_queries: int, radius_bits: int) -> list[_Part]:
    """Choose the number of parts: fewer and wider ones mean more flips, and fewer candidates a flip."""
    if not 0 <= radius_bits <= MAX_RADIUS_BITS:
        raise ConfigError(f"radius_bits must be in 0..{MAX_RADIUS_BITS}, got {radius_bits}")
    plans = [_cut(number, radius_bits) for number in range(MIN_PARTS, MAX_PARTS + 1)]
    return min(plans, key=lambda parts: sum(_cost(part, num_values, num_queries) for part in parts))


def _cost(part: _Part, num_values: int, num_queries: int) -> float:
    """Estimate the work of one part, in probes: entries of the table, flips, candidates."""
    runs = 1 << part.width
    flips = sum(math.comb(part.width, count) for count in range(part.radius + 1))
    return float(runs + num_queries * flips * (1 + CANDIDATE_PER_PROBE * num_values / runs))


def _cut(number: int, radius_bits: int) -> list[_Part]:
    """Cut 64 bits into `number` parts and share the radius: radii plus one sum to radius_bits + 1; those of -1 are left out."""
    parts, shift = [], 0
    for index in range(number):
        width = (NUM_BITS - shift) // (number - index)
        radius = (radius_bits + 1 + number - 1 - index) // number - 1
        if radius >= 0:
            parts.append(_Part(shift, width, radius))
        shift += width
    return parts


def _sorted_pairs(found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]) -> NearPairs:
    empty = np.empty(0, np.int64)
    first, second, distance = (np.concatenate([empty, *column]) for column in zip(*found, strict=True)) if found else (
        empty, empty, empty)  # fmt: skip
    order = np.lexsort((distance, second, first))
    return NearPairs(first[order], second[order], distance[order])


def _nearest(pairs: NearPairs) -> NearPairs:
    """Keep the nearest variant of each pair; pairs are sorted."""
    new = (np.diff(pairs.first, prepend=-1) != 0) | (np.diff(pairs.second, prepend=-1) != 0)
    return NearPairs(pairs.first[new], pairs.second[new], pairs.distance_bits[new])
