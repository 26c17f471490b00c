"""Corpus in, subset out: measure every patch, spend each task's budget, calibrate, split by complexity, write two stages.

`select` below is the whole story. The subset's files hold no time and no path: the same command gives the same bytes in
any folder. Times go to the result and to `ledger/`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from curate import Dataset, Encoder, load_encoder, open_dataset
from curate.core import plugins
from curate.core.artifacts import locked_output, read_json, write_bytes, write_json
from curate.core.config import build, to_plain
from curate.core.errors import ConfigError
from curate.core.records import TRAIN, ShardInfo

from .budget import parse_budget, share_budget
from .calibration import Calibrated, Calibration, CalibrationRequest
from .choose import STAGES, Chosen, choose
from .clock import StepClock
from .curriculum import CurriculumConfig
from .features import Eyes, FeaturesConfig, FeatureTable, Silent, Watch, measure_corpus
from .measure import Complexity
from .outcome import LEDGER, SECONDS, TABLE, SelectResult, is_finished, manifest_of, result_of, write_table
from .reading import PatchReader
from .selection import Selector
from .stage_shards import write_stage
from .tasks import task_rows

NOT_SETTINGS = ("corpus", "out", "scores", "workers", "engine", "device")  # no byte depends on them


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
        tasks: task -> pattern of a picture's path in the source, such as `rain/*`; none: the corpus is one task.
        min_per_task: patches that a share gives every task at least; 16 for all-in-one training (spec/tripled.md section 4).
        seed: root of every random draw.
        samples_per_shard: most samples in one stage shard.
        workers: batches encoded at once, each on one core; 0 = one per core. Changes no byte.
        engine: where shards are encoded: `process`, `dask` or `tcp://HOST:PORT`. Changes no byte.
        device: of the calibration: `auto`, `cpu` or `cuda`.
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
    min_per_task: int = 1
    seed: int = 0
    samples_per_shard: int = 1000
    workers: int = 0
    engine: str = "process"
    device: str = "auto"
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)

    def __post_init__(self) -> None:
        parse_budget(self.budget)
        if not self.seed >= 0:
            raise ConfigError(f"seed must be >= 0, got {self.seed}")
        if not self.workers >= 0:
            raise ConfigError(f"workers must be >= 0 (0 = one per core), got {self.workers}")
        for name in ("samples_per_shard", "min_per_task"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        for place, name in ((self.corpus, "CORPUS"), (self.scores, "--scores")):
            if place is not None and self.out.resolve() == place.resolve():
                raise ConfigError(f"OUT must be another folder than {name}, got {self.out} for both")


def select(config: SelectConfig, watch: Watch | None = None) -> SelectResult:
    """Choose a budget of a corpus's patches and write them as a two-stage subset.

    Args:
        config: what to do.
        watch: told about progress while patches are encoded.

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
    parts = _Parts.of(config)
    settings = _settings(config, parts)
    if is_finished(config.out, dataset.content_hash, settings):
        return result_of(config.out, read_json(config.out / "manifest.json"), {}, already_done=True)
    encoder = load_encoder(config.encoder, config.encoder_options)
    clock = StepClock()
    with locked_output(config.out):
        write_json(config.out / LEDGER, {"corpus": dataset.content_hash, "settings": settings})
        cache, table = _measured(config, dataset, encoder, parts, watch or Silent())
        clock.lap("read, encode, score")
        chosen = choose(table, tasks, parts.selector, budgets, config.seed)
        clock.lap("select")
        with PatchReader(dataset, chosen.key) as reader:
            calibrated = parts.calibration.calibrate(_request(config, table, chosen, reader, encoder))
        clock.lap("calibrate")
        shards = _write_stages(config, dataset, chosen, calibrated)
        facts = {
            "tasks": list(tasks),
            "budget": {
                "asked": config.budget,
                "got": len(chosen.key),
                "available": dataset.num_samples,
                "tasks": budgets,
            },
            "encoder": {"name": encoder.name, "label": encoder.label, "weights_sha256": encoder.weights_sha256},
            "calibration": dict(calibrated.facts),
            "depth": 8 if calibrated.network is None else 16,
            "curriculum": to_plain(config.curriculum),
            "features": cache,
        }
        manifest = manifest_of(out=config.out, dataset=dataset, settings=settings, facts=facts, shards=shards)
        write_json(config.out / "manifest.json", manifest)
        clock.lap("write")
        write_json(config.out / SECONDS, clock.laps)
        write_bytes(config.out / "_SUCCESS", b"")
    return result_of(config.out, manifest, clock.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The plug-ins of a run."""

    complexity: Complexity
    selector: Selector
    calibration: Calibration

    @classmethod
    def of(cls, config: SelectConfig) -> _Parts:
        return cls(
            complexity=plugin("complexity", config.complexity, config.complexity_options),
            selector=plugin("selectors", config.selector, config.selector_options),
            calibration=plugin("calibrate", config.calibrate, config.calibrate_options),
        )


def open_corpus(path: Path) -> Dataset:
    """Open the training split of a corpus; anything else is refused in one line."""
    dataset = open_dataset(path, split=TRAIN)
    if dataset.kind != "corpus":
        raise ConfigError(f"{path} is a {dataset.kind}; distill takes a corpus (curate build-shards makes one)")
    return dataset


def plugin(folder: str, name: str, options: Mapping[str, Any]) -> Any:
    """Make a plug-in of `distill` from its options."""
    return build(plugins.load(f"distill.{folder}", name), options, where=f"{folder}.{name}")


def _settings(config: SelectConfig, parts: _Parts) -> dict[str, Any]:
    """Everything the subset's bytes depend on besides the corpus and the weights: no paths."""
    plain = cast(dict[str, Any], to_plain(config))
    resolved = {
        "complexity_options": to_plain(parts.complexity),
        "selector_options": to_plain(parts.selector),
        "calibrate_options": to_plain(parts.calibration),
    }
    return {key: value for key, value in (plain | resolved).items() if key not in NOT_SETTINGS}


def _request(
    config: SelectConfig, table: FeatureTable, chosen: Chosen, reader: PatchReader, encoder: Encoder
) -> CalibrationRequest:
    return CalibrationRequest(
        rows=table.rows, degraded_rows=table.degraded_rows, chosen=chosen.row, read=reader.read, encoder=encoder,
        device=config.device, seed=config.seed,
    )  # fmt: skip
