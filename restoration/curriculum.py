"""Which half of a subset a training step draws from: a pure function, so that resume and reports need no state.

Source: spec/tripled.md 4.5, without uncertainty (all patches of a stage are equally likely): stage 1 alone, then a rising
share of stage 2, then everything alike. The switch at 0.5 is from the co-author's early code, the rest is ours as marked there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.core.errors import ConfigError, ManifestError

KINDS = ("two-stage", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumConfig:
    """When the complex half comes in; fractions of the run's steps. Source of every default: spec/tripled.md 4.5.

    Attributes:
        kind: `two-stage`, or `none`: uniform over everything from the first step (the control).
        switch_frac: before it, stage 1 only.
        full_share_frac: where the share of stage 2 reaches its maximum.
        uniform_frac: from here to the end every patch is equally likely.
        first_share: share of stage 2 right after the switch.
        last_share: its maximum.
        floor_share: after the switch each stage keeps at least this multiple of its uniform share.
    """

    kind: str = "two-stage"
    switch_frac: float = 0.5
    full_share_frac: float = 0.9
    uniform_frac: float = 0.9
    first_share: float = 0.5
    last_share: float = 0.8
    floor_share: float = 0.3

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.kind not in KINDS:
            raise ConfigError(f"curriculum.kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0 <= self.switch_frac < self.full_share_frac <= 1 or not self.switch_frac <= self.uniform_frac <= 1:
            raise ConfigError(
                "curriculum needs 0 <= switch_frac < full_share_frac <= 1 and switch_frac <= uniform_frac <= 1"
            )
        if not 0 <= self.first_share <= self.last_share <= 1 or not 0 <= self.floor_share <= 1:
            raise ConfigError("curriculum needs 0 <= first_share <= last_share <= 1 and floor_share in [0, 1]")


def curriculum_of_subset(values: Mapping[str, Any]) -> CurriculumConfig:
    """Read the parameters that a SUBSET carries as data (manifest key `curriculum`, names of spec/tripled.md 4.8).

    Those of the uncertainty weighting are not used yet. A missing name keeps our default.

    Raises:
        ManifestError: a value of another type.
        ConfigError: a value outside its range, or a kind that this release cannot train by.
    """
    default = CurriculumConfig()
    try:
        breaks, mix = (
            values.get("breaks", (0.8, default.uniform_frac)),
            values.get("mix", (default.first_share, default.last_share)),
        )
        return CurriculumConfig(
            kind=str(values.get("kind", default.kind)),
            switch_frac=float(values.get("t_switch", default.switch_frac)), full_share_frac=float(breaks[1]),
            uniform_frac=float(breaks[1]), first_share=float(mix[0]), last_share=float(mix[1]),
            floor_share=float(values.get("floor", default.floor_share)),
        )  # fmt: skip
    except (TypeError, IndexError, KeyError) as error:
        raise ManifestError(f"the subset's manifest holds an unreadable curriculum: {dict(values)}") from error


def stage_shares(step: int, num_steps: int, stage_sizes: Sequence[int], config: CurriculumConfig) -> tuple[float, ...]:
    """Give each stage's probability at one step; within a stage every patch is equally likely.

    Args:
        step: 0-based.
        num_steps: length of the run.
        stage_sizes: patches of each stage: one number for a corpus, (simple, complex) for a subset.
        config: when and how much.

    Returns:
        Probabilities in the order of `stage_sizes`, summing to 1; an empty stage has 0.

    Example:
        >>> [stage_shares(step, 10, (4, 4), CurriculumConfig()) for step in (0, 5, 9)]
        [(1.0, 0.0), (0.5, 0.5), (0.5, 0.5)]
    """
    total = sum(stage_sizes)
    if total < 1:
        raise ConfigError("there is no patch to draw: every stage is empty")
    uniform = tuple(size / total for size in stage_sizes)
    progress = step / num_steps
    if config.kind == "none" or 0 in stage_sizes or len(stage_sizes) != 2 or progress >= config.uniform_frac:
        return uniform
    if progress < config.switch_frac:
        return (1.0, 0.0)
    rise = min(1.0, (progress - config.switch_frac) / (config.full_share_frac - config.switch_frac))
    wanted = config.first_share + rise * (config.last_share - config.first_share)
    low, high = config.floor_share * uniform[1], 1 - config.floor_share * uniform[0]
    complex_share = min(max(wanted, low), high)
    return (1 - complex_share, complex_share)
