"""What a run keeps of a moment: weights that anyone can read, and the state that makes resuming exact. No classes inside.

`checkpoints/step-00000300.safetensors` holds the weights and, under `ema.`, their moving average, with the model's name
and config as text; `step-00000300.state.pt` holds optimiser, random generator and step (loadable with weights_only=True);
`last.json` and `best.json` name the pair they mean. Each file is whole or absent, and the JSON is written last.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from curate.core.artifacts import atomic_path, read_json, write_json
from curate.core.errors import ConfigError, ManifestError, PluginError

from .models import describe, make_model
from .models._published import load_exactly

SCHEMA_VERSION = 1
EMA_PREFIX = "ema."
WHICH = ("last", "best")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A network read from a run.

    Attributes:
        name: its model name.
        module: the network with the averaged weights, in eval mode.
        step: training steps behind it.
        file: the checkpoint's file name.
        weights: `ema` (all of ours) .
    """

    name: str
    module: nn.Module
    step: int
    file: str
    weights: str = "ema"


def save_checkpoint(
    run: Path,
    step: int,
    *,
    name: str,
    model: nn.Module,
    ema: Mapping[str, Tensor],
    state: Mapping[str, Any],
    val_db: float | None,
) -> Path:
    """Write one checkpoint and make it `last`; also `best` if `val_db` beats the best so far.

    Args:
        run: the RUN folder.
        step: steps done.
        name: model name.
        model: its current weights.
        ema: averaged weights by parameter name.
        state: what resuming needs: tensors, numbers, text, lists and dicts only.
        val_db: validation score in dB, higher is better; None without validation.

    Returns:
        The weights' path.
    """
    folder = run / "checkpoints"
    stem = f"step-{step:08d}"
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    tensors |= {EMA_PREFIX + key: value.detach().cpu().contiguous() for key, value in ema.items()}
    _write_weights(folder / f"{stem}.safetensors", tensors, step=step, name=name, model=model)
    with atomic_path(folder / f"{stem}.state.pt") as temporary:
        torch.save(dict(state), temporary)
    entry = _entry(stem, step=step, state=f"{stem}.state.pt", val_db=val_db)
    best = read_pointer(run, "best")
    if val_db is not None and (best is None or val_db > best["val_db"]):
        write_json(folder / "best.json", entry)
    write_json(folder / "last.json", entry)
    return folder / f"{stem}.safetensors"


def save_imported(run: Path, *, name: str, model: nn.Module) -> Path:
    """Write weights that were trained elsewhere as step 0 of `run`: they can be used, not resumed.

    Returns:
        The weights' path.
    """
    stem = f"step-{0:08d}"
    path = run / "checkpoints" / f"{stem}.safetensors"
    tensors = {EMA_PREFIX + key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    _write_weights(path, tensors, step=0, name=name, model=model)
    write_json(run / "checkpoints" / "last.json", _entry(stem, step=0, state="", val_db=None))
    return path


def _write_weights(path: Path, tensors: Mapping[str, Tensor], *, step: int, name: str, model: nn.Module) -> None:
    metadata = {"schema_version": str(SCHEMA_VERSION), "step": str(step), **describe(name, model)}
    with atomic_path(path) as temporary:
        save_file(dict(tensors), str(temporary), metadata=metadata)


def _entry(stem: str, *, step: int, state: str, val_db: float | None) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "step": step,
        "weights": f"{stem}.safetensors",
        "state": state,
        "val_db": val_db,
    }


def read_pointer(run: Path, which: str) -> dict[str, Any] | None:
    """Read `last.json` or `best.json`; None where there is none yet."""
    path = run / "checkpoints" / f"{which}.json"
    if not path.is_file():
        return None
    entry = read_json(path)
    if (
        not isinstance(entry, dict)
        or entry.get("schema_version") != SCHEMA_VERSION
        or not {"weights", "state"} <= set(entry)
    ):
        raise ManifestError(f"{path} is no checkpoint entry of schema version {SCHEMA_VERSION}")
    return entry


def checkpoint_path(run: Path, which: str = "last") -> Path:
    """Return the weights' file that `last.json` or `best.json` names.

    Raises:
        ConfigError: not a run, or nothing saved yet.
    """
    entry = read_pointer(run, which)
    if entry is None:
        raise ConfigError(
            f"{run} holds no checkpoints/{which}.json: not a RUN of `restoration train`, or nothing was saved yet"
        )
    name = str(entry["weights"])
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise ManifestError(f"{run}/checkpoints/{which}.json names {name!r}, which is no safetensors file beside it")
    return run / "checkpoints" / name


def remove_old_checkpoints(run: Path, *, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and those that `last.json` and `best.json` name."""
    named = {entry["weights"].partition(".")[0] for which in WHICH if (entry := read_pointer(run, which)) is not None}
    stems = sorted({path.name.partition(".")[0] for path in (run / "checkpoints").glob("step-*.*")})
    for stem in stems[: max(0, len(stems) - keep)]:
        if stem not in named:
            for path in (run / "checkpoints").glob(f"{stem}.*"):
                path.unlink()


def load_state(run: Path, *, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Restore `model` to the last checkpoint.

    Returns:
        (averaged weights, the state that was saved), or None if there is no checkpoint yet.
    """
    entry = read_pointer(run, "last")
    if entry is None:
        return None
    if not entry["state"]:
        raise ConfigError(f"{run} holds imported weights, which cannot be trained on in place: choose another OUT")
    tensors, _ = read_tensors(run / "checkpoints" / entry["weights"])
    ema = {key.removeprefix(EMA_PREFIX): value for key, value in tensors.items() if key.startswith(EMA_PREFIX)}
    try:
        model.load_state_dict({key: value for key, value in tensors.items() if not key.startswith(EMA_PREFIX)})
        state = torch.load(run / "checkpoints" / entry["state"], map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ManifestError(f"cannot resume from {run / 'checkpoints' / entry['state']}: {error}") from error
    return ema, state


def load_run(run: Path, *, which: str = "last") -> LoadedModel:
    """Open a trained network: averaged weights, eval mode, on the CPU.

    Args:
        run: a RUN folder.
        which: `last` or `best` (by validation).

    Raises:
        ConfigError: not a run, or nothing saved yet.
        ManifestError: a checkpoint is missing or broken.
    """
    if which not in WHICH:
        raise ConfigError(f"checkpoint must be one of {', '.join(WHICH)}, got {which!r}")
    path = checkpoint_path(run, which)
    tensors, metadata = read_tensors(path, prefix=EMA_PREFIX)
    try:
        name, step = metadata["model"], int(metadata["step"])
        plain = json.loads(metadata["config"])
        if not isinstance(plain, dict):
            raise ManifestError(f"its config is no table: {metadata['config'][:40]}")
        module = make_model(name, plain)
        load_exactly(module, tensors)
    except (KeyError, ValueError, PluginError) as error:  # ValueError: also JSON, ConfigError and ManifestError
        what = f"its text does not say {error}" if isinstance(error, KeyError) else error
        raise ManifestError(f"{path} is not a checkpoint of ours: {what}") from error
    return LoadedModel(name, module.eval(), step, path.name)


def read_tensors(path: Path, *, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a safetensors file whose names start with `prefix`, without it, and the file's text.

    Raises:
        ManifestError: missing, cut off or damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            names = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
            return {key.removeprefix(prefix): file.get_tensor(key) for key in names}, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ManifestError(f"cannot read {path}: {error}") from error
