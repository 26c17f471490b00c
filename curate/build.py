"""`build_shards`: the whole story of a corpus on one screen. Scan -> plan -> write -> manifest, resumable at any point."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from .against import write_leaks
from .core import artifacts, config
from .core.console import Progress
from .core.errors import ConfigError
from .core.records import TRAIN, ScannedImage, ShardInfo
from .dataset import SCHEMA_VERSION
from .dedup.rules import Dedup
from .download import JOB
from .engine import PROCESS, Engine, Surroundings, check_engine, open_engine
from .fetch.config import FetchConfig
from .fetch.forgotten import refuse_interrupted
from .fetch.urls import redact
from .intake import Intake, open_intake
from .job import PLAN, content_of, earlier_plan, open_ledger, versions_of
from .lossless import require_libturbojpeg
from .manifest import image_row, image_schema, write_table
from .patches import PATCH_FORMATS, SOURCE
from .plan import Plan, PlanRules, make_plan
from .publish import Publisher
from .recipes import Recipe, load_recipe
from .scan import ScanConfig
from .spool import SPOOL, ScanTask, run_scan_task
from .world import World, open_world
from .write import ENTRY, ShardTask, write_shard

IMAGES_PER_PART = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildShardsConfig:
    """What to build and how; where things lie, `workers` and `engine` do not change a byte of the result."""

    source: str | Path  # a folder, or a list of URLs (a path or any fsspec URL)
    out: Path
    paired: Path | None = None  # folder of the degraded versions, same names
    recipe: Recipe = field(default_factory=lambda: load_recipe("photographs", patch_size_px=512))
    patch_size_px: int = 512  # Million-IRD, LSDIR users
    patch_format: str = "webp"  # lossless; docs/decisions/0001
    keep_flat_frac: float = 0.0  # share of flat patches kept on purpose: denoisers need some sky
    images_per_shard: int = 16  # about 500 patches of 512 px
    max_bad_frac: float = 0.5  # share of inputs that may be unreadable before the run stops
    seed: int = 0
    against: tuple[str, ...] = ()  # folders, or names of packs, of benchmark pictures that must not be in the corpus
    known: tuple[Path, ...] = ()  # earlier corpora: nothing they keep is kept again
    splits: Mapping[str, float] = field(default_factory=dict)  # name -> share that is held out
    publish: str = ""  # fsspec URL where the corpus is to appear; `out` is then where it is made
    url_column: str = ""  # of a list; "" = found by its name
    fetch: FetchConfig = field(default_factory=FetchConfig)  # of a list
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    engine: str = PROCESS  # or dask, or tcp://HOST:PORT; docs/engines.md

    def __post_init__(self) -> None:
        """Check ranges."""
        check_engine(self.engine)
        if not 8 <= self.patch_size_px <= 99_999:
            raise ConfigError(f"patch_size_px must be in 8..99999, got {self.patch_size_px}")
        if self.patch_format not in PATCH_FORMATS:
            raise ConfigError(f"patch_format must be one of {', '.join(PATCH_FORMATS)}, got {self.patch_format!r}")
        if not 0 <= self.keep_flat_frac <= 1:
            raise ConfigError(f"keep_flat must be in 0%..100%, got {100 * self.keep_flat_frac:g}%")
        if self.keep_flat_frac and "flat_area" not in self.recipe.gates:
            raise ConfigError(
                f"keep_flat spares what the gate flat_area drops; recipe {self.recipe.name} has no such gate"
            )
        if self.patch_format == SOURCE and self.patch_size_px % 16:
            raise ConfigError(
                f"patch format source needs a patch size that is a multiple of 16, got {self.patch_size_px}"
            )
        if self.recipe.grid.phase == "search" and (self.patch_size_px % 8 or (self.recipe.grid.stride_px or 8) % 8):
            raise ConfigError("grid.phase search needs a patch size and a stride that are multiples of 8")
        if not self.images_per_shard >= 1:
            raise ConfigError(f"images_per_shard must be >= 1, got {self.images_per_shard}")
        if not 0 <= self.max_bad_frac <= 1:
            raise ConfigError(f"max_bad_frac must be in 0..1, got {self.max_bad_frac}")
        if not self.workers >= 1:
            raise ConfigError(f"workers must be >= 1, got {self.workers}")

    @property
    def of_pictures(self) -> Dedup:
        """The rules that find near pictures: the recipe's, or hashes alone where only the splits need to know."""
        dedup = self.recipe.dedup
        return dedup if dedup.of_pictures or not self.splits else Dedup(perceptual=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildShardsResult:
    """What came out, for people and tests; times are here and in no file of the corpus."""

    out: Path
    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    num_ignored: int
    num_patches_kept: int
    patch_reasons: Mapping[str, int]
    num_bytes: int
    num_shards: int
    num_by_extension: Mapping[str, int]
    failures: tuple[str, ...]
    seconds: Mapping[str, float]
    resumed: bool
    num_by_split: Mapping[str, int] = field(default_factory=dict)  # kept patches; empty without splits
    published: str = ""  # URL where it lies, if not in `out`
    num_leaks: int | None = None  # places that show a benchmark picture; None if nothing was looked for
    num_retried: int = 0  # rows that `retry` asked for
    num_came: int = 0  # of them


def build_shards(cfg: BuildShardsConfig) -> BuildShardsResult:
    """Turn a folder of pictures, or a list of URLs, into a corpus.

    The same command on the same OUT resumes. Same input and config give the same bytes for any number of workers or kills.

    Raises:
        ConfigError: bad source or output, another config or input on a used OUT, too many unreadable inputs, no patch kept.
    """
    clock = [time.perf_counter()]
    if cfg.patch_format == SOURCE:
        require_libturbojpeg()
    cfg = _with_whole_paths(cfg)
    intake = open_intake(cfg.source, out=cfg.out, paired=cfg.paired, url_column=cfg.url_column, fetch=cfg.fetch)
    with (
        artifacts.locked_output(cfg.out),
        Publisher(cfg.publish, cfg.out) as publisher,
        _engine(cfg, intake) as pool,
    ):
        refuse_interrupted(cfg.out)
        if (cfg.out / JOB).exists():
            raise ConfigError(f"output {cfg.out} is a download; choose another OUT for the corpus")
        world = open_world(cfg.against, cfg.known, cfg.of_pictures, cfg.out, splits=(*cfg.splits,))
        resumed = open_ledger(cfg, intake, world)
        publisher.claim()
        tasks = intake.scan(_scan_config(cfg, world), pool)
        scanned = intake.read(tasks)
        intake.settle(scanned)
        _check_bad_share(cfg, scanned)
        clock.append(time.perf_counter())
        plan = make_plan(
            scanned, _plan_rules(cfg), earlier=earlier_plan(cfg.out), rounds=intake.rounds(), known=world.known(),
            origins=intake.origins() if cfg.splits else (),
        )  # fmt: skip
        _check_yield(cfg, plan)
        shards = _write(cfg, plan, tasks, pool, publisher, resumed=resumed)
        clock.append(time.perf_counter())
        _finish(cfg, intake, plan, shards, world)
        publisher.finish(shards)
        clock.append(time.perf_counter())
        seconds = dict(zip(("scan", "write", "finish"), (b - a for a, b in itertools.pairwise(clock)), strict=True))
        if not resumed:
            artifacts.write_json(cfg.out / "ledger" / "times.json", seconds)
    return BuildShardsResult(
        out=cfg.out, counts=plan.counts(), reasons=plan.reasons(), num_ignored=intake.num_ignored,
        num_patches_kept=sum(shard.samples for shard in shards), patch_reasons=_patch_reasons(plan),
        num_bytes=sum(shard.num_bytes for shard in shards), num_shards=len(shards),
        num_by_extension=_num_by_extension(plan), num_by_split=_num_by_split(cfg, shards),
        num_leaks=sum(len(image.leaks) for image in plan.images) if world.packs else None, seconds=seconds, resumed=resumed,
        published=redact(cfg.publish),
        failures=tuple(f"{i.ref.source}: {i.reason}: {i.detail}" for i in plan.images if i.status == "failed"),
    )  # fmt: skip


def _with_whole_paths(cfg: BuildShardsConfig) -> BuildShardsConfig:
    """Make paths absolute for workers that run in another folder."""
    if cfg.engine == PROCESS:
        return cfg
    source = Path(cfg.source).absolute() if Path(cfg.source).is_dir() else cfg.source
    return replace(cfg, source=source, out=cfg.out.absolute(), paired=cfg.paired and cfg.paired.absolute())


def _engine(cfg: BuildShardsConfig, intake: Intake) -> Engine:
    around = Surroundings(out=cfg.out, files=tuple(intake.samples()), versions=versions_of(cfg))
    return open_engine(cfg.engine, workers=cfg.workers, around=around)


def _plan_rules(cfg: BuildShardsConfig) -> PlanRules:
    return PlanRules(
        images_per_shard=cfg.images_per_shard, patch_size_px=cfg.patch_size_px, dedup=cfg.recipe.dedup,
        near=cfg.of_pictures, splits=cfg.splits,
        split_by=cfg.recipe.split_by, seed=cfg.seed,
    )  # fmt: skip


def _scan_config(cfg: BuildShardsConfig, world: World) -> ScanConfig:
    return ScanConfig(
        recipe=cfg.recipe, patch_size_px=cfg.patch_size_px, patch_format=cfg.patch_format,
        keep_flat_frac=cfg.keep_flat_frac, seed=cfg.seed, near=cfg.of_pictures,
        packs=tuple((pack.name, pack.path) for pack in world.packs),
    )  # fmt: skip


def _check_bad_share(cfg: BuildShardsConfig, scanned: Sequence[ScannedImage]) -> None:
    read = [image for image in scanned if not image.ref.fault]
    failed = [image for image in read if image.status == "failed"]
    if len(failed) > cfg.max_bad_frac * len(read):
        first = failed[0]
        raise ConfigError(
            f"{len(failed)} of {len(read)} inputs cannot be read (limit: max_bad_frac {cfg.max_bad_frac}); "
            f"first: {first.ref.source}: {first.reason}: {first.detail}"
        )


def _check_yield(cfg: BuildShardsConfig, plan: Plan) -> None:
    if cfg.known and plan.images and all(image.keeper for image in plan.images if image.status != "failed"):
        return  # a batch of nothing new is a corpus of no patch
    if not plan.counts()["kept"] and not any(image.forgotten for image in plan.images):
        if all(image.ref.fault for image in plan.images):
            what = Counter(image.reason for image in plan.images).most_common()
            raise ConfigError(
                f"none of the {len(plan.images)} URLs in {redact(str(cfg.source))} gave a picture "
                f"({', '.join(f'{reason} {count}' for reason, count in what)}); first: {plan.images[0].ref.source}: "
                f"{plan.images[0].detail}; `curate retry {cfg.out} --class {what[0][0]}` tries them again"
            )
        reasons = ", ".join(f"{reason} {count}" for reason, count in plan.reasons().items())
        raise ConfigError(
            f"no patch of {cfg.patch_size_px} px was kept from {len(plan.images)} inputs in {redact(str(cfg.source))} "
            f"({reasons}); "
            "try a smaller --patch-size or --recipe everything"
        )


def _write(
    cfg: BuildShardsConfig,
    plan: Plan,
    scans: Sequence[ScanTask],
    pool: Engine,
    publisher: Publisher,
    *,
    resumed: bool,
) -> list[ShardInfo]:
    tasks = [
        ShardTask(
            index=i, out=cfg.out, recipe=cfg.recipe, patch_size_px=cfg.patch_size_px, check_spool=resumed,
            images=tuple(plan.images[j] for j in members), split=plan.images[members[0]].split or TRAIN,
        )
        for i, members in enumerate(plan.shards)
    ]  # fmt: skip
    todo = [task for task in tasks if not (cfg.out / ENTRY.format(task.index)).exists()]
    waiting = Counter(spool for task in todo for spool in task.spools())
    by_index = {task.index: task for task in scans}
    lost = [by_index[spool] for spool in sorted(waiting) if not (cfg.out / SPOOL.format(spool)).exists()]
    for _ in pool.run(run_scan_task, lost):
        pass
    with Progress("write", len(tasks), done=len(tasks) - len(todo)) as progress:
        for task, shard in pool.run(write_shard, todo):
            publisher.offer(task.index, shard)
            progress.step(f"({shard.samples} patches)")
            waiting.subtract(task.spools())
            for spool in (spool for spool in task.spools() if not waiting[spool]):
                (cfg.out / SPOOL.format(spool)).unlink(missing_ok=True)  # its patches are all in finished shards
    shutil.rmtree(cfg.out / "ledger" / "spool", ignore_errors=True)
    entries = [artifacts.read_json(cfg.out / ENTRY.format(task.index)) for task in tasks]
    return [config.build(ShardInfo, entry, where="ledger") for entry in entries]


def _finish(cfg: BuildShardsConfig, intake: Intake, plan: Plan, shards: Sequence[ShardInfo], world: World) -> None:
    """Write the tables of inputs, the manifest, the wids index and, last of all, `_SUCCESS`."""
    if (cfg.out / "_SUCCESS").exists():
        return
    counts = plan.counts()
    assert sum(counts.values()) == len(plan.images), "one row per input"
    parts = []
    schema = pa.schema([*image_schema(cfg.recipe.filters()), *intake.fields])
    images = iter(plan.images)
    for number, known in enumerate(intake.rows(plan.images, IMAGES_PER_PART)):
        name = f"images/part-{number:06d}.parquet"
        rows = [image_row(next(images)) | dict(more) for more in known]
        write_table(cfg.out / name, rows, schema)
        parts.append({"file": name, "rows": len(rows), "sha256": artifacts.sha256_file(cfg.out / name)})
    content = content_of(cfg, world)
    listed = {"shards": config.to_plain(shards), "images": parts}
    leaks = {"leaks": write_leaks(cfg.out, plan.images)} if world.packs else {}
    funnel = {
        "inputs": len(plan.images), "ignored": intake.num_ignored, "unpaired": intake.num_unpaired, **counts,
        "reasons": plan.reasons(),
        "patches": sum(len(image.patches) for image in plan.images),
        "patches_kept": sum(shard.samples for shard in shards), "patch_reasons": _patch_reasons(plan),
    }  # fmt: skip
    manifest = {
        "schema_version": SCHEMA_VERSION, "kind": "corpus", "content_hash": config.config_hash(listed),
        "config": content, "config_hash": config.config_hash(content), "inputs_hash": _inputs_hash(plan),
        "versions": versions_of(cfg), "funnel": funnel, **listed, **leaks,
    }  # fmt: skip
    artifacts.write_json(cfg.out / "index.json", _wids_index(cfg.recipe.name, shards))
    artifacts.write_json(cfg.out / "manifest.json", manifest)
    artifacts.write_bytes(cfg.out / PLAN, config.canonical_json(config.to_plain(plan.earlier)))
    artifacts.write_success(cfg.out)


def _inputs_hash(plan: Plan) -> str:
    return config.config_hash(
        {"inputs": [[image.ref.source, image.sha256, image.pair_sha256] for image in plan.images]}
    )


def _num_by_extension(plan: Plan) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for image in plan.images:
        counted[image.extension] += sum(not patch.reason for patch in image.patches)
    return {extension: num for extension, num in sorted(counted.items()) if num}


def _num_by_split(cfg: BuildShardsConfig, shards: Sequence[ShardInfo]) -> dict[str, int]:
    names = (TRAIN, *cfg.splits) if cfg.splits else ()
    return {name: sum(shard.samples for shard in shards if shard.split == name) for name in names}


def _patch_reasons(plan: Plan) -> dict[str, int]:
    counted = Counter(patch.reason for image in plan.images for patch in image.patches if patch.reason)
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def _wids_index(name: str, shards: Sequence[ShardInfo]) -> dict[str, Any]:
    """List the shards for wids; its urls are relative to the index file."""
    listed = [
        {"url": s.file, "md5sum": s.md5, "nsamples": s.samples, "filesize": s.num_bytes} for s in shards if s.samples
    ]
    return {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": name, "shardlist": listed}
