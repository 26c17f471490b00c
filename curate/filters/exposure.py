"""Drop patches that are almost black or almost white. Formula: mean luma / 255 (of sRGB luma, not linear light).

Scale: 0 black .. 1 white.

Source: cleanvision's `dark` and `light` tests ask the same of brightness percentiles; the mean and its limits are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View

_LEVELS = np.arange(256) / 255.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the mean luma of a patch, from both sides."""

    name: ClassVar[str] = "exposure"
    level: ClassVar[str] = "patch"
    columns: ClassVar[Mapping[str, type]] = {"exposure": float}
    min_exposure: float = 0.04  # ours: 10 of 255 levels
    max_exposure: float = 0.96  # ours: 245 of 255 levels

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.min_exposure <= self.max_exposure <= 1:
            raise ConfigError(
                "exposure: wanted 0 <= min_exposure <= max_exposure <= 1, "
                f"got {self.min_exposure} and {self.max_exposure}"
            )

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the mean luma, 0..1."""
        counts = view.grey_histogram
        return {"exposure": float(counts @ _LEVELS / counts.sum())}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if the mean is known and inside the window."""
        value = scores["exposure"]
        if value is None or value < self.min_exposure:
            return Verdict(keep=False, reason="dark")
        return KEEP if value <= self.max_exposure else Verdict(keep=False, reason="bright")
