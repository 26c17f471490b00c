"""Everything a selector needs to know of a corpus, measured once per shard and cached.

Tokens are large and are not kept: complexity is measured while they are in memory. A shard's file is written when the whole
shard is done, so a killed run encodes no finished shard again; when all are there, they are joined to one table.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from threadpoolctl import threadpool_limits

from curate import Dataset
from curate.core.artifacts import LOCK, write_json
from curate.core.records import ShardInfo
from curate.encoders._loading import one_torch_thread
from curate.engine import PROCESS, Surroundings, open_engine
from curate.manifest import tool_versions
from curate.pool import tune_libraries

from .grouping import groups_of
from .join import join_parts, parts_left
from .look import Eyes as Eyes
from .look import FeaturesConfig as FeaturesConfig
from .look import Looker, Recipe
from .shard_features import ShardTask, add_seconds, look_at_shard, look_in_threads, write_part
from .table import KEY, SUCCESS, load_features
from .table import FeatureTable as FeatureTable

PARTS, PREPARED = "parts", "prepared"


class Watch(Protocol):
    """Told how far the slow work is; the command line draws a bar from it."""

    def begin(self, total: int, done: int, *, label: str = "encode", unit: str = "patches") -> None:
        """Work begins, which ends what was told before: of `total` units, an earlier run has done `done`."""
        ...

    def step(self, num: int) -> None:
        """`num` more units are done."""
        ...


class Silent:
    """The `Watch` that says nothing."""

    def begin(self, total: int, done: int, *, label: str = "encode", unit: str = "patches") -> None:
        """Ignore."""

    def step(self, num: int) -> None:
        """Ignore."""


def measure_corpus(
    dataset: Dataset, eyes: Eyes, folder: Path, watch: Watch | None = None, *, engine: str = PROCESS
) -> FeatureTable:
    """Encode every patch of a corpus, or open what an earlier run encoded.

    Args:
        dataset: the corpus, with at least one patch.
        eyes: what looks at it.
        folder: the feature folder, `eyes.cache_name(...)` below an OUT whose lock this process holds; made if missing.
        watch: told about progress.
        engine: `process` looks in threads of this process; `dask` and `tcp://HOST:PORT` in workers. Changes no byte.

    Raises:
        ConfigError: `group_pattern` fits no picture.
        ManifestError: a shard does not hold what the manifest says.
        NumericsError: a row or score is not finite; names the patch.
        ToolkitError: workers died.
    """
    shards = [shard for group in dataset.stages.values() for shard in group if shard.samples]
    if (folder / SUCCESS).is_file():
        (watch or Silent()).begin(dataset.num_samples, dataset.num_samples)
        return load_features(folder)
    groups = groups_of(dataset, eyes.config.group_pattern)  # a pattern that fits nothing is refused before any work
    write_json(folder / KEY, eyes.facts(dataset.content_hash))
    run = _Run(dataset, eyes, folder, watch or Silent(), shards)
    run.watch.begin(dataset.num_samples, dataset.num_samples - sum(shards[place].samples for place in run.left))
    start = time.perf_counter()
    seconds = _in_threads(run) if engine == PROCESS else _in_workers(run, engine)
    seconds["all shards (wall)"] = time.perf_counter() - start
    start = time.perf_counter()
    join_parts(folder, run.parts, eyes.complexities, groups)
    with contextlib.suppress(OSError):  # a measure has left something there
        run.prepared.rmdir()
    seconds["join"] = time.perf_counter() - start
    return replace(load_features(folder), seconds={step: round(value, 3) for step, value in seconds.items()})


class _Run:
    """What is asked, and what of it is left to do."""

    def __init__(self, dataset: Dataset, eyes: Eyes, folder: Path, watch: Watch, shards: Sequence[ShardInfo]) -> None:
        self.dataset, self.eyes, self.folder, self.watch, self.shards = dataset, eyes, folder, watch, shards
        self.parts = [(folder / PARTS / f"{Path(shard.file).stem}.npz", shard.samples) for shard in shards]
        self.left = list(parts_left(self.parts))
        self.prepared = folder / PREPARED
        self.prepared.mkdir(parents=True, exist_ok=True)

    def path(self, place: int) -> Path:
        return self.dataset.root / self.shards[place].file


def _in_threads(run: _Run) -> dict[str, float]:
    seconds: dict[str, float] = {}
    if not run.left:
        return seconds
    tune_libraries(keep_heap=True)
    with (
        threadpool_limits(1),
        one_torch_thread(run.eyes.uses_torch),
        ThreadPoolExecutor(run.eyes.workers, thread_name_prefix="look") as pool,
    ):
        start = time.perf_counter()
        looker = Looker.ready(run.eyes, run.dataset, run.prepared)
        seconds["prepare"] = time.perf_counter() - start
        for place in run.left:
            part, samples = run.parts[place]
            glances = look_in_threads(looker, pool, run.path(place))
            add_seconds(seconds, write_part(part, glances, run.path(place), samples, run.watch.step))
    return seconds


def _in_workers(run: _Run, engine: str) -> dict[str, float]:
    """Train what measures need here, once; then one task a shard."""
    seconds: dict[str, float] = {}
    with one_torch_thread(run.eyes.uses_torch):
        Looker.ready(run.eyes, run.dataset, run.prepared)
    recipe = Recipe.of(run.eyes, run.dataset.root.resolve(), run.prepared.resolve())
    tasks = [
        ShardTask(recipe, run.path(place).resolve(), run.parts[place][1], run.parts[place][0].resolve())
        for place in run.left
    ]
    around = Surroundings(
        out=_locked_above(run.folder), files=tuple((task.shard, task.shard.stat().st_size) for task in tasks),
        versions=tool_versions("torch", "timm"),
    )  # fmt: skip
    with open_engine(engine, workers=run.eyes.workers, around=around) as workers:
        for task, spent in workers.run(look_at_shard, tasks):
            add_seconds(seconds, spent)
            run.watch.step(task.samples)
    return seconds


def _locked_above(folder: Path) -> Path:
    """Find the OUT whose lock tells workers that their client still lives."""
    for above in folder.resolve().parents:
        if (above / LOCK).is_file():
            return above
    raise AssertionError(f"{folder} lies in no locked output")
