"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math


def warmup_cosine(step: int, num_steps: int, *, peak: float, final: float, num_warmup: int) -> float:
    """Rise linearly, then fall along half a cosine.

    Args:
        step: 0-based; the first step already learns (the published scheduler wastes two epochs at zero).
        num_steps: length of the run; the last step has a rate just above `final`.
        peak: rate at the end of the warm-up.
        final: rate the cosine falls to.
        num_warmup: steps of the linear rise.

    Returns:
        The rate of this step.

    Source:
        spec/dynet.md 2.2 (LinearWarmupCosine), without its faults: section 7, trap 11.

    Example:
        >>> [round(warmup_cosine(s, 4, peak=1.0, final=0.0, num_warmup=2), 2) for s in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
