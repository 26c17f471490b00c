"""Drop patches where the sensor or an edit cut off the darkest or brightest values.

Formula: share of pixels with luma <= 1 (`clipping_low`), with luma >= 254 (`clipping_high`), and their sum (`clipping`).
Scale: 0..1. One level of tolerance on each side, because JPEG coding moves clipped values by about one level.

Source: ours; the usual histogram warning of raw converters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View

LOW_LEVEL = 1
HIGH_LEVEL = 254
"""8-bit levels; part of what the columns mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the share of clipped pixels of a patch."""

    name: ClassVar[str] = "clipping"
    level: ClassVar[str] = "patch"
    columns: ClassVar[Mapping[str, type]] = {"clipping": float, "clipping_low": float, "clipping_high": float}
    max_clipping_frac: float = 0.25  # ours: a quarter of the patch holds no information

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.max_clipping_frac <= 1:
            raise ConfigError(f"clipping.max_clipping_frac must be in 0..1, got {self.max_clipping_frac}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the shares of clipped pixels: both ends together, dark end, bright end."""
        counts = view.grey_histogram
        total = float(counts.sum())
        low, high = float(counts[: LOW_LEVEL + 1].sum()) / total, float(counts[HIGH_LEVEL:].sum()) / total
        return {"clipping": low + high, "clipping_low": low, "clipping_high": high}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if the share is known and not above the threshold."""
        value = scores["clipping"]
        return KEEP if value is not None and value <= self.max_clipping_frac else Verdict(keep=False, reason="clipped")
