"""Make a RUN of weights that were trained elsewhere: `import_checkpoint(ImportConfig) -> ImportResult`.

Names must fit: every parameter of the network is in the file under its published name, and nothing else is, but for layers
that the published network holds and never calls. A RUN made so can be used like a trained one; it cannot be resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from curate.core.artifacts import locked_output, read_json, sha256_file, write_json
from curate.core.config import config_hash, to_plain
from curate.core.errors import ConfigError, ManifestError

from .checkpoint import checkpoint_path, save_imported
from .models import make_model, num_parameters, preset
from .models._published import load_exactly
from .record import SCHEMA_VERSION, versions
from .weight_file import read_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig:
    """One import.

    Attributes:
        file: .safetensors, .pt, .pth or .ckpt.
        out: RUN folder; new or empty.
        model: name of the network, such as `promptir`.
        network: fields of the network's Config that differ from that model's.
    """

    file: Path
    out: Path
    model: str
    network: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look the model up, so that a typo is found before anything starts."""
        preset(self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What came of it.

    Attributes:
        out: the RUN folder.
        model: name of the network.
        num_parameters: its size.
        weights: path of the weights in the RUN.
        sha256: of the file they came from.
        num_unused: values in the file that the network has no use for: layers never called, heads not asked for.
    """

    out: Path
    model: str
    num_parameters: int
    weights: Path
    sha256: str
    num_unused: int


def import_checkpoint(config: ImportConfig) -> ImportResult:
    """Read, check and write; the same call on the same OUT finds its work done.

    Raises:
        ConfigError: no such file, nonsense in `network`, or OUT is used.
        ManifestError: the file is damaged, asks for code, or does not fit the network.
    """
    state = read_weights(config.file)
    module = make_model(config.model, {**to_plain(preset(config.model)), **config.network})
    load: Any = getattr(module, "load_published", None)
    try:
        load(state) if load else load_exactly(module, state)
    except ManifestError as error:
        raise ManifestError(f"{config.file} does not fit {config.model}: {error}") from error
    sha256 = sha256_file(config.file)
    num_unused = sum(v.numel() for v in state.values()) - sum(v.numel() for v in module.state_dict().values())
    _write(config, module, sha256, num_unused)
    return ImportResult(
        out=config.out, model=config.model, num_parameters=num_parameters(module), weights=checkpoint_path(config.out),
        sha256=sha256, num_unused=num_unused,
    )  # fmt: skip


def _write(config: ImportConfig, module: nn.Module, sha256: str, num_unused: int) -> None:
    with locked_output(config.out):
        record = {
            "schema_version": SCHEMA_VERSION, "kind": "run", "status": "imported",
            "model": {"name": config.model, "config": to_plain(module.config)}, "config": to_plain(config),
            "inputs": {"file": {"path": str(config.file), "bytes": config.file.stat().st_size, "sha256": sha256}},
            "num_unused": num_unused, "versions": versions(),
        }  # fmt: skip
        record["config_hash"] = config_hash({"model": record["model"], "sha256": sha256})
        path = config.out / "run.json"
        if path.is_file():
            if read_json(path).get("config_hash") != record["config_hash"]:
                raise ConfigError(f"{config.out} holds another run: choose an empty or new OUT")
            return
        if any(child.name not in ("ledger", "checkpoints") for child in config.out.iterdir()):
            raise ConfigError(f"{config.out} is not empty and holds no run: choose a new folder for OUT")
        save_imported(config.out, name=config.model, model=module)
        write_json(path, record)
