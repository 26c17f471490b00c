"""Drop pictures with a frame or letterbox bars.

Formula: at each edge, the number of rows (columns) next to it that together span at most 8 levels of luma, divided by the
picture's height (width); the largest of the four. Scale: 0 .. 1; 1 for a uniform picture. An even sky counts as a border, so
the default leaves a few rows.

Source: ours; ffmpeg's `cropdetect` looks for black bars alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View

MAX_SPAN_LEVELS = 8
"""8-bit levels; part of what `border` means: JPEG coding ripples a bar by a few levels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the widest uniform border of the whole picture."""

    name: ClassVar[str] = "border"
    level: ClassVar[str] = "image"
    columns: ClassVar[Mapping[str, type]] = {"border": float}
    max_border_frac: float = 0.02  # ours

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.max_border_frac <= 1:
            raise ConfigError(f"border.max_border_frac must be in 0..1, got {self.max_border_frac}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the share of a side taken by the widest uniform border, 0..1."""
        grey = view.grey
        flipped = (grey, grey[::-1], grey.T, grey.T[::-1])
        return {"border": max(_uniform_rows(plane) / len(plane) for plane in flipped)}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if the share is known and not above the threshold."""
        value = scores["border"]
        return KEEP if value is not None and value <= self.max_border_frac else Verdict(keep=False, reason="border")


def _uniform_rows(plane: NDArray[np.uint8]) -> int:
    """Count the rows from the first one on that together span few levels."""
    low, high = int(plane[0].min()), int(plane[0].max())
    if high - low > MAX_SPAN_LEVELS:
        return 0  # true of nearly every photograph, and costs one row
    lows, highs = (np.asarray(reduce.reduce(plane, axis=1), np.int16) for reduce in (np.minimum, np.maximum))
    span = np.maximum.accumulate(highs) - np.minimum.accumulate(lows)
    return int((span <= MAX_SPAN_LEVELS).sum())
