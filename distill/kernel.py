"""How alike two patches are: half by what an encoder sees, half by brightness and fine detail.

kappa(i, j) = 0.5 exp(-|z_i - z_j|^2 / 2 h_z^2) + 0.5 exp(-|l_i - l_j|^2 / 2 h_l^2), h the median distance in a sample.

Encoder rows are read in blocks, three times at most (finite? moments, projection): of N rows in memory there is only the
whitened float32 array, 256 bytes a row. Never is there an N x N matrix.

Source: spec/tripled.md section 4.2; ours: the rank of z is at most N / 8, because whitening to N - 1 dimensions makes
every pair of rows equally far apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .blocks import map_rows, one_blas_thread
from .selection import Features, Indices

_ROWS_PER_RANK = 8  # ours, see above
_MEDIAN_ROWS = 2000  # spec/tripled.md section 4.2
_MIN_EIGENVALUE_SHARE = 1e-9  # of the largest: below is rounding
_TILE = 512  # rows and columns of a float32 tile: 1 MiB, a core's cache

Float = type[np.float32] | type[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Similarities in [0, 1]; 1 for equal rows.

    Attributes:
        parts: arrays (N, r) float32 scaled so that similarity falls with exp(-squared distance), one per half: the
            whitened encoder rows, then the descriptors.
    """

    parts: tuple[NDArray[np.float32], ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def between(self, left: Indices, right: Indices, dtype: Float = np.float64) -> NDArray[np.floating]:
        """Return the (len(left), len(right)) similarities, computed in `dtype`."""
        total = np.zeros((len(left), len(right)), dtype)
        for part in self.parts:
            exponent = negative_squares(part[left].astype(dtype), part[right].astype(dtype))
            total += np.exp(exponent, out=exponent)
        total *= dtype(1 / len(self.parts))
        return total

    def dense(self, rows: Indices) -> NDArray[np.float32]:
        """Return the (n, n) similarities of a few thousand rows: 4 n^2 bytes. Equal rows have equal bits."""
        parts = [part[rows] for part in self.parts]
        num = len(rows)
        matrix = np.empty((num, num), np.float32)
        for top in range(0, num, _TILE):
            for left in range(top, num, _TILE):
                tile = np.zeros((min(_TILE, num - top), min(_TILE, num - left)), np.float32)
                for part in parts:
                    exponent = negative_squares(part[top : top + _TILE], part[left : left + _TILE])
                    tile += np.exp(exponent, out=exponent)
                tile *= np.float32(1 / len(parts))
                if left == top:
                    tile = np.tril(tile) + np.tril(tile, -1).T
                matrix[top : top + len(tile), left : left + tile.shape[1]] = tile
                matrix[left : left + tile.shape[1], top : top + len(tile)] = tile.T
        first = _first_equal(np.concatenate(parts, axis=1))
        repeated = np.flatnonzero(first != np.arange(num))  # a product may round a row otherwise in another place
        matrix[repeated] = matrix[first[repeated]]
        matrix[:, repeated] = matrix[:, first[repeated]]
        return matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Where rows are points whose squared distances are a kernel's exponents; fitted once, for any rows.

    Attributes:
        mean: (D,) float64.
        matrix: (D, r) float64.
        scale: sqrt(2) h.
    """

    mean: NDArray[np.float64]
    matrix: NDArray[np.float64]
    scale: np.float32

    def points(self, values_ND: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return (N, r) float32; a row's point does not depend on which other rows are asked for beyond rounding."""
        out = _projected(values_ND, self.mean, self.matrix)
        out /= self.scale
        return out


def fit_kernel(features: Features, max_rank: int) -> Kernel:
    """Make the kernel of a task from all of its rows.

    Args:
        features: encoder rows and low-level descriptors.
        max_rank: most dimensions the whitened rows keep.
    """
    return Kernel(parts=(encoder_points(features, max_rank), _scaled(standardise(features.descriptors))))


def fit_spaces(features: Features, max_rank: int) -> tuple[tuple[Space, Space], Kernel]:
    """Make the kernel as `fit_kernel` does, and the two spaces in which other rows can be compared with its own."""
    with one_blas_thread():
        fitted = (_whitening(features.rows, _rank(features, max_rank)), _standardising(features.descriptors))
    values = (features.rows, features.descriptors)
    raw = [_projected(rows, *space) for rows, space in zip(values, fitted, strict=True)]
    scales = [_scale(points) for points in raw]
    whitened, standardised = (
        Space(mean=mean, matrix=matrix, scale=scale) for (mean, matrix), scale in zip(fitted, scales, strict=True)
    )
    parts = tuple(np.divide(points, scale, out=points) for points, scale in zip(raw, scales, strict=True))
    return (whitened, standardised), Kernel(parts=parts)


def encoder_points(features: Features, max_rank: int) -> NDArray[np.float32]:
    """Return z / (sqrt(2) h_z): the whitened encoder rows, (N, r) float32, in the kernel's units."""
    return _scaled(whiten(features.rows, _rank(features, max_rank)))


def standardise(values_ND: NDArray[np.floating]) -> NDArray[np.float32]:
    """Give every column mean 0 and standard deviation 1; a constant column becomes 0."""
    with one_blas_thread():
        mean, matrix = _standardising(values_ND)
    return _projected(values_ND, mean, matrix)


def whiten(rows_ND: NDArray[np.floating], rank: int) -> NDArray[np.float32]:
    """Turn rows into at most `rank` uncorrelated columns of equal variance (PCA of the standardised rows)."""
    with one_blas_thread():
        mean, matrix = _whitening(rows_ND, rank)
    return _projected(rows_ND, mean, matrix)


def negative_squares(left: NDArray[np.floating], right: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return minus the squared distances, (len(left), len(right)), at most 0."""
    product = left @ right.T
    product *= 2
    # their sum first: it is the same when left and right change places
    product -= np.einsum("nd,nd->n", left, left)[:, None] + np.einsum("nd,nd->n", right, right)
    return np.minimum(product, 0, out=product)


def _rank(features: Features, max_rank: int) -> int:
    return min(max_rank, max(1, len(features) // _ROWS_PER_RANK))


def _standardising(values_ND: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean, covariance = _moments(values_ND)
    return mean, np.diag(_inverse_deviation(covariance))


def _whitening(rows_ND: NDArray[np.floating], rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean, covariance = _moments(rows_ND)
    scale = _inverse_deviation(covariance)
    values, vectors = np.linalg.eigh(scale[:, None] * covariance * scale)
    kept = np.flatnonzero(values > max(values[-1], 0) * _MIN_EIGENVALUE_SHARE)[::-1][:rank]
    if not len(kept):  # nothing varies: every point is 0
        return mean, np.zeros((len(mean), 1))
    return mean, scale[:, None] * (vectors[:, kept] / np.sqrt(values[kept]))


def _moments(values_ND: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and covariance in float64, one pass; shifted by the first row, so that a constant column has variance 0."""
    dim = values_ND.shape[1]
    shift = values_ND[0].astype(np.float64)

    def look(block: NDArray[np.floating], _: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        shifted = block.astype(np.float64)
        shifted -= shift
        return shifted.sum(axis=0), shifted.T @ shifted

    total, products = np.zeros(dim), np.zeros((dim, dim))
    for block_total, block_products in map_rows(look, values_ND):
        total += block_total
        products += block_products
    mean = total / len(values_ND)
    return mean + shift, products / len(values_ND) - np.outer(mean, mean)


def _inverse_deviation(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    variance = np.maximum(np.diag(covariance), 0)
    return np.asarray(np.where(variance > 0, 1 / np.sqrt(np.where(variance > 0, variance, 1.0)), 0.0))


def _projected(
    values_ND: NDArray[np.floating], mean: NDArray[np.float64], matrix: NDArray[np.float64]
) -> NDArray[np.float32]:
    out = np.empty((len(values_ND), matrix.shape[1]), np.float32)

    def put(block: NDArray[np.floating], where: slice) -> None:
        out[where] = (block.astype(np.float64) - mean) @ matrix

    with one_blas_thread():
        for _ in map_rows(put, values_ND):
            pass
    return out


def _scaled(values_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide in place by sqrt(2) h."""
    values_ND /= _scale(values_ND)
    return values_ND


def _scale(values_ND: NDArray[np.float32]) -> np.float32:
    """Return sqrt(2) h, h being the median distance of at most 2,000 rows spread evenly over the order; 1 if it is 0."""
    sample = values_ND[:: -(-len(values_ND) // _MEDIAN_ROWS)].astype(np.float64)
    above = np.triu_indices(len(sample), k=1)
    with one_blas_thread():
        distances = np.sqrt(-negative_squares(sample, sample)[above])
    median = float(np.median(distances)) if len(distances) else 0.0
    return np.float32(np.sqrt(2) * median) if median > 0 else np.float32(1)


def _first_equal(rows_ND: NDArray[np.float32]) -> Indices:
    """For every row the place of the first row that is equal to it: (N,) int64."""
    whole = np.ascontiguousarray(rows_ND + np.float32(0))  # -0.0 becomes 0.0
    as_bytes = whole.view(np.dtype((np.void, whole.shape[1] * whole.itemsize))).ravel()
    _, first, owner = np.unique(as_bytes, return_index=True, return_inverse=True)
    return np.asarray(first[owner], dtype=np.int64)
