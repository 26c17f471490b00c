"""Drop small images. Source: LSDIR's crawling tool (shorter side >= 2160), as a declared choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the shorter side of the upright image."""

    name: ClassVar[str] = "resolution"
    level: ClassVar[str] = "image"
    columns: ClassVar[Mapping[str, type]] = {"resolution": float}
    min_side_px: int = 512  # one patch of the default size

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.min_side_px >= 1:
            raise ConfigError(f"resolution.min_side_px must be >= 1, got {self.min_side_px}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the shorter side in pixels."""
        return {"resolution": float(min(view.facts.width, view.facts.height))}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if the side is known and not below the threshold."""
        side = scores["resolution"]
        return KEEP if side is not None and side >= self.min_side_px else Verdict(keep=False, reason="too-small")
