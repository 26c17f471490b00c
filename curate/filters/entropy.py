"""Drop patches with few distinct levels. Formula: -sum p log2 p over the 256-bin histogram of the luma.

Scale: 0 (one level) .. 8 bits (all levels equally often). Noise raises it.

Source: Shannon, 1948; cleanvision's `low_information` asks 0.1 * entropy >= 0.3 of whole pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the entropy of a patch's luma."""

    name: ClassVar[str] = "entropy"
    level: ClassVar[str] = "patch"
    columns: ClassVar[Mapping[str, type]] = {"entropy": float}
    min_entropy_bits: float = 3.0  # cleanvision's threshold, there for whole pictures

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.min_entropy_bits <= 8:
            raise ConfigError(f"entropy.min_entropy_bits must be in 0..8, got {self.min_entropy_bits}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the entropy in bits, 0..8."""
        counts = view.grey_histogram
        share = counts[counts > 0] / counts.sum()
        return {"entropy": max(0.0, -float(share @ np.log2(share)))}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if the entropy is known and not below the threshold."""
        value = scores["entropy"]
        return (
            KEEP
            if value is not None and value >= self.min_entropy_bits
            else Verdict(keep=False, reason="low-information")
        )
