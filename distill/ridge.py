"""Linear regression that scores every row by a head that did not see it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .blocks import map_rows, one_blas_thread
from .selection import Indices

Floats = NDArray[np.float64]


def cross_fitted_ridge(
    values_NK: NDArray[np.floating], groups_N: Indices, *, num_folds: int, lambda_share: float
) -> Floats:
    """Predict each row's label by ridge regression fitted on the other folds.

    Rows are read in blocks, twice: a fold is known by its sums of products, (K + 1)^2 float64 each.

    Args:
        values_NK: (N, K) float32 or float64, finite: the label, then K - 1 features. May be a memory map. Not modified.
        groups_N: (N,) int64; folds are runs of rows sorted by it, so that nearly all rows of a group share one.
        num_folds: folds; with fewer rows than two the mean label is the prediction.
        lambda_share: regularisation, as a share of the mean eigenvalue of the fold's feature covariance.

    Returns:
        (N,) float64 predictions.
    """
    num = len(values_NK)
    if not num:
        return np.zeros(0)
    fold_of = np.empty(num, np.int64)
    for fold, rows in enumerate(np.array_split(np.argsort(groups_N, kind="stable"), num_folds)):
        fold_of[rows] = fold
    shift = values_NK[0].astype(np.float64)  # so that a constant column has variance 0
    predicted = np.empty(num)
    with one_blas_thread():
        products = sum(_products(values_NK, fold_of, shift, num_folds), np.zeros((num_folds, *(2 * [len(shift) + 1]))))
        everything = products.sum(axis=0)
        others = (np.delete(products, fold, axis=0).sum(axis=0) for fold in range(num_folds))
        heads = np.stack([_head(seen, everything, lambda_share) for seen in others], axis=1)

        def predict(block: NDArray[np.floating], where: slice) -> None:
            told = _with_one(block, shift)[:, [0, *range(2, len(shift) + 1)]] @ heads
            predicted[where] = told[np.arange(len(block)), fold_of[where]] + shift[0]

        for _ in map_rows(predict, values_NK):
            pass
    return predicted


def _products(values_NK: NDArray[np.floating], fold_of: Indices, shift: Floats, num_folds: int) -> Iterator[Floats]:
    """Yield each block's share of every fold's sums of products of (1, label, features)."""

    def look(block: NDArray[np.floating], where: slice) -> Floats:
        rows, folds = _with_one(block, shift), fold_of[where]
        parts = (rows[folds == fold] for fold in range(num_folds))
        return np.stack([part.T @ part for part in parts])

    return map_rows(look, values_NK)


def _with_one(block: NDArray[np.floating], shift: Floats) -> Floats:
    rows = np.ones((len(block), len(shift) + 1))
    rows[:, 1:] = block
    rows[:, 1:] -= shift
    return rows


def _head(seen: Floats, everything: Floats, lambda_share: float) -> Floats:
    """Return constant and weights from the sums of the rows that the fold does not hold; of all rows where that is none."""
    sums = seen if seen[0, 0] > 0 else everything
    moments = sums / sums[0, 0]
    label, mean = moments[0, 1], moments[0, 2:]
    covariance = moments[2:, 2:] - np.outer(mean, mean)
    ridge = lambda_share * np.trace(covariance) / len(covariance)
    if not (
        ridge > 0 and seen[0, 0] > 0
    ):  # nothing varies, or nothing is left to learn from: all that is known is the mean
        return np.concatenate([[label], np.zeros(len(mean))])
    weights = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), moments[2:, 1] - mean * label)
    return np.concatenate([[label - mean @ weights], weights])
