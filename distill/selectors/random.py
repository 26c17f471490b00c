"""Choose at random: the control that every other selector has to beat.

Source: "random selection is still a strong baseline" (DeepCore, arXiv 2204.08499); spec/tripled.md section 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..selection import Features, Indices, Selection, check_request


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Uniform, without replacement; looks at nothing."""

    name: ClassVar[str] = "random"
    needs: ClassVar[tuple[str, ...]] = ()

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose `num` rows; scores and groups are not used."""
        check_request(features, scores, groups, num)
        return Selection.plain(rng.permutation(len(features))[:num])
