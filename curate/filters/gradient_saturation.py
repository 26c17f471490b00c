"""Find patches whose edges are cut off by clipping.

Formula: sum of |Sobel| over the clipped pixels (luma <= 1 or >= 254) / sum of |Sobel| over all pixels. At a clipped pixel the
true value, and so the true gradient, is unknown: a deblurring or denoising model would learn a wrong edge there.
Scale: 0 (no edge touches a clipped pixel) .. 1; 0 for a patch without gradients.

Source: ours; saturated pixels break blur models, Cho, Wang, Lee, ICCV 2011.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View
from .clipping import HIGH_LEVEL, LOW_LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the share of gradients that clipping cuts."""

    name: ClassVar[str] = "gradient_saturation"
    level: ClassVar[str] = "patch"
    columns: ClassVar[Mapping[str, type]] = {"gradient_saturation": float}
    max_gradient_saturation_frac: float = 0.25  # ours

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.max_gradient_saturation_frac <= 1:
            raise ConfigError(
                f"gradient_saturation.max_gradient_saturation_frac must be in 0..1, got {self.max_gradient_saturation_frac}"
            )

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the share of the gradient that lies at clipped pixels, 0..1."""
        counts = view.grey_histogram
        if not counts[: LOW_LEVEL + 1].any() and not counts[HIGH_LEVEL:].any():
            return {"gradient_saturation": 0.0}  # nothing is clipped: no need to filter
        magnitude = view.sobel_magnitude
        whole = float(magnitude.sum(dtype=np.float64))
        if whole == 0:
            return {"gradient_saturation": 0.0}
        inside = cv2.inRange(view.grey, LOW_LEVEL + 1, HIGH_LEVEL - 1)
        return {"gradient_saturation": float(magnitude[inside == 0].sum(dtype=np.float64)) / whole}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if the share is known and not above the threshold."""
        value = scores["gradient_saturation"]
        return (
            KEEP
            if value is not None and value <= self.max_gradient_saturation_frac
            else Verdict(keep=False, reason="clipped-edges")
        )
