"""A run's own papers: `run.json` (what was asked and what came of it) and `metrics.jsonl` (one line per step)."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from curate.core.artifacts import read_json, write_bytes, write_json
from curate.core.config import config_hash
from curate.core.errors import ConfigError

SCHEMA_VERSION = 1
LEFT_OUT = ("data", "out", "device", "num_threads", "cache_bytes")  # change speed or place, not what is learned
PACKAGES = ("irdistill", "torch", "numpy", "simplejpeg", "opencv-python-headless", "safetensors")


def start_record(run: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write `run.json` for a new run, or check that an existing one was started the same way.

    Args:
        run: the RUN folder; may be missing or hold nothing but our `ledger`.
        record: `config` (plain values), `inputs`, `model` and the like.

    Returns:
        The record as it stands on disk.

    Raises:
        ConfigError: OUT holds something else, or was started with another config or data.
    """
    path = run / "run.json"
    fresh = {
        "schema_version": SCHEMA_VERSION, "kind": "run", "status": "running",
        "config_hash": config_hash(record["config"], leave_out=LEFT_OUT), **record, "versions": versions(),
    }  # fmt: skip
    if not path.is_file():
        if any(child.name != "ledger" for child in run.iterdir()):
            raise ConfigError(f"{run} is not empty and holds no run: choose a new folder for OUT")
        write_json(path, fresh)
        return fresh
    old: dict[str, Any] = read_json(path)
    changed = _changed(old.get("config", {}), record["config"])
    if old.get("config_hash") != fresh["config_hash"] or old.get("schema_version") != SCHEMA_VERSION:
        raise ConfigError(f"{run} was started with another config ({changed}); choose another OUT or the same settings")
    if old["inputs"]["data"]["content_hash"] != record["inputs"]["data"]["content_hash"]:
        raise ConfigError(f"{run} was started on other data ({old['inputs']['data']['path']}); choose another OUT")
    return old


def update_record(run: Path, values: Mapping[str, Any]) -> None:
    """Put new values into `run.json`."""
    write_json(run / "run.json", {**read_json(run / "run.json"), **values})


def cut_metrics(run: Path, *, num_steps: int) -> None:
    """Drop the lines of steps after `num_steps`, and a last line that a kill cut short."""
    path = run / "metrics.jsonl"
    if path.is_file():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= num_steps]
        write_bytes(path, "".join(line + "\n" for line in lines).encode())


def append_metrics(run: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to `metrics.jsonl`; NaN is refused."""
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)


def versions() -> dict[str, str]:
    """Name what computed the numbers."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    names = [name for name in new if name not in LEFT_OUT and old.get(name) != new[name]]
    return (
        ", ".join(f"{name} was {_short(old.get(name))}, now {_short(new[name])}" for name in names) or "unknown fields"
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
