"""Choose the patches that stand for the most others, without strata of complexity: what the strata of `strat_fl` do is the
difference to this.

No tail is cut. Above 20,000 rows greedy is exact within cells of 5,000 to 10,000 rows (`distill.facility`), so that cost
grows with N.

Source: facility location by lazy greedy, as in DeepCore's submodular selection (Guo et al., arXiv 2204.08499); kernel and
group cap of spec/tripled.md sections 4.2 and 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError

from ..facility import FacilityConfig, choose_facilities
from ..greedy import Caps
from ..kernel import fit_kernel
from ..selection import NO_STRATUM, Features, Indices, Selection, check_request


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Facility location.

    Attributes:
        rank: most dimensions of the whitened encoder rows.
        group_cap: at most ceil(num / photographs) rows of one photograph while others are left.
        facility: exact or in cells, and how hard to look.
    """

    name: ClassVar[str] = "fl"
    needs: ClassVar[tuple[str, ...]] = ()
    rank: int = 64  # spec 4.2
    group_cap: bool = True  # spec 4.8
    facility: FacilityConfig = field(default_factory=FacilityConfig)

    def __post_init__(self) -> None:
        if not self.rank >= 1:
            raise ConfigError(f"fl.rank must be >= 1, got {self.rank}")

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose `num` rows; complexity is not used."""
        check_request(features, scores, groups, num)
        every = np.arange(len(features), dtype=np.int64)
        caps = Caps.fair(groups, every, num, capped=self.group_cap)
        picked = choose_facilities(fit_kernel(features, self.rank), [every], [num], caps, self.facility, rng)
        return Selection(indices=picked.indices, strata=np.full(num, NO_STRATUM, np.int64), gains=picked.gains)
