"""Veil the distance: I = J t + A (1 - t), t = exp(-beta d), with a depth d made up from the picture's size alone.

Source: spec/ipt.md 8.2: airlight A and scattering beta of RESIDE's indoor set (U(0.7, 1) and U(0.6, 1.8), depth in metres).
No depth is known here, so d is a slope (the far edge anywhere, mostly the top), a tunnel (far in the middle) or a plasma
fractal, mixed, from `near` to `near + span` metres; these two are fitted to the PSNR of SOTS-indoor
(benchmarks/bench_degradations.py). A may differ a little between channels. Computed on sRGB values, as the data sets are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from . import Parameters, Pixels, Rng, check_pixels, clipped, render_drawn
from ._batch import batch_method, per_picture, upload
from ._draws import between, check_range, check_shares, choose, draw_seed
from ._noise_fields import MIN_SPAN, plasma, plasma_batch

KINDS = ("slope", "tunnel", "plasma")
TILT_DEG = 30.0  # of a slope against "far is at the top", standard deviation; ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Haze of a drawn thickness over a made-up scene.

    Attributes:
        min_airlight: brightness of the veil, 0..1; lower end.
        max_airlight: upper end.
        airlight_tint: channels of the veil differ by up to this.
        min_beta: scattering per metre; lower end.
        max_beta: upper end.
        min_near_m: distance of the nearest point; lower end.
        max_near_m: upper end.
        min_span_m: from the nearest to the farthest point; lower end.
        max_span_m: upper end.
        kind_shares: odds of a slope, a tunnel and a plasma as the larger part of the depth.
        max_plasma: weight of the plasma in a slope or tunnel, drawn from 0 to this.
        roughness: of the plasma: weight of each octave over that of the coarser one.
    """

    name: ClassVar[str] = "haze"
    min_airlight: float = 0.7
    max_airlight: float = 1.0
    airlight_tint: float = 0.02
    min_beta: float = 0.6
    max_beta: float = 1.8
    min_near_m: float = 0.1
    max_near_m: float = 0.5
    min_span_m: float = 0.3
    max_span_m: float = 1.2
    kind_shares: tuple[float, ...] = (0.5, 0.2, 0.3)
    max_plasma: float = 0.4
    roughness: float = 0.55

    def __post_init__(self) -> None:
        """Check ranges."""
        check_range(self.name, "airlight", self.min_airlight, self.max_airlight, least=0, most=1)
        check_range(self.name, "beta", self.min_beta, self.max_beta, least=0, most=20)
        check_range(self.name, "near_m", self.min_near_m, self.max_near_m, least=0, most=1e4)
        check_range(self.name, "span_m", self.min_span_m, self.max_span_m, least=0, most=1e4)
        check_shares(self.name, "kind_shares", self.kind_shares, len(KINDS))
        for field in ("airlight_tint", "max_plasma", "roughness"):
            check_range(self.name, field, 0, getattr(self, field), least=0, most=1)

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw the veil and the scene."""
        kind = choose(rng, KINDS, self.kind_shares)
        brightness = between(rng, self.min_airlight, self.max_airlight)
        airlight = [min(1.0, brightness + between(rng, -0.5, 0.5) * self.airlight_tint) for _ in range(3)]
        return {
            "airlight": airlight, "beta": between(rng, self.min_beta, self.max_beta),
            "near_m": between(rng, self.min_near_m, self.max_near_m),
            "span_m": between(rng, self.min_span_m, self.max_span_m), "kind": kind,
            "angle_deg": TILT_DEG * sum(between(rng, -1, 1) for _ in range(3)),  # near to normal, variance 1
            "centre": [between(rng, 0.3, 0.7), between(rng, 0.3, 0.7)],
            "plasma": 1.0 if kind == "plasma" else between(rng, 0, self.max_plasma),
            "roughness": self.roughness, "seed": draw_seed(rng),
        }  # fmt: skip

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a hazy copy."""
        check_pixels(image_CHW, where=self.name)
        height, width = image_CHW.shape[1:]
        share = np.float32(parameters["plasma"])
        field = plasma(parameters["seed"], parameters["roughness"], height, width)
        depth = _spread((1 - share) * _scene(parameters, height, width) + share * field, parameters)
        through = np.exp(-np.float32(parameters["beta"]) * depth)
        airlight = np.array(parameters["airlight"], np.float32)[:, None, None]
        return clipped(image_CHW * through + airlight * (1 - through))

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return hazy copies of a batch; the same scenes as `render`."""
        height, width = x_BCHW.shape[2:]
        scenes = upload(np.stack([_scene(values, height, width) for values in parameters])[:, None], x_BCHW)
        fields = plasma_batch([v["seed"] for v in parameters], [v["roughness"] for v in parameters], x_BCHW)
        share, near, span, beta = (
            per_picture((values[key] for values in parameters), x_BCHW)
            for key in ("plasma", "near_m", "span_m", "beta")
        )
        mixed = (1 - share) * scenes + share * fields
        low, high = mixed.amin((2, 3), keepdim=True), mixed.amax((2, 3), keepdim=True)
        through = torch.exp(-beta * (near + span * (mixed - low) / (high - low).clamp(min=MIN_SPAN)))
        airlight = torch.tensor([v["airlight"] for v in parameters], device=x_BCHW.device).view(-1, 3, 1, 1)
        return (x_BCHW * through + airlight * (1 - through)).clamp(0, 1)


def _scene(parameters: Parameters, height: int, width: int) -> Pixels:
    """Give the relative depth without its fractal part, 0 to 1: a slope rising to the top, or a tunnel."""
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width)[None]
    if parameters["kind"] == "tunnel":
        centre_y, centre_x = parameters["centre"]
        field = -np.hypot(y - np.float32(centre_y), x - np.float32(centre_x))
    else:
        angle = math.radians(parameters["angle_deg"])
        field = np.float32(math.sin(angle)) * x - np.float32(math.cos(angle)) * y
    relative: Pixels = (field - field.min()) / np.float32(max(float(field.max() - field.min()), MIN_SPAN))
    return relative


def _spread(mixed: Pixels, parameters: Parameters) -> Pixels:
    low, high = float(mixed.min()), float(mixed.max())
    relative = (mixed - np.float32(low)) / np.float32(max(high - low, MIN_SPAN))
    depth: Pixels = np.float32(parameters["near_m"]) + np.float32(parameters["span_m"]) * relative
    return depth
