"""Choose at random, but evenly over the range of complexity and without the most complex.

Source: coverage-centric coreset selection (Zheng, Liu, Lai, Prakash, ICLR 2023, arXiv 2210.15809), algorithm 1: hard
cut-off, strata of equal width, budgets by water-filling, random within a stratum; 50 strata and a mis-ratio of 0.3 are its
code's values for 90 % pruning (spec/tripled.md section 2c). Differs: what rounding leaves over is given to the largest strata,
so that the budget is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError

from ..selection import Features, Indices, Selection, check_request
from ..strata import equal_width, water_fill, without_ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Stratified random choice.

    Attributes:
        mis_ratio_frac: share of the most complex rows never chosen; less where the budget needs them.
        num_strata: strata of equal width, some of them empty.
    """

    name: ClassVar[str] = "ccs"
    needs: ClassVar[tuple[str, ...]] = ()
    mis_ratio_frac: float = 0.3  # its code at 90 % pruning
    num_strata: int = 50  # its code

    def __post_init__(self) -> None:
        if not 0 <= self.mis_ratio_frac < 1:
            raise ConfigError(f"ccs.mis_ratio_frac must lie in [0, 1), got {self.mis_ratio_frac}")
        if not self.num_strata >= 1:
            raise ConfigError(f"ccs.num_strata must be >= 1, got {self.num_strata}")

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose `num` rows, simplest stratum first; encoder rows and groups are not used."""
        check_request(features, scores, groups, num)
        strata = equal_width(without_ends(scores, 0.0, self.mis_ratio_frac, num), scores, self.num_strata)
        budgets = water_fill([len(stratum) for stratum in strata], num)
        drawn = [rng.permutation(np.sort(rows))[:budget] for rows, budget in zip(strata, budgets, strict=True)]
        return Selection(
            indices=np.concatenate(drawn),
            strata=np.repeat(np.arange(len(strata), dtype=np.int64), budgets),
            gains=np.zeros(num),
        )
