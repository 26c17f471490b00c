"""Underexpose, with the noise of a sensor that got little light.

Source: spec/ipt.md 8.6: x' = beta (alpha x)^gamma with the ranges of Lv, Li and Lu (arXiv 1908.00682), then
Poisson-Gaussian noise of variance s x' + r; log s uniform between 1e-4 and 0.012, log r normal around 2.18 log s + 1.2
(spec/ipt.md 8.4, Brooks 2019, who measured them on linear raw values; here they are added to sRGB ones). Clipped to [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from curate.core.errors import ConfigError

from . import Parameters, Pixels, Rng, check_pixels, clipped, render_drawn
from ._batch import batch_method, generators, normal_fields, per_picture
from ._draws import between, check_range, draw_seed, log_between

READ_SLOPE, READ_OFFSET, READ_SPREAD = 2.18, 1.2, 0.26  # of log read variance; spec/ipt.md 8.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A dark exposure drawn for every picture.

    Attributes:
        min_alpha: linear darkening before the curve; lower end.
        max_alpha: upper end.
        min_beta: linear darkening after it; lower end.
        max_beta: upper end.
        min_gamma: exponent of the curve; lower end.
        max_gamma: upper end.
        min_shot: variance of the noise per unit of brightness; lower end, drawn by its logarithm.
        max_shot: upper end; 0 for no noise at all.
    """

    name: ClassVar[str] = "low_light"
    min_alpha: float = 0.9
    max_alpha: float = 1.0
    min_beta: float = 0.5
    max_beta: float = 1.0
    min_gamma: float = 1.5
    max_gamma: float = 5.0
    min_shot: float = 1e-4
    max_shot: float = 0.012

    def __post_init__(self) -> None:
        """Check ranges."""
        check_range(self.name, "alpha", self.min_alpha, self.max_alpha, least=0.01, most=1)
        check_range(self.name, "beta", self.min_beta, self.max_beta, least=0.01, most=1)
        check_range(self.name, "gamma", self.min_gamma, self.max_gamma, least=1, most=10)
        check_range(self.name, "shot", self.min_shot, self.max_shot, least=0, most=1)
        if self.min_shot == 0 < self.max_shot:
            raise ConfigError("low_light.min_shot must be above 0 where max_shot is: it is drawn by its logarithm")

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw exposure, noise and seed."""
        parameters: dict[str, Any] = {
            "alpha": between(rng, self.min_alpha, self.max_alpha), "beta": between(rng, self.min_beta, self.max_beta),
            "gamma": between(rng, self.min_gamma, self.max_gamma), "shot_variance": 0.0, "read_variance": 0.0,
        }  # fmt: skip
        if self.max_shot > 0:
            shot = log_between(rng, self.min_shot, self.max_shot)
            read = READ_SLOPE * math.log(shot) + READ_OFFSET + READ_SPREAD * float(rng.normal())
            parameters |= {"shot_variance": shot, "read_variance": math.exp(read)}
        return parameters | {"seed": draw_seed(rng)}

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a dark copy."""
        check_pixels(image_CHW, where=self.name)
        alpha, beta, gamma, shot, read = (np.float32(parameters[key]) for key in _NUMBERS)
        dark = beta * (alpha * np.maximum(image_CHW, 0)) ** gamma
        noise = np.random.default_rng(parameters["seed"]).standard_normal(image_CHW.shape, np.float32)
        return clipped(dark + noise * np.sqrt(shot * dark + read))

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return dark copies of a batch."""
        alpha, beta, gamma, shot, read = (per_picture((v[key] for v in parameters), x_BCHW) for key in _NUMBERS)
        dark = beta * (alpha * x_BCHW.clamp(min=0)) ** gamma
        noise = normal_fields(generators(parameters, x_BCHW), x_BCHW.shape[1:], x_BCHW)
        return (dark + noise * (shot * dark + read).sqrt()).clamp(0, 1)


_NUMBERS = ("alpha", "beta", "gamma", "shot_variance", "read_variance")
