"""Complexity as the entropy of raw pixels' spectrum: `vit_entropy` without a ViT, over blocks of 16x16 px.

The control that says what the ViT adds; it needs no weights.

Source: the fallback of spec/tripled.md section 4.1 ("same H on raw 16x16 patch tokens"); 16 px is a ViT-B/16's patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate import Dataset
from curate.core.errors import ConfigError

from ..measure import Look, Patches, Scores
from ..token_entropy import WHOLE_AND_CROPS, entropy_of_views, weigh_views


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Normalised entropy of the eigenvalues of centred pixel blocks, in [0, 1].

    Attributes:
        block_px: side of a block; what is left over at the right and lower edge is not looked at.
        crop_weight_frac: share of the native crops.
        min_energy: sum of eigenvalues under which nothing varies.
    """

    name: ClassVar[str] = "token_entropy_raw"
    uses_torch: ClassVar[bool] = True
    looks_at_tokens: ClassVar[bool] = True  # at its own, but of all views
    values: ClassVar[tuple[str, ...]] = WHOLE_AND_CROPS
    block_px: int = 16
    crop_weight_frac: float = 0.5  # as vit_entropy
    min_energy: float = 1e-8

    def __post_init__(self) -> None:
        if not self.block_px >= 2:
            raise ConfigError(f"{self.name}.block_px must be >= 2, got {self.block_px}")
        if not 0 <= self.crop_weight_frac <= 1:
            raise ConfigError(f"{self.name}.crop_weight_frac must lie in [0, 1], got {self.crop_weight_frac}")
        if not self.min_energy > 0:
            raise ConfigError(f"{self.name}.min_energy must be > 0, got {self.min_energy}")

    def prepare(self, corpus: Dataset, folder: Path) -> Look:
        """Need nothing but the views."""
        return self.measure

    def measure(self, patches: Patches) -> NDArray[np.float64]:
        """Return the entropy of the whole view and the mean of the crops: (patches, 2)."""
        return entropy_of_views(patches, self._blocks(patches.views), min_energy=self.min_energy)

    def finish(self, values_NK: NDArray[np.float64], groups_N: NDArray[np.int64]) -> Scores:
        """Weigh the two."""
        return Scores(complexity=weigh_views(values_NK, self.crop_weight_frac))

    def _blocks(self, views_VSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Cut views into rows of pixels: (V, blocks, 3 block_px^2) in [0, 1]."""
        num, side, _, channels = views_VSSC.shape
        along = side // self.block_px
        kept = views_VSSC[:, : along * self.block_px, : along * self.block_px]
        blocks = kept.reshape(num, along, self.block_px, along, self.block_px, channels).transpose(0, 1, 3, 2, 4, 5)
        return blocks.reshape(num, along * along, -1).astype(np.float32) / np.float32(255)
