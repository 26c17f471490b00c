"""Strata of complexity and how a budget is shared among them.

Source: coverage-centric coreset selection (Zheng et al., ICLR 2023), as laid down in spec/tripled.md section 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .selection import Indices


def without_tail(scores: NDArray[np.float64], cut_frac: float, num: int) -> Indices:
    """Drop the most complex rows, but never so many that fewer than `num` are left.

    Args:
        scores: (N,) complexity.
        cut_frac: share to drop, rounded down.
        num: rows that have to stay.

    Returns:
        What stays, from the simplest to the most complex; ties in row order.
    """
    num_cut = min(int(cut_frac * len(scores)), len(scores) - num)
    return np.argsort(scores, kind="stable")[: len(scores) - num_cut].astype(np.int64)


def equal_mass(sorted_rows: Indices, num_strata: int) -> list[Indices]:
    """Split rows sorted by complexity into strata of (nearly) equal size, simplest first."""
    return list(np.array_split(sorted_rows, num_strata))


def water_fill(sizes: Sequence[int], num: int) -> list[int]:
    """Share a budget among strata as evenly as their sizes allow.

    Strata are visited by rising size, each gets an equal part of what is left or all it has; what rounding leaves over
    goes to the largest strata, later ones first.

    Args:
        sizes: rows in each stratum.
        num: rows to choose, at most the sum of `sizes`.

    Returns:
        Rows to choose from each stratum, summing to `num`.

    Example:
        >>> water_fill([2, 10, 10], 12)
        [2, 5, 5]
    """
    budgets = [0] * len(sizes)
    rest = num
    order = sorted(range(len(sizes)), key=lambda stratum: sizes[stratum])
    for visited, stratum in enumerate(order):
        budgets[stratum] = min(sizes[stratum], rest // (len(sizes) - visited))
        rest -= budgets[stratum]
    for stratum in reversed(order):
        extra = min(rest, sizes[stratum] - budgets[stratum])
        budgets[stratum] += extra
        rest -= extra
    return budgets
