"""Choose what bicubic up-sampling restores worst: patches with a low PSNR between themselves and (x down 4) up 4.

Source: SamplingAug (Wang et al., BMVC 2021), informative patches are those of low PSNR; Cho et al., arXiv 2509.14777;
spec/tripled.md section 2. SamplingAug keeps chosen patches of a picture apart (NMS); our patches lie on a grid and never
overlap, so the option is a cap per photograph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..greedy import Caps
from ..selection import Features, Indices, Selection, check_request, measure_of

_PSNR = "psnr_bicubic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Lowest PSNR first, that is the highest score of `distill.complexity.psnr_bicubic`.

    Attributes:
        group_cap: at most ceil(num / photographs) rows of one photograph while others are left.
    """

    name: ClassVar[str] = "psnr_bic"
    needs: ClassVar[tuple[str, ...]] = (_PSNR,)
    group_cap: bool = False  # SamplingAug's diversity is an option

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose the `num` highest scores; of equal scores the earlier key.

        Raises:
            ConfigError: the scores were not measured.
        """
        check_request(features, scores, groups, num)
        order = np.argsort(-measure_of(features, _PSNR, self.name), kind="stable")
        caps = Caps.fair(groups, order, num, capped=self.group_cap)
        rise = np.maximum(_turn(groups[order]) - caps.cap + 1, 0)  # how far the cap must rise before a row is open
        return Selection.plain(order[np.argsort(rise, kind="stable")[:num]])


def _turn(groups: Indices) -> Indices:
    """Return how many rows of its group come before each row."""
    by_group = np.argsort(groups, kind="stable")
    first = np.searchsorted(groups[by_group], groups[by_group])
    turn = np.empty(len(groups), np.int64)
    turn[by_group] = np.arange(len(groups)) - first
    return turn
