"""Measure how unnatural a patch looks without a reference (NIQE); costs 16 to 20 ms a patch, so only if a recipe names it.

Statistics of normalised luminance are compared with those of sharp, clean photographs. The natural-scene model is our own
fit (`benchmarks/fit_niqe.py`), shipped as `_niqe_model.json`: values rank like those of other fits but are not the same
numbers. It judges how a picture was taken and stored, not what it shows; skies and other smooth parts score badly.

Source: Mittal, Soundararajan & Bovik, "Making a completely blind image quality analyzer", IEEE SPL 20(3), 2013.
Million-IRD selects by NIQE but never published its threshold; ours is named below.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View
from ._niqe_features import BLOCK_PX, NUM_FEATURES, block_features, distance

_MODEL = Path(__file__).with_name("_niqe_model.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class NaturalModel:
    """Multivariate Gaussian of the features of natural blocks: `mean` (36,), `covariance` (36, 36), float64."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on NIQE: lower is more natural."""

    name: ClassVar[str] = "niqe"
    level: ClassVar[str] = "patch"
    columns: ClassVar[Mapping[str, type]] = {"niqe": float}
    max_niqe: float = 12.0  # ours

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.max_niqe > 0:
            raise ConfigError(f"niqe.max_niqe must be > 0, got {self.max_niqe}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the distance from the natural-scene model, >= 0, no unit; None under 96 px on a side."""
        return {"niqe": niqe(view.grey)}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if known and not above the threshold."""
        value = scores["niqe"]
        if value is None:
            return Verdict(keep=False, reason="too-small")
        return KEEP if value <= self.max_niqe else Verdict(keep=False, reason="unnatural")


def niqe(grey: NDArray[np.uint8]) -> float | None:
    """Measure how far the statistics of a luma plane are from those of sharp, clean photographs.

    Args:
        grey: (H, W) uint8; whole 96x96 blocks from the first pixel are used. Not modified.

    Returns:
        >= 0, lower is better; None under 96 px on a side.
    """
    if min(grey.shape) < BLOCK_PX:
        return None
    model = load_model()
    return distance(block_features(grey)[0], model.mean, model.covariance)


@cache
def load_model() -> NaturalModel:
    """Read the shipped natural-scene model."""
    record = json.loads(_MODEL.read_text(encoding="utf-8"))
    mean, covariance = np.array(record["mean"]), np.array(record["covariance"])
    assert mean.shape == (NUM_FEATURES,) and covariance.shape == (NUM_FEATURES, NUM_FEATURES), "our own file"
    return NaturalModel(mean=mean, covariance=covariance)
