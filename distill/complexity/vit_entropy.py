"""Complexity as the entropy of the spectrum of a ViT's patch tokens: how many directions the tokens really use. The default.

Half comes from the whole patch, shrunk to the encoder's input, half from crops at native resolution, which keep the texture.

Source: "ViT features" after TripleD's abstract, "entropy" after its reviewers; this formula is ours (effective rank, Roy and
Vetterli, EUSIPCO 2007; spec/tripled.md section 4.1). Difference from the spec: a view of one colour scores 0 by rule.
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
    """Normalised entropy of the eigenvalues of the centred token Gram matrix, in [0, 1].

    Attributes:
        crop_weight_frac: share of the native crops.
        min_energy: sum of eigenvalues under which nothing varies.
    """

    name: ClassVar[str] = "vit_entropy"
    uses_torch: ClassVar[bool] = True
    looks_at_tokens: ClassVar[bool] = True
    values: ClassVar[tuple[str, ...]] = WHOLE_AND_CROPS
    crop_weight_frac: float = 0.5  # spec/tripled.md section 4.1
    min_energy: float = 1e-8  # the same

    def __post_init__(self) -> None:
        if not 0 <= self.crop_weight_frac <= 1:
            raise ConfigError(f"{self.name}.crop_weight_frac must lie in [0, 1], got {self.crop_weight_frac}")
        if not self.min_energy > 0:
            raise ConfigError(f"{self.name}.min_energy must be > 0, got {self.min_energy}")

    def prepare(self, corpus: Dataset, folder: Path) -> Look:
        """Need nothing but the encoder's tokens."""
        return self.measure

    def measure(self, patches: Patches) -> NDArray[np.float64]:
        """Return the entropy of the whole view and the mean of the crops: (patches, 2)."""
        return entropy_of_views(patches, patches.tokens, min_energy=self.min_energy)

    def finish(self, values_NK: NDArray[np.float64], groups_N: NDArray[np.int64]) -> Scores:
        """Weigh the two."""
        return Scores(complexity=weigh_views(values_NK, self.crop_weight_frac))
