"""Complexity as edge energy at native resolution: a control that needs no encoder.

Source: the gradient-energy fallback of spec/tripled.md section 4.1; Sobel selection is the baseline that Moser et al.
(arXiv 2403.17083) compare with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate import Dataset
from curate.core.images import luma

from ..descriptors import log_gradient_energy
from ..measure import Look, Patches, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Logarithm of the mean squared luma gradient: ln(1 + 8-bit levels squared), >= 0."""

    name: ClassVar[str] = "gradient"
    uses_torch: ClassVar[bool] = False
    looks_at_tokens: ClassVar[bool] = False
    values: ClassVar[tuple[str, ...]] = ("log_energy",)

    def prepare(self, corpus: Dataset, folder: Path) -> Look:
        """Need nothing but the pixels."""
        return self.measure

    def measure(self, patches: Patches) -> NDArray[np.float64]:
        """Return the number of each patch at native resolution: (patches, 1)."""
        return np.array([[log_gradient_energy(luma(image))] for image in patches.clean], dtype=np.float64)

    def finish(self, values_NK: NDArray[np.float64], groups_N: NDArray[np.int64]) -> Scores:
        """Take it as it is."""
        return Scores(complexity=values_NK[:, 0])
