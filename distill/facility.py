"""Facility location over strata for any number of rows: exact up to 20,000, in cells or by samples above.

`cells` (the default): rows are split into cells that lie together, every cell and stratum gets its share of the budget, and
inside a cell greedy is exact over the cell's own similarities. Work a row is bounded by the cell's size, so cost grows with N.
`stochastic`: one reference sample stands for all rows, and each pick is the best of a fresh sample of candidates. Which is
better is measured in benchmarks/results/select-scale_*.json: a reference of a few thousand rows is used up long before
2 % of a million are chosen.

A group's cap counts over all cells. What a cell cannot give without exceeding it is asked of the next cells, and only what none
can give lets caps rise.

Source: spec/tripled.md section 4.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError

from .blocks import one_blas_thread, ordered_map
from .greedy import Caps, Computed, Picks, Stored, fill, lazy_greedy, stochastic_greedy
from .kernel import Kernel
from .partition import CellConfig, cells_of
from .selection import NO_STRATUM, Indices, Selection
from .strata import largest_remainder

Large = Literal["cells", "stochastic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FacilityConfig:
    """How hard to look for the best rows.

    Attributes:
        selector: whose settings these are, for messages.
        exact_rows: up to so many rows greedy is exact.
        large: what is done above, `cells` or `stochastic`.
        cells: sizes of cells.
        num_reference_rows: rows of the reference sample of `stochastic`.
        miss_frac: what stochastic greedy may lose.
    """

    selector: str
    exact_rows: int
    large: Large
    cells: CellConfig
    num_reference_rows: int
    miss_frac: float

    def __post_init__(self) -> None:
        if self.large not in ("cells", "stochastic"):
            raise ConfigError(f"{self.selector}.large must be cells or stochastic, got {self.large!r}")
        if not 0 < self.miss_frac < 1:
            raise ConfigError(f"{self.selector}.miss_frac must lie in (0, 1), got {self.miss_frac}")
        for name in ("exact_rows", "num_reference_rows"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{self.selector}.{name} must be >= 1, got {getattr(self, name)}")


def choose_facilities(
    kernel: Kernel, strata: Sequence[Indices], budgets: Sequence[int], caps: Caps, config: FacilityConfig,
    rng: np.random.Generator,
) -> Selection:  # fmt: skip
    """Choose `budgets[b]` rows of each stratum so that the chosen stand for all rows of the kernel.

    Args:
        kernel: similarities of all rows, those of no stratum included: they are covered, never chosen.
        strata: disjoint rows, simplest stratum first.
        budgets: at most the size of each stratum.
        caps: of groups; changed.
        config: effort.
        rng: draws the samples of `stochastic`.

    Returns:
        The picks with stratum and gain, in the order of picking.
    """
    with one_blas_thread():
        if len(kernel) <= config.exact_rows:
            coverage = Computed(kernel, np.arange(len(kernel)))
            return _joined(
                [
                    (stratum, fill(coverage, caps, rows, budget))
                    for stratum, (rows, budget) in enumerate(zip(strata, budgets, strict=True))
                ]
            )
        if config.large == "stochastic":
            sample = np.sort(
                rng.choice(len(kernel), size=min(config.num_reference_rows, len(kernel)), replace=False)
            ).astype(np.int64)
            coverage = Computed(kernel, sample)
            return _joined(
                [
                    (stratum, stochastic_greedy(coverage, caps, rows, budget, rng, config.miss_frac))
                    for stratum, (rows, budget) in enumerate(zip(strata, budgets, strict=True))
                ]
            )
        return _in_cells(kernel, strata, budgets, caps, config.cells)


def _in_cells(
    kernel: Kernel, strata: Sequence[Indices], budgets: Sequence[int], caps: Caps, config: CellConfig
) -> Selection:
    cells = cells_of(kernel.parts, config)
    stratum_of = np.full(len(kernel), NO_STRATUM, np.int16)
    for stratum, rows in enumerate(strata):
        stratum_of[rows] = stratum
    plan = _plan(cells, stratum_of, budgets)
    missing = np.zeros(len(strata), np.int64)
    done: list[tuple[int, Picks]] = []
    busy = [(cell, wanted) for cell, wanted in zip(cells, plan, strict=True) if any(wanted)]
    matrices = ordered_map(kernel.dense, (cell for cell, _ in busy), ahead=0)
    for cell, wanted in busy:
        coverage = Stored(cell, next(matrices))
        for stratum, num in enumerate(wanted):
            candidates = cell[stratum_of[cell] == stratum]
            ask = min(int(num + missing[stratum]), len(candidates))
            picks = lazy_greedy(coverage, caps, candidates, ask, 0)
            missing[stratum] += num - len(picks.rows)
            done.append((stratum, picks))
    done += _make_up(kernel, cells, stratum_of, missing, caps, done)
    return _joined(done)


def _plan(cells: Sequence[Indices], stratum_of: NDArray[np.int16], budgets: Sequence[int]) -> list[list[int]]:
    """Return the budget of each cell and stratum: of each stratum in proportion to the cell's rows of it."""
    sizes = np.array([np.bincount(stratum_of[cell][stratum_of[cell] >= 0], minlength=len(budgets)) for cell in cells])
    columns = [largest_remainder(sizes[:, stratum].tolist(), budget) for stratum, budget in enumerate(budgets)]
    return [list(row) for row in zip(*columns, strict=True)]


def _make_up(
    kernel: Kernel, cells: Sequence[Indices], stratum_of: NDArray[np.int16], missing: NDArray[np.int64], caps: Caps,
    done: Iterable[tuple[int, Picks]],
) -> list[tuple[int, Picks]]:  # fmt: skip
    """Choose what caps kept from being chosen: first whatever is still open anywhere, then with caps one higher, and so on."""
    is_picked = np.zeros(len(kernel), np.bool_)
    for _, picks in done:
        is_picked[picks.rows] = True
    made: list[tuple[int, Picks]] = []
    extra = 0
    while missing.any():
        before = missing.sum()
        free = (missing > 0)[stratum_of] & (stratum_of >= 0) & ~is_picked
        free &= caps.is_open(np.arange(len(kernel)), extra)
        plan = _plan(
            [cell[free[cell]] for cell in cells], stratum_of,
            [min(int(num), int((free & (stratum_of == stratum)).sum())) for stratum, num in enumerate(missing)],
        )  # fmt: skip
        for cell, wanted in zip(cells, plan, strict=True):
            if not any(wanted):
                continue
            coverage = Computed(kernel, cell)
            for row in cell[is_picked[cell]]:
                coverage.add(int(row))
            for stratum, num in enumerate(wanted):
                picks = lazy_greedy(coverage, caps, cell[free[cell] & (stratum_of[cell] == stratum)], num, extra)
                missing[stratum] -= len(picks.rows)
                is_picked[picks.rows] = True
                made.append((stratum, picks))
        extra += missing.sum() == before
    return made


def _joined(parts: Iterable[tuple[int, Picks]]) -> Selection:
    parts = list(parts)
    return Selection(
        indices=np.array([row for _, picks in parts for row in picks.rows], np.int64),
        strata=np.array([stratum for stratum, picks in parts for _ in picks.rows], np.int64),
        gains=np.array([gain for _, picks in parts for gain in picks.gains], np.float64),
    )
