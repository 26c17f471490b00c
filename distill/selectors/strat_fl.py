"""Choose simple and complex patches alike, and within each stratum those that stand for the most others. The default.

Strata of complexity make sure that both training stages have samples; facility location over the whole corpus keeps the
chosen few spread out; a cap per photograph keeps one picture from filling the budget; the most complex 5 % are left
out.

Source: spec/tripled.md section 4.3 (ours; after coverage-centric coresets, Zheng et al., ICLR 2023, and the finding of
Moser et al., arXiv 2403.17083, that the hardest 5 % hurt).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError

from ..greedy import Coverage, lazy_greedy, stochastic_greedy
from ..kernel import fit_kernel
from ..selection import Features, Indices, Selection, check_request
from ..strata import equal_mass, water_fill, without_tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Stratified facility location.

    Attributes:
        tail_cut_frac: share of the most complex rows never chosen.
        num_strata: most strata; fewer when a stratum would get fewer than `min_per_stratum`.
        min_per_stratum: rows of the budget per stratum.
        rank: most dimensions of the whitened encoder rows.
        group_cap: at most ceil(num / photographs) rows of one photograph while others are left.
        exact_rows: above this many rows, stochastic greedy on a reference sample.
        num_reference_rows: rows of that sample.
        miss_frac: what stochastic greedy may lose.
    """

    name: ClassVar[str] = "strat_fl"
    needs: ClassVar[tuple[str, ...]] = ()
    tail_cut_frac: float = 0.05  # spec 4.3, after Moser et al.
    num_strata: int = 10  # spec 4.3
    min_per_stratum: int = 4  # spec 4.3: B = clip(floor(k / 4), 1, 10)
    rank: int = 64  # spec 4.2
    group_cap: bool = True  # spec 4.8
    exact_rows: int = 20_000  # spec 4.3
    num_reference_rows: int = 2_000  # spec 4.3: at least 2k
    miss_frac: float = 0.1  # spec 4.3: ln 10

    def __post_init__(self) -> None:
        for name in ("tail_cut_frac", "miss_frac"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"strat_fl.{name} must lie in [0, 1), got {getattr(self, name)}")
        if not self.miss_frac > 0:
            raise ConfigError(f"strat_fl.miss_frac must be > 0, got {self.miss_frac}")
        for name in ("num_strata", "min_per_stratum", "rank", "num_reference_rows"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"strat_fl.{name} must be >= 1, got {getattr(self, name)}")

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose `num` rows, stratum by stratum, simplest first."""
        check_request(features, scores, groups, num)
        pool = without_tail(scores, self.tail_cut_frac, num)
        strata = equal_mass(pool, min(max(num // self.min_per_stratum, 1), self.num_strata))
        budgets = water_fill([len(stratum) for stratum in strata], num)
        is_exact = len(features) <= self.exact_rows
        coverage = Coverage(
            fit_kernel(features, self.rank),
            self._reference(len(features), is_exact, rng),
            groups,
            self._cap(groups[pool], num),
        )
        for stratum, budget in zip(strata, budgets, strict=True):
            if is_exact:
                lazy_greedy(coverage, stratum, budget)
            else:
                stochastic_greedy(coverage, stratum, budget, rng, self.miss_frac)
        return Selection(
            indices=np.array(coverage.picked, np.int64),
            strata=np.repeat(np.arange(len(strata)), budgets).astype(np.int64),
            gains=np.array(coverage.gains, np.float64),
        )

    def _reference(self, num_rows: int, is_exact: bool, rng: np.random.Generator) -> Indices:
        if is_exact:
            return np.arange(num_rows, dtype=np.int64)
        return np.sort(rng.choice(num_rows, size=min(self.num_reference_rows, num_rows), replace=False)).astype(
            np.int64
        )

    def _cap(self, groups: Indices, num: int) -> int:
        return -(-num // len(np.unique(groups))) if self.group_cap else num
