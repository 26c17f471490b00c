"""How many patches a budget means: "2%" or "5000" -> an exact count. The rounding rule is written here only.

A share is an exact fraction, never a float (`ceil(0.07 * 100)` is 8 in floats), and is rounded up: 2 % of 1,415 is 29.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction

from curate.core.errors import BudgetError

_SHARE = re.compile(r"^(\d+(?:\.\d+)?)\s*%$", re.ASCII)
_COUNT = re.compile(r"^\d+$", re.ASCII)


def parse_budget(text: str) -> Fraction | int:
    """Read a budget without knowing the corpus.

    Args:
        text: a share such as `2%` or `0.5%`, or a whole number of patches such as `5000`.

    Returns:
        A share in (0, 1] as a Fraction, or a count >= 1 as an int.

    Raises:
        BudgetError: neither, zero, or more than 100 %.

    Example:
        >>> parse_budget("0.5%"), parse_budget("5000")
        (Fraction(1, 200), 5000)
    """
    plain = text.strip()
    if share := _SHARE.match(plain):
        value = Fraction(share.group(1)) / 100
        if not 0 < value <= 1:
            raise BudgetError(f"budget must be above 0% and at most 100%, got {text!r}")
        return value
    if _COUNT.match(plain):
        if int(plain) < 1:
            raise BudgetError(f"budget must be at least 1 patch, got {text!r}")
        return int(plain)
    raise BudgetError(f"budget must be a share such as 2% or a whole number of patches such as 5000, got {text!r}")


def count_budget(text: str, available: int) -> int:
    """Turn a budget into the exact number of patches to keep.

    Args:
        text: as in `parse_budget`.
        available: patches in the corpus.

    Returns:
        A count in [1, available]; a share is rounded up.

    Raises:
        BudgetError: nonsense, zero, more than 100 %, or more patches than there are.

    Source:
        spec/tripled.md section 4: k = ceil(rho N); k_min = 1 for a clean-only corpus.

    Example:
        >>> count_budget("7%", 100), count_budget("2%", 1415), count_budget("40", 50)
        (7, 29, 40)
    """
    budget = parse_budget(text)
    if available < 1:
        raise BudgetError(f"no budget can be met: the corpus holds {available} patches")
    num = math.ceil(budget * available) if isinstance(budget, Fraction) else budget
    if num > available:
        raise BudgetError(f"budget asks for {num} patches, the corpus holds {available}; ask for {available} or fewer")
    return num


def share_budget(text: str, sizes: Mapping[str, int], *, min_per_task: int = 1) -> dict[str, int]:
    """Turn a budget into a number of patches for each task.

    Args:
        text: as in `parse_budget`; a share is one of every task, a count is divided in proportion to the tasks' sizes.
        sizes: patches of each task, each >= 1.
        min_per_task: a share gives no task fewer than this, unless it has fewer.

    Returns:
        Task -> count, each in [1, its size]; a count is met exactly.

    Raises:
        BudgetError: as `count_budget`, or a count smaller than the number of tasks.

    Source:
        spec/tripled.md section 4: k = min(N, max(k_min, ceil(rho N))); counts by largest remainder, at least 1 each.

    Example:
        >>> share_budget("2%", {"rain": 200, "noise": 5144}, min_per_task=16)
        {'rain': 16, 'noise': 103}
        >>> share_budget("10", {"rain": 200, "noise": 5144})
        {'rain': 1, 'noise': 9}
    """
    whole = count_budget(text, sum(sizes.values()))
    budget = parse_budget(text)
    if isinstance(budget, Fraction):
        return {task: min(size, max(min_per_task, math.ceil(budget * size))) for task, size in sizes.items()}
    if whole < len(sizes):
        raise BudgetError(
            f"budget of {whole} is smaller than the number of tasks, {len(sizes)}: ask for at least that many"
        )
    return _largest_remainder(whole, sizes)


def _largest_remainder(whole: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Divide in proportion to sizes, at least 1 and at most its size each; remainders by size of the fraction, then order."""
    total, room = sum(sizes.values()), whole - len(sizes)
    exact = {task: Fraction(room * (size - 1), max(total - len(sizes), 1)) for task, size in sizes.items()}
    counts = {task: 1 + math.floor(part) for task, part in exact.items()}
    by_remainder = sorted(exact, key=lambda task: math.floor(exact[task]) - exact[task])
    for task in by_remainder[: whole - sum(counts.values())]:
        counts[task] += 1
    return counts
