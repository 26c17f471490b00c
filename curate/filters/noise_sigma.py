"""Measure sensor noise per image; gates only if a recipe says so. Source: Immerkaer, CVIU 1996; Donoho 1994."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the noise standard deviation of the whole image."""

    name: ClassVar[str] = "noise_sigma"
    level: ClassVar[str] = "image"
    columns: ClassVar[Mapping[str, type]] = {"noise_sigma": float}
    max_sigma_levels: float = 10.0  # 8-bit levels; ours: sigma 10 hides what a denoiser should learn to keep

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.max_sigma_levels > 0:
            raise ConfigError(f"noise_sigma.max_sigma_levels must be > 0, got {self.max_sigma_levels}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return sigma in 8-bit levels (see `curate.view.noise_sigma`)."""
        return {"noise_sigma": view.noise_sigma_levels}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if sigma is known and not above the threshold."""
        sigma = scores["noise_sigma"]
        return KEEP if sigma is not None and sigma <= self.max_sigma_levels else Verdict(keep=False, reason="noisy")
