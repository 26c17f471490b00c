"""Weights of a model from a local file, and the check that they are those that were asked for."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError, ManifestError
from ..weights import hash_tensors

SHA256_CHARS = 64
_WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys under which training programs put the weights


def check_sha256_option(where: str, sha256: str) -> None:
    """Raise ConfigError unless `sha256` is "" or 64 hexadecimal digits."""
    if sha256 and (len(sha256) != SHA256_CHARS or set(sha256) - set("0123456789abcdef")):
        raise ConfigError(f"{where}: sha256 must be 64 lower-case hexadecimal digits or empty, got {sha256!r}")


def check_weights(where: str, got: str, wanted: str) -> None:
    """Raise ManifestError if a hash is wanted and the weights have another one."""
    if wanted and got != wanted:
        raise ManifestError(
            f"{where}: the weights hash to {got}, sha256 asks for {wanted}; give the right checkpoint or drop sha256"
        )


def read_checkpoint(path: Path, *, where: str) -> dict[str, Any]:
    """Read a state dict: .safetensors, or what `torch.save` wrote; no code in the file is run.

    Raises:
        ConfigError: there is no such file.
        ManifestError: it cannot be read or holds no tensors.
    """
    import torch

    if not path.is_file():
        raise ConfigError(f"{where}: no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                state: Any = load_file(path)
            except SafetensorError as error:
                raise ManifestError(f"{where}: cannot read {path}: {error}") from error
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError, EOFError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{where}: cannot read {path} as weights: {str(error).splitlines()[0]}") from error
    for key in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    found = {str(k).removeprefix("module."): v for k, v in dict(state).items() if isinstance(v, torch.Tensor)}
    if not found:
        raise ManifestError(f"{where}: {path} holds no tensors by name; a state dict is wanted")
    return found


def load_into(module: Any, state: Mapping[str, Any], *, where: str, prefix: str = "") -> None:
    """Put weights into a module; every one of its tensors must be there, what it does not have is left out.

    Args:
        module: gets the weights.
        state: the checkpoint.
        where: for messages.
        prefix: of the names in the checkpoint, such as `visual.`.

    Raises:
        ManifestError: a tensor is missing or has another shape.
    """
    wanted = module.state_dict()
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    missing = [name for name in wanted if name not in own]
    if missing:
        raise ManifestError(f"{where}: the checkpoint lacks {prefix}{missing[0]} ({len(missing)} tensors in all)")
    for name, tensor in wanted.items():
        if own[name].shape != tensor.shape:
            raise ManifestError(
                f"{where}: {prefix}{name} is {tuple(own[name].shape)} in the checkpoint, the model wants {tuple(tensor.shape)}"
            )
    module.load_state_dict({name: own[name] for name in wanted}, strict=True)


def hash_module(module: Any) -> str:
    """Hash the weights of a module as `curate.weights.hash_tensors` does: equal for any file they come from."""
    return hash_tensors({name: tensor.detach().float().cpu().numpy() for name, tensor in module.state_dict().items()})
