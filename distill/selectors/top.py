"""Choose the most complex patches: a control, known to hurt at small budgets.

Source: "the top 1-2 % most complex images" (a review of TripleD, spec/tripled.md section 1 row 10). Our micro-check
lost 0.5 dB (denoising) and 1.5 dB (deblurring) against random (section 6.1), so it is no default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..selection import Features, Indices, Selection, check_request


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Highest scores first; of equal scores the earlier key."""

    name: ClassVar[str] = "top"
    needs: ClassVar[tuple[str, ...]] = ()

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose the `num` highest scores; groups and rng are not used."""
        check_request(features, scores, groups, num)
        return Selection.plain(np.argsort(-scores, kind="stable")[:num])
