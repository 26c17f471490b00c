"""What makes selectors work on millions of rows: blocks in threads, cells, tiles of similarities, caps over all cells."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from curate.core.errors import ConfigError
from distill.blocks import available_cores, first_not_finite, map_rows, num_threads, ordered_map, slices, use_threads
from distill.kernel import Kernel, fit_kernel
from distill.partition import CellConfig, cells_of
from distill.selection import Features
from distill.selectors.fl import Plugin as Fl
from distill.selectors.strat_fl import Plugin as StratFl

CELLS = CellConfig(mean_rows=100, min_rows=60, max_rows=150)


def _features(num: int, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    return Features(
        rows=rng.normal(size=(num, 24)).astype(np.float16), descriptors=rng.normal(size=(num, 8)).astype(np.float32)
    )


def test_threads_are_counted_and_given_back() -> None:
    before = num_threads()
    with use_threads(3):
        assert num_threads() == 3
        with use_threads(0):
            assert num_threads() >= 1
        assert num_threads() == 3
    assert num_threads() == before
    with pytest.raises(ConfigError, match="threads must be >= 0"), use_threads(-1):
        pass


def test_cores_are_counted_where_no_affinity_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr("os.sched_getaffinity")  # as on macOS
    assert available_cores() == num_threads() == os.cpu_count()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_few_ahead_and_errors_come_through(threads: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(40):
            taken.append(item)
            yield item

    with use_threads(threads):
        results = ordered_map(lambda item: item * item, items())
        assert next(results) == 0
        assert len(taken) <= threads + 1
        assert list(results) == [item * item for item in range(1, 40)]
        with pytest.raises(ZeroDivisionError):
            list(ordered_map(lambda item: 1 // item, [3, 2, 1, 0, 5]))


def test_blocks_cover_a_memory_map_once(tmp_path: Path) -> None:
    rows = np.arange(20_000 * 3, dtype=np.float32).reshape(-1, 3)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert sum(block.astype(float).sum() for block in map_rows(lambda block, _: block, mapped)) == rows.sum(dtype=float)
    assert slices(10, 4) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert first_not_finite(mapped) is None
    rows[[19_000, 18_500], [2, 0]] = np.nan, np.inf
    assert first_not_finite(rows) == 18_500
    assert first_not_finite(rows[:, 2]) == 19_000


@pytest.mark.parametrize("num", [5, 512, 1300])
def test_tiles_are_the_kernel_and_equal_rows_have_equal_bits(num: int) -> None:
    rng = np.random.default_rng(num)
    same = rng.integers(0, num // 2, num)
    kernel = Kernel(parts=tuple(rng.normal(0, 0.2, (num, dim)).astype(np.float32)[same] for dim in (20, 8)))
    every = np.arange(num)
    matrix = kernel.dense(every)
    assert np.abs(matrix - kernel.between(every, every)).max() < 2e-6
    assert np.array_equal(matrix, matrix.T)
    for row in range(num):
        assert np.array_equal(matrix[row], matrix[np.flatnonzero(same == same[row])[0]])


@pytest.mark.parametrize("num_levels", [1, 3, 2000])
def test_cells_keep_their_sizes_however_many_rows_are_equal(num_levels: int) -> None:
    rng = np.random.default_rng(num_levels)
    points = rng.normal(size=(num_levels, 5)).astype(np.float32)[rng.integers(0, num_levels, 2000)]
    cells = cells_of([points], CELLS)
    assert np.array_equal(np.sort(np.concatenate(cells)), np.arange(2000))
    assert all(60 <= len(cell) <= 150 for cell in cells)
    assert [cell.tolist() for cell in cells] == [cell.tolist() for cell in cells_of([points], CELLS)]


@pytest.mark.parametrize("num_groups", [1, 3, 40, 200])
@pytest.mark.parametrize("num", [20, 200, 390])
def test_caps_count_over_all_cells_and_rise_only_when_they_must(num_groups: int, num: int) -> None:
    """Of equal groups of 400 rows none gives more than ceil(num / groups): no group is used up before."""
    features, groups = _features(400), np.arange(400) % num_groups
    picked = Fl(exact_rows=100, cells=CELLS).select(features, np.zeros(400), groups, num, np.random.default_rng(0))
    assert len(set(picked.indices.tolist())) == num
    assert np.bincount(groups[picked.indices]).max() <= -(-num // num_groups)


def test_caps_rise_where_one_photograph_holds_most_rows() -> None:
    """300 rows of one photograph and 100 single ones: 150 picks need a second round of the large one."""
    groups = np.concatenate([np.zeros(300, np.int64), np.arange(1, 101)])
    picked = Fl(exact_rows=100, cells=CELLS).select(
        _features(400), np.zeros(400), groups, 150, np.random.default_rng(0)
    )
    counts = np.bincount(groups[picked.indices], minlength=101)
    assert counts.sum() == len(set(picked.indices.tolist())) == 150
    assert counts[1:].tolist() == [1] * 100


@pytest.mark.parametrize("large", ["cells", "stochastic"])
def test_strata_get_their_budgets_in_the_large_path(large: str) -> None:
    scores = np.random.default_rng(1).random(900)
    picked = StratFl(exact_rows=100, cells=CELLS, large=large).select(
        _features(900), scores, np.arange(900) // 9, 95, np.random.default_rng(0)
    )
    assert sorted(np.bincount(picked.strata).tolist()) == [9] * 5 + [10] * 5
    assert scores[picked.indices].max() < np.sort(scores)[855]
    assert (picked.gains >= 0).all()


def test_the_kernel_of_a_memory_map_is_that_of_the_array(tmp_path: Path) -> None:
    features = _features(3000)
    np.save(tmp_path / "rows.npy", features.rows)
    mapped = Features(rows=np.load(tmp_path / "rows.npy", mmap_mode="r"), descriptors=features.descriptors)
    for there, here in zip(fit_kernel(mapped, 8).parts, fit_kernel(features, 8).parts, strict=True):
        assert np.array_equal(there, here)
