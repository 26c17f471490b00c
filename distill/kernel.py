"""How alike two patches are: half by what an encoder sees, half by brightness and fine detail.

kappa(i, j) = 0.5 exp(-|z_i - z_j|^2 / 2 h_z^2) + 0.5 exp(-|l_i - l_j|^2 / 2 h_l^2), h the median distance in a sample.

Source: spec/tripled.md section 4.2; ours: the rank of z is at most N / 8, because whitening to N - 1 dimensions makes
every pair of rows equally far apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .selection import Features, Indices

_ROWS_PER_RANK = 8  # ours, see above
_MEDIAN_ROWS = 2000  # spec/tripled.md section 4.2
_MIN_EIGENVALUE_SHARE = 1e-9  # of the largest: below is rounding
_BLOCK_VALUES = 1 << 22  # similarities in memory at once: 32 MiB of float64


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Similarities in [0, 1]; 1 for equal rows.

    Attributes:
        parts: arrays (N, r) scaled so that similarity falls with exp(-squared distance), one per half.
    """

    parts: tuple[NDArray[np.float64], ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def between(self, left: Indices, right: Indices) -> NDArray[np.float64]:
        """Return the (len(left), len(right)) similarities."""
        total = np.zeros((len(left), len(right)))
        for part in self.parts:
            total += np.exp(-_squared_distances(part[left], part[right]))
        total /= len(self.parts)
        return total

    def gains(self, reference: Indices, candidates: Indices, covered: NDArray[np.float64]) -> NDArray[np.float64]:
        """Say how much each candidate would add to the coverage of the reference rows.

        Args:
            reference: rows to be covered.
            candidates: rows that might be chosen.
            covered: (len(reference),) similarity of each reference row to its nearest chosen row, 0 at the start.

        Returns:
            (len(candidates),) sums of max(0, kappa - covered), rounded so that equal rows gain equally on any machine.
        """
        step = max(1, _BLOCK_VALUES // max(1, len(reference)))
        sums = [
            np.maximum(self.between(candidates[start : start + step], reference) - covered, 0).sum(axis=1)
            for start in range(0, len(candidates), step)
        ]
        return np.round(np.concatenate(sums), 9) if sums else np.zeros(0)


def fit_kernel(features: Features, max_rank: int) -> Kernel:
    """Make the kernel of a task from all of its rows.

    Args:
        features: encoder rows and low-level descriptors.
        max_rank: most dimensions the whitened rows keep.
    """
    whitened = whiten(features.rows, min(max_rank, max(1, len(features) // _ROWS_PER_RANK)))
    return Kernel(parts=(_scaled(whitened), _scaled(standardise(features.descriptors))))


def standardise(values_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """Give every column mean 0 and standard deviation 1; a constant column becomes 0."""
    centred = values_ND - values_ND.mean(axis=0, dtype=np.float64)
    deviation = centred.std(axis=0)
    return np.asarray(np.where(deviation > 0, centred / np.where(deviation > 0, deviation, 1.0), 0.0), dtype=np.float64)


def whiten(rows_ND: NDArray[np.float32], rank: int) -> NDArray[np.float64]:
    """Turn rows into at most `rank` uncorrelated columns of equal variance (PCA of the standardised rows)."""
    standard = standardise(rows_ND)
    values, vectors = np.linalg.eigh(standard.T @ standard / len(standard))
    kept = np.flatnonzero(values > max(values[-1], 0) * _MIN_EIGENVALUE_SHARE)[::-1][:rank]
    if not len(kept):
        return np.zeros((len(standard), 1))
    return np.asarray(standard @ (vectors[:, kept] / np.sqrt(values[kept])), dtype=np.float64)


def _scaled(values_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide by sqrt(2) h, h being the median distance of at most 2,000 rows spread evenly over the order."""
    sample = values_ND[:: -(-len(values_ND) // _MEDIAN_ROWS)]
    above = np.triu_indices(len(sample), k=1)
    distances = np.sqrt(_squared_distances(sample, sample)[above])
    median = float(np.median(distances)) if len(distances) else 0.0
    return values_ND / (np.sqrt(2) * median) if median > 0 else values_ND


def _squared_distances(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    product = left @ right.T
    squares = (left * left).sum(axis=1)[:, None] + (right * right).sum(axis=1)
    return np.asarray(np.maximum(squares - 2 * product, 0.0))
