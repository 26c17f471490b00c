"""Measure how much colour a JPEG kept. Formula: chroma samples per luma sample.

Scale: 1.0 for 4:4:4, 0.5 for 4:2:2 and 4:4:0, 0.25 for 4:2:0 and 4:1:1, 0.125 for 4:1:0, 0.0 for one channel; null if the
file is no JPEG or samples its components in another way.

Source: ITU-T T.81 annex B.2.2 (sampling factors of the frame header); see `curate.core.jpeg`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View

SAMPLES = {"4:4:4": 1.0, "4:2:2": 0.5, "4:4:0": 0.5, "4:2:0": 0.25, "4:1:1": 0.25, "4:1:0": 0.125, "grey": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the chroma samples per luma sample of the whole picture; what is no JPEG has none and fails."""

    name: ClassVar[str] = "chroma_subsampling"
    level: ClassVar[str] = "image"
    columns: ClassVar[Mapping[str, type]] = {"chroma_subsampling": float}
    min_chroma_share: float = 0.25  # ours: 4:2:0 is what most cameras write

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.min_chroma_share <= 1:
            raise ConfigError(f"chroma_subsampling.min_chroma_share must be in 0..1, got {self.min_chroma_share}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return chroma samples per luma sample, 0..1; None if the file is no JPEG."""
        return {"chroma_subsampling": SAMPLES.get(view.facts.jpeg.subsampling) if view.facts.jpeg else None}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if the share is known and not below the threshold."""
        value = scores["chroma_subsampling"]
        if value is None:
            return Verdict(keep=False, reason="not-jpeg")
        enough = value >= self.min_chroma_share
        return KEEP if enough else Verdict(keep=False, reason="little-chroma")
