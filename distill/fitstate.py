"""How far a fit has come, in a file: a killed run goes on where it was, and ends with the same bytes.

Every random draw of a step is seeded by the step's number, so that the network, Adam's moments and what was measured so far are
the whole state. A file of another fit (other pictures, settings, seed, device or torch) or a damaged one is not used.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from curate.core.artifacts import atomic_path
from curate.core.config import config_hash, to_plain

from .calibration import CalibrationRequest
from .fitconfig import FitConfig
from .yardstick import Yardstick

SAVE_EVERY_STEPS = 10  # on a CPU about half a minute


def fit_key(request: CalibrationRequest, yardstick: Yardstick, config: FitConfig, device: str) -> str:
    """Hash everything that a fit depends on."""
    import torch

    digest = hashlib.sha256()
    arrays = [request.chosen, yardstick.chosen, yardstick.fit_rows, *yardstick.weights()]
    for member in yardstick.members.values():
        arrays += [member.centre, member.basis, member.fit, member.held_out]
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    facts = {
        "config": to_plain(config), "seed": request.seed, "device": device, "torch": torch.__version__,
        "encoder": [request.encoder.name, getattr(request.encoder, "weights_sha256", "")], "arrays": digest.hexdigest(),
    }  # fmt: skip
    return config_hash(facts)


def save_state(path: Path, key: str, state: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all."""
    import torch

    with atomic_path(path, sync=False) as temporary:
        torch.save({"key": key, **state}, temporary)


def load_state(path: Path, key: str) -> dict[str, Any] | None:
    """Read what `save_state` wrote for the same fit; None where there is no such thing."""
    import torch

    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        return None  # damaged: the fit begins again
    return state if isinstance(state, dict) and state.get("key") == key else None
