"""Drop images that are small or very long. Source: LSDIR's crawling tool (min side 2160, aspect <= 2), as a declared choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the sides of the upright image."""

    name: ClassVar[str] = "resolution"
    level: ClassVar[str] = "image"
    columns: ClassVar[Mapping[str, type]] = {"min_side_px": float, "aspect_ratio": float}
    min_side_px: int = 512  # one patch of the default size
    max_aspect_ratio: float = 4.0  # ours: panoramas stay, banners and strips go

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.min_side_px >= 1:
            raise ConfigError(f"resolution.min_side_px must be >= 1, got {self.min_side_px}")
        if not self.max_aspect_ratio >= 1:
            raise ConfigError(f"resolution.max_aspect_ratio must be >= 1, got {self.max_aspect_ratio}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the shorter side in pixels and longer side / shorter side."""
        short, long = sorted((view.facts.width, view.facts.height))
        return {"min_side_px": float(short), "aspect_ratio": long / short}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if both are in range."""
        if not (scores["min_side_px"] or 0.0) >= self.min_side_px:
            return Verdict(keep=False, reason="too-small")
        if not (scores["aspect_ratio"] or 0.0) <= self.max_aspect_ratio:
            return Verdict(keep=False, reason="too-long")
        return KEEP
