"""Drop screenshots, logos and vector drawings: noise-free areas and hard edges, as no camera makes them.

Two measures on every fourth row make one score. Flat runs: a drawn area repeats one colour exactly, a photographed one
changes by a level or two (clipped black and white are flat in photographs too, so they do not count). Hard edges: of the
neighbours that differ, text and line art jump at once, photographs change softly; this finds graphics on clipped paper.
It cannot see painted or rendered texture (brush strokes, noise laid over a render); JPEG quality 50 and below makes smooth
photographs look drawn.

Source: ours; calibrated by eye on 90 wallpapers (67 photographs, 23 drawings, renders and logos).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View

ROW_STEP = 4
BLACK_LEVELS, WHITE_LEVELS = 20, 254
"""A pixel is clipped if its largest channel is <= 20 or its smallest >= 254."""
JUMP_LEVELS = 24
"""Neighbours that differ by more in any channel form a hard edge."""
GRAPHIC_HARD_FRAC = 0.3
"""Share of hard edges from which on clipped areas count as paper in full; text has 0.5 and more, wallpapers 0 to 0.12, small
sharp pictures (CBSD68) up to 0.41, but those are not flat."""
MIN_UNCLIPPED_FRAC = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on how drawn a picture looks: 0 like a photograph, 1 like a logo."""

    name: ClassVar[str] = "non_photographic"
    level: ClassVar[str] = "image"
    columns: ClassVar[Mapping[str, type]] = {"non_photographic": float, "flat_runs": float, "hard_edges": float}
    max_non_photographic: float = 0.79  # ours: between the flattest photograph (0.78) and the softest drawing (0.80)

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.max_non_photographic <= 1:
            raise ConfigError(f"non_photographic.max_non_photographic must be in 0..1, got {self.max_non_photographic}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return three shares in 0..1; None for images under 2 px in width.

        `flat_runs`: of unclipped pixels, those exactly equal to their left neighbour. `hard_edges`: of unequal neighbours,
        those that jump; with h = min(1, hard_edges / 0.3), `non_photographic` is `flat_runs` (or the same share with clipped
        pixels counted, times h, if that is larger) to the power 1 - h / 2: hard edges make flat areas count for more, as
        JPEG's ringing eats the flat paper around text.
        """
        if view.rgb.shape[1] < 2:
            return dict.fromkeys(self.columns)
        flat, flat_all, hard = _shares(np.ascontiguousarray(view.rgb[::ROW_STEP]))
        hardness = min(1.0, hard / GRAPHIC_HARD_FRAC)
        drawn = max(flat, flat_all * hardness) ** (1 - hardness / 2)
        return {"non_photographic": drawn, "flat_runs": flat, "hard_edges": hard}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if known and not above the threshold."""
        value = scores["non_photographic"]
        if value is None:
            return Verdict(keep=False, reason="too-small")
        return KEEP if value <= self.max_non_photographic else Verdict(keep=False, reason="not-a-photograph")


def _shares(rgb: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Share equal to the left neighbour among unclipped pixels and among all; share of jumps among the unequal."""
    left, right = rgb[:, :-1], rgb[:, 1:]
    step = _over_channels(cv2.max, cv2.absdiff(left, right))
    equal = step == 0
    unclipped = (_over_channels(cv2.max, right) > BLACK_LEVELS) & (_over_channels(cv2.min, right) < WHITE_LEVELS)
    num_equal, num_unclipped = np.count_nonzero(equal), np.count_nonzero(unclipped)
    num_unequal = equal.size - num_equal
    flat = np.count_nonzero(equal & unclipped) / num_unclipped if num_unclipped else 0.0
    hard = np.count_nonzero(step > JUMP_LEVELS) / num_unequal if num_unequal else 0.0
    return (
        float(flat) if num_unclipped >= MIN_UNCLIPPED_FRAC * equal.size else 0.0,
        float(num_equal / equal.size),
        float(hard),
    )


def _over_channels(reduce: Callable[..., Any], pixels: NDArray[Any]) -> NDArray[np.uint8]:
    red, green, blue = cv2.split(pixels)
    return np.asarray(reduce(reduce(red, green), blue), dtype=np.uint8)
