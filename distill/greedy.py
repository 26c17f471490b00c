"""Greedy facility location inside one stratum, with a cap per group: exact (lazy) or, for many rows, stochastic.

Both add, one at a time, the row that most raises the coverage of the reference rows. Ties go to the earlier row. A
group (the patches of one photograph) may be used `cap` times; when no other row is left in the stratum, its cap rises
by one.

Source: lazy greedy, Minoux 1978; stochastic greedy, Mirzasoleiman et al., AAAI 2015; spec/tripled.md section 4.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .blocks import ordered_map
from .kernel import Kernel
from .selection import Indices

_BLOCK_VALUES = 1 << 20  # similarities in memory at once and per thread: 8 MiB of float64
_BATCH = 16  # candidates looked at again together: one matrix product instead of many small ones


class Caps:
    """How often each group was used, over all strata and cells."""

    def __init__(self, groups: Indices, cap: int) -> None:
        self.groups = groups
        self.cap = cap
        self._used = np.zeros(int(groups.max()) + 1, np.int64)

    @classmethod
    def fair(cls, groups: Indices, pool: Indices, num: int, *, capped: bool) -> Caps:
        """Allow ceil(num / groups of the pool) rows a group (spec 4.3), or any number."""
        return cls(groups, -(-num // len(np.unique(groups[pool]))) if capped else num)

    def is_open(self, rows: Indices, extra: int) -> NDArray[np.bool_]:
        """Say whose group may still be used, `extra` times more than the cap."""
        return np.asarray(self._used[self.groups[rows]] < self.cap + extra)

    def use(self, row: int) -> None:
        """Count a pick."""
        self._used[self.groups[row]] += 1


@dataclass(slots=True)
class Picks:
    """Rows in the order of picking, with what each added."""

    rows: list[int] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)


class Coverage(Protocol):
    """How well the rows picked so far stand for the reference rows."""

    def gain(self, rows: Indices) -> NDArray[np.floating]:
        """Say what each row would add now: sum over the reference of max(0, kappa - covered)."""
        ...

    def add(self, row: int) -> None:
        """Pick a row."""
        ...


class Computed:
    """Coverage of any rows by any rows; similarities are computed in float64 when they are asked for.

    Gains are rounded so that equal rows gain equally on any machine.
    """

    def __init__(self, kernel: Kernel, reference: Indices) -> None:
        self._kernel, self._reference = kernel, reference
        self._covered = np.zeros(len(reference))

    def gain(self, rows: Indices) -> NDArray[np.float64]:
        """Say what each row would add now."""
        step = max(1, _BLOCK_VALUES // max(1, len(self._reference)))
        if len(rows) <= step:
            return self._gain(rows)
        return np.concatenate(list(ordered_map(self._gain, (rows[at : at + step] for at in range(0, len(rows), step)))))

    def _gain(self, rows: Indices) -> NDArray[np.float64]:
        more = self._kernel.between(rows, self._reference)
        more -= self._covered
        return np.asarray(np.round(np.maximum(more, 0, out=more).sum(axis=1), 9))

    def add(self, row: int) -> None:
        """Pick a row."""
        np.maximum(self._covered, self._kernel.between(np.array([row]), self._reference)[0], out=self._covered)


class Stored:
    """Coverage of a cell by its own rows, their similarities held as one float32 matrix."""

    def __init__(self, rows: Indices, matrix: NDArray[np.float32]) -> None:
        self._rows, self._matrix = rows, matrix  # rows rise
        self._covered = np.zeros(len(rows), np.float32)

    def gain(self, rows: Indices) -> NDArray[np.float32]:
        """Say what each row of the cell would add now."""
        places = np.searchsorted(self._rows, rows)
        gains = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _BATCH):  # a batch stays in the core's cache
            more = self._matrix[places[start : start + _BATCH]]
            more -= self._covered
            gains[start : start + _BATCH] = np.maximum(more, 0, out=more).sum(axis=1)
        return gains

    def add(self, row: int) -> None:
        """Pick a row of the cell."""
        np.maximum(self._covered, self._matrix[np.searchsorted(self._rows, row)], out=self._covered)


def lazy_greedy(coverage: Coverage, caps: Caps, candidates: Indices, num: int, extra: int) -> Picks:
    """Choose up to `num` of the candidates exactly as plain greedy would, evaluating few gains.

    A gain can only fall while rows are added, so an old gain is an upper bound: the row with the highest bound is chosen
    when its gain is of this step.

    Args:
        coverage: state, changed.
        caps: state, changed.
        candidates: rows to choose from, unpicked, rising.
        num: how many.
        extra: how far caps have risen here.

    Returns:
        `num` picks, or fewer when all groups of the rest are used up.
    """
    picks = Picks()
    if num == 0 or len(candidates) == 0:
        return picks
    is_open = caps.is_open(candidates, extra)
    bounds = np.full(len(candidates), -np.inf)
    seen_at = np.full(len(candidates), -1)  # the step of which the bound is
    if is_open.any():
        bounds[is_open] = coverage.gain(candidates[is_open])
        seen_at[is_open] = 0
    for step in range(num):
        while bounds[best := int(np.argmax(bounds))] > -np.inf and seen_at[best] < step:
            stale = np.flatnonzero(seen_at < step) if len(bounds) <= _BATCH else _highest_stale(bounds, seen_at < step)
            stale = stale[bounds[stale] > -np.inf]
            bounds[stale] = coverage.gain(candidates[stale])
            seen_at[stale] = step
        if bounds[best] == -np.inf:
            break
        row = int(candidates[best])
        coverage.add(row)
        caps.use(row)
        picks.rows.append(row)
        picks.gains.append(float(bounds[best]))
        bounds[best] = -np.inf
        if not caps.is_open(candidates[best : best + 1], extra)[0]:
            bounds[caps.groups[candidates] == caps.groups[row]] = -np.inf
    return picks


def _highest_stale(bounds: NDArray[np.float64], is_stale: NDArray[np.bool_]) -> Indices:
    return np.sort(np.argpartition(np.where(is_stale, -bounds, np.inf), _BATCH - 1)[:_BATCH])


def fill(coverage: Coverage, caps: Caps, stratum: Indices, num: int) -> Picks:
    """Choose exactly `num` rows of a stratum by lazy greedy; caps rise by one whenever they leave no row open."""
    left, picks, extra = np.sort(stratum), Picks(), 0
    while len(picks.rows) < num:
        more = lazy_greedy(coverage, caps, left, num - len(picks.rows), extra)
        picks.rows += more.rows
        picks.gains += more.gains
        left = np.setdiff1d(left, more.rows, assume_unique=True)
        extra += 1
    return picks


def stochastic_greedy(
    coverage: Coverage, caps: Caps, stratum: Indices, num: int, rng: np.random.Generator, miss_frac: float
) -> Picks:
    """Choose `num` rows of a stratum, each the best of a fresh random sample.

    Args:
        coverage: state, changed.
        caps: state, changed.
        stratum: rows to choose from.
        num: how many.
        rng: draws the samples.
        miss_frac: the greedy value lost in expectation; samples have ceil(n / num * ln(1 / miss_frac)) rows.
    """
    picks = Picks()
    left = np.sort(stratum)
    size = math.ceil(len(left) / max(1, num) * math.log(1 / miss_frac))
    extra = 0
    for _ in range(num):
        places = rng.choice(len(left), size=min(size, len(left)), replace=False, shuffle=False)
        places = places[caps.is_open(left[places], extra)]
        while not len(places):
            places = np.flatnonzero(caps.is_open(left, extra))
            places = rng.permutation(places)[:size]
            extra += not len(places)
        places = places[np.argsort(left[places])]  # of equal gains the earlier row
        gains = coverage.gain(left[places])
        best = int(np.argmax(gains))
        row = int(left[places[best]])
        coverage.add(row)
        caps.use(row)
        picks.rows.append(row)
        picks.gains.append(float(gains[best]))
        left[places[best]] = left[-1]
        left = left[:-1]
    return picks
