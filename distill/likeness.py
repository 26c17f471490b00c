"""How like its corpus a subset is: MMD2, coverage, distances, each beside what random subsets of the same size reach.

Source: spec/tripled.md section 4.4 (phi_1, the mixture of five Gaussians, the unbiased MMD2 and its null) and 4.2 (the
similarity that coverage sums). Ours: above `max_rows` patches the corpus is represented by that many of them, evenly
spaced in key order, so that the cost does not grow with the square of the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .kernel import Kernel, Space, fit_spaces
from .selection import Features, Indices
from .table import FeatureTable

Floats = NDArray[np.float64]
NUM_SQUARINGS = 4  # bandwidths s = 4, 2, 1, 1/2, 1/4: each kernel is the square of the one before [spec 4.4]
_WIDEST = 4.0
_MEDIAN_ROWS = 2000  # spec 4.2: the median distance is taken over at most so many rows
_BLOCK_VALUES = 1 << 22  # distances in memory at once: 32 MiB of float64
_DIGITS, _ROOT_DIGITS = 12, 6  # the rest is rounding of the machine; of a square root half as many are left
MAX_CHOSEN = 4000  # so many patches of a larger subset, evenly spaced, stand for it in MMD2, and so in its null [ours]
_MAX_PRODUCTS = 1 << 31  # similarities that the null of coverage may cost: about a minute
NUM_DRAWS = 20  # random subsets that a number is compared with [issue 6: 20 seeds]


def mean_kernel(
    left_ND: Floats,
    right_ND: Floats,
    bandwidth: float,
    left_weights: Floats | None = None,
    right_weights: Floats | None = None,
) -> float:
    """Return the weighted mean of the kernel over all pairs, the pairs of a row with itself included.

    Args:
        left_ND: (n, D).
        right_ND: (m, D).
        bandwidth: h > 0, in the units of the rows.
        left_weights: (n,) >= 0; None: all alike.
        right_weights: (m,) >= 0; None: all alike.
    """
    first, second = _shares(left_weights, len(left_ND)), _shares(right_weights, len(right_ND))
    step = max(1, _BLOCK_VALUES // len(right_ND))
    total = 0.0
    for start in range(0, len(left_ND), step):
        block = slice(start, start + step)
        total += float(first[block] @ (_mixture(left_ND[block], right_ND, bandwidth) @ second))
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Null:
    """What random subsets of one size reach.

    Attributes:
        mmd2: (NUM_DRAWS,) unbiased MMD2 to the corpus; NaN for subsets of one patch.
        biased: (NUM_DRAWS,) the same with the pairs of a patch with itself.
        coverage: (NUM_DRAWS,) coverage; empty where that would be slow.
    """

    mmd2: Floats
    biased: Floats
    coverage: Floats


class Likeness:
    """Compares any subset of one corpus with the whole of it.

    Args:
        table: what is known of the corpus.
        rank: most dimensions of phi_1, the PCA of the encoder's rows.
        max_rows: most rows that stand for the corpus.
        degraded: look at the degraded members of pairs instead of the clean ones.
    """

    def __init__(self, table: FeatureTable, *, rank: int, max_rows: int, degraded: bool = False) -> None:
        self._table, self._max_rows = table, max_rows
        self._rows = table.degraded_rows if degraded and table.degraded_rows is not None else table.rows
        self.reference = _evenly(np.arange(len(table), dtype=np.int64), max_rows)
        sample = np.asarray(self._rows[self.reference], dtype=np.float64)
        self._mean = sample.mean(axis=0)
        self._axes = _principal(sample - self._mean, rank)
        self._phi = (sample - self._mean) @ self._axes
        self.bandwidth = _median_distance(self._phi)
        self._own = mean_kernel(self._phi, self._phi, self.bandwidth)
        self._similarity: tuple[tuple[Space, Space], Kernel] | None = None

    @property
    def is_exact(self) -> bool:
        """Whether every patch of the corpus is looked at, not a sample."""
        return len(self.reference) == len(self._table)

    @property
    def rank(self) -> int:
        """Dimensions of phi_1."""
        return int(self._axes.shape[1])

    def phi(self, indices: Indices) -> Floats:
        """Return phi_1 of some patches: (n, rank), in blocks."""
        step = max(1, _BLOCK_VALUES // self._rows.shape[1])
        parts = [
            (np.asarray(self._rows[indices[at : at + step]], dtype=np.float64) - self._mean) @ self._axes
            for at in range(0, len(indices), step)
        ]
        return np.concatenate(parts)

    def mmd2(self, picked: Indices) -> tuple[float, float]:
        """Return the unbiased (NaN for one patch) and the biased MMD2 of a subset to the corpus."""
        few = self.phi(_evenly(picked, MAX_CHOSEN))
        across = 2 * mean_kernel(few, self._phi, self.bandwidth)
        own = mean_kernel(few, few, self.bandwidth)
        unbiased = _without_own(own, len(few)) + _without_own(self._own, len(self._phi)) - across
        return round(unbiased, _DIGITS), round(own + self._own - across, _DIGITS)

    def weighted_mmd2(self, picked: Indices, weights: Floats) -> float:
        """Return the biased MMD2 of a subset whose patches are drawn with these weights."""
        places = _evenly(np.arange(len(picked), dtype=np.int64), MAX_CHOSEN)
        few, shares = self.phi(picked[places]), weights[places]
        own = mean_kernel(few, few, self.bandwidth, shares, shares)
        return round(own + self._own - 2 * mean_kernel(few, self._phi, self.bandwidth, shares), _DIGITS)

    def nearest(self, picked: Indices) -> Floats:
        """Return the distance of each reference patch to the nearest chosen one, in median distances."""
        chosen = self.phi(picked)
        step = max(1, _BLOCK_VALUES // len(chosen))
        parts = [
            np.sqrt(_squared_distances(self._phi[at : at + step], chosen).min(axis=1))
            for at in range(0, len(self._phi), step)
        ]
        return np.round(np.concatenate(parts) / self.bandwidth, _ROOT_DIGITS)

    def prepare_coverage(self, rank: int) -> None:
        """Fit the similarity to the reference patches: what a subset covers does not depend on what it is compared with."""
        self._similarity = fit_spaces(self._features(self.reference), rank)

    def coverage(self, picked: Indices) -> float:
        """Return the mean over reference patches of the similarity to the most similar chosen one, 0..1."""
        if self._similarity is None:
            raise AssertionError("prepare_coverage comes first")
        spaces, reference = self._similarity
        chosen = self._features(picked)
        points = [space.points(values) for space, values in zip(spaces, (chosen.rows, chosen.descriptors), strict=True)]
        both = zip(reference.parts, points, strict=True)
        kernel = Kernel(parts=tuple(np.concatenate([theirs, own]) for theirs, own in both))
        left, right = np.split(np.arange(len(kernel)), [len(reference)])
        step = max(1, _BLOCK_VALUES // len(right))
        total = sum(
            float(kernel.between(left[at : at + step], right).max(axis=1).sum()) for at in range(0, len(left), step)
        )
        return round(total / len(left), _DIGITS)

    def _features(self, indices: Indices) -> Features:
        rows, descriptors = np.asarray(self._table.rows[indices]), np.asarray(self._table.descriptors[indices])
        return Features(rows=rows, descriptors=descriptors)

    def null(self, num: int, seed: int) -> Null:
        """Measure random subsets of `num` patches."""
        rng = np.random.default_rng([seed, num])
        draws = [np.sort(rng.choice(len(self._table), num, replace=False)) for _ in range(NUM_DRAWS)]
        both = np.array([self.mmd2(draw) for draw in draws])
        is_cheap = self.is_exact and NUM_DRAWS * num * len(self._table) <= _MAX_PRODUCTS
        coverage = [self.coverage(draw) for draw in draws] if is_cheap and self._similarity is not None else []
        return Null(mmd2=both[:, 0], biased=both[:, 1], coverage=np.array(coverage, dtype=np.float64))


def principal_axes(rows_ND: NDArray[np.floating], rank: int) -> tuple[Floats, Floats]:
    """Return mean and principal axes (D, r) of rows; each axis's largest part is positive."""
    sample = np.asarray(rows_ND, dtype=np.float64)
    mean = sample.mean(axis=0)
    return mean, _principal(sample - mean, rank)


def _without_own(mean: float, num: int) -> float:
    """Turn the mean over all pairs into that over pairs of different rows: the kernel of a row with itself is 1."""
    return (mean * num - 1) / (num - 1) if num > 1 else float("nan")


def _mixture(left_ND: Floats, right_ND: Floats, bandwidth: float) -> Floats:
    kernel = np.exp(_squared_distances(left_ND, right_ND) / (-_WIDEST * bandwidth * bandwidth))
    total = kernel.copy()
    for _ in range(NUM_SQUARINGS):
        kernel *= kernel
        total += kernel
    total /= NUM_SQUARINGS + 1
    return total


def _squared_distances(left: Floats, right: Floats) -> Floats:
    squares = (left * left).sum(axis=1)[:, None] + (right * right).sum(axis=1)
    return np.asarray(np.maximum(squares - 2 * (left @ right.T), 0.0))


def _shares(weights: Floats | None, num: int) -> Floats:
    return np.full(num, 1 / num) if weights is None else weights / weights.sum()


def _principal(centred_ND: Floats, rank: int) -> Floats:
    _, vectors = np.linalg.eigh(centred_ND.T @ centred_ND)
    axes = vectors[:, ::-1][:, : min(rank, max(1, len(centred_ND) - 1), centred_ND.shape[1])]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    return np.asarray(axes * np.where(largest < 0, -1.0, 1.0), dtype=np.float64)


def _median_distance(rows_ND: Floats) -> float:
    """Return the median distance of at most 2,000 evenly spaced rows; 1 where all rows are equal."""
    sample = rows_ND[:: -(-len(rows_ND) // _MEDIAN_ROWS)]
    above = np.triu_indices(len(sample), k=1)
    distances = np.sqrt(_squared_distances(sample, sample)[above])
    median = float(np.median(distances)) if len(distances) else 0.0
    return median if median > 0 else 1.0


def _evenly(indices: Indices, num: int) -> Indices:
    """Take at most `num` of the indices, evenly spaced."""
    if len(indices) <= num:
        return indices
    return indices[np.linspace(0, len(indices) - 1, num).round().astype(np.int64)]
