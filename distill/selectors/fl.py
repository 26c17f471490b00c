"""Choose the patches that stand for the most others, whatever their complexity.

The difference to `strat_fl` is what strata do. No tail is cut. Above 20,000 rows greedy is exact within cells of 5,000 to
10,000 rows (`distill.facility`), so that cost grows with N.

Source: facility location by lazy greedy, as in DeepCore's submodular selection (Guo et al., arXiv 2204.08499); kernel and
group cap of spec/tripled.md sections 4.2 and 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError

from ..facility import FacilityConfig, Large, choose_facilities
from ..greedy import Caps
from ..kernel import fit_kernel
from ..partition import CellConfig
from ..selection import NO_STRATUM, Features, Indices, Selection, check_request


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Facility location.

    Attributes:
        rank: most dimensions of the whitened encoder rows.
        group_cap: at most ceil(num / photographs) rows of one photograph while others are left.
        exact_rows: up to so many rows greedy is exact.
        large: what is done above, `cells` or `stochastic` (`distill.facility`).
        cells: sizes of cells.
        num_reference_rows: rows of the reference sample of `stochastic`.
        miss_frac: what `stochastic` may lose.
    """

    name: ClassVar[str] = "fl"
    needs: ClassVar[tuple[str, ...]] = ()
    rank: int = 64  # spec 4.2
    group_cap: bool = True  # spec 4.8
    exact_rows: int = 20_000  # spec 4.3
    large: Large = "cells"  # measured: benchmarks/results/select-scale_*.json
    cells: CellConfig = field(default_factory=CellConfig)
    num_reference_rows: int = 2_000  # spec 4.3: at least 2k
    miss_frac: float = 0.1  # spec 4.3: ln 10

    def __post_init__(self) -> None:
        if not self.rank >= 1:
            raise ConfigError(f"fl.rank must be >= 1, got {self.rank}")
        self._effort()

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose `num` rows; complexity is not used."""
        check_request(features, scores, groups, num)
        every = np.arange(len(features), dtype=np.int64)
        caps = Caps.fair(groups, every, num, capped=self.group_cap)
        picked = choose_facilities(fit_kernel(features, self.rank), [every], [num], caps, self._effort(), rng)
        return Selection(indices=picked.indices, strata=np.full(num, NO_STRATUM, np.int64), gains=picked.gains)

    def _effort(self) -> FacilityConfig:
        return FacilityConfig(
            selector=self.name, exact_rows=self.exact_rows, large=self.large, cells=self.cells,
            num_reference_rows=self.num_reference_rows, miss_frac=self.miss_frac,
        )  # fmt: skip
