"""Choose patches neither typical nor odd: the middle band of the distances to the median feature.

Distances are of whitened encoder rows (spec/tripled.md section 4.2); a pass over them, so cost grows with N.

Source: Moderate coreset (Xia et al., ICLR 2023), selection.py of its code: coordinate-wise median, Euclidean distance, the
ranks around the middle. Differs: patches have no classes, so there is one median.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError

from ..blocks import map_rows
from ..kernel import encoder_points
from ..selection import Features, Indices, Selection, check_request

_DECIMALS = 6  # of a float32 distance in units of the median distance: equal rows are equally far


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """The middle band of distances.

    Attributes:
        rank: most dimensions of the whitened encoder rows.
    """

    name: ClassVar[str] = "moderate"
    needs: ClassVar[tuple[str, ...]] = ()
    rank: int = 64  # spec 4.2

    def __post_init__(self) -> None:
        if not self.rank >= 1:
            raise ConfigError(f"moderate.rank must be >= 1, got {self.rank}")

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose the `num` middle ranks, nearest first; scores, groups and rng are not used."""
        check_request(features, scores, groups, num)
        points = encoder_points(features, self.rank)
        median = np.array([np.median(points[:, column]) for column in range(points.shape[1])], np.float64)

        def far(block: NDArray[np.float32], _: slice) -> NDArray[np.float64]:
            return np.asarray(np.linalg.norm(block - median, axis=1), np.float64)

        distances = np.round(np.concatenate(list(map_rows(far, points))), _DECIMALS)
        start = (len(points) - num) // 2
        return Selection.plain(np.argsort(distances, kind="stable")[start : start + num])
