"""The two-stage curriculum's parameters. They cross to `restoration` as data; the sampler itself lives there."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from curate.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumConfig:
    """When training moves from the simple to the complex half, and how it weighs complexity and uncertainty.

    Times are shares of all training steps. Names and values: spec/tripled.md sections 4.5 and 4.8; `[CODE]` marks
    values of the early public code, `[OURS]` ours.

    Attributes:
        t_switch: end of stage 1 (uniform on the simple half) [CODE].
        breaks: where the weights change, and where the last, uniform phase begins [CODE, OURS].
        w2a: weights of (complexity, uncertainty) before the first break [CODE, normalised by the spec].
        w2b: the same after it [CODE].
        temp: temperature of the softmax over the complex half [OURS].
        mix: probability of the complex half, linear between these over [t_switch, breaks[1]] [OURS].
        floor: every sample keeps at least floor / k probability in stage 2 [OURS].
        refresh: when uncertainty is measured again [OURS].
    """

    t_switch: float = 0.5
    breaks: tuple[float, float] = (0.8, 0.9)
    w2a: tuple[float, float] = (0.5, 0.4)
    w2b: tuple[float, float] = (0.3, 0.6)
    temp: float = 0.25
    mix: tuple[float, float] = (0.5, 0.8)
    floor: float = 0.3
    refresh: tuple[float, ...] = (0.5, 0.65, 0.8, 0.9)

    def __post_init__(self) -> None:
        times = (0.0, self.t_switch, *self.breaks, 1.0)
        if not all(early <= late for early, late in pairwise(times)):
            raise ConfigError(
                f"curriculum: 0 <= t_switch <= breaks <= 1 in rising order, got {self.t_switch}, {self.breaks}"
            )
        for name, value in (("mix", self.mix), ("floor", (self.floor,)), ("refresh", self.refresh)):
            if not all(0 <= number <= 1 for number in value):
                raise ConfigError(f"curriculum.{name} must lie in [0, 1], got {value}")
        for name, value in (("w2a", self.w2a), ("w2b", self.w2b)):
            if not all(number >= 0 for number in value):
                raise ConfigError(f"curriculum.{name} must be >= 0, got {value}")
        if not self.temp > 0:
            raise ConfigError(f"curriculum.temp must be > 0, got {self.temp}")
