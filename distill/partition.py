"""Millions of rows as cells of a few thousand that lie together, so that the work a row does not grow with N.

faiss's k-means on a bounded sample finds the centres; each row goes to the nearest. Cells that are too small join the one
whose centre is nearest; cells that are too large are halved across their longest axis, which always ends, even when all rows
are equal. Which rows form a cell depends on the rows' order only through the sample.

Source: spec/tripled.md section 4.3, last row (k-means cells of 5,000-20,000 rows); ours: at most 10,000, because the
similarities inside a cell are held in memory (400 MB).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError

from .blocks import BLOCK_ROWS, one_blas_thread, ordered_map, slices
from .selection import Indices

_SAMPLE_PER_CELL = 128  # rows k-means sees a cell; faiss asks for at least 39
_KMEANS_ITER = 10  # as in curate.dedup.semantic: no change above 8
_KMEANS_SEED = 0  # cells are no draw of the user's seed: another seed chooses otherwise from the same cells
_AXIS_ROWS = 4096  # rows that an axis is computed from

Parts = Sequence[NDArray[np.float32]]  # arrays (N, r): a row is what they hold of it, side by side


@dataclass(frozen=True, slots=True, kw_only=True)
class CellConfig:
    """How large cells are.

    Attributes:
        mean_rows: aimed at.
        min_rows: smallest cell, unless there are fewer rows.
        max_rows: largest; at least twice `min_rows`, so that halves are never too small.
    """

    mean_rows: int = 7_000  # ours: measured in benchmarks/results/select-scale_*.json
    min_rows: int = 5_000  # spec 4.3
    max_rows: int = 10_000  # spec 4.3 allows 20,000

    def __post_init__(self) -> None:
        if not 1 <= self.min_rows <= self.mean_rows <= self.max_rows or self.max_rows < 2 * self.min_rows:
            raise ConfigError(
                "cells: wanted 1 <= min_rows <= mean_rows <= max_rows and max_rows >= 2 * min_rows, got "
                f"{self.min_rows}, {self.mean_rows}, {self.max_rows}"
            )


def cells_of(parts: Parts, config: CellConfig) -> list[Indices]:
    """Split all rows into cells.

    Args:
        parts: (N, r) float32 each, finite. Not modified.
        config: sizes.

    Returns:
        Cells, each with rising rows; every row is in one. One cell if there are at most `max_rows` rows.
    """
    num_rows = len(parts[0])
    if num_rows <= config.max_rows:
        return [np.arange(num_rows, dtype=np.int64)]
    with one_blas_thread():
        centres = _centres(parts, max(2, round(num_rows / config.mean_rows)))
        cell_of = _nearest(parts, centres)
        merged = _without_small(centres, np.bincount(cell_of, minlength=len(centres)), config.min_rows)
        cells = _rows_by_cell(merged[cell_of])
        return [half for cell in cells for half in _halved(parts, cell, config.max_rows)]


def _rows(parts: Parts, rows: Indices | slice) -> NDArray[np.float32]:
    return np.hstack([part[rows] for part in parts])


def _centres(parts: Parts, num: int) -> NDArray[np.float32]:
    import faiss

    num_rows = len(parts[0])
    sample = np.arange(0, num_rows, max(1, num_rows // (num * _SAMPLE_PER_CELL)))
    points = _rows(parts, sample)
    kmeans = faiss.Kmeans(
        points.shape[1], num, niter=_KMEANS_ITER, seed=_KMEANS_SEED, min_points_per_centroid=1,
        max_points_per_centroid=2 * _SAMPLE_PER_CELL,
    )  # fmt: skip
    with one_blas_thread():  # faiss brought its own libraries
        kmeans.train(points)
    return np.asarray(kmeans.centroids, np.float32).reshape(num, -1)


def _nearest(parts: Parts, centres: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the number of the nearest centre of each row, of equally near ones the first."""
    half_squares = np.einsum("cd,cd->c", centres, centres) / 2
    out = np.empty(len(parts[0]), np.int32)

    def look(where: slice) -> None:
        out[where] = np.argmin(half_squares - _rows(parts, where) @ centres.T, axis=1)

    for _ in ordered_map(look, slices(len(out), BLOCK_ROWS)):
        pass
    return out


def _without_small(centres: NDArray[np.float32], sizes: NDArray[np.int64], min_rows: int) -> Indices:
    """Say which cell each cell becomes part of: the smallest joins the nearest until none is too small."""
    becomes = np.arange(len(centres))
    middle, size = centres.astype(np.float64), sizes.astype(np.float64)
    alive = np.ones(len(centres), np.bool_)
    while alive.sum() > 1:
        small = int(np.argmin(np.where(alive, size, np.inf)))
        if size[small] >= min_rows:
            break
        squares = ((middle - middle[small]) ** 2).sum(axis=1)
        squares[small] = np.inf
        host = int(np.argmin(np.where(alive, squares, np.inf)))
        together = size[host] + size[small]
        if together > 0:
            middle[host] = (size[host] * middle[host] + size[small] * middle[small]) / together
        size[host], alive[small] = together, False
        becomes[becomes == small] = host
    return becomes


def _rows_by_cell(cell_of: Indices) -> list[Indices]:
    order = np.argsort(cell_of, kind="stable").astype(np.int64)
    counts = np.bincount(cell_of)
    return [cell for cell in np.split(order, np.cumsum(counts)[:-1]) if len(cell)]


def _halved(parts: Parts, cell: Indices, max_rows: int) -> list[Indices]:
    """Halve a cell across its longest axis until no part is too large; rows stay rising."""
    if len(cell) <= max_rows:
        return [cell]
    sample = _rows(parts, cell[:: max(1, len(cell) // _AXIS_ROWS)]).astype(np.float64)
    sample -= sample.mean(axis=0)
    axis = np.linalg.eigh(sample.T @ sample)[1][:, -1]
    axis *= np.sign(axis[np.argmax(np.abs(axis))])  # an eigenvector's sign is an accident
    places = np.concatenate(
        [_rows(parts, cell[where]).astype(np.float64) @ axis for where in slices(len(cell), BLOCK_ROWS)]
    )
    order = np.argsort(np.round(places, 6), kind="stable")  # equal rows stay in row order
    halves = np.split(order, [len(cell) // 2])
    return [part for half in halves for part in _halved(parts, np.sort(cell[half]), max_rows)]
