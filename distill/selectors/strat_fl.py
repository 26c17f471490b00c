"""Choose simple and complex patches alike, and within each stratum those that stand for the most others. The default.

Strata of complexity make sure that both training stages have samples; facility location over the whole corpus keeps the
chosen few spread out; a cap per photograph keeps one picture from filling the budget; the most complex 5 % are left
out.

Up to 20,000 rows greedy is exact. Above, it is exact within cells of 5,000 to 10,000 rows that lie together
(`distill.facility`), so that cost grows with N.

Source: spec/tripled.md section 4.3 (ours; after coverage-centric coresets, Zheng et al., ICLR 2023, and the finding of
Moser et al., arXiv 2403.17083, that the hardest 5 % hurt).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError

from ..facility import FacilityConfig, Large, choose_facilities
from ..greedy import Caps
from ..kernel import fit_kernel
from ..partition import CellConfig
from ..selection import Features, Indices, Selection, check_request
from ..strata import equal_mass, equal_width, water_fill, without_ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Stratified facility location.

    Attributes:
        tail_cut_frac: share of the most complex rows never chosen.
        low_cut_frac: share of the simplest rows never chosen.
        num_strata: most strata; fewer when a stratum would get fewer than `min_per_stratum`.
        min_per_stratum: rows of the budget per stratum.
        binning: `equalmass` strata of equal size, or `equalwidth` of equal steps of complexity, as CCS has them.
        rank: most dimensions of the whitened encoder rows.
        group_cap: at most ceil(num / photographs) rows of one photograph while others are left.
        exact_rows: up to so many rows greedy is exact.
        large: what is done above, `cells` or `stochastic` (`distill.facility`).
        cells: sizes of cells.
        num_reference_rows: rows of the reference sample of `stochastic`.
        miss_frac: what `stochastic` may lose.
    """

    name: ClassVar[str] = "strat_fl"
    needs: ClassVar[tuple[str, ...]] = ()
    tail_cut_frac: float = 0.05  # spec 4.3, after Moser et al.
    low_cut_frac: float = 0.0  # spec 4.3: optionally 0.01
    num_strata: int = 10  # spec 4.3
    min_per_stratum: int = 4  # spec 4.3: B = clip(floor(k / 4), 1, 10)
    binning: Literal["equalmass", "equalwidth"] = "equalmass"  # spec 4.3
    rank: int = 64  # spec 4.2
    group_cap: bool = True  # spec 4.8
    exact_rows: int = 20_000  # spec 4.3
    large: Large = "cells"  # measured: benchmarks/results/select-scale_*.json
    cells: CellConfig = field(default_factory=CellConfig)
    num_reference_rows: int = 2_000  # spec 4.3: at least 2k
    miss_frac: float = 0.1  # spec 4.3: ln 10

    def __post_init__(self) -> None:
        for name in ("tail_cut_frac", "low_cut_frac"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"strat_fl.{name} must lie in [0, 1), got {getattr(self, name)}")
        for name in ("num_strata", "min_per_stratum", "rank"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"strat_fl.{name} must be >= 1, got {getattr(self, name)}")
        if self.binning not in ("equalmass", "equalwidth"):
            raise ConfigError(f"strat_fl.binning must be equalmass or equalwidth, got {self.binning!r}")
        self._effort()

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose `num` rows, stratum by stratum, simplest first (in cells: cell by cell)."""
        check_request(features, scores, groups, num)
        pool = without_ends(scores, self.low_cut_frac, self.tail_cut_frac, num)
        strata = self._strata(pool, scores, min(max(num // self.min_per_stratum, 1), self.num_strata))
        budgets = water_fill([len(stratum) for stratum in strata], num)
        caps = Caps.fair(groups, pool, num, capped=self.group_cap)
        return choose_facilities(fit_kernel(features, self.rank), strata, budgets, caps, self._effort(), rng)

    def _strata(self, pool: Indices, scores: NDArray[np.float64], num_strata: int) -> list[Indices]:
        if self.binning == "equalwidth":
            return equal_width(pool, scores, num_strata)
        return equal_mass(pool, num_strata)

    def _effort(self) -> FacilityConfig:
        return FacilityConfig(
            selector=self.name, exact_rows=self.exact_rows, large=self.large, cells=self.cells,
            num_reference_rows=self.num_reference_rows, miss_frac=self.miss_frac,
        )  # fmt: skip
