"""Leave the subset as it was chosen, and say how far it is from its corpus: the control of every calibration.

Source: spec/tripled.md section 4.4 (`none` must be in every ablation: pixel editing can only lose fidelity).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..calibration import Calibrated, CalibrationRequest
from ..yardstick import TOO_SMALL, YardstickConfig, build_yardstick


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Weights of one, pixels untouched."""

    name: ClassVar[str] = "none"
    differentiates: ClassVar[bool] = False
    yardstick: YardstickConfig = field(default_factory=YardstickConfig)

    def calibrate(self, request: CalibrationRequest) -> Calibrated:
        """Measure only."""
        measured = build_yardstick(request.members(), request.chosen, self.yardstick, request.seed, request.task_of)
        reason = f"none was asked for; {measured.describe() if measured else TOO_SMALL}"
        facts = {
            "mode": self.name, "accepted": False, "reason": reason, "mmd2": measured.facts() if measured else None,
        }  # fmt: skip
        return Calibrated(weights=np.ones(len(request.chosen)), facts=facts)
