"""How unnatural a picture looks, without a reference.

Source: `curate/filters/niqe.py` (Mittal et al., IEEE SPL 2013; the natural-scene model is our own fit).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..degradations import Pixels
from ._curated import curated_score


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """NIQE with our own natural-scene model: ranks like other fits, other numbers."""

    name: ClassVar[str] = "niqe"
    words: ClassVar[str] = "no reference, lower is better; BT.601 luma in 8 bits, natural-scene model of curate's own"

    def measure(self, image_CHW: Pixels, target_CHW: Pixels) -> float | None:
        """Return the distance from natural scenes, >= 0; None under 96 px on a side. `target_CHW` is not looked at."""
        return curated_score("niqe", image_CHW)
