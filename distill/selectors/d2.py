"""Choose complex patches in dense places, and after each pick think less of its neighbours.

Forward: s_i + sum over the k nearest j of exp(-d_ij) s_j. Then always the largest; its neighbours j lose exp(-gamma d_ij) times
its value. The most complex are cut off first.

Distances are of whitened encoder rows in units of their median (ours: exp(-d) needs a unit, the paper's features have their
own). Negative scores are raised until the lowest is 0, else damping would lift neighbours. Above 20,000 rows neighbours are
sought within cells that lie together (`distill.partition`), so that cost grows with N; picks are of the whole corpus.

Source: D2 pruning (Maharana, Yadav, Bansal, ICLR 2024, arXiv 2310.07931), graph mode `sum`, weighted sampling of its code;
k = 5, gamma = 0.1, mis-ratio 0.4 from its readme (spec/tripled.md section 2c).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError

from ..blocks import one_blas_thread, ordered_map
from ..kernel import encoder_points, negative_squares
from ..partition import CellConfig, cells_of
from ..selection import Features, Indices, Selection, check_request
from ..strata import without_ends

_BLOCK_ROWS = 256  # whose distances to a cell are in memory at once
_DECIMALS = 9  # of a squared distance or a value: the rest is rounding
_NO_ROW = -1  # fewer rows than neighbours


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Message passing on a graph of nearest neighbours.

    Attributes:
        num_neighbours: edges a row.
        gamma: how fast damping falls with distance.
        mis_ratio_frac: share of the most complex rows never chosen; less where the budget needs them.
        rank: most dimensions of the whitened encoder rows.
        exact_rows: above this many rows, neighbours within cells.
        cells: their sizes.
    """

    name: ClassVar[str] = "d2"
    needs: ClassVar[tuple[str, ...]] = ()
    num_neighbours: int = 5  # D2's readme
    gamma: float = 0.1  # D2's readme
    mis_ratio_frac: float = 0.4  # D2's readme, at 10 %
    rank: int = 64  # spec 4.2
    exact_rows: int = 20_000  # spec 4.3
    cells: CellConfig = field(default_factory=CellConfig)

    def __post_init__(self) -> None:
        for name in ("num_neighbours", "rank", "exact_rows"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"d2.{name} must be >= 1, got {getattr(self, name)}")
        if not self.gamma >= 0:
            raise ConfigError(f"d2.gamma must be >= 0, got {self.gamma}")
        if not 0 <= self.mis_ratio_frac < 1:
            raise ConfigError(f"d2.mis_ratio_frac must lie in [0, 1), got {self.mis_ratio_frac}")

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose `num` rows; gains are their values when picked. Groups and rng are not used."""
        check_request(features, scores, groups, num)
        kept = np.sort(without_ends(scores, 0.0, self.mis_ratio_frac, num))
        points = encoder_points(features, self.rank)[kept]
        cells = [np.arange(len(points), dtype=np.int64)]
        if len(points) > self.exact_rows:
            cells = cells_of([points], self.cells)
        neighbours, distances = _graph(points, cells, self.num_neighbours)
        importance = scores[kept] - min(0.0, float(scores.min()))
        picked, values = _pick(importance, neighbours, distances, self.gamma, num)
        return Selection(indices=kept[picked], strata=Selection.plain(picked).strata, gains=values)


def _graph(points_ND: NDArray[np.float32], cells: list[Indices], num: int) -> tuple[Indices, NDArray[np.float64]]:
    """Return the nearest rows of each row, (N, num), and how far they are; -1 and infinity where a cell has fewer rows."""
    neighbours = np.full((len(points_ND), num), _NO_ROW, np.int64)
    distances = np.full((len(points_ND), num), np.inf)
    parts = [(cell, start) for cell in cells for start in range(0, len(cell), _BLOCK_ROWS)]

    def look(part: tuple[Indices, int]) -> None:
        cell, start = part
        rows = cell[start : start + _BLOCK_ROWS]
        squares = np.round(
            -negative_squares(points_ND[rows].astype(np.float64), points_ND[cell].astype(np.float64)), _DECIMALS
        )
        here = np.arange(len(rows))
        squares[here, start + here] = np.inf  # no neighbour of itself
        for column in range(min(num, len(cell) - 1)):
            at = np.argmin(squares, axis=1)  # of equally near ones the earlier row
            neighbours[rows, column] = cell[at]
            distances[rows, column] = np.sqrt(2 * squares[here, at])  # points are in units of sqrt(2) h
            squares[here, at] = np.inf

    with one_blas_thread():
        for _ in ordered_map(look, parts):
            pass
    return neighbours, distances


def _pick(
    scores: NDArray[np.float64], neighbours: Indices, distances: NDArray[np.float64], gamma: float, num: int
) -> tuple[Indices, NDArray[np.float64]]:
    """Pass messages forward, then pick the largest again and again; of equal values the earlier row."""
    scale = float(scores.max()) or 1.0
    scores = scores / scale
    is_edge = neighbours != _NO_ROW
    messages = np.where(is_edge, np.exp(-distances) * scores[neighbours], 0.0)
    value = np.round(scores + messages.sum(axis=1), _DECIMALS)
    damping = np.exp(-gamma * np.where(is_edge, distances, 0.0))
    is_free = np.ones(len(scores), np.bool_)
    heap = list(zip((-value).tolist(), range(len(value)), strict=True))
    heapq.heapify(heap)
    picked: list[int] = []
    gains: list[float] = []
    while len(picked) < num:
        negative, row = heapq.heappop(heap)
        if not is_free[row] or -negative != value[row]:
            continue  # an entry from before its value changed
        is_free[row] = False
        picked.append(row)
        gains.append(-negative)
        for other, share, edge in zip(
            neighbours[row].tolist(), damping[row].tolist(), is_edge[row].tolist(), strict=True
        ):
            if edge and is_free[other]:
                value[other] = round(value[other] + share * negative, _DECIMALS)
                heapq.heappush(heap, (-float(value[other]), other))
    return np.array(picked, np.int64), scale * np.array(gains)
