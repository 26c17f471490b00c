"""Near pairs are complete, and groups neither chain nor lose anyone, whatever the hashes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.core.errors import ConfigError
from curate.dedup import hamming
from curate.dedup.groups import components, keepers, keepers_of_classes
from curate.dedup.hamming import collapse, hashes_from_hex, matches_within, pairs_within

RADII = st.integers(0, 13)


@st.composite
def hashes(draw: st.DrawFn) -> np.ndarray:
    """Clusters of hashes around some centres: few to a few hundred bits away, equal ones among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centres = rng.integers(0, 2**64, draw(st.integers(1, 8)), dtype=np.uint64)
    if draw(st.booleans()):
        centres[0] = draw(st.sampled_from([0, 2**64 - 1]))
    chosen = rng.choice(centres, draw(st.integers(0, 120)))
    for index in range(len(chosen)):
        for bit in rng.choice(64, rng.integers(0, draw(st.integers(1, 16))), replace=False):
            chosen[index] ^= np.uint64(1 << int(bit))
    return chosen


def brute(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.bitwise_count(one[:, None] ^ two[None, :]).astype(int)


@settings(deadline=None, max_examples=150)
@given(hashes(), RADII)
def test_pairs_are_those_of_brute_force(some, radius):
    collapsed = collapse(some)
    assert np.array_equal(collapsed.values[collapsed.inverse], some)
    assert np.array_equal(some[collapsed.members], collapsed.values)
    pairs = pairs_within(collapsed.values, radius_bits=radius)
    distance = brute(collapsed.values, collapsed.values)
    first, second = np.nonzero(np.triu(distance <= radius, 1))
    assert np.array_equal(pairs.first, first) and np.array_equal(pairs.second, second)
    assert np.array_equal(pairs.distance_bits, distance[first, second])


@settings(deadline=None, max_examples=80)
@given(hashes(), hashes(), RADII, st.sampled_from([0, 1, 3, 8]))
def test_matches_are_those_of_brute_force(some, queries, radius, variants):
    values = collapse(some).values
    if variants:  # (M, V): the nearest variant counts
        queries = np.resize(queries, (len(queries) // variants, variants))
    rows = queries if variants else queries[:, None]
    matches = matches_within(values, queries, radius_bits=radius)
    distance = np.full((len(rows), len(values)), 99)
    for column in rows.T:
        distance = np.minimum(distance, brute(column, values))
    first, second = np.nonzero(distance <= radius)
    assert np.array_equal(matches.first, first) and np.array_equal(matches.second, second)
    assert np.array_equal(matches.distance_bits, distance[first, second])


def test_every_number_of_parts_is_complete(monkeypatch):
    rng = np.random.default_rng(1)
    values = np.full(300, 0x0123456789ABCDEF, np.uint64)
    for index in range(300):
        for bit in rng.choice(64, rng.integers(0, 9), replace=False):
            values[index] ^= np.uint64(1 << int(bit))
    values = collapse(values).values
    first, second = np.nonzero(np.triu(brute(values, values) <= 9, 1))
    for number in range(hamming.MIN_PARTS, hamming.MAX_PARTS + 1):
        monkeypatch.setattr(hamming, "_plan_parts", lambda *_, number=number: hamming._cut(number, 9))
        monkeypatch.setattr(hamming, "CHUNK_CANDIDATES", 1000)
        pairs = pairs_within(values, radius_bits=9)
        assert np.array_equal(pairs.first, first) and np.array_equal(pairs.second, second)


def test_a_hundred_thousand_equal_hashes_are_one():
    collapsed = collapse(np.concatenate([np.full(100_000, 7, np.uint64), np.uint64([6, 2**60])]))
    assert collapsed.values.tolist() == [6, 7, 2**60]
    pairs = pairs_within(collapsed.values, radius_bits=2)
    assert list(zip(pairs.first, pairs.second, pairs.distance_bits, strict=True)) == [(0, 1, 1)]
    rank = np.arange(100_002)[::-1]
    keeper, root = keepers_of_classes(collapsed.inverse, pairs.first, pairs.second, rank)
    assert set(keeper[:100_001]) == {100_000} and keeper[100_001] == 100_001  # the last but one has the best rank
    assert set(root[:100_001]) == {0} and root[100_001] == 100_001


def test_a_radius_out_of_range_is_refused():
    for radius in (-1, hamming.MAX_RADIUS_BITS + 1):
        with pytest.raises(ConfigError, match="radius_bits"):
            pairs_within(np.zeros(1, np.uint64), radius_bits=radius)


def test_hex():
    assert hashes_from_hex(["ffffffffffffffff", "0000000000000001"]).tolist() == [2**64 - 1, 1]
    assert hashes_from_hex([]).shape == (0,)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, np.ndarray, np.ndarray]:
    num = draw(st.integers(1, 40))
    pairs = draw(st.lists(st.tuples(st.integers(0, num - 1), st.integers(0, num - 1)), max_size=80))
    pairs = [pair for pair in pairs if pair[0] != pair[1]]
    ends = np.array(pairs, np.int64).reshape(-1, 2)
    return num, draw(st.permutations(range(num))), ends


@settings(deadline=None)
@given(graphs(), st.randoms())
def test_keepers(graph, random):
    num, rank, ends = graph
    rank = np.array(rank)
    keeper = keepers(num, ends[:, 0], ends[:, 1], rank)
    near = {(int(a), int(b)) for a, b in ends} | {(int(b), int(a)) for a, b in ends}
    kept = np.flatnonzero(keeper == np.arange(num))
    for member in range(num):
        if keeper[member] != member:
            assert (member, keeper[member]) in near and rank[keeper[member]] < rank[member]
            assert keeper[keeper[member]] == keeper[member]
            assert keeper[member] == min((k for k in kept if (member, k) in near), key=lambda k: rank[k])
    assert not any((int(a), int(b)) in near for a in kept for b in kept)
    root = components(num, ends[:, 0], ends[:, 1])
    for group in np.unique(root):
        members = np.flatnonzero(root == group)
        assert members[0] == group and members[np.argmin(rank[members])] in kept  # the best of a group is kept
    assert all(root[a] == root[b] for a, b in near)
    shuffled = ends.tolist()
    random.shuffle(shuffled)
    other = np.array([pair[::-1] if random.random() < 0.5 else pair for pair in shuffled], np.int64).reshape(-1, 2)
    assert np.array_equal(keepers(num, other[:, 0], other[:, 1], rank), keeper)
    assert np.array_equal(components(num, other[:, 0], other[:, 1]), root)


@settings(deadline=None, max_examples=60)
@given(hashes(), st.integers(0, 10), st.integers(0, 2**32 - 1))
def test_keepers_of_equal_hashes_are_those_of_all_pairs(some, radius, seed):
    rank = np.random.default_rng(seed).integers(0, 30, len(some))
    collapsed = collapse(some)
    pairs = pairs_within(collapsed.values, radius_bits=radius)
    keeper, root = keepers_of_classes(collapsed.inverse, pairs.first, pairs.second, rank)
    first, second = np.nonzero(np.triu(brute(some, some) <= radius, 1))
    assert np.array_equal(keeper, keepers(len(some), first, second, rank))
    assert np.array_equal(root, components(len(some), first, second))


def test_a_chain_of_a_hundred_thousand_is_one_group_and_keeps_every_second():
    index = np.arange(100_000)
    keeper = keepers(100_000, index[:-1], index[1:], index)
    assert np.array_equal(keeper, index // 2 * 2)
    assert not components(100_000, index[:-1], index[1:]).any()
