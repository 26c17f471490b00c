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
SEVERAL_TASKS_MIN = 16  # spec/tripled.md section 4: 2 % of Rain100L would be 4


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


def task_floor(text: str, sizes: Mapping[str, int], *, min_per_task: int = 0) -> int:
    """Say how many patches every task gets at least, unless it has fewer.

    Args:
        text: as in `parse_budget`.
        sizes: patches of each task, each >= 1.
        min_per_task: what is asked for; 0: 16 for several tasks, 1 for one (spec/tripled.md section 4).

    Returns:
        That, or for a count that cannot give it to all: the largest floor that the count can give, at least 1.

    Raises:
        BudgetError: as `count_budget`, or a count smaller than the number of tasks.

    Example:
        >>> task_floor("2%", {"rain": 200, "noise": 5144}), task_floor("21", {"rain": 200, "noise": 5144})
        (16, 10)
    """
    whole = count_budget(text, sum(sizes.values()))
    wanted = min_per_task or (SEVERAL_TASKS_MIN if len(sizes) > 1 else 1)
    if isinstance(parse_budget(text), Fraction):
        return wanted
    if whole < len(sizes):
        raise BudgetError(
            f"budget of {whole} is smaller than the number of tasks, {len(sizes)}: ask for at least that many"
        )
    return next(floor for floor in range(wanted, 0, -1) if sum(_floors(sizes, floor).values()) <= whole)


def share_budget(text: str, sizes: Mapping[str, int], *, min_per_task: int = 0) -> dict[str, int]:
    """Turn a budget into a number of patches for each task.

    Args:
        text: as in `parse_budget`; a share is one of every task, a count is divided in proportion to the tasks' sizes.
        sizes: patches of each task, each >= 1.
        min_per_task: as in `task_floor`, which says what of it the budget can give.

    Returns:
        Task -> count, each in [1, its size]; a count is met exactly, a share may be exceeded by the floor.

    Raises:
        BudgetError: as `task_floor`.

    Source:
        spec/tripled.md section 4: k = min(N, max(k_min, ceil(rho N))), k_min = 16 for all-in-one; counts by largest remainder.

    Example:
        >>> share_budget("2%", {"rain": 200, "noise": 5144})
        {'rain': 16, 'noise': 103}
        >>> share_budget("119", {"rain": 200, "noise": 5144})
        {'rain': 16, 'noise': 103}
    """
    floors = _floors(sizes, task_floor(text, sizes, min_per_task=min_per_task))
    budget = parse_budget(text)
    if isinstance(budget, Fraction):
        return {task: max(floors[task], math.ceil(budget * size)) for task, size in sizes.items()}
    return _largest_remainder(budget, sizes, floors)


def _floors(sizes: Mapping[str, int], floor: int) -> dict[str, int]:
    return {task: min(size, floor) for task, size in sizes.items()}


def _largest_remainder(whole: int, sizes: Mapping[str, int], floors: Mapping[str, int]) -> dict[str, int]:
    """Divide in proportion to sizes; a task whose part is below its floor gets its floor. Remainders by size, then order."""
    counts: dict[str, int] = {}
    while True:
        rest, size_left = whole - sum(counts.values()), sum(size for task, size in sizes.items() if task not in counts)
        exact = {task: Fraction(rest * size, size_left) for task, size in sizes.items() if task not in counts}
        below = {task: floors[task] for task, part in exact.items() if part < floors[task]}
        if not below:
            break
        counts |= below
    down = {task: math.floor(part) for task, part in exact.items()}
    by_remainder = sorted(exact, key=lambda task: down[task] - exact[task])
    left = rest - sum(down.values())
    found = counts | {task: down[task] + (place < left) for place, task in enumerate(by_remainder)}
    return {task: found[task] for task in sizes}
