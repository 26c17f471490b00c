"""Strata of complexity and how a budget is shared among them.

Source: coverage-centric coreset selection (Zheng et al., ICLR 2023), as laid down in spec/tripled.md section 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .selection import Indices


def without_ends(scores: NDArray[np.float64], low_frac: float, high_frac: float, num: int) -> Indices:
    """Drop the most complex rows, then the simplest, but never so many that fewer than `num` are left.

    Args:
        scores: (N,) complexity.
        low_frac: share of the simplest to drop, rounded down.
        high_frac: share of the most complex to drop, rounded down; goes first.
        num: rows that have to stay.

    Returns:
        What stays, from the simplest to the most complex; ties in row order.
    """
    high = min(int(high_frac * len(scores)), len(scores) - num)
    low = min(int(low_frac * len(scores)), len(scores) - num - high)
    return np.argsort(scores, kind="stable")[low : len(scores) - high].astype(np.int64)


def equal_mass(sorted_rows: Indices, num_strata: int) -> list[Indices]:
    """Split rows sorted by complexity into strata of (nearly) equal size, simplest first."""
    return list(np.array_split(sorted_rows, num_strata))


def equal_width(sorted_rows: Indices, scores: NDArray[np.float64], num_strata: int) -> list[Indices]:
    """Split rows sorted by complexity at equal steps of the score, simplest first; strata may be empty.

    A stratum holds lowest + step * [i, i + 1); the highest score belongs to the last one.
    """
    values = scores[sorted_rows]
    edges = values[0] + (values[-1] - values[0]) * (np.arange(1, num_strata) / num_strata)
    return list(np.split(sorted_rows, np.searchsorted(values, edges, side="left")))


def largest_remainder(sizes: Sequence[int], num: int) -> list[int]:
    """Share a budget in proportion to sizes, exactly: whole parts first, then one each to the largest remainders.

    Args:
        sizes: rows of each part.
        num: rows to choose, at most the sum of `sizes`.

    Returns:
        Rows to choose from each part, none above its size, summing to `num`; of equal remainders the earlier part wins.

    Example:
        >>> largest_remainder([5, 3, 2], 5)
        [3, 1, 1]
    """
    total = sum(sizes)
    if total == 0:
        return [0] * len(sizes)
    shares = [divmod(int(size) * num, total) for size in sizes]
    budgets = [whole for whole, _ in shares]
    rest = num - sum(budgets)
    for part in sorted(range(len(sizes)), key=lambda part: -shares[part][1])[:rest]:
        budgets[part] += 1
    return budgets


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
