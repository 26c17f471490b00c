"""Corpus in, scores out: encode and measure every patch once, for many selections (`distill select --scores OUT`).

OUT holds `features/NAME/` (rows, descriptors, measures; `distill.table`), `scores.parquet` for people and other programs, and
`manifest.json`. None of it holds a time or a path; times go to the result and to `ledger/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
from curate.core.records import TRAIN
from curate.dataset import SCHEMA_VERSION
from curate.engine import check_engine

from .blocks import available_cores
from .choose import rank01
from .clock import StepClock
from .features import Eyes, FeaturesConfig, FeatureTable, Silent, Watch, measure_corpus
from .measure import Complexity
from .outcome import is_finished
from .table import load_features

KIND, TABLE = "scores", "scores.parquet"
LEDGER, SECONDS = Path("ledger", "select.json"), Path("ledger", "seconds.json")  # the note that `is_finished` reads
_NOT_SETTINGS = ("corpus", "out", "workers", "engine")  # no byte depends on them
_DIGITS = 6  # of a rank correlation in the manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """What to measure, and by what.

    Attributes:
        corpus: a finished corpus.
        out: where the scores go.
        encoder: a file of `curate.encoders`.
        encoder_options: fields of that plug-in.
        complexity: files of `distill.complexity`; the first is the complexity, the others are there for selectors and for
            comparison.
        complexity_options: measure -> fields of that plug-in.
        workers: batches encoded at once, each on one core; 0 = one per core. Changes no byte.
        engine: where shards are encoded: `process`, `dask` or `tcp://HOST:PORT`. Changes no byte.
        features: how patches are looked at.
    """

    corpus: Path
    out: Path
    encoder: str = "vit_s14"
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    complexity: tuple[str, ...] = ("vit_entropy",)
    complexity_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    workers: int = 0
    engine: str = "process"
    features: FeaturesConfig = field(default_factory=FeaturesConfig)

    def __post_init__(self) -> None:
        check_engine(self.engine)
        if not self.workers >= 0:
            raise ConfigError(f"workers must be >= 0 (0 = one per core), got {self.workers}")
        if not self.complexity or len(set(self.complexity)) != len(self.complexity):
            raise ConfigError(f"complexity must name at least one measure, each once, got {list(self.complexity)}")
        if unknown := sorted(set(self.complexity_options) - set(self.complexity)):
            raise ConfigError(
                f"complexity_options are given for {unknown[0]!r}, which is not among {list(self.complexity)}"
            )
        if self.out.resolve() == self.corpus.resolve():
            raise ConfigError(f"OUT must be another folder than CORPUS, got {self.out} for both")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """What was measured.

    Attributes:
        out: the folder.
        num_patches: how many.
        encoder_label: what looked at them, for people.
        complexity: its name.
        correlations: every other measure -> Spearman's rank correlation with the complexity.
        seconds: step -> seconds of this run, those of encoding summed over threads; empty when nothing was left to do.
        already_done: the scores were finished before.
    """

    out: Path
    num_patches: int
    encoder_label: str
    complexity: str
    correlations: Mapping[str, float]
    seconds: Mapping[str, float]
    already_done: bool = False

    def lines(self) -> list[str]:
        """Say it for people."""
        done = " (was finished already; nothing to do)" if self.already_done else ""
        return [
            f"patches   {self.num_patches}",
            f"encoder   {self.encoder_label}",
            f"measure   {self.complexity}",
            *(f"Spearman  {value:+.3f} {name}" for name, value in self.correlations.items()),
            *(f"time      {step} {seconds:.2f} s" for step, seconds in self.seconds.items()),
            f"scores    {self.out}{done}",
        ]


def score(config: ScoreConfig, watch: Watch | None = None) -> ScoreResult:
    """Measure every patch of a corpus.

    Args:
        config: what to do.
        watch: told about progress.

    Returns:
        What was measured. The same config on a finished `out` only reports what is there; on one that was killed it goes on.

    Raises:
        ConfigError: a bad value, or `out` holds something else.
        ManifestError: the corpus is not finished, not whole or empty.
        MissingDependencyError: weights are not there.
        NumericsError: a row or score is not finite; names the patch.
    """
    dataset = open_dataset(config.corpus, split=TRAIN)
    if dataset.kind != "corpus":
        raise ConfigError(
            f"{config.corpus} is a {dataset.kind}; distill takes a corpus (curate build-shards makes one)"
        )
    complexities = tuple(
        build(
            plugins.load("distill.complexity", name),
            config.complexity_options.get(name, {}),
            where=f"complexity.{name}",
        )
        for name in config.complexity
    )
    settings = _settings(config, complexities)
    if is_finished(config.out, dataset.content_hash, settings):
        return _result(config.out, read_json(config.out / "manifest.json"), {}, already_done=True)
    encoder = load_encoder(config.encoder, config.encoder_options)
    eyes = Eyes(
        encoder=encoder, encoder_options=config.encoder_options, complexities=complexities, config=config.features,
        workers=config.workers or available_cores(),
    )  # fmt: skip
    clock = StepClock()
    with locked_output(config.out):
        write_json(config.out / LEDGER, {"corpus": dataset.content_hash, "settings": settings})
        features = Path("features", eyes.cache_name(dataset.content_hash))
        table = measure_corpus(dataset, eyes, config.out / features, watch or Silent(), engine=config.engine)
        clock.lap("read, encode, score")
        _write_table(config.out / TABLE, table, config.complexity)
        manifest = _manifest(config, dataset, encoder, table, settings, features)
        write_json(config.out / "manifest.json", manifest)
        clock.lap("write")
        write_json(config.out / SECONDS, {"laps": clock.laps, "features": dict(table.seconds)})
        write_bytes(config.out / "_SUCCESS", b"")
    return _result(config.out, manifest, clock.seconds | dict(table.seconds))


def open_scores(folder: Path, dataset: Dataset) -> tuple[FeatureTable, dict[str, Any]]:
    """Open what `score` left, for a selection.

    Args:
        folder: its OUT.
        dataset: the corpus that is to be selected from.

    Returns:
        The features, and the manifest.

    Raises:
        ManifestError: no finished scores, or those of another corpus.
    """
    manifest = _finished_manifest(folder)
    if manifest["corpus_content_hash"] != dataset.content_hash:
        raise ManifestError(
            f"{folder} holds the scores of another corpus than {dataset.root}; run distill score on this one"
        )
    return load_features(folder / manifest["features"]), manifest


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's rank correlation, ties averaged; 0 where one of them does not vary."""
    a, b = rank01(one) - 0.5, rank01(other) - 0.5
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / spread if spread else 0.0


def selection_defaults(folder: Path, complexity: str | None) -> dict[str, Any]:
    """Say how scores were made, as fields of `SelectConfig`, so that a selection from them need not repeat it.

    Args:
        folder: OUT of `score`.
        complexity: which of its measures; None: the first.

    Raises:
        ManifestError: no finished scores.
    """
    manifest = _finished_manifest(folder)
    made, name = manifest["config"], complexity or manifest["complexities"][0]
    kept = {field: made[field] for field in ("encoder", "encoder_options", "features")}
    return kept | {"complexity": name, "complexity_options": made["complexity_options"].get(name, {})}


def measure_options(folder: Path) -> dict[str, dict[str, Any]]:
    """Say with which options the measures of `score` were made: measure -> fields.

    Raises:
        ManifestError: no finished scores.
    """
    return dict(_finished_manifest(folder)["config"]["complexity_options"])


def _finished_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / "manifest.json") if (folder / "manifest.json").is_file() else {}
    if manifest.get("kind") != KIND or not (folder / "_SUCCESS").is_file():
        raise ManifestError(f"{folder} holds no finished scores; distill score makes them")
    return dict(manifest)


def _settings(config: ScoreConfig, complexities: tuple[Complexity, ...]) -> dict[str, Any]:
    """Everything the bytes depend on besides the corpus and the weights: no paths."""
    plain = cast(dict[str, Any], to_plain(config))
    resolved = {"complexity_options": {one.name: to_plain(one) for one in complexities}}
    return {key: value for key, value in (plain | resolved).items() if key not in _NOT_SETTINGS}


def _scores_of(table: FeatureTable, names: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    return {names[0]: table.complexity, **{name: table.measures[name] for name in names[1:]}}


def _write_table(path: Path, table: FeatureTable, names: tuple[str, ...]) -> None:
    uncertainty = np.zeros(len(table)) if table.uncertainty is None else table.uncertainty
    columns = {"key": pa.array(table.keys), **_scores_of(table, names)}
    columns |= {"rank": rank01(table.complexity), "uncertainty": uncertainty}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def _manifest(
    config: ScoreConfig,
    dataset: Dataset,
    encoder: Encoder,
    table: FeatureTable,
    settings: Mapping[str, Any],
    features: Path,
) -> dict[str, Any]:
    measured = _scores_of(table, config.complexity)
    others = {name: round(spearman(table.complexity, values), _DIGITS) for name, values in list(measured.items())[1:]}
    scores = {"file": TABLE, "sha256": sha256_file(config.out / TABLE)}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "content_hash": config_hash(scores),
        "corpus_content_hash": dataset.content_hash,
        "num_patches": len(table),
        "encoder": {
            "name": encoder.name,
            "label": encoder.label,
            "weights_sha256": encoder.weights_sha256,
            "settings": dict(encoder.settings),
        },
        "complexities": list(config.complexity),
        "correlations": others,
        "scores": scores,
        "features": features.as_posix(),
        "config": dict(settings),
        "config_hash": config_hash(settings),
    }


def _result(
    out: Path, manifest: Mapping[str, Any], seconds: Mapping[str, float], *, already_done: bool = False
) -> ScoreResult:
    return ScoreResult(
        out=out, num_patches=manifest["num_patches"], encoder_label=manifest["encoder"]["label"],
        complexity=manifest["complexities"][0], correlations=manifest["correlations"], seconds=seconds,
        already_done=already_done,
    )  # fmt: skip
