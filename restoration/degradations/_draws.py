"""Drawing numbers, and refusing ranges that make no sense: what every degradation does first.

A range whose ends are equal draws nothing, so that a fixed strength leaves the generator where it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from curate.core.errors import ConfigError

from . import Rng

SEED_RANGE = 2**53  # whole numbers below it survive every JSON reader


def between(rng: Rng, low: float, high: float) -> float:
    """Draw uniformly from [low, high)."""
    return float(rng.uniform(low, high)) if high > low else float(low)


def log_between(rng: Rng, low: float, high: float) -> float:
    """Draw from [low, high) so that every factor of two is equally likely; low > 0."""
    return math.exp(between(rng, math.log(low), math.log(high)))


def integer_between(rng: Rng, low: int, high: int) -> int:
    """Draw a whole number, both ends included."""
    return low + int(rng.uniform() * (high - low + 1)) if high > low else int(low)


def odd_between(rng: Rng, low: int, high: int) -> int:
    """Draw an odd number between two odd ones, both included."""
    return 2 * integer_between(rng, low // 2, high // 2) + 1


def choose(rng: Rng, names: Sequence[str], shares: Sequence[float]) -> str:
    """Draw a name with the odds of `shares`, any positive scale; a single possible one is not drawn."""
    possible = [(name, share) for name, share in zip(names, shares, strict=True) if share > 0]
    if len(possible) == 1:
        return possible[0][0]
    position = rng.uniform() * math.fsum(share for _, share in possible)
    for name, share in possible:
        position -= share
        if position < 0:
            return name
    return possible[-1][0]


def draw_seed(rng: Rng) -> int:
    """Draw what names the random pixels of one picture."""
    return int(rng.uniform() * SEED_RANGE)


def check_range(plugin: str, field: str, low: float, high: float, *, least: float, most: float) -> None:
    """Raise ConfigError unless least <= low <= high <= most; NaN fails too."""
    if not least <= low <= high <= most:
        raise ConfigError(f"{plugin} needs {least:g} <= min_{field} <= max_{field} <= {most:g}, got {low} and {high}")


def check_share(plugin: str, field: str, value: float) -> None:
    """Raise ConfigError unless 0 <= value <= 1."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{plugin}.{field} must be 0 to 1, got {value}")


def check_shares(plugin: str, field: str, shares: Sequence[float], num: int) -> None:
    """Raise ConfigError unless there are `num` shares, none negative, not all zero."""
    if len(shares) != num or not all(share >= 0 for share in shares) or not 0 < math.fsum(shares) < math.inf:
        raise ConfigError(f"{plugin}.{field} needs {num} shares >= 0, not all 0, got {list(shares)}")


def check_name(plugin: str, field: str, value: str, known: Sequence[str]) -> None:
    """Raise ConfigError unless the value is one of the known words."""
    if value not in known:
        raise ConfigError(f"{plugin}.{field} must be one of {', '.join(known)}, got {value!r}")
