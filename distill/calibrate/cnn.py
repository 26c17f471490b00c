"""A small smooth change of every chosen picture, so that the subset looks more like its corpus to an encoder; or none.

Nothing is changed unless the subset is farther from its corpus than 2 deviations of random subsets, and a fitted network is
used only if it brings the held-out distance down by more than 2 deviations. Otherwise the subset stays as it was and the
numbers say why.

Source: spec/tripled.md section 4.4; "a lightweight CNN that fine-tunes the image distribution ... at the feature level" is
TripleD's abstract, everything else the spec's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..calibration import Calibrated, CalibrationRequest, check_differentiable
from ..field import NUM_PARAMETERS
from ..fitconfig import FitConfig
from ..fitting import Fitted, fit_field
from ..yardstick import TOO_SMALL, Yardstick, YardstickConfig, build_yardstick


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """The dilated CNN of spec/tripled.md section 4.4 behind its significance guard."""

    name: ClassVar[str] = "cnn"
    differentiates: ClassVar[bool] = True
    fit: FitConfig = field(default_factory=FitConfig)
    yardstick: YardstickConfig = field(default_factory=YardstickConfig)

    def calibrate(self, request: CalibrationRequest) -> Calibrated:
        """Fit, judge, and answer with the change or without it."""
        check_differentiable(request.encoder, self.name)
        measured = build_yardstick(request.members(), request.chosen, self.yardstick, request.seed, request.task_of)
        if measured is None:
            return self._unchanged(request, TOO_SMALL, {"mmd2": None})
        if not measured.differs:
            reason = f"nothing to correct: {measured.describe()}"
            return self._unchanged(request, reason, {"mmd2": measured.facts()})
        fitted = fit_field(request, measured, self.fit)
        facts = {"mmd2": _distances(measured, fitted), "fit": self._fit_facts(fitted)}
        seconds = {"fit": round(fitted.seconds, 3), "step": round(fitted.seconds / max(1, fitted.steps_taken), 3)}
        fall, needed = fitted.fall, measured.guard_sigma * measured.null_std
        if not fall > needed:
            reason = (
                f"the held-out MMD2 fell by {fall:.3g}, not by more than {needed:.3g}, so the pixels stay as they were"
            )
            return self._unchanged(request, reason, facts, seconds)
        reason = f"the held-out MMD2 fell by {fall:.3g}, by more than the {needed:.3g} that chance explains"
        return Calibrated(
            weights=np.ones(len(request.chosen)), change=fitted.change, seconds=seconds,
            facts={"mode": self.name, "accepted": True, "reason": reason} | facts,
        )  # fmt: skip

    def _unchanged(
        self,
        request: CalibrationRequest,
        reason: str,
        facts: dict[str, Any],
        seconds: Mapping[str, float] | None = None,
    ) -> Calibrated:
        said = {"mode": self.name, "accepted": False, "reason": reason}
        return Calibrated(weights=np.ones(len(request.chosen)), facts=said | facts, seconds=seconds or {})

    def _fit_facts(self, fitted: Fitted) -> dict[str, Any]:
        return {
            "kind": self.fit.kind, "eps_levels": self.fit.eps_levels, "side_px": self.fit.side_px, "steps": self.fit.steps_iter,
            "kept_step": fitted.kept_step, "history": [list(point) for point in fitted.history],
            "parameters": NUM_PARAMETERS, "last_losses": fitted.losses, "row_error_frac": fitted.row_error_frac,
        }  # fmt: skip


def _distances(measured: Yardstick, fitted: Fitted) -> dict[str, Any]:
    members = {
        name: {"before": measured.before[name], "before_fit": fitted.before[name], "after": fitted.after[name]}
        for name in measured.before
    }
    before, after = (sum(distances.values()) for distances in (fitted.before, fitted.after))
    return measured.facts() | {"before_fit": before, "after": after, "members": members}
