"""A small smooth change of every chosen picture, so that the subset looks more like its corpus to an encoder; or none.

Nothing is changed unless the subset is farther from its corpus than 2 deviations of random subsets, and a fitted network is
used only if it brings the held-out distance down by more than 2 deviations. Otherwise the subset stays as it was and the
numbers say why.

Source: spec/tripled.md section 4.4; "a lightweight CNN that fine-tunes the image distribution ... at the feature level" is
TripleD's abstract, everything else the spec's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from curate.core.errors import ConfigError

from ..calibration import Calibrated, CalibrationRequest
from ..field import KINDS, NUM_PARAMETERS
from ..fitting import FitConfig, Fitted, fit_field
from ..yardstick import Yardstick, YardstickConfig, build_yardstick
from .none import TOO_SMALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """The dilated CNN of spec/tripled.md section 4.4 behind its significance guard."""

    name: ClassVar[str] = "cnn"
    differentiates: ClassVar[bool] = True
    fit: FitConfig = field(default_factory=FitConfig)
    yardstick: YardstickConfig = field(default_factory=YardstickConfig)

    def __post_init__(self) -> None:
        fit = self.fit
        if fit.kind not in KINDS:
            raise ConfigError(f"cnn.fit.kind must be one of {', '.join(KINDS)}, got {fit.kind!r}")
        for name in ("eps_levels", "lr", "grad_clip"):
            if not getattr(fit, name) > 0:
                raise ConfigError(f"cnn.fit.{name} must be > 0, got {getattr(fit, name)}")
        for name in ("l_r", "l_c", "l_id", "l_tv"):
            if not getattr(fit, name) >= 0:
                raise ConfigError(f"cnn.fit.{name} must be >= 0, got {getattr(fit, name)}")
        for name in ("steps_iter", "corpus_batch", "check_every_iter", "chunk_patches"):
            if not getattr(fit, name) >= 1:
                raise ConfigError(f"cnn.fit.{name} must be >= 1, got {getattr(fit, name)}")
        if not fit.subset_batch >= 2:
            raise ConfigError(f"cnn.fit.subset_batch must be >= 2, got {fit.subset_batch}")

    def calibrate(self, request: CalibrationRequest) -> Calibrated:
        """Fit, judge, and answer with the change or without it."""
        check_differentiable(request.encoder)
        measured = build_yardstick(request.members(), request.chosen, self.yardstick, request.seed)
        if measured is None:
            return self._unchanged(request, {"reason": TOO_SMALL, "mmd2": None})
        if not measured.differs:
            reason = "the subset is no farther from its corpus than a random one: nothing to correct"
            return self._unchanged(request, {"reason": reason, "mmd2": measured.facts()})
        fitted = fit_field(request, measured, self.fit)
        facts = {"mmd2": _distances(measured, fitted), "fit": self._fit_facts(fitted)}
        fall, needed = _fall(fitted), measured.guard_sigma * measured.null_std
        seconds = {"fit": round(fitted.seconds, 3), "step": round(fitted.seconds / self.fit.steps_iter, 3)}
        if not fall > needed:
            reason = f"the held-out distance fell by {fall:.3g}, not by more than {needed:.3g}: the change is not used"
            return self._unchanged(request, {"reason": reason} | facts, seconds)
        reason = f"the held-out distance fell by {fall:.3g}, by more than {needed:.3g}"
        return Calibrated(
            weights=np.ones(len(request.chosen)), change=fitted.change, seconds=seconds,
            facts={"mode": self.name, "accepted": True, "reason": reason} | facts,
        )  # fmt: skip

    def _unchanged(
        self, request: CalibrationRequest, facts: dict[str, Any], seconds: dict[str, float] | None = None
    ) -> Calibrated:
        return Calibrated(
            weights=np.ones(len(request.chosen)), facts={"mode": self.name, "accepted": False} | facts, seconds=seconds or {}
        )  # fmt: skip

    def _fit_facts(self, fitted: Fitted) -> dict[str, Any]:
        return {
            "kind": self.fit.kind, "eps_levels": self.fit.eps_levels, "steps": self.fit.steps_iter,
            "kept_step": fitted.kept_iter, "parameters": NUM_PARAMETERS, "history": [list(point) for point in fitted.history],
            "last_losses": fitted.losses,
        }  # fmt: skip


def check_differentiable(encoder: Any) -> None:
    """Raise ConfigError unless the encoder offers `mean_token`."""
    if not callable(getattr(encoder, "mean_token", None)):
        raise ConfigError(
            f"calibrate cnn needs an encoder whose gradient can be taken (vit_s14, timm, open_clip), got {encoder.name}; "
            "or choose calibrate kmm or none"
        )


def _fall(fitted: Fitted) -> float:
    return sum(fitted.before.values()) - sum(fitted.after.values())


def _distances(measured: Yardstick, fitted: Fitted) -> dict[str, Any]:
    facts = measured.facts()
    members = {
        name: {"before": measured.before[name], "before_fit": fitted.before[name], "after": fitted.after[name]}
        for name in measured.before
    }
    return facts | {
        "before_fit": sum(fitted.before.values()), "after": sum(fitted.after.values()), "members": members,
    }  # fmt: skip
