"""Complexity as the entropy of the brightness histogram at native resolution: a control that needs no encoder.

Source: Shannon entropy of the 256-bin luma histogram, the label that a review of TripleD describes
(spec/tripled.md section 4.1, `review_entropy`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate import Dataset

from ..descriptors import MOST_BITS, histogram_bits
from ..measure import Look, Patches, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Shannon entropy of the luma histogram, as a share of its 8 bits: 0..1."""

    name: ClassVar[str] = "histogram"
    uses_torch: ClassVar[bool] = False
    looks_at_tokens: ClassVar[bool] = False
    values: ClassVar[tuple[str, ...]] = ("entropy_frac",)

    def prepare(self, corpus: Dataset, folder: Path) -> Look:
        """Need nothing but the pixels."""
        return self.measure

    def measure(self, patches: Patches) -> NDArray[np.float64]:
        """Return the number of each patch at native resolution: (patches, 1)."""
        return np.array([[histogram_bits(image) / MOST_BITS] for image in patches.clean], dtype=np.float64)

    def finish(self, values_NK: NDArray[np.float64], groups_N: NDArray[np.int64]) -> Scores:
        """Take it as it is."""
        return Scores(complexity=values_NK[:, 0])
