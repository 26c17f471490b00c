"""The step cache: a step runs when its inputs' hash changed, resumes when it was stopped, and is skipped otherwise."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.core import artifacts, config
from curate.core.console import note
from curate.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What is known of a finished step.

    Attributes:
        name: also the folder it owns below OUT.
        key: hash of its settings and of the outputs of the steps before it.
        output: hash of what it made; the next steps' keys depend on it.
        seconds: that it took when it ran.
        summary: plain values for the report.
        skipped: it was found finished with the same key.
    """

    name: str
    key: str
    output: str
    seconds: float
    summary: dict[str, Any]
    skipped: bool


def run_step(
    out: Path,
    name: str,
    settings: dict[str, Any],
    before: Iterable[StepRecord],
    work: Callable[[Path], tuple[str, dict[str, Any]]],
) -> StepRecord:
    """Run one step in its own folder, or find that nothing changed.

    Args:
        out: the pipeline's folder.
        name: of the step and its folder `out/name`.
        settings: plain values that decide the result, versions included.
        before: finished steps whose outputs this one reads.
        work: takes the folder, returns (hash of the output, plain summary); must resume what it finds half done.

    Returns:
        The record, stored in `out/steps/name.json`.
    """
    key = config.config_hash({"settings": settings, "inputs": {record.name: record.output for record in before}})
    path, folder = out / "steps" / f"{name}.json", out / name
    stored = artifacts.read_json(path) if path.exists() else {}
    if stored.get("key") == key and stored.get("finished") and folder.is_dir():
        note(f"{name}: inputs unchanged, skipped (took {stored['seconds']:.1f} s)")
        return StepRecord(
            name=name, key=key, output=stored["output"], seconds=stored["seconds"], summary=stored["summary"], skipped=True
        )  # fmt: skip
    if not stored and folder.exists():
        raise ConfigError(f"{folder} exists and is not ours; choose an empty or new OUT")
    if stored.get("key") not in (None, key):
        note(f"{name}: inputs changed, made anew")
        shutil.rmtree(folder, ignore_errors=True)
    note(f"{name}: running")
    artifacts.write_json(path, {"key": key, "finished": False})
    start = time.perf_counter()
    output, summary = work(folder)
    record = StepRecord(
        name=name, key=key, output=output, seconds=time.perf_counter() - start, summary=summary, skipped=False
    )  # fmt: skip
    artifacts.write_json(path, config.to_plain(record) | {"finished": True})
    return record


def hash_files(paths: Iterable[Path]) -> str:
    """Hash names and bytes, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{artifacts.sha256_file(path)}\n".encode())
    return digest.hexdigest()
