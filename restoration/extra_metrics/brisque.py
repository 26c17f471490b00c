"""How distorted a picture looks, without a reference; needs `pip install 'irdistill[iqa]'`.

Source: `curate/filters/brisque.py` (Mittal et al., IEEE TIP 2012).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..degradations import Pixels
from ._curated import curated_score


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """BRISQUE through the wheel `brisque`; 0.2 s and more a picture."""

    name: ClassVar[str] = "brisque"
    words: ClassVar[str] = "no reference, 0 to 100, lower is better; grey in 8 bits, SVM of the wheel brisque"

    def measure(self, image_CHW: Pixels, target_CHW: Pixels) -> float | None:
        """Return the score; None for flat pictures or under 32 px on a side. `target_CHW` is not looked at."""
        return curated_score("brisque", image_CHW)
