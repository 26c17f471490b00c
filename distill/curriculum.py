"""The two-stage curriculum's parameters. They cross to `restoration` as data; the sampler itself lives there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from curate.core.errors import ConfigError

KINDS = ("two-stage", "none", "anti", "random-order")
UNCERTAINTIES = ("tta8", "mcdropout", "loss", "clipvar")  # spec/tripled.md section 4.5


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumConfig:
    """When training moves from the simple to the complex half, and how it weighs complexity and uncertainty.

    Times are shares of all training steps. Names and values: spec/tripled.md sections 4.5 and 4.8; `[CODE]` marks
    values of the early public code, `[OURS]` ours.

    Attributes:
        kind: `two-stage`; the controls: `none` (uniform from the first step), `anti` (complex half first), `random-order` (two
            halves drawn without looking at complexity).
        t_switch: end of stage 1 (uniform on the simple half) [CODE].
        breaks: where the weights change, and where the last, uniform phase begins [CODE, OURS].
        w2a: weights of (complexity, uncertainty) before the first break [CODE, normalised by the spec].
        w2b: the same after it [CODE].
        temp: temperature of the softmax over the complex half [OURS].
        mix: probability of the complex half, linear between these over [t_switch, breaks[1]] [OURS].
        floor: every sample keeps at least floor / k probability in stage 2 [OURS].
        refresh: when uncertainty is measured again [OURS].
        uncertainty: `tta8` (variance over the 8 flips and rotations), `mcdropout`, `loss` (needs the clean picture) or
            `clipvar` (the column `uncertainty` of selection.parquet, never measured again) [OURS; clipvar CODE].
        uncertainty_ema: the averaged weights are a second member of the ensemble [OURS].
        uncertainty_crops: crops of a patch that are looked at [OURS].
        uncertainty_crop_px: their side [OURS].
    """

    kind: str = "two-stage"
    t_switch: float = 0.5
    breaks: tuple[float, float] = (0.8, 0.9)
    w2a: tuple[float, float] = (0.5, 0.4)
    w2b: tuple[float, float] = (0.3, 0.6)
    temp: float = 0.25
    mix: tuple[float, float] = (0.5, 0.8)
    floor: float = 0.3
    refresh: tuple[float, ...] = (0.5, 0.65, 0.8, 0.9)
    uncertainty: str = "tta8"
    uncertainty_ema: bool = True
    uncertainty_crops: int = 4
    uncertainty_crop_px: int = 256

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_times()
        for name, weights in (("w2a", self.w2a), ("w2b", self.w2b)):
            if not all(0 <= number < math.inf for number in weights):
                raise ConfigError(f"curriculum.{name} must be >= 0 and finite, got {weights}")
        if not 0 < self.temp < math.inf:
            raise ConfigError(f"curriculum.temp must be > 0 and finite, got {self.temp}")
        for name in ("uncertainty_crops", "uncertainty_crop_px"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"curriculum.{name} must be >= 1, got {getattr(self, name)}")

    def _check_choices(self) -> None:
        for name, value, known in (("kind", self.kind, KINDS), ("uncertainty", self.uncertainty, UNCERTAINTIES)):
            if value not in known:
                raise ConfigError(f"curriculum.{name} must be one of {', '.join(known)}, got {value!r}")

    def _check_times(self) -> None:
        times = (0.0, self.t_switch, *self.breaks, 1.0)
        if not all(early <= late for early, late in pairwise(times)):
            raise ConfigError(
                f"curriculum: 0 <= t_switch <= breaks <= 1 in rising order, got {self.t_switch}, {self.breaks}"
            )
        for name, shares in (("mix", self.mix), ("floor", (self.floor,)), ("refresh", self.refresh)):
            if not all(0 <= number <= 1 for number in shares):
                raise ConfigError(f"curriculum.{name} must lie in [0, 1], got {shares}")
        if not all(early < late for early, late in pairwise(self.refresh)):
            raise ConfigError(f"curriculum.refresh must rise, got {self.refresh}")
