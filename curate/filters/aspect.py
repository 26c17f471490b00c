"""Drop very long images. Source: LSDIR's crawling tool (aspect <= 2), as a declared choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on longer side / shorter side."""

    name: ClassVar[str] = "aspect"
    level: ClassVar[str] = "image"
    columns: ClassVar[Mapping[str, type]] = {"aspect": float}
    max_aspect: float = 4.0  # ours: panoramas stay, banners and strips go

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.max_aspect >= 1:
            raise ConfigError(f"aspect.max_aspect must be >= 1, got {self.max_aspect}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return longer side / shorter side, >= 1."""
        short, long = sorted((view.facts.width, view.facts.height))
        return {"aspect": long / short}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if the ratio is known and not above the threshold."""
        ratio = scores["aspect"]
        return KEEP if ratio is not None and ratio <= self.max_aspect else Verdict(keep=False, reason="too-long")
