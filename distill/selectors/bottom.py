"""Choose the simplest patches: the mirror of `top`, kept as a control ("scarce data: keep the easy ones").

Source: Sorscher et al., NeurIPS 2022; spec/tripled.md sections 2c and 4.3. In the spec's own check it did worst of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..selection import Features, Indices, Selection, check_request


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Lowest scores first; of equal scores the earlier key."""

    name: ClassVar[str] = "bottom"
    needs: ClassVar[tuple[str, ...]] = ()

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose the `num` lowest scores; groups and rng are not used."""
        check_request(features, scores, groups, num)
        return Selection.plain(np.argsort(scores, kind="stable")[:num])
