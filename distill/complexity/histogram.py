"""Complexity as the entropy of the brightness histogram: a control that needs no encoder's tokens.

Source: Shannon entropy of the 256-bin luma histogram, the label that a review of TripleD describes
(spec/tripled.md section 4.1, `review_entropy`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Shannon entropy of the luma histogram, as a share of its 8 bits."""

    name: ClassVar[str] = "histogram"
    uses_torch: ClassVar[bool] = False

    def measure(self, images_NHWC: NDArray[np.uint8], tokens_NTD: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score a batch of views.

        Args:
            images_NHWC: (N, S, S, 3) uint8 RGB. Not modified.
            tokens_NTD: not used.

        Returns:
            (N,) float64 in [0, 1]; 0 for one colour.
        """
        return np.array([_entropy(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) for image in images_NHWC], dtype=np.float64)


def _entropy(grey: NDArray[np.generic]) -> float:
    counts = np.bincount(grey.reshape(-1), minlength=256)
    share = counts[counts > 0] / grey.size
    return float(abs((share * np.log2(share)).sum()) / 8)
