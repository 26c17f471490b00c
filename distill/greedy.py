"""Greedy facility location inside one stratum, with a cap per group: exact (lazy) or, for many rows, stochastic.

Both add, one at a time, the row that most raises the coverage of the reference rows. Ties go to the earlier row. A
group (the patches of one photograph) may be used `cap` times; when no other row is left in the stratum, its cap rises
by one.

Source: lazy greedy, Minoux 1978; stochastic greedy, Mirzasoleiman et al., AAAI 2015; spec/tripled.md section 4.3.
"""

from __future__ import annotations

import heapq
import math

import numpy as np
from numpy.typing import NDArray

from .kernel import Kernel
from .selection import Indices


class Coverage:
    """What is covered so far, and by whom: the state that strata share."""

    def __init__(self, kernel: Kernel, reference: Indices, groups: Indices, cap: int) -> None:
        self._kernel, self._reference, self._groups = kernel, reference, groups
        self._covered = np.zeros(len(reference))
        self._used = np.zeros(int(groups.max()) + 1, np.int64)
        self._cap = cap
        self.picked: list[int] = []
        self.gains: list[float] = []

    def gain(self, candidates: Indices) -> NDArray[np.float64]:
        """Say what each candidate would add now."""
        return self._kernel.gains(self._reference, candidates, self._covered)

    def is_open(self, rows: Indices, extra: int) -> NDArray[np.bool_]:
        """Say whose group may still be used, `extra` times more than the cap."""
        return np.asarray(self._used[self._groups[rows]] < self._cap + extra)

    def pick(self, row: int, gain: float) -> None:
        """Choose a row."""
        similar = self._kernel.between(np.array([row]), self._reference)[0]
        np.maximum(self._covered, similar, out=self._covered)
        self._used[self._groups[row]] += 1
        self.picked.append(row)
        self.gains.append(gain)


def lazy_greedy(coverage: Coverage, stratum: Indices, num: int) -> None:
    """Choose `num` rows of a stratum exactly as plain greedy would, evaluating few gains.

    A gain can only fall while rows are added, so an old gain is an upper bound: the row on top of the heap is chosen
    when its gain is of this step.
    """
    rows = np.sort(stratum)
    heap = [(-gain, row) for gain, row in zip(coverage.gain(rows).tolist(), rows.tolist(), strict=True)]
    heapq.heapify(heap)
    blocked: list[tuple[float, int]] = []
    extra, fresh = 0, {row: 0 for _, row in heap}
    for step in range(num):
        while True:
            if not heap:
                heap, blocked, extra = blocked, [], extra + 1
                heapq.heapify(heap)
            bound, row = heapq.heappop(heap)
            one = np.array([row])
            if not coverage.is_open(one, extra)[0]:
                blocked.append((bound, row))
            elif fresh[row] == step:
                coverage.pick(row, -bound)
                break
            else:
                fresh[row] = step
                heapq.heappush(heap, (-float(coverage.gain(one)[0]), row))


def stochastic_greedy(
    coverage: Coverage, stratum: Indices, num: int, rng: np.random.Generator, miss_frac: float
) -> None:
    """Choose `num` rows of a stratum, each the best of a fresh random sample.

    Args:
        coverage: state, changed.
        stratum: rows to choose from.
        num: how many.
        rng: draws the samples.
        miss_frac: the greedy value lost in expectation; samples have ceil(n / num * ln(1 / miss_frac)) rows.
    """
    left = np.sort(stratum)
    size = math.ceil(len(left) / max(1, num) * math.log(1 / miss_frac))
    extra = 0
    for _ in range(num):
        sample = rng.choice(len(left), size=min(size, len(left)), replace=False, shuffle=False)
        places = np.sort(sample[coverage.is_open(left[sample], extra)])
        if not len(places):
            places = np.flatnonzero(coverage.is_open(left, extra))
            while not len(places):
                extra += 1
                places = np.flatnonzero(coverage.is_open(left, extra))
            places = np.sort(rng.permutation(places)[:size])
        gains = coverage.gain(left[places])
        best = int(np.argmax(gains))
        coverage.pick(int(left[places[best]]), float(gains[best]))
        left = np.delete(left, places[best])
