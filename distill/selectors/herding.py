"""Choose patches whose mean stays as close to the corpus's mean as it can.

Pick t + 1 is argmin over x of |(t + 1) mu - sum of the chosen - x|. DeepCore's code takes the argmax, the farthest row: three
times worse than random choice (spec/tripled.md section 2c).

Rows are whitened encoder rows. Above 20,000 rows they are split into cells that lie together (`distill.partition`), each
cell gets its share of the budget and its own mean, so that cost grows with N and not with N times the budget.

Source: Welling, ICML 2009; spec/tripled.md section 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError

from ..blocks import one_blas_thread, ordered_map
from ..kernel import encoder_points
from ..partition import CellConfig, cells_of
from ..selection import Features, Indices, Selection, check_request
from ..strata import largest_remainder

_DECIMALS = 9  # the rest is rounding: equal rows are equally near


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Herding, the argmin form.

    Attributes:
        rank: most dimensions of the whitened encoder rows.
        exact_rows: above this many rows, in cells.
        cells: their sizes.
    """

    name: ClassVar[str] = "herding"
    needs: ClassVar[tuple[str, ...]] = ()
    rank: int = 64  # spec 4.2
    exact_rows: int = 20_000  # spec 4.3
    cells: CellConfig = field(default_factory=CellConfig)

    def __post_init__(self) -> None:
        for name in ("rank", "exact_rows"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"herding.{name} must be >= 1, got {getattr(self, name)}")

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose `num` rows; scores, groups and rng are not used."""
        check_request(features, scores, groups, num)
        points = encoder_points(features, self.rank)
        cells = [np.arange(len(points), dtype=np.int64)]
        if len(points) > self.exact_rows:
            cells = cells_of([points], self.cells)
        budgets = largest_remainder([len(cell) for cell in cells], num)
        with one_blas_thread():
            herds = ordered_map(
                lambda part: part[0][_herd(points[part[0]], part[1])], list(zip(cells, budgets, strict=True))
            )
            return Selection.plain(np.concatenate(list(herds)))


def _herd(points_ND: NDArray[np.float32], num: int) -> Indices:
    points = points_ND.astype(np.float64)
    mean = points.mean(axis=0)
    half_squares = np.einsum("nd,nd->n", points, points) / 2
    is_free = np.ones(len(points), np.bool_)
    debt = np.zeros(points.shape[1])
    picked = np.empty(num, np.int64)
    for turn in range(num):
        debt += mean
        nearness = np.round(half_squares - points @ debt, _DECIMALS)  # |debt - x|^2 / 2 without the constant
        picked[turn] = np.argmin(np.where(is_free, nearness, np.inf))
        is_free[picked[turn]] = False
        debt -= points[picked[turn]]
    return picked
