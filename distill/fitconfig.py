"""What the fit of the calibrating network may be told: losses, optimiser, batches."""

from __future__ import annotations

from dataclasses import dataclass

from curate.core.errors import ConfigError

from .field import ADDITIVE, KINDS, SIDE_PX


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """The losses and the optimiser; names and values of spec/tripled.md sections 4.4 and 4.8 unless marked ours.

    Attributes:
        kind: `additive` or `log_gain` (for low light).
        eps_levels: largest change in levels of 8 bits (spec: 8; for haze 4).
        side_px: side of what the network reads; the field's finest detail is about 1 / side of the picture.
        steps_iter: Adam steps.
        lr: its rate.
        grad_clip: largest norm of the gradient.
        l_r: weight of the random networks' moments.
        l_c: weight of the covariances.
        l_id: weight of the field's mean square.
        l_tv: weight of its total variation.
        subset_batch: patches of the subset a step: all of them up to so many.
        corpus_batch: patches of the corpus a step.
        corpus_crops: of these, how many the random networks see [OURS: fewer is faster; the spec's is all of them].
        check_every_iter: steps between looks at the held-out half where a step does not see the whole subset [OURS].
        chunk_patches: patches in memory a worker [OURS; 1 is fastest on a CPU: larger tensors cost page faults].
        moments_bf16: random networks in bfloat16 [OURS: faster on CPUs that multiply it, both sides alike].
    """

    kind: str = ADDITIVE
    eps_levels: float = 8.0
    side_px: int = SIDE_PX
    steps_iter: int = 500
    lr: float = 1e-3
    grad_clip: float = 1.0
    l_r: float = 1.0
    l_c: float = 0.1
    l_id: float = 0.05
    l_tv: float = 0.01
    subset_batch: int = 64
    corpus_batch: int = 256
    corpus_crops: int = 256
    check_every_iter: int = 25
    chunk_patches: int = 1
    moments_bf16: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"cnn.fit.kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        for name in ("eps_levels", "lr", "grad_clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"cnn.fit.{name} must be > 0, got {getattr(self, name)}")
        for name in ("l_r", "l_c", "l_id", "l_tv"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"cnn.fit.{name} must be >= 0, got {getattr(self, name)}")
        counts = {
            "side_px": 8,
            "steps_iter": 1,
            "subset_batch": 2,
            "corpus_batch": 1,
            "corpus_crops": 1,
            "check_every_iter": 1,
            "chunk_patches": 1,
        }
        for name, least in counts.items():
            if not getattr(self, name) >= least:
                raise ConfigError(f"cnn.fit.{name} must be >= {least}, got {getattr(self, name)}")

    @property
    def eps(self) -> float:
        """Largest change of values in [0, 1]."""
        return self.eps_levels / 255
