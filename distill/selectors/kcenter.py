"""Choose patches so that none is far from a chosen one: always the farthest next.

The first is the one nearest to the mean, so that nothing depends on the order of rows. Rows are whitened encoder rows.
Outliers come first by nature: a baseline, not a default.

Above 20,000 rows they are split into cells that lie together (`distill.partition`); the farthest row of all cells is picked,
but only distances within its cell are brought up to date, so that cost grows with N and not with N times the budget.

Source: Gonzalez 1985; as a coreset: Sener and Savarese, ICLR 2018; spec/tripled.md section 4.3.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError

from ..blocks import map_rows, one_blas_thread
from ..kernel import encoder_points
from ..partition import CellConfig, cells_of
from ..selection import Features, Indices, Selection, check_request

_PICKED = -1.0  # nearer than any


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Greedy k-center.

    Attributes:
        rank: most dimensions of the whitened encoder rows.
        exact_rows: above this many rows, in cells.
        cells: their sizes.
    """

    name: ClassVar[str] = "kcenter"
    needs: ClassVar[tuple[str, ...]] = ()
    rank: int = 64  # spec 4.2
    exact_rows: int = 20_000  # spec 4.3
    cells: CellConfig = field(default_factory=CellConfig)

    def __post_init__(self) -> None:
        for name in ("rank", "exact_rows"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"kcenter.{name} must be >= 1, got {getattr(self, name)}")

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose `num` rows; gains are the distances to the rows chosen before. Scores, groups and rng are not used."""
        check_request(features, scores, groups, num)
        points = encoder_points(features, self.rank)
        cells = [np.arange(len(points), dtype=np.int64)]
        if len(points) > self.exact_rows:
            cells = cells_of([points], self.cells)
        with one_blas_thread():
            return _farthest_first(points, cells, num)


def _farthest_first(points_ND: NDArray[np.float32], cells: list[Indices], num: int) -> Selection:
    first = int(np.argmin(_squares(points_ND, points_ND.mean(axis=0, dtype=np.float64).astype(np.float32))))
    nearest = _squares(points_ND, points_ND[first])  # of each row, to the picks of its cell and to the first
    cell_of = np.empty(len(points_ND), np.int64)
    for number, cell in enumerate(cells):
        cell_of[cell] = number
    nearest[first] = _PICKED
    heap = [_farthest(nearest, cell) for cell in cells]
    heapq.heapify(heap)
    picked, gains = [first], [0.0]
    while len(picked) < num:
        negative, row = heapq.heappop(heap)
        picked.append(row)
        gains.append(float(np.sqrt(-negative)))
        cell = cells[cell_of[row]]
        nearest[cell] = np.minimum(nearest[cell], _block_squares(points_ND[cell], points_ND[row]))
        nearest[row] = _PICKED
        heapq.heappush(heap, _farthest(nearest, cell))
    return Selection(
        indices=np.array(picked, np.int64), strata=Selection.plain(np.array(picked)).strata, gains=np.array(gains)
    )


def _farthest(nearest: NDArray[np.float32], cell: Indices) -> tuple[float, int]:
    """Return (minus squared distance, row): heaps put the farthest first, of equally far ones the earlier row."""
    at = int(np.argmax(nearest[cell]))
    return -float(nearest[cell[at]]), int(cell[at])


def _squares(points_ND: NDArray[np.float32], centre_D: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate(list(map_rows(lambda block, _: _block_squares(block, centre_D), points_ND)))


def _block_squares(points_ND: NDArray[np.float32], centre_D: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared distances by differences, not by products: 0 for equal rows, and equal for equal rows."""
    away = points_ND - centre_D
    return np.asarray(np.einsum("nd,nd->n", away, away))
