"""Measure how distorted a patch looks by BRISQUE, through the wheel `brisque`; costs 0.2 s and more a patch.

Needs the extra: `pip install 'irdistill[iqa]'` (Apache-2.0, trained SVM inside; its libsvm-official comes as source, so a C
compiler too; no OpenCV of its own). The wheel's own `score()` fails with NumPy 2.4 and later, so its steps are called here one
by one, with its numbers.

Source: Mittal, Moorthy & Bovik, IEEE TIP 21(12), 2012; wheel brisque 0.2.0. Million-IRD selects by BRISQUE but never published
its threshold; ours is named below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import cv2
import numpy as np

from ..core.errors import ConfigError, MissingDependencyError
from ..core.records import KEEP, Image, Score, Verdict
from ..view import View

MIN_SIDE_PX = 32
_WINDOW: dict[str, float] = {"kernel_size": 7, "sigma": 7 / 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on BRISQUE: lower is better."""

    name: ClassVar[str] = "brisque"
    level: ClassVar[str] = "patch"
    columns: ClassVar[Mapping[str, type]] = {"brisque": float}
    max_brisque: float = 50.0  # ours: the middle of the scale the SVM was trained on

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.max_brisque > 0:
            raise ConfigError(f"brisque.max_brisque must be > 0, got {self.max_brisque}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the score: nominally 0 (best) to 100, a little outside at times; None for flat or tiny patches.

        Raises:
            MissingDependencyError: the wheel is not installed.
        """
        return {"brisque": _score(view.rgb)}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if known and not above the threshold."""
        value = scores["brisque"]
        if value is None:
            return Verdict(keep=False, reason="quality-unknown")
        return KEEP if value <= self.max_brisque else Verdict(keep=False, reason="distorted")


def _score(rgb: Image) -> float | None:
    model, rgb2gray = _wheel()
    if min(rgb.shape[:2]) < MIN_SIDE_PX or rgb.min() == rgb.max():
        return None
    grey = rgb2gray(rgb)
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    features = [model.calculate_brisque_features(plane, **_WINDOW) for plane in (grey, half)]
    # the wheel mixes numbers and arrays of one; NumPy 2.4 no longer takes one for the other
    numbers = [float(np.ravel(value)[0]) for scale in features for value in scale]
    value = float(model.calculate_image_quality_score(numbers))
    return value if np.isfinite(value) else None


@cache
def _wheel() -> tuple[Any, Any]:
    """Return the wheel's model and scikit-image's `rgb2gray`, which it uses."""
    try:
        from brisque import BRISQUE
        from skimage.color import rgb2gray
    except ImportError as error:
        raise MissingDependencyError(
            f"the score brisque needs its wheel ({error}): pip install 'irdistill[iqa]'"
        ) from error
    return BRISQUE(url=False), rgb2gray
