"""Pairs of pictures that show the same, by their embeddings: the nearest rows above a cosine, without comparing every pair.

Rows are sorted into cells (spherical k-means by faiss, about a thousand rows a cell, so that the number of cells grows with N
and the work a row does not), and each is compared with all rows of the few cells whose centres are nearest to it. Inside a cell
that is a matrix product of float32 blocks, read from the features as they lie on disk: faiss's own inverted lists would hold a
copy of all rows in memory and scan them row by row (times of both: benchmarks/bench_dedup_scale.py). Up to `exact_rows` rows
there is one cell, and the result is exact.

`probes=1` is SemDeDup's rule, pairs inside one cluster only: the fastest, and it misses pairs that a border parts.

Source: Abbas, Tirumala, Simig, Ganguli, Morcos 2023, SemDeDup, section 3; Sivic and Zisserman 2003 for inverted lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError, NumericsError

EXACT_ROWS = 100_000  # below this every pair is compared: 5e9 products of 384, under a minute on two cores
ROWS_PER_CELL = 1000  # cost a row: N / ROWS_PER_CELL centres and probes * ROWS_PER_CELL rows; equal at N = 4 million
SAMPLE_PER_CELL = 64  # rows that k-means sees a cell; faiss asks for at least 39
KMEANS_ITER = 10  # faiss's own default is 25; recall did not change above 8
BLOCK_ROWS, BLOCK_COLUMNS = 1024, 4096  # 16 MB of products at a time
HELD_PAIRS = (
    1 << 22
)  # found pairs are thinned to the nearest when there are so many (80 MB), and twice as many as the last time
ASSIGN_ROWS = 1 << 14
MAX_COSINE = 1.0

_Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Near:
    """Pairs of rows, sorted by first, then second.

    Attributes:
        first, second: (P,) int64, first < second.
        cosine: (P,) float32.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    cosine: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearConfig:
    """What counts as near, and how hard to look.

    Attributes:
        min_cosine: pairs below it are left out.
        num_nearest: of each row at most so many, the nearest; a pair is kept if either row wants it.
        probes: cells that each row is compared with.
        seed: of the sample and of k-means.
        exact_rows: up to so many rows every pair is compared.
        rows_per_cell: mean size of a cell.
        threads: of faiss and of BLAS.
    """

    min_cosine: float = 0.95  # SemDeDup's epsilon of 0.05
    num_nearest: int = 16
    probes: int = 4
    seed: int = 0
    exact_rows: int = EXACT_ROWS
    rows_per_cell: int = ROWS_PER_CELL
    threads: int = 2

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: a field out of its range.
        """
        if not -MAX_COSINE <= self.min_cosine <= MAX_COSINE:
            raise ConfigError(f"min_cosine must be in -1..1, got {self.min_cosine}")
        for name in ("num_nearest", "probes", "exact_rows", "rows_per_cell", "threads"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")


def nearest_above(features: NDArray[np.floating], config: NearConfig) -> Near:
    """Find near pairs of rows.

    Args:
        features: (N, D) float16 or float32, an array or a memory map; rows of any length but 0, scaled here, in blocks.
        config: threshold and effort.

    Returns:
        Near pairs, each once; exact up to `config.exact_rows` rows, above that a row may miss pairs across cell borders.

    Raises:
        NumericsError: a row of zeros, or one that holds NaN or infinity.
        ConfigError: not a two-dimensional array of floats.
    """
    from threadpoolctl import threadpool_limits

    if features.ndim != 2 or features.dtype.kind != "f":
        raise ConfigError(f"features must be an (N, D) array of floats, got {features.dtype} of shape {features.shape}")
    with threadpool_limits(config.threads):
        if len(features) <= config.exact_rows:
            cells = [(np.arange(len(features)), np.empty(0, np.int64))]
            return _join(features, iter(cells), config)
        return _join(features, _by_cell(assign_cells(features, config)), config)


def assign_cells(features: NDArray[np.floating], config: NearConfig) -> NDArray[np.int32]:
    """Find the nearest cells of each row.

    Returns:
        (N, probes) int32: cell numbers, the nearest first.

    Raises:
        NumericsError: a row of zeros, or one that holds NaN or infinity.
    """
    import faiss

    faiss.omp_set_num_threads(config.threads)
    num = max(1, round(len(features) / config.rows_per_cell))
    rng = np.random.default_rng(config.seed)
    sample = np.sort(rng.choice(len(features), min(len(features), num * SAMPLE_PER_CELL), replace=False))
    kmeans = faiss.Kmeans(
        features.shape[1], num, niter=KMEANS_ITER, seed=config.seed, spherical=True,
        max_points_per_centroid=SAMPLE_PER_CELL, min_points_per_centroid=1,
    )  # fmt: skip
    kmeans.train(_unit_rows(features, sample))
    probes = min(config.probes, num)
    cells = np.empty((len(features), probes), np.int32)
    for first in range(0, len(features), ASSIGN_ROWS):
        rows = _unit_rows(features, slice(first, first + ASSIGN_ROWS))
        cells[first : first + ASSIGN_ROWS] = kmeans.index.search(rows, probes)[1]
    return cells


def _unit_rows(features: NDArray[np.floating], chosen: NDArray[np.int64] | slice) -> NDArray[np.float32]:
    """Return the chosen rows in float32, each of length 1."""
    rows = np.asarray(features[chosen], np.float32)
    length = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    if not np.all((length > 0) & np.isfinite(length)):
        at = int(np.flatnonzero(~((length > 0) & np.isfinite(length)))[0])
        row = at + (chosen.start or 0) if isinstance(chosen, slice) else int(chosen[at])
        raise NumericsError(f"row {row} of the features has length {length[at]}; wanted finite numbers, not all 0")
    rows /= length[:, None]
    return rows


def _by_cell(cells: NDArray[np.int32]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield for each cell the rows that live there, and those that have it among their other cells."""
    flat = cells.ravel()
    order = np.argsort(flat, kind="stable")
    stops = np.cumsum(np.bincount(flat))
    for start, stop in zip(np.concatenate([[0], stops[:-1]]), stops, strict=True):
        row, choice = np.divmod(order[start:stop], cells.shape[1])
        yield row[choice == 0], row[choice > 0]


def _join(
    features: NDArray[np.floating], cells: Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]], config: NearConfig
) -> Near:
    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    held, limit = 0, HELD_PAIRS
    for members, visitors in cells:
        for column in range(0, len(members), BLOCK_COLUMNS):
            hosts = members[column : column + BLOCK_COLUMNS]
            host_rows = _unit_rows(features, hosts)
            for rows in (members[: column + BLOCK_COLUMNS], visitors):
                for first in range(0, len(rows), BLOCK_ROWS):
                    guests = rows[first : first + BLOCK_ROWS]
                    found.append(_near(_unit_rows(features, guests) @ host_rows.T, guests, hosts, config))
                    held += len(found[-1][0])
                    if held > limit:
                        found = [_nearest(found, config.num_nearest)]
                        held = len(found[0][0])
                        limit = max(HELD_PAIRS, 2 * held)
    return Near(*_nearest(found, config.num_nearest))


def _near(
    cosine: NDArray[np.float32], guests: NDArray[np.int64], hosts: NDArray[np.int64], config: NearConfig
) -> _Pairs:
    """Pick what is above the threshold; a crowd (thousands of like rows) is thinned to the nearest of each row at once."""
    _, mine, theirs = np.intersect1d(guests, hosts, assume_unique=True, return_indices=True)
    cosine[mine, theirs] = -np.inf  # a row is no neighbour of itself
    if np.count_nonzero(cosine >= config.min_cosine) > sum(cosine.shape) * config.num_nearest:
        at = _crowd(cosine, config.num_nearest)
        at = at[cosine.ravel()[at] >= config.min_cosine]
    else:
        at = np.flatnonzero(cosine >= config.min_cosine)
    one, two = np.divmod(at, len(hosts))
    return guests[one], hosts[two], cosine.ravel()[at]


def _crowd(cosine: NDArray[np.float32], num_nearest: int) -> NDArray[np.int64]:
    """Return the flat indices of the largest of each row and of each column."""
    height, width = cosine.shape
    flat = np.arange(height * width).reshape(height, width)
    by_row = np.argpartition(cosine, -min(num_nearest, width), axis=1)[:, -num_nearest:]
    by_column = np.argpartition(cosine, -min(num_nearest, height), axis=0)[-num_nearest:]
    chosen = (np.take_along_axis(flat, by_row, axis=1), np.take_along_axis(flat, by_column, axis=0))
    return np.unique(np.concatenate([part.ravel() for part in chosen]))


def _nearest(found: list[_Pairs], num_nearest: int) -> _Pairs:
    """Make each pair one, sort pairs, and keep those that are among the nearest of either end (equally near: lower index)."""
    left, right, value = (np.concatenate(column) for column in zip(*found, strict=True))
    first, second = np.minimum(left, right), np.maximum(left, right)
    order = np.lexsort((-value, second, first))
    first, second, value = first[order], second[order], value[order]
    new = (np.diff(first, prepend=-1) != 0) | (np.diff(second, prepend=-1) != 0)
    first, second, value = first[new], second[new], value[new]
    keep = np.zeros(len(value), np.bool_)
    for end, other in ((first, second), (second, first)):
        order = np.lexsort((other, -value, end))
        place = np.arange(len(order))
        start = np.maximum.accumulate(np.where(np.diff(end[order], prepend=-1) != 0, place, 0))
        keep[order] |= place - start < num_nearest
    return first[keep], second[keep], value[keep]
