"""Choose patches of middling complexity: a band of the ranks, around the median if nothing else is said.

Source: spec/tripled.md section 4.3, baseline `window`; after "keep the middle" of Moderate-DS (ICLR 2023) and the cut of
both ends by Moser et al. (arXiv 2403.17083).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import BudgetError, ConfigError

from ..selection import Features, Indices, Selection, check_request

_DECIMALS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """The `num` ranks around a centre, moved inside the bounds.

    Attributes:
        centre_frac: rank of the band's middle, 0 = simplest, 1 = most complex.
        low_frac: ranks below are never chosen.
        high_frac: ranks above are never chosen.
    """

    name: ClassVar[str] = "window"
    needs: ClassVar[tuple[str, ...]] = ()
    centre_frac: float = 0.5  # the median
    low_frac: float = 0.0
    high_frac: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low_frac < self.high_frac <= 1:
            raise ConfigError(
                f"window: wanted 0 <= low_frac < high_frac <= 1, got {self.low_frac} and {self.high_frac}"
            )
        if not 0 <= self.centre_frac <= 1:
            raise ConfigError(f"window.centre_frac must lie in [0, 1], got {self.centre_frac}")

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose `num` neighbouring ranks, simplest first; groups and rng are not used.

        Raises:
            BudgetError: fewer than `num` rows lie within the bounds.
        """
        check_request(features, scores, groups, num)
        low, high = round(self.low_frac * len(scores)), round(self.high_frac * len(scores))
        if high - low < num:
            raise BudgetError(
                f"window: {high - low} of {len(scores)} ranks lie in [{self.low_frac}, {self.high_frac}], "
                f"num = {num}; widen the window or ask for less"
            )
        first = math.floor(round(self.centre_frac * len(scores) - num / 2, _DECIMALS))  # a fraction is no exact float
        start = min(max(first, low), high - num)
        return Selection.plain(np.argsort(scores, kind="stable")[start : start + num])
