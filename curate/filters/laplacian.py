"""Drop patches whose Laplacian varies little: the practitioner's blur test, which takes noise for detail.

Source: Pech-Pacheco et al., ICPR 2000; threshold 20 as in BasicSR users' scripts. `sharpness` is the noise-aware version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View
from .sharpness import laplacian_variance


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the variance of the Laplacian of a patch at full resolution; measures nothing else, so it is cheap."""

    name: ClassVar[str] = "laplacian"
    level: ClassVar[str] = "patch"
    columns: ClassVar[Mapping[str, type]] = {"laplacian_variance": float}
    min_laplacian_variance: float = 20.0  # (8-bit levels)^2

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.min_laplacian_variance >= 0:
            raise ConfigError(f"laplacian.min_laplacian_variance must be >= 0, got {self.min_laplacian_variance}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return Var(Laplacian) in (8-bit levels)^2."""
        return {"laplacian_variance": laplacian_variance(view.laplacian)}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if the variance is known and not below the threshold."""
        variance = scores["laplacian_variance"]
        enough = variance is not None and variance >= self.min_laplacian_variance
        return KEEP if enough else Verdict(keep=False, reason="blurry")
