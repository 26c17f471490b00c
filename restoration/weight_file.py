"""Weights that somebody else wrote: tensors by name out of .safetensors, .pt, .pth or .ckpt, running none of the file's code.

What a file is, its first bytes say, not its name. Pickles are read with `weights_only=True` alone: a pickle can name any
function to call, and this reader refuses all but those that make tensors and plain containers.
"""

from __future__ import annotations

import pickle
import re
import struct
import tarfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curate.core.errors import ConfigError, ManifestError

from .checkpoint import EMA_PREFIX, read_tensors

CONTAINERS = ("params_ema", "state_dict_ema", "ema", "params", "state_dict", "model", "net", "weights")
"""Where training code puts a state dict into a larger file; averaged weights first."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "generator.", "net_g.", "netG.")
"""What wrappers (DataParallel, compile, Lightning, trainers) put in front of every name."""
MAX_DEPTH = 4
_DAMAGE = (
    OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError,
    MemoryError, struct.error, tarfile.TarError,
)  # fmt: skip
"""What torch's reader raises on damaged bytes: all that overwriting every byte of a file brought up, and their like."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the one state dict a file holds.

    Containers are opened, wrappers' prefixes taken off, values made float32 where they are floating point. Of a file with
    both, weights and their moving average, the average is taken.

    Args:
        path: the file.

    Returns:
        name -> value on the CPU; anything that is no tensor is left out.

    Raises:
        ConfigError: no such file, or a folder.
        ManifestError: damaged, no file of weights, a pickle that asks for code, or values that are not finite.
    """
    if not path.is_file():
        what = "is a folder, name the file in it" if path.is_dir() else "does not exist"
        raise ConfigError(f"checkpoint {path} {what}")
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        found = read_tensors(path)[0]
    elif start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        found = _find_state(_read_pickle(path), path)
    else:
        raise ManifestError(f"{path} is no file of weights: neither safetensors nor written by torch.save")
    averaged = {name.removeprefix(EMA_PREFIX): value for name, value in found.items() if name.startswith(EMA_PREFIX)}
    state = _without_prefix(averaged or found)
    return {name: _checked(value, f"{path}: {name}") for name, value in state.items()}


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), path.open("rb") as file:  # a path would let its suffix choose torch's reader
            warnings.simplefilter("ignore")  # about formats of old torch versions
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            detail = _first_line(
                str(error).rpartition("WeightsUnpickler error:")[2]
            )  # not torch's advice to trust the file
            raise ManifestError(f"{path} is damaged or no file of weights: {detail}") from error
        raise ManifestError(
            f"{path} asks to run or make {asked[1]}, which weights do not need: refused, nothing was run; ask its author for "
            "the state dict alone, best as .safetensors"
        ) from error
    except _DAMAGE as error:
        raise ManifestError(f"{path} is damaged or no file of weights: {_first_line(str(error))}") from error


def _find_state(value: Any, path: Path) -> dict[str, Tensor]:
    """Go down the containers to the mapping that holds tensors."""
    for _ in range(MAX_DEPTH):
        if not isinstance(value, Mapping):
            break
        tensors = {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, Tensor)}
        if tensors:
            return tensors
        inner = [value[name] for name in CONTAINERS if isinstance(value.get(name), Mapping)]
        value = inner[0] if inner else None
    raise ManifestError(f"{path} holds no tensors by name, at its top or under {', '.join(CONTAINERS)}")


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(state)
    while prefix := next((p for p in PREFIXES if found and all(name.startswith(p) for name in found)), ""):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _checked(value: Tensor, where: str) -> Tensor:
    if value.is_sparse or value.is_quantized or value.is_complex():
        raise ManifestError(f"{where} is not a plain tensor of numbers")
    if not value.is_floating_point():
        return value
    value = value.detach().float()
    if not bool(torch.isfinite(value).all()):
        raise ManifestError(f"{where} holds values that are not finite: these weights cannot be used")
    return value


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[0][:200]
