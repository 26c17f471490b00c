"""The cross-fitted regression: the plain formula, whole groups, and little memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from distill.blocks import BLOCK_ROWS, use_threads
from distill.ridge import cross_fitted_ridge


def plain(values: np.ndarray, groups: np.ndarray, num_folds: int, lambda_share: float) -> np.ndarray:
    """Fit as a textbook would, with all rows in memory."""
    targets, features = values[:, 0].astype(np.float64), values[:, 1:].astype(np.float64)
    predicted = np.full(len(targets), targets.mean())
    for fold in np.array_split(np.argsort(groups, kind="stable"), num_folds):
        seen = np.setdiff1d(np.arange(len(targets)), fold)
        if not len(fold) or not len(seen):
            continue
        mean, label = features[seen].mean(axis=0), targets[seen].mean()
        centred = features[seen] - mean
        covariance = centred.T @ centred / len(seen)
        ridge = lambda_share * np.trace(covariance) / len(covariance)
        head = np.zeros(len(mean))
        if ridge > 0:
            moments = centred.T @ (targets[seen] - label) / len(seen)
            head = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), moments)
        predicted[fold] = (features[fold] - mean) @ head + label
    return predicted


def made(num: int, dim: int, seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    features = rng.normal(40, 2, (num, dim)) * rng.uniform(0.1, 3, dim)  # means far from 0, as a ViT's are
    labels = features @ rng.normal(0, 1, dim) + rng.normal(0, 0.5, num)
    return np.concatenate([labels[:, None], features], axis=1).astype(dtype)


@pytest.mark.parametrize(("num", "dim"), [(1, 3), (2, 3), (4, 3), (90, 7), (2 * BLOCK_ROWS + 11, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_give_what_the_formula_gives(num: int, dim: int, dtype: type) -> None:
    values, groups = made(num, dim, dtype=dtype), np.random.default_rng(1).integers(0, max(1, num // 3), num)
    got = cross_fitted_ridge(values, groups, num_folds=5, lambda_share=1e-2)
    assert got == pytest.approx(plain(values, groups, 5, 1e-2), rel=1e-9, abs=1e-9)


def test_constant_features_say_the_mean_of_the_others() -> None:
    values = np.full((10, 4), 0.1)
    values[:, 0] = np.arange(10)
    got = cross_fitted_ridge(values, np.arange(10), num_folds=5, lambda_share=1e-2)
    assert got == pytest.approx(plain(values, np.arange(10), 5, 1e-2))
    assert not len(cross_fitted_ridge(values[:0], np.arange(0), num_folds=5, lambda_share=1e-2))


def test_patches_of_one_photograph_that_lie_apart_share_a_fold() -> None:
    """Pairs of one clean picture have keys that are far from each other: their label must not leak through a twin."""
    num, twins = 300, 3
    values = np.repeat(made(num, 6), twins, axis=0)
    groups = np.repeat(np.arange(num), twins)
    order = np.random.default_rng(2).permutation(num * twins)
    values, groups = values[order], groups[order]
    first_fold = np.flatnonzero(groups < num // 5)
    changed = values.copy()
    changed[first_fold, 0] += 100
    before, after = (cross_fitted_ridge(one, groups, num_folds=5, lambda_share=1e-2) for one in (values, changed))
    assert after[first_fold] == pytest.approx(before[first_fold]), "no patch sees its own label, nor its twin's"


def test_threads_change_no_bit() -> None:
    values = made(3 * BLOCK_ROWS, 5)
    found = []
    for threads in (1, 2):
        with use_threads(threads):
            found.append(cross_fitted_ridge(values, np.arange(len(values)), num_folds=5, lambda_share=1e-2))
    assert np.array_equal(*found)


def test_a_memory_map_is_read_in_blocks(tmp_path: Path) -> None:
    num, dim = 8 * BLOCK_ROWS, 96
    np.save(tmp_path / "values.npy", np.random.default_rng(3).normal(size=(num, dim + 1)).astype(np.float32))
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    with use_threads(1):
        tracemalloc.start()
        cross_fitted_ridge(mapped, np.arange(num), num_folds=5, lambda_share=1e-2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 0.5 * num * dim * 8, "copies of all features as float64 would take twice as much or more"
