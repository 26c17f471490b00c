"""What `select` leaves on disk besides shards: the table, the manifest, and the note by which a later run knows its own.

None of it holds a time or a path: the same command gives the same bytes in any folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate import Dataset
from curate.core.artifacts import atomic_path, read_json, sha256_file
from curate.core.config import config_hash
from curate.core.errors import ConfigError
from curate.core.records import ShardInfo
from curate.dataset import SCHEMA_VERSION

from .choose import Chosen

LEDGER = Path("ledger", "select.json")
SECONDS = Path("ledger", "seconds.json")
TABLE, CALIBRATOR = "selection.parquet", "calibrator.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectResult:
    """What came out.

    Attributes:
        out: the subset's folder.
        num_available: patches in the corpus.
        num_selected: patches in the subset.
        tasks: task -> patches chosen.
        stages: patches per stage.
        encoder_label: what looked at them, for people.
        calibration: what the manifest says of it: mode, accepted, reason and the numbers behind.
        seconds: time per step of this run; empty when nothing was left to do.
        already_done: the subset was finished before.
    """

    out: Path
    num_available: int
    num_selected: int
    tasks: Mapping[str, int]
    stages: Mapping[str, int]
    encoder_label: str
    calibration: Mapping[str, Any]
    seconds: Mapping[str, float]
    already_done: bool = False


def is_finished(out: Path, corpus_hash: str, settings: Mapping[str, Any]) -> bool:
    """Say whether `out` holds this very subset.

    Raises:
        ConfigError: it holds anything else.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return False
    if not (out / LEDGER).is_file():
        if {path.name for path in out.iterdir()} <= {"ledger"}:
            return False  # killed before it wrote down what it was doing
        raise ConfigError(f"{out} holds files of something else; choose an empty or new OUT")
    ledger = read_json(out / LEDGER)
    if ledger["corpus"] != corpus_hash:
        raise ConfigError(f"{out} was made from another corpus; choose another OUT")
    for key, value in settings.items():
        if ledger["settings"].get(key) != value:
            old = ledger["settings"].get(key)
            raise ConfigError(f"{out} was made with {key} = {old!r}, now {value!r}; choose another OUT")
    return (out / "_SUCCESS").is_file()


def write_table(path: Path, chosen: Chosen, weights: NDArray[np.float64]) -> None:
    """Write selection.parquet; `weights` (k,) are those of sampling, 1 without a calibration that weighs."""
    table = pa.table({
        "key": chosen.key, "task": chosen.task, "stage": chosen.stage, "complexity": chosen.complexity,
        "rank": chosen.rank, "stratum": chosen.stratum, "gain": chosen.gain,
        "uncertainty": chosen.uncertainty,  # a prior: training measures it with its own model (spec/tripled.md 4.5)
        "weight": weights,
    })  # fmt: skip
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_tensors(path: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Write a calibration network's weights as safetensors."""
    from safetensors.numpy import save_file

    with atomic_path(path) as temporary:
        save_file(dict(tensors), temporary)


def manifest_of(
    *, out: Path, dataset: Dataset, settings: Mapping[str, Any], facts: Mapping[str, Any],
    shards: Mapping[str, list[ShardInfo]],
) -> dict[str, Any]:  # fmt: skip
    """Put the manifest together.

    Args:
        out: the subset, its table written.
        dataset: the corpus.
        settings: everything the bytes depend on besides corpus and weights.
        facts: what this run found out: budget, tasks, encoder, calibration, depth, curriculum, features.
        shards: of each stage.
    """
    stages = {stage: [asdict(info) for info in infos] for stage, infos in shards.items()}
    selection = {"file": TABLE, "sha256": sha256_file(out / TABLE)}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "subset",
        "content_hash": config_hash({"stages": stages, "selection": selection["sha256"]}),
        "corpus_content_hash": dataset.content_hash,
        "stages": stages,
        "selection": selection,
        "complexity": settings["complexity"],
        "selector": settings["selector"],
        "seed": settings["seed"],
        **facts,
        "config": dict(settings),
        "config_hash": config_hash(settings),
    }


def result_of(
    out: Path, manifest: Mapping[str, Any], seconds: Mapping[str, float], *, already_done: bool = False
) -> SelectResult:
    """Say what a finished subset holds."""
    stages = {stage: sum(shard["samples"] for shard in shards) for stage, shards in manifest["stages"].items()}
    return SelectResult(
        out=out, num_available=manifest["budget"]["available"], num_selected=manifest["budget"]["got"],
        tasks=manifest["budget"]["tasks"], stages=stages, encoder_label=manifest["encoder"]["label"],
        calibration=manifest["calibration"], seconds=seconds, already_done=already_done,
    )  # fmt: skip
