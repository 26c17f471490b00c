"""Complexity as what bicubic resizing cannot bring back: shrink by 4, enlarge by 4, compare. Needs no encoder.

The number is 10 log10(1 + mean squared error in 8-bit levels): it orders patches exactly as -PSNR(x, up(down(x))) does, and is
0 where nothing is lost (PSNR would be infinite).

Source: PSNR_bic of Cho et al. (arXiv 2509.14777) and of SamplingAug (Wang et al., BMVC 2021); spec/tripled.md sections 2 and
4.1. Both bicubics are Pillow's, antialiased on the way down; x4 is ours (the papers use the scale of their network).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from curate import Dataset
from curate.core.records import Image

from ..measure import Look, Patches, Scores

SCALE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """10 log10(1 + MSE of the x4 round trip), dB, >= 0."""

    name: ClassVar[str] = "psnr_bicubic"
    uses_torch: ClassVar[bool] = False
    looks_at_tokens: ClassVar[bool] = False
    values: ClassVar[tuple[str, ...]] = ("lost_db",)

    def prepare(self, corpus: Dataset, folder: Path) -> Look:
        """Need nothing but the pixels."""
        return self.measure

    def measure(self, patches: Patches) -> NDArray[np.float64]:
        """Return the number of each patch at native resolution: (patches, 1)."""
        return np.array([[_lost_db(image)] for image in patches.clean], dtype=np.float64)

    def finish(self, values_NK: NDArray[np.float64], groups_N: NDArray[np.int64]) -> Scores:
        """Take it as it is."""
        return Scores(complexity=values_NK[:, 0])


def _lost_db(image: Image) -> float:
    height, width = image.shape[:2]
    whole = PillowImage.fromarray(image)
    small = (max(1, round(width / SCALE)), max(1, round(height / SCALE)))
    back = whole.resize(small, PillowImage.Resampling.BICUBIC).resize((width, height), PillowImage.Resampling.BICUBIC)
    difference = image.astype(np.float32) - np.asarray(back, dtype=np.float32)
    return float(10 * np.log10(1 + np.mean(difference * difference, dtype=np.float64)))
