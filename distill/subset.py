"""Corpus in, subset out: measure every patch, spend each task's budget, calibrate, split by complexity, write two stages.

`select` below is the whole story. The subset's files hold no time and no path: the same command gives the same bytes in
any folder. Times go to the result and to `ledger/`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from curate import Dataset
from curate.core.artifacts import locked_output, read_json, sha256_file, write_bytes, write_json
from curate.core.config import to_plain
from curate.core.errors import ConfigError
from curate.core.records import ShardInfo
from curate.engine import check_engine

from .blocks import available_cores, use_threads
from .budget import SEVERAL_TASKS_MIN, parse_budget, share_budget, task_floor
from .calibration import Calibrated, CalibrationRequest, Changes
from .choose import STAGES, Chosen, choose
from .clock import StepClock
from .curriculum import CurriculumConfig
from .features import FeaturesConfig, FeatureTable, Silent, Watch
from .known import Known, Parts, device_of, open_corpus
from .outcome import CALIBRATOR, LEDGER, SECONDS, TABLE, is_finished, manifest_of, result_of, write_table, write_tensors
from .outcome import SelectResult as SelectResult
from .reading import PatchReader
from .selection import Indices
from .stage_shards import write_stage
from .tasks import task_rows

DEVICES = ("auto", "cpu", "cuda")
NOT_SETTINGS = ("corpus", "out", "scores", "workers", "engine")  # no byte depends on them
FIT = Path("ledger", "fit.pt")  # how far a calibration's fit has come; gone when the subset is finished
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectConfig:
    """What to choose from, how much and by what.

    Attributes:
        corpus: a finished corpus.
        out: where the subset goes.
        budget: a share such as `2%` or a count such as `5000`; 2 % is TripleD's headline budget.
        scores: what `distill score` made of the corpus; None: everything is measured here, in OUT.
        encoder: a file of `curate.encoders`.
        encoder_options: fields of that plug-in.
        complexity: a file of `distill.complexity`.
        complexity_options: fields of that plug-in.
        selector: a file of `distill.selectors`.
        selector_options: fields of that plug-in.
        calibrate: a file of `distill.calibrate`.
        calibrate_options: fields of that plug-in.
        tasks: task -> pattern of a picture's path in the source, such as `rain/*`, the first that fits counts; none: the
            corpus is one task.
        min_per_task: patches that every task gets at least, unless it has fewer or a count cannot give so many; 0: 16 for
            several tasks, 1 for one (spec/tripled.md section 4).
        seed: root of every random draw.
        samples_per_shard: most samples in one stage shard.
        workers: batches encoded at once, each on one core; 0 = one per core. Changes no byte.
        engine: where shards are encoded: `process`, `dask` or `tcp://HOST:PORT`. Changes no byte.
        device: of a calibration that differentiates: `auto`, `cpu` or `cuda`. What it comes to is recorded: a GPU computes
            in bfloat16, other bytes than a CPU's.
        features: how patches are looked at.
        curriculum: parameters handed on to training.
    """

    corpus: Path
    out: Path
    budget: str = "2%"
    scores: Path | None = None
    encoder: str = "vit_s14"
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    complexity: str = "vit_entropy"
    complexity_options: Mapping[str, Any] = field(default_factory=dict)
    selector: str = "strat_fl"
    selector_options: Mapping[str, Any] = field(default_factory=dict)
    calibrate: str = "none"
    calibrate_options: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, str] = field(default_factory=dict)
    min_per_task: int = 0
    seed: int = 0
    samples_per_shard: int = 1000
    workers: int = 0
    engine: str = "process"
    device: str = "auto"
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)

    def __post_init__(self) -> None:
        parse_budget(self.budget)
        check_engine(self.engine)
        if self.device not in DEVICES:
            raise ConfigError(f"device must be one of {', '.join(DEVICES)}, got {self.device!r}")
        if not self.seed >= 0:
            raise ConfigError(f"seed must be >= 0, got {self.seed}")
        if not self.workers >= 0:
            raise ConfigError(f"workers must be >= 0 (0 = one per core), got {self.workers}")
        if not self.samples_per_shard >= 1:
            raise ConfigError(f"samples_per_shard must be >= 1, got {self.samples_per_shard}")
        if not self.min_per_task >= 0:
            raise ConfigError(f"min_per_task must be >= 0 (0 = 16 for several tasks), got {self.min_per_task}")
        for place, name in ((self.corpus, "CORPUS"), (self.scores, "--scores")):
            if place is not None and self.out.resolve() == place.resolve():
                raise ConfigError(f"OUT must be another folder than {name}, got {self.out} for both")


def select(config: SelectConfig, watch: Watch | None = None) -> SelectResult:
    """Choose a budget of a corpus's patches and write them as a two-stage subset.

    Args:
        config: what to do.
        watch: told about progress while patches are encoded and a calibration is fitted.

    Returns:
        Counts and times. The same config on a finished `out` only reports what is there.

    Raises:
        ConfigError: a bad value, or `out` holds something else.
        BudgetError: the budget cannot be met.
        ManifestError: the corpus is not finished or not whole.
        MissingDependencyError: the encoder's weights are not there.
        NumericsError: a feature or score is not finite.
    """
    dataset = open_corpus(config.corpus)
    tasks = task_rows(dataset, config.tasks)
    sizes = {task: len(rows) for task, rows in tasks.items()}
    budgets = share_budget(config.budget, sizes, min_per_task=config.min_per_task)
    parts = Parts.of(config)
    settings = _settings(config, parts)
    if is_finished(config.out, dataset.content_hash, settings):
        return result_of(config.out, read_json(config.out / "manifest.json"), {}, already_done=True)
    known = Known.of(config, dataset, parts)
    _tell_floor(config, sizes)
    watch = watch or Silent()
    clock = StepClock()
    with locked_output(config.out), use_threads(config.workers):
        ledger = {"corpus": dataset.content_hash, "settings": settings, "corpus_path": str(config.corpus.resolve())}
        write_json(config.out / LEDGER, ledger)
        table, features = known.table(config, dataset, watch)
        clock.lap("read, encode, score")
        chosen = choose(table, tasks, parts.selector, budgets, config.seed)
        clock.lap("select")
        with PatchReader(dataset, table.keys) as reader:
            request = _request(config, known, table, chosen, reader, tasks, watch)
            calibrated = parts.calibration.calibrate(request)
        clock.lap("calibrate")
        shards, calibration = _write(config, dataset, chosen, calibrated)
        facts = {
            "tasks": list(tasks),
            "budget": {
                "asked": config.budget, "got": len(chosen.key), "available": dataset.num_samples, "tasks": budgets,
            },
            "encoder": known.encoder_facts, "calibration": calibration,
            "depth": 8 if calibrated.change is None else 16,
            "curriculum": to_plain(config.curriculum), "features": features,
        }  # fmt: skip
        manifest = manifest_of(out=config.out, dataset=dataset, settings=settings, facts=facts, shards=shards)
        write_json(config.out / "manifest.json", manifest)
        clock.lap("write")
        write_json(config.out / SECONDS, clock.laps)
        write_bytes(config.out / "_SUCCESS", b"")
        (config.out / FIT).unlink(missing_ok=True)
    return result_of(config.out, manifest, clock.seconds)


def _settings(config: SelectConfig, parts: Parts) -> dict[str, Any]:
    """Everything the subset's bytes depend on besides the corpus and the weights: no paths."""
    plain = cast(dict[str, Any], to_plain(config))
    resolved: dict[str, Any] = {
        "tasks": [list(rule) for rule in config.tasks.items()],  # their order decides, and a hash forgets a table's
        "complexity_options": to_plain(parts.complexities[0]),
        "needed": {one.name: to_plain(one) for one in parts.complexities[1:]},
        "selector_options": to_plain(parts.selector),
        "calibrate_options": to_plain(parts.calibration),
    }
    left_out: tuple[str, ...] = NOT_SETTINGS
    if parts.calibration.differentiates:
        resolved["device"] = device_of(config.device)
    else:
        left_out = (*NOT_SETTINGS, "device")
    return {key: value for key, value in (plain | resolved).items() if key not in left_out}


def _tell_floor(config: SelectConfig, sizes: Mapping[str, int]) -> None:
    wanted = config.min_per_task or SEVERAL_TASKS_MIN
    if len(sizes) > 1 and (floor := task_floor(config.budget, sizes, min_per_task=wanted)) < wanted:
        _log.warning(
            "budget %s cannot give each of %d tasks %d patches; every task gets at least %d", config.budget, len(sizes),
            wanted, floor,
        )  # fmt: skip


def _request(
    config: SelectConfig, known: Known, table: FeatureTable, chosen: Chosen, reader: PatchReader,
    tasks: Mapping[str, Indices], watch: Watch,
) -> CalibrationRequest:  # fmt: skip
    device = (
        device_of(config.device) if known.parts.calibration.differentiates else "cpu"
    )  # asking for a GPU loads torch
    task_of = np.zeros(len(table), np.int64)
    for number, rows in enumerate(tasks.values()):
        task_of[rows] = number  # places in the sorted keys, which are the table's rows
    return CalibrationRequest(
        rows=table.rows, degraded_rows=table.degraded_rows, chosen=chosen.row, read=reader.read, encoder=known.encoder,
        device=device, seed=config.seed, workers=config.workers or available_cores(), watch=watch,
        task_of=task_of if len(tasks) > 1 else None, state=config.out / FIT,
    )  # fmt: skip


def _write(
    config: SelectConfig, dataset: Dataset, chosen: Chosen, calibrated: Calibrated
) -> tuple[dict[str, list[ShardInfo]], dict[str, Any]]:
    """Write both stages, the table and the calibrator; return the shards and what the manifest says of the calibration."""
    changes = Changes(calibrated.change) if calibrated.change is not None else None
    shards = {
        stage: write_stage(
            dataset, chosen.keys_of(stage), config.out, stage, config.samples_per_shard, transform=changes,
            workers=config.workers or available_cores(),
        )
        for stage in STAGES
    }  # fmt: skip
    write_table(config.out / TABLE, chosen, calibrated.weights)
    facts = dict(calibrated.facts)
    if calibrated.change is not None and changes is not None:
        path = config.out / CALIBRATOR
        write_tensors(path, calibrated.change.tensors())
        facts |= {"change": changes.facts(), "file": CALIBRATOR, "sha256": sha256_file(path)}
    return shards, facts
