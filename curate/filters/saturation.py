"""Find greyscale patches. Formula: sum of (max - min) / sum of max over the pixels of the quarter-size RGB picture.

max and min are over the three channels of a pixel, so this is the mean HSV saturation with each pixel weighted by its value:
a dark pixel, where one level of noise is full saturation, hardly counts. Scale: 0 greyscale .. 1 pure colours; 0 for black.
Quarter size (the mean of the middle 2 x 2 of every 4 x 4 pixels) halves the colour noise.
This score makes the picture's colours be decoded.

Source: HSV saturation, Smith, SIGGRAPH 1978; the weighting is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import cv2

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the colourfulness of a patch."""

    name: ClassVar[str] = "saturation"
    level: ClassVar[str] = "patch"
    columns: ClassVar[Mapping[str, type]] = {"saturation": float}
    min_saturation: float = 0.02  # ours: 5 of 255 levels between the channels of a bright grey

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.min_saturation <= 1:
            raise ConfigError(f"saturation.min_saturation must be in 0..1, got {self.min_saturation}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the value-weighted mean saturation, 0..1."""
        high, low = (cv2.mean(plane)[0] for plane in view.rgb_extremes)
        return {"saturation": (high - low) / high if high else 0.0}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if the saturation is known and not below the threshold."""
        value = scores["saturation"]
        return KEEP if value is not None and value >= self.min_saturation else Verdict(keep=False, reason="greyscale")
