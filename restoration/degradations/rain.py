"""Rain: layers of falling streaks, added to the picture.

Source: the sparse-seed variant of spec/ipt.md 8.1, O = min(1, B + S), S grey. Near drops are few, long and wide, far ones
many, short and thin; each layer falls in its own direction around the picture's. `light` is calibrated to Rain100L's 26.9 dB
of Y, `heavy` to Rain100H's 12 to 15 dB, in mean over Kodak (benchmarks/bench_degradations.py), and compared by eye with
Rain100H's pictures: up to five directions, milky where layers overlap. The scale is that of pictures about 500 px wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from curate.core.errors import ConfigError

from . import Parameters, Pixels, Rng, check_pixels, clipped, render_drawn
from ._batch import batch_method
from ._draws import between, check_range, draw_seed, integer_between, log_between
from ._streaks import streaks, streaks_batch

DOWN_DEG = 90.0
NEAR_WIDTH_PX, FAR_WIDTH_PX = 0.85, 0.5  # half-widths of streaks; read off Rain100H's pictures

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "light": {},
    "heavy": {
        "min_layers": 3, "max_layers": 5, "min_density": 4e-3, "max_density": 9e-3, "min_weight": 0.2,
        "max_weight": 0.41, "max_length_px": 55.0, "max_layer_tilt_deg": 25.0,
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Rain drawn for every picture.

    Attributes:
        min_layers: number of layers; lower end.
        max_layers: upper end.
        min_density: streaks that start in a layer, per pixel; lower end, drawn by its logarithm; near layers get fewer.
        max_density: upper end.
        min_weight: brightness of a layer; lower end.
        max_weight: upper end.
        min_length_px: of streaks; lower end.
        max_length_px: upper end.
        max_tilt_deg: of the picture's rain against the vertical, either way.
        max_layer_tilt_deg: of a layer against the picture's rain, either way.
    """

    name: ClassVar[str] = "rain"
    min_layers: int = 1
    max_layers: int = 3
    min_density: float = 1e-3
    max_density: float = 2.2e-3
    min_weight: float = 0.18
    max_weight: float = 0.345
    min_length_px: float = 11.0
    max_length_px: float = 40.0
    max_tilt_deg: float = 20.0
    max_layer_tilt_deg: float = 4.0

    def __post_init__(self) -> None:
        """Check ranges."""
        check_range(self.name, "layers", self.min_layers, self.max_layers, least=1, most=16)
        check_range(self.name, "density", self.min_density, self.max_density, least=1e-6, most=0.5)
        check_range(self.name, "weight", self.min_weight, self.max_weight, least=0, most=1)
        check_range(self.name, "length_px", self.min_length_px, self.max_length_px, least=1, most=400)
        if not 0 <= self.max_tilt_deg <= 90 or not 0 <= self.max_layer_tilt_deg <= 90:
            raise ConfigError(
                f"rain tilts must be 0 to 90 degrees, got {self.max_tilt_deg} and {self.max_layer_tilt_deg}"
            )

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw the layers and the seed."""
        angle = DOWN_DEG + between(rng, -self.max_tilt_deg, self.max_tilt_deg)
        num = integer_between(rng, self.min_layers, self.max_layers)
        return {"layers": [self._draw_layer(rng, angle) for _ in range(num)], "seed": draw_seed(rng)}

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a rainy copy."""
        check_pixels(image_CHW, where=self.name)
        return clipped(image_CHW + streaks(parameters, *image_CHW.shape[1:]))

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return rainy copies of a batch."""
        return (x_BCHW + streaks_batch(parameters, x_BCHW)).clamp(0, 1)

    def _draw_layer(self, rng: Rng, angle_deg: float) -> dict[str, Any]:
        nearness = between(rng, 0, 1)
        return {
            "kind": "streak",
            "density": log_between(rng, self.min_density, self.max_density) * (1.5 - nearness),  # nearer: fewer
            "length_px": self.min_length_px + nearness * (self.max_length_px - self.min_length_px),
            "angle_deg": angle_deg + between(rng, -self.max_layer_tilt_deg, self.max_layer_tilt_deg),
            "width_px": FAR_WIDTH_PX + nearness * (NEAR_WIDTH_PX - FAR_WIDTH_PX),
            "weight": between(rng, self.min_weight, self.max_weight),
        }
