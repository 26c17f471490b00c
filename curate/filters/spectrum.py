"""Find enlarged pictures: up to which frequency does a patch hold detail?

Natural pictures have power falling as 1 / f^2, so power times f^2 stays about level up to the sharpness of the lens.
Enlarging by s leaves nothing above 1 / s of the highest frequency a pixel grid can hold (Nyquist). The cut-off is where the
level first falls 10 dB under that of the low band; JPEG's own errors lie lower (12 dB and more at quality 75).

It cannot tell an enlarged picture from a soft one (out of focus, strong noise reduction, a lens at its limit): both lack
detail. Noise or sharpening added after enlarging hides it, and so does nearest-neighbour enlarging.

Source: Field, JOSA A 4(12), 1987 (power of natural pictures); Welch 1967 (averaged windows); cut-off and threshold are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError
from ..core.records import KEEP, Score, Verdict
from ..view import View

MAX_WINDOW_PX, MIN_WINDOW_PX = 256, 64
NUM_RINGS = 32
LOW_BAND = slice(2, 6)
"""Rings whose mean is the reference: 0.06 to 0.19 of Nyquist, detail that an enlargement by four still has."""
DROP_DB = 10.0
MIN_LOW_BAND_DB = 3.0
"""Under it the drop would end in the rounding to 8 bits (-11 dB at Nyquist): too flat to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the cut-off frequency of a patch: higher means finer detail."""

    name: ClassVar[str] = "spectrum"
    level: ClassVar[str] = "patch"
    columns: ClassVar[Mapping[str, type]] = {"spectrum": float}
    min_spectrum: float = 0.6  # ours: Kodak pictures measure 1.0 (median), bicubic x1.5 0.67, x2 0.49

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.min_spectrum <= 1:
            raise ConfigError(f"spectrum.min_spectrum must be in 0..1, got {self.min_spectrum}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the cut-off as a share of Nyquist, 0..1; None under 64 px on a side or too flat to tell."""
        return {"spectrum": cutoff(view.grey)}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if known and not below the threshold."""
        value = scores["spectrum"]
        if value is None:
            return Verdict(keep=False, reason="resolution-unknown")
        return KEEP if value >= self.min_spectrum else Verdict(keep=False, reason="upscaled-or-soft")


def cutoff(grey: NDArray[np.uint8]) -> float | None:
    """Measure up to which frequency a luma plane holds detail.

    Args:
        grey: (H, W) uint8. Not modified.

    Returns:
        Share of Nyquist, 0..1, interpolated between rings; 1.0 if the level never falls by 10 dB. None under 64 px on a
        side, or where the low band holds hardly more than rounding.
    """
    window_px = 1 << (min(*grey.shape, MAX_WINDOW_PX).bit_length() - 1)
    if window_px < MIN_WINDOW_PX:
        return None
    level = 10 * np.log10(_level_spectrum(grey, window_px) + 1e-12)
    reference = float(level[LOW_BAND].mean())
    if reference < MIN_LOW_BAND_DB:
        return None
    below = np.flatnonzero(level[LOW_BAND.stop :] < reference - DROP_DB)
    if not len(below):
        return 1.0
    ring = int(below[0]) + LOW_BAND.stop
    above, under = float(level[ring - 1]), float(level[ring])
    part = min(1.0, max(0.0, (above - (reference - DROP_DB)) / (above - under)))
    return (ring - 0.5 + part) / NUM_RINGS


def _level_spectrum(grey: NDArray[np.uint8], window_px: int) -> NDArray[np.float64]:
    """Mean power of each ring times its frequency squared (Nyquist = 1), over Hann windows side by side; (32,)."""
    window, rings, sizes = _window_and_rings(window_px)
    rows, columns = grey.shape[0] // window_px, grey.shape[1] // window_px
    corners = [(window_px * r, window_px * c) for r in range(rows) for c in range(columns)]
    tiles = [grey[y : y + window_px, x : x + window_px].astype(np.float32) for y, x in corners]
    windowed = [(tile - tile.mean()) * window for tile in tiles]
    if len(windowed) % 2:
        windowed.append(np.zeros_like(window))
    power = np.zeros((window_px, window_px), np.float32)
    for real, imaginary in zip(windowed[::2], windowed[1::2], strict=True):
        # two real tiles in one complex transform: rings are symmetric, so their sum of |Z|^2 is that of both tiles
        waves = cv2.dft(cv2.merge([real, imaginary]))
        power += waves[..., 0] ** 2 + waves[..., 1] ** 2
    total = np.bincount(rings, weights=power.ravel(), minlength=NUM_RINGS)[:NUM_RINGS]
    frequency = (np.arange(NUM_RINGS) + 0.5) / NUM_RINGS
    return np.asarray(total / sizes / len(corners) * frequency**2, dtype=np.float64)


@cache
def _window_and_rings(window_px: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    """Hann window of mean square 1; ring of each coefficient (those past Nyquist in the last); coefficients a ring holds."""
    hann = np.hanning(window_px)
    window = np.outer(hann, hann)
    window /= np.sqrt((window**2).sum())  # so that white noise of variance v has power v everywhere
    radius = np.hypot(np.fft.fftfreq(window_px)[:, None], np.fft.fftfreq(window_px)[None]) * 2
    rings = np.minimum((radius * NUM_RINGS).astype(np.int64), NUM_RINGS).ravel()
    return window.astype(np.float32), rings, np.bincount(rings, minlength=NUM_RINGS)[:NUM_RINGS].astype(np.float64)
