"""Falling snow: flakes of three distances in front of the picture, far ones small and many, near ones large and soft.

Source: ours, after the layered snow of Snow100K and the spec's streak layers (spec/ipt.md 8.1; no library there draws snow
that is more than thresholded noise): O = B (1 - S) + c S with S from the layers and c nearly white. Flakes are soft ellipses,
longer the faster they fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from curate.core.errors import ConfigError

from . import Parameters, Pixels, Rng, check_pixels, clipped, render_drawn
from ._batch import batch_method, per_picture
from ._draws import between, check_range, draw_seed, log_between
from ._streaks import streaks, streaks_batch

LAYERS = ((0.5, 0.8, 1.0), (0.9, 1.6, 0.3), (2.0, 3.5, 0.04))  # width from, to (px), share of the density; by eye
SNOW_LEVEL = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Snowfall drawn for every picture.

    Attributes:
        min_density: far flakes per pixel; lower end, drawn by its logarithm. Nearer layers hold fixed shares of it.
        max_density: upper end.
        min_opacity: of a flake's middle; lower end.
        max_opacity: upper end.
        min_stretch: length of a flake over its width; lower end.
        max_stretch: upper end: the faster it falls.
        max_tilt_deg: of the fall against the vertical, either way.
    """

    name: ClassVar[str] = "snow"
    min_density: float = 2e-3
    max_density: float = 1e-2
    min_opacity: float = 0.6
    max_opacity: float = 0.95
    min_stretch: float = 1.0
    max_stretch: float = 4.0
    max_tilt_deg: float = 40.0

    def __post_init__(self) -> None:
        """Check ranges."""
        check_range(self.name, "density", self.min_density, self.max_density, least=1e-6, most=0.5)
        check_range(self.name, "opacity", self.min_opacity, self.max_opacity, least=0, most=1)
        check_range(self.name, "stretch", self.min_stretch, self.max_stretch, least=1, most=40)
        if not 0 <= self.max_tilt_deg <= 90:
            raise ConfigError(f"snow.max_tilt_deg must be 0 to 90, got {self.max_tilt_deg}")

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw the layers and the seed."""
        density = log_between(rng, self.min_density, self.max_density)
        stretch = between(rng, self.min_stretch, self.max_stretch)
        angle = 90 + between(rng, -self.max_tilt_deg, self.max_tilt_deg)
        layers = []
        for low, high, share in LAYERS:
            flake = between(rng, low, high)
            layers.append({
                "kind": "flake", "density": density * share, "width_px": flake, "length_px": 2 * flake * (1 + stretch),
                "angle_deg": angle + between(rng, -10, 10), "weight": between(rng, self.min_opacity, self.max_opacity),
            })  # fmt: skip
        return {"layers": layers, "level": SNOW_LEVEL, "seed": draw_seed(rng)}

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a snowy copy."""
        check_pixels(image_CHW, where=self.name)
        cover = streaks(parameters, *image_CHW.shape[1:])
        return clipped(image_CHW * (1 - cover) + np.float32(parameters["level"]) * cover)

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return snowy copies of a batch."""
        cover = streaks_batch(parameters, x_BCHW)
        level = per_picture((values["level"] for values in parameters), x_BCHW)
        return (x_BCHW * (1 - cover) + level * cover).clamp(0, 1)
