"""Complexity as edge energy: a control that needs no encoder's tokens.

Source: the gradient-energy fallback of spec/tripled.md section 4.1; Sobel selection is the baseline that Moser et al.
(arXiv 2403.17083) compare with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ..descriptors import log_gradient_energy


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Logarithm of the mean squared luma gradient."""

    name: ClassVar[str] = "gradient"
    uses_torch: ClassVar[bool] = False

    def measure(self, images_NHWC: NDArray[np.uint8], tokens_NTD: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score a batch of views.

        Args:
            images_NHWC: (N, S, S, 3) uint8 RGB. Not modified.
            tokens_NTD: not used.

        Returns:
            (N,) float64 >= 0, ln(1 + 8-bit levels squared); 0 for one colour.
        """
        greys = [np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8) for image in images_NHWC]
        return np.array([log_gradient_energy(grey) for grey in greys], dtype=np.float64)
