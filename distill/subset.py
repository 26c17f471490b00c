"""Corpus in, subset out: measure every patch, choose a budget of them, split by complexity, write two stages of shards.

`select` below is the whole story. The subset's files hold no time and no path: the same command gives the same bytes in
any folder. Times go to the result and to `ledger/`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate import Dataset, Encoder, load_encoder, open_dataset
from curate.core import plugins
from curate.core.artifacts import atomic_path, locked_output, read_json, sha256_file, write_bytes, write_json
from curate.core.config import build, config_hash, to_plain
from curate.core.errors import ConfigError, ManifestError
from curate.core.records import TRAIN, Rejection, ShardInfo
from curate.core.stage import Context
from curate.dataset import SCHEMA_VERSION

from .budget import count_budget, parse_budget
from .curriculum import CurriculumConfig
from .features import Complexity, Eyes, FeaturesConfig, FeatureTable, Silent, Watch, measure_corpus
from .selection import Features, Indices, Selection, Selector
from .stage_shards import write_stage

TASK = "clean"  # the only task of a clean-only corpus: spec/tripled.md section 4
STAGES = ("stage1", "stage2")
_GROUP_CHARS = 20  # a key starts with 20 hex of its photograph's sha256 (curate.patch_key)
_LEDGER = Path("ledger", "select.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectConfig:
    """What to choose from, how much and by what.

    Attributes:
        corpus: a finished corpus.
        out: where the subset goes.
        budget: a share such as `2%` or a count such as `5000`; 2 % is TripleD's headline budget.
        encoder: a file of `curate.encoders`.
        complexity: a file of `distill.complexity`.
        complexity_options: fields of that plug-in.
        selector: a file of `distill.selectors`.
        selector_options: fields of that plug-in.
        seed: root of every random draw.
        samples_per_shard: most samples in one stage shard.
        workers: batches encoded at once, each on one core; 0 = one per core. Changes no byte.
        features: how patches are looked at.
        curriculum: parameters handed on to training.
    """

    corpus: Path
    out: Path
    budget: str = "2%"
    encoder: str = "vit_s14"
    complexity: str = "vit_entropy"
    complexity_options: Mapping[str, Any] = field(default_factory=dict)
    selector: str = "strat_fl"
    selector_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    samples_per_shard: int = 1000
    workers: int = 0
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)

    def __post_init__(self) -> None:
        parse_budget(self.budget)
        if not self.seed >= 0:
            raise ConfigError(f"seed must be >= 0, got {self.seed}")
        if not self.workers >= 0:
            raise ConfigError(f"workers must be >= 0 (0 = one per core), got {self.workers}")
        if not self.samples_per_shard >= 1:
            raise ConfigError(f"samples_per_shard must be >= 1, got {self.samples_per_shard}")
        if self.out.resolve() == self.corpus.resolve():
            raise ConfigError(f"OUT must be another folder than CORPUS, got {self.out} for both")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectResult:
    """What came out.

    Attributes:
        out: the subset's folder.
        num_available: patches in the corpus.
        num_selected: patches in the subset.
        stages: patches per stage.
        encoder_label: what looked at them, for people.
        seconds: time per stage of this run; empty when nothing was left to do.
        already_done: the subset was finished before.
    """

    out: Path
    num_available: int
    num_selected: int
    stages: Mapping[str, int]
    encoder_label: str
    seconds: Mapping[str, float]
    already_done: bool = False


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
    """
    dataset = _open_corpus(config.corpus)
    num = count_budget(config.budget, dataset.num_samples)
    complexity = _plugin("complexity", config.complexity, config.complexity_options)
    selector = _plugin("selectors", config.selector, config.selector_options)
    settings = _settings(config, complexity, selector)
    if _is_finished(config.out, dataset, settings):
        return _reported(config.out)
    encoder = load_encoder(config.encoder)
    eyes = Eyes(
        encoder=encoder, complexity=complexity, config=config.features, workers=config.workers or os.cpu_count() or 1
    )
    clock = _Clock()
    with locked_output(config.out):
        write_json(config.out / _LEDGER, {"corpus": dataset.content_hash, "settings": settings})
        cache = Path("features", eyes.cache_name(dataset.content_hash))
        table = measure_corpus(dataset, eyes, config.out / cache, watch or Silent())
        clock.lap("read, encode, score")
        chosen = choose(table, selector, num, config.seed)
        clock.lap("select")
        shards = {
            stage: write_stage(dataset, chosen.keys_of(stage), config.out, stage, config.samples_per_shard)
            for stage in STAGES
        }
        _write_table(config.out / "selection.parquet", chosen)
        manifest = _manifest(config, settings, dataset, encoder, cache, shards, num)
        write_json(config.out / "manifest.json", manifest)
        clock.lap("write")
        write_json(config.out / "ledger" / "seconds.json", clock.seconds)
        write_bytes(config.out / "_SUCCESS", b"")
    return _result(config.out, manifest, clock.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The rows of selection.parquet: stage, then key order."""

    key: list[str]
    stage: list[str]
    complexity: NDArray[np.float64]
    rank: NDArray[np.float64]
    stratum: Indices
    gain: NDArray[np.float64]

    def keys_of(self, stage: str) -> list[str]:
        """Keys of one stage."""
        return [key for key, its_stage in zip(self.key, self.stage, strict=True) if its_stage == stage]


def choose(table: FeatureTable, selector: Selector, num: int, seed: int) -> Chosen:
    """Select among measured patches and split the chosen ones; the order of the table's rows does not matter.

    Args:
        table: one row per patch, any order, unique keys.
        selector: chooses.
        num: how many.
        seed: root of the selector's draws.

    Returns:
        Exactly `num` rows: the simpler half (one more when odd) as `stage1`, the rest as `stage2`.

    Raises:
        ManifestError: two patches share a key.
    """
    order = np.argsort(table.keys, kind="stable")
    keys, scores = table.keys[order], table.complexity[order]
    if len(np.unique(keys)) != len(keys):
        raise ManifestError("the corpus holds two patches of one key; run curate verify")
    features = Features(rows=table.rows[order], descriptors=table.descriptors[order])
    groups = np.unique([key[:_GROUP_CHARS] for key in keys.tolist()], return_inverse=True)[1].astype(np.int64)
    rng = Context(seed=seed, reject=_refuse).rng("select", selector.name)
    picked = selector.select(features, scores, groups, num, rng)
    _check(picked, selector, num, len(keys))
    by_complexity = np.lexsort((picked.indices, scores[picked.indices]))
    simple, hard = np.split(
        by_complexity, [(num + 1) // 2]
    )  # spec/tripled.md 4.5: lower half by c; at least one is simple
    rows = np.concatenate([half[np.argsort(picked.indices[half])] for half in (simple, hard)])
    indices = picked.indices[rows]
    return Chosen(
        key=keys[indices].tolist(), stage=[STAGES[0]] * len(simple) + [STAGES[1]] * len(hard),
        complexity=scores[indices], rank=_rank01(scores)[indices], stratum=picked.strata[rows], gain=picked.gains[rows],
    )  # fmt: skip


def _refuse(rejection: Rejection) -> None:
    raise AssertionError(f"nothing is rejected here, got {rejection}")


def _check(picked: Selection, selector: Selector, num: int, available: int) -> None:
    unique = np.unique(picked.indices)
    if len(unique) != num or len(picked.indices) != num or unique[0] < 0 or unique[-1] >= available:
        raise AssertionError(f"selector {selector.name} must give {num} unique rows, gave {len(unique)}")


def _rank01(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rank - 0.5) / N with ties averaged, spec/tripled.md section 4."""
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (
        np.asarray(((last - (counts - 1) / 2) - 0.5)[inverse] / len(scores), dtype=np.float64)
        if len(values)
        else scores
    )


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage], self._last = round(now - self._last, 3), now


def _open_corpus(path: Path) -> Dataset:
    dataset = open_dataset(path, split=TRAIN)
    if dataset.kind != "corpus":
        raise ConfigError(f"{path} is a {dataset.kind}; distill select takes a corpus (curate build-shards makes one)")
    return dataset


def _plugin(folder: str, name: str, options: Mapping[str, Any]) -> Any:
    return build(plugins.load(f"distill.{folder}", name), options, where=f"{folder}.{name}")


def _settings(config: SelectConfig, complexity: Complexity, selector: Selector) -> dict[str, Any]:
    """Everything the subset's bytes depend on besides the corpus and the weights: no paths."""
    plain = cast(dict[str, Any], to_plain(config))
    resolved = {"complexity_options": to_plain(complexity), "selector_options": to_plain(selector)}
    return {key: value for key, value in (plain | resolved).items() if key not in ("corpus", "out", "workers")}


def _is_finished(out: Path, dataset: Dataset, settings: Mapping[str, Any]) -> bool:
    """Say whether `out` holds this very subset; refuse a folder that holds anything else."""
    if not out.is_dir() or not any(out.iterdir()):
        return False
    if not (out / _LEDGER).is_file():
        if {path.name for path in out.iterdir()} <= {"ledger"}:
            return False  # killed before it wrote down what it was doing
        raise ConfigError(f"{out} holds files of something else; choose an empty or new OUT")
    ledger = read_json(out / _LEDGER)
    if ledger["corpus"] != dataset.content_hash:
        raise ConfigError(f"{out} was made from another corpus than {dataset.root}; choose another OUT")
    for key, value in settings.items():
        if ledger["settings"].get(key) != value:
            old = ledger["settings"].get(key)
            raise ConfigError(f"{out} was made with {key} = {old!r}, now {value!r}; choose another OUT")
    return (out / "_SUCCESS").is_file()


def _write_table(path: Path, chosen: Chosen) -> None:
    num = len(chosen.key)
    table = pa.table({
        "key": chosen.key, "task": [TASK] * num, "stage": chosen.stage,
        "complexity": chosen.complexity, "rank": chosen.rank, "stratum": chosen.stratum, "gain": chosen.gain,
        "uncertainty": np.zeros(num),  # prior only: training measures it with its own model (spec/tripled.md 4.5)
        "weight": np.ones(num),  # sampling weight; 1 without a calibration that weighs samples
    })  # fmt: skip
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _manifest(
    config: SelectConfig, settings: Mapping[str, Any], dataset: Dataset, encoder: Encoder, cache: Path,
    shards: Mapping[str, list[ShardInfo]], num: int,
) -> dict[str, Any]:  # fmt: skip
    stages = {stage: [asdict(info) for info in infos] for stage, infos in shards.items()}
    selection_sha256 = sha256_file(config.out / "selection.parquet")
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "subset",
        "content_hash": config_hash({"stages": stages, "selection": selection_sha256}),
        "corpus_content_hash": dataset.content_hash,
        "tasks": [TASK],
        "stages": stages,
        "selection": {"file": "selection.parquet", "sha256": selection_sha256},
        "budget": {"asked": config.budget, "got": num, "available": dataset.num_samples},
        "encoder": {"name": encoder.name, "label": encoder.label, "weights_sha256": encoder.weights_sha256},
        "complexity": settings["complexity"],
        "selector": settings["selector"],
        "calibrate": "none",
        "depth": 8,
        "seed": config.seed,
        "curriculum": to_plain(config.curriculum),
        "features": cache.as_posix(),
        "config": dict(settings),
        "config_hash": config_hash(settings),
    }


def _reported(out: Path) -> SelectResult:
    return _result(out, read_json(out / "manifest.json"), {}, already_done=True)


def _result(
    out: Path, manifest: Mapping[str, Any], seconds: Mapping[str, float], *, already_done: bool = False
) -> SelectResult:
    stages = {stage: sum(shard["samples"] for shard in shards) for stage, shards in manifest["stages"].items()}
    return SelectResult(
        out=out, num_available=manifest["budget"]["available"], num_selected=manifest["budget"]["got"], stages=stages,
        encoder_label=manifest["encoder"]["label"], seconds=seconds, already_done=already_done,
    )  # fmt: skip
