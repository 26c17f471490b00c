"""Drop patches without fine detail, without mistaking noise for detail.

Source: Pech-Pacheco et al., ICPR 2000 (variance of the Laplacian); the noise term is the kernel's energy (1+1+1+1+16 = 20)
times sigma^2, which is what iid noise adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View

NOISE_GAIN = 20.0


def laplacian_variance(laplacian: NDArray[np.int16]) -> float:
    """Measure fine detail: higher means sharper.

    Args:
        laplacian: (H, W) int16, the luma filtered with [0 1 0; 1 -4 1; 0 1 0]. Not modified.

    Returns:
        Variance in (8-bit levels)^2, >= 0; 0.0 for a constant image.

    Source:
        Pech-Pacheco et al., ICPR 2000.

    Example:
        >>> laplacian_variance(np.zeros((8, 8), np.int16))
        0.0
    """
    energy = cv2.norm(laplacian, cv2.NORM_L2SQR)  # integers, so exact in float64
    mean = cv2.sumElems(laplacian)[0] / laplacian.size
    return max(0.0, energy / laplacian.size - mean**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the noise-corrected variance of the Laplacian of a patch at full resolution."""

    name: ClassVar[str] = "sharpness"
    level: ClassVar[str] = "patch"
    columns: ClassVar[Mapping[str, type]] = {"laplacian_variance": float, "sharpness": float}
    min_sharpness: float = (
        20.0  # (8-bit levels)^2 at full resolution: what practitioners' scripts use, here after the noise term
    )

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.min_sharpness >= 0:
            raise ConfigError(f"sharpness.min_sharpness must be >= 0, got {self.min_sharpness}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return Var(Laplacian) and max(0, Var(Laplacian) - 20 sigma^2)."""
        variance = laplacian_variance(view.laplacian)
        return {
            "laplacian_variance": variance,
            "sharpness": max(0.0, variance - NOISE_GAIN * view.noise_sigma_levels**2),
        }

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if the sharpness is known and not below the threshold."""
        sharpness = scores["sharpness"]
        return (
            KEEP if sharpness is not None and sharpness >= self.min_sharpness else Verdict(keep=False, reason="blurry")
        )
