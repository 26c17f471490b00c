"""Train, evaluate and use restoration networks from shards, on one GPU or a CPU."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluation import EvaluateConfig, evaluate
    from .inference import RestoreConfig, RestoreResult, restore
    from .metrics import psnr
    from .models import make_model
    from .scoreboard import EvaluateResult
    from .tasks import make_degradation
    from .train import TrainConfig, TrainResult, fit

__distribution__ = "irdistill"
_HOMES = {
    "TrainConfig": "train",
    "TrainResult": "train",
    "fit": "train",
    "EvaluateConfig": "evaluation",
    "EvaluateResult": "scoreboard",
    "evaluate": "evaluation",
    "RestoreConfig": "inference",
    "RestoreResult": "inference",
    "restore": "inference",
    "make_model": "models",
    "make_degradation": "tasks",
    "psnr": "metrics",
}
__all__ = [
    "TrainConfig", "TrainResult", "fit", "EvaluateConfig", "EvaluateResult", "evaluate",
    "RestoreConfig", "RestoreResult", "restore", "make_model", "make_degradation", "psnr",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import restoration` loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'restoration' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
