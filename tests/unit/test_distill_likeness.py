"""How like a corpus a subset is: against loops over all pairs, and the properties that spec/tripled.md section 5 asks for."""

import math

import numpy as np
import pytest

from distill import likeness as module
from distill.likeness import Likeness, mean_kernel
from distill.mmd import mmd2_biased, mmd2_unbiased
from distill.table import FeatureTable

SCALES = (0.25, 0.5, 1, 2, 4)


def naive_kernel(a: np.ndarray, b: np.ndarray, bandwidth: float) -> float:
    squared = sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))
    return sum(math.exp(-squared / (scale * bandwidth**2)) for scale in SCALES) / len(SCALES)


def naive_mmd2(left: np.ndarray, right: np.ndarray, bandwidth: float, *, unbiased: bool) -> float:
    def own(rows: np.ndarray) -> float:
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j or not unbiased]
        return sum(naive_kernel(rows[i], rows[j], bandwidth) for i, j in pairs) / len(pairs)

    across = [naive_kernel(a, b, bandwidth) for a in left for b in right]
    return own(left) + own(right) - 2 * sum(across) / len(across)


def made_table(num: int = 90, dim: int = 12, seed: int = 0) -> FeatureTable:
    rng = np.random.default_rng(seed)
    modes = rng.normal(0, 3, (4, dim))
    rows = modes[rng.integers(0, 4, num)] + rng.normal(0, 1, (num, dim))
    return FeatureTable(
        keys=np.array([f"{at % 9:020x}_{at:05d}_00000_64" for at in range(num)]), rows=rows.astype(np.float16),
        descriptors=rng.normal(0, 1, (num, 8)).astype(np.float32), complexity=rng.uniform(0, 1, num),
    )  # fmt: skip


@pytest.mark.parametrize("unbiased", [True, False])
def test_mmd2_is_the_loop_over_all_pairs(unbiased):
    rng = np.random.default_rng(1)
    left, right = rng.normal(0, 1, (9, 3)), rng.normal(0.5, 2, (14, 3))
    expected = naive_mmd2(left, right, 1.7, unbiased=unbiased)
    assert (mmd2_unbiased if unbiased else mmd2_biased)(left, right, 1.7) == pytest.approx(expected, abs=1e-12)


def test_mmd2_of_a_set_with_itself_is_zero_and_grows_with_the_distance():
    rows = np.random.default_rng(2).normal(0, 1, (40, 5))
    assert mmd2_biased(rows, rows, 1.0) == pytest.approx(0.0, abs=1e-12)
    apart = [mmd2_biased(rows, rows + shift, 2.0) for shift in (0.1, 0.5, 1.0, 2.0)]
    assert apart == sorted(apart) and apart[0] > 0


def test_unbiased_mmd2_of_random_halves_is_near_zero():
    rng, values = np.random.default_rng(3), []
    for _ in range(60):
        rows = rng.normal(0, 1, (60, 4))
        values.append(mmd2_unbiased(rows[:30], rows[30:], 2.0))
    assert abs(np.mean(values)) < 2 * np.std(values, ddof=1) / math.sqrt(len(values)) + 1e-3
    assert min(values) < 0 < max(values)


def test_weights_are_repeated_rows():
    rng = np.random.default_rng(4)
    few, many = rng.normal(0, 1, (5, 3)), rng.normal(0, 1, (8, 3))
    times = np.array([1, 3, 1, 2, 1])
    repeated = mean_kernel(np.repeat(few, times, axis=0), many, 1.3)
    assert mean_kernel(few, many, 1.3, times.astype(float)) == pytest.approx(repeated, abs=1e-12)


def test_blocks_change_nothing(monkeypatch):
    table, picked = made_table(), np.arange(0, 90, 7)

    def numbers() -> list[float]:
        likeness = Likeness(table, rank=6, max_rows=1000)
        likeness.prepare_coverage(6)
        return [*likeness.mmd2(picked), likeness.coverage(picked), float(likeness.nearest(picked).sum())]

    whole = numbers()
    monkeypatch.setattr(module, "_BLOCK_VALUES", 32)
    assert numbers() == pytest.approx(whole, abs=1e-9)


def test_nearest_and_coverage_are_loops_over_the_corpus():
    table, picked = made_table(), np.array([3, 40, 41, 77])
    likeness = Likeness(table, rank=6, max_rows=1000)
    likeness.prepare_coverage(6)
    phi = likeness.phi(np.arange(len(table)))
    nearest = [
        min(np.linalg.norm(phi[at] - phi[own]) for own in picked) / likeness.bandwidth for at in range(len(table))
    ]
    assert likeness.nearest(picked) == pytest.approx(nearest, abs=1e-6)
    from distill.kernel import fit_kernel
    from distill.selection import Features

    kernel = fit_kernel(Features(rows=table.rows, descriptors=table.descriptors), 6)
    everyone = np.arange(len(table))
    assert likeness.coverage(picked) == pytest.approx(kernel.between(everyone, picked).max(axis=1).mean(), abs=1e-6)
    assert likeness.coverage(everyone) == pytest.approx(1.0, abs=1e-6)


def test_a_subset_against_its_corpus_is_the_loop_too():
    table, picked = made_table(num=30), np.array([0, 7, 21])
    likeness = Likeness(table, rank=6, max_rows=1000)
    phi = likeness.phi(np.arange(30))
    expected = [naive_mmd2(phi[picked], phi, likeness.bandwidth, unbiased=unbiased) for unbiased in (True, False)]
    assert likeness.mmd2(picked) == pytest.approx(expected, abs=1e-9)
    assert likeness.weighted_mmd2(picked, np.full(3, 2.5)) == pytest.approx(expected[1], abs=1e-9)
    heavy = likeness.weighted_mmd2(picked, np.array([1.0, 0.0, 0.0]))
    assert heavy == pytest.approx(naive_mmd2(phi[:1], phi, likeness.bandwidth, unbiased=False), abs=1e-9)


def test_of_a_large_corpus_a_sample_stands_for_it():
    table = made_table(num=4000)
    few, all_of_it = Likeness(table, rank=6, max_rows=500), Likeness(table, rank=6, max_rows=4000)
    picked = np.sort(np.random.default_rng(5).choice(4000, 100, replace=False))
    assert (few.is_exact, len(few.reference), all_of_it.is_exact) == (False, 500, True)
    biased_corner = np.argsort(table.rows[:, 0])[:100]
    for likeness in (few, all_of_it):
        assert likeness.mmd2(biased_corner)[0] > 10 * abs(likeness.mmd2(picked)[0])
    few.prepare_coverage(6)
    assert 0 < few.coverage(picked) < 1
    assert len(few.null(100, 0).coverage) == 0 and len(few.null(100, 0).mmd2) == module.NUM_DRAWS


def test_what_a_subset_covers_does_not_depend_on_its_company():
    """Above `max_rows` the similarity is fitted to the reference patches, not to what happens to be compared."""
    table = made_table(num=4000)
    table.rows[3000:] *= 3  # outliers: fitted to them, the similarity would be another one
    picked, others = np.arange(7, 900, 40), np.arange(3000, 4000)
    alone, in_company = (Likeness(table, rank=6, max_rows=500) for _ in range(2))
    for likeness in (alone, in_company):
        likeness.prepare_coverage(6)
    in_company.coverage(others)
    assert in_company.coverage(picked) == alone.coverage(picked)
    from distill.kernel import fit_spaces
    from distill.selection import Features

    at = alone.reference
    spaces, kernel = fit_spaces(Features(rows=table.rows[at], descriptors=table.descriptors[at]), 6)
    theirs = [
        space.points(values[picked]) for space, values in zip(spaces, (table.rows, table.descriptors), strict=True)
    ]
    nearest = [
        max(
            np.mean(
                [
                    np.exp(-((part[row] - points[own]) ** 2).sum())
                    for part, points in zip(kernel.parts, theirs, strict=True)
                ]
            )
            for own in range(len(picked))
        )
        for row in range(len(at))
    ]
    assert alone.coverage(picked) == pytest.approx(np.mean(nearest), abs=1e-5)


def test_the_null_depends_on_its_seed_only():
    likeness = Likeness(made_table(), rank=6, max_rows=1000)
    once, again, other = (likeness.null(9, seed).mmd2 for seed in (0, 0, 1))
    assert np.array_equal(once, again) and not np.array_equal(once, other)


def test_equal_rows_and_one_row_are_no_trouble():
    table = made_table(num=6)
    alike = FeatureTable(
        keys=table.keys,
        rows=np.ones((6, 3), np.float16),
        descriptors=np.ones((6, 8), np.float32),
        complexity=np.zeros(6),
    )
    for known, picked in ((alike, np.array([0, 1])), (made_table(num=1), np.array([0]))):
        likeness = Likeness(known, rank=64, max_rows=10)
        likeness.prepare_coverage(64)
        assert likeness.mmd2(picked)[1] == pytest.approx(0, abs=1e-9)
        assert likeness.coverage(picked) == pytest.approx(1.0)
