"""Drop pictures whose JPEG file was written at a low quality.

Scale: IJG quality 1 (worst) .. 100 (best) whose scaled standard luma table is nearest to the file's own; null for a file that
is not a JPEG or holds no table. It says what the last save allowed, not what earlier saves or a resize destroyed.

Source: IJG's jcparam.c (tables and their scaling by quality); see `curate.core.jpeg.estimate_quality`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the quality of the whole picture's file; what is no JPEG has none and fails."""

    name: ClassVar[str] = "jpeg_quality"
    level: ClassVar[str] = "image"
    columns: ClassVar[Mapping[str, type]] = {"jpeg_quality": float}
    min_quality: float = 75.0  # ours: IJG's own default; below it 8x8 blocks show in smooth parts

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 1 <= self.min_quality <= 100:
            raise ConfigError(f"jpeg_quality.min_quality must be in 1..100, got {self.min_quality}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the nearest IJG quality, 1..100; None if the file is no JPEG."""
        return {"jpeg_quality": view.facts.jpeg.quality if view.facts.jpeg else None}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if the quality is known and not below the threshold."""
        value = scores["jpeg_quality"]
        if value is None:
            return Verdict(keep=False, reason="not-jpeg")
        return KEEP if value >= self.min_quality else Verdict(keep=False, reason="low-quality")
