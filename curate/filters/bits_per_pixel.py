"""Drop files too small for their pixels. Formula: 8 * file bytes / (width * height), in bits per pixel.

Metadata and profiles in the file count; smooth pictures need few bits, so compare pictures of one format only.

Source: HQ-50K (Yang et al., 2023) selects by compression rate in bits per pixel; its cut-offs are not published.
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
    """Gate on the compressed size per pixel of the whole picture."""

    name: ClassVar[str] = "bits_per_pixel"
    level: ClassVar[str] = "image"
    columns: ClassVar[Mapping[str, type]] = {"bits_per_pixel": float}
    min_bits_per_pixel: float = 1.0  # ours: a photograph at IJG quality 75 takes about 1 to 2

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.min_bits_per_pixel >= 0:
            raise ConfigError(f"bits_per_pixel.min_bits_per_pixel must be >= 0, got {self.min_bits_per_pixel}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return bits of file per pixel, > 0."""
        return {"bits_per_pixel": 8 * view.num_bytes / (view.facts.width * view.facts.height)}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if the rate is known and not below the threshold."""
        value = scores["bits_per_pixel"]
        return (
            KEEP
            if value is not None and value >= self.min_bits_per_pixel
            else Verdict(keep=False, reason="over-compressed")
        )
