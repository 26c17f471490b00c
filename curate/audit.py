"""`check_leaks`: look for benchmark pictures in a finished corpus or subset, patch by patch; opens every patch."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from .against import PackFile, store_packs
from .core.console import Progress
from .core.errors import ConfigError
from .core.images import decode_patch, luma
from .core.records import Leak
from .dataset import open_dataset
from .leaks.stage import find_leaks
from .pool import Pool
from .shards import read_shard


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLeaksConfig:
    """What to look through, and for what."""

    corpus: Path
    against: tuple[str, ...]
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)

    def __post_init__(self) -> None:
        """Check that there is something to look for."""
        if not self.against:
            raise ConfigError("check-leaks needs --against: a folder, or the name of a pack, of benchmark pictures")
        if not self.workers >= 1:
            raise ConfigError(f"workers must be >= 1, got {self.workers}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLeak:
    """A benchmark picture in a sample; `member` is the image member's extension."""

    key: str
    member: str
    leak: Leak


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLeaksResult:
    """What was looked at and every leak found, in the order of the shards."""

    num_samples: int
    num_benchmarks: int
    packs: tuple[PackFile, ...]
    leaks: tuple[FoundLeak, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    path: Path
    packs: tuple[tuple[str, str], ...]


def check_leaks(cfg: CheckLeaksConfig) -> CheckLeaksResult:
    """Search every image member of every sample for every benchmark picture.

    Raises:
        ManifestError: no finished corpus or subset, or a damaged shard.
        ConfigError: nothing to look for.
    """
    dataset = open_dataset(cfg.corpus)
    shards = [shard for group in dataset.stages.values() for shard in group if shard.samples]
    with tempfile.TemporaryDirectory(prefix="irdistill-") as folder, Pool(cfg.workers) as pool:
        packs = store_packs(cfg.against, Path(folder))
        tasks = [
            _Task(path=cfg.corpus / shard.file, packs=tuple((pack.name, pack.path) for pack in packs))
            for shard in shards
        ]
        found: dict[Path, list[FoundLeak]] = {}
        with Progress("check", len(tasks)) as progress:
            for task, leaks in pool.run(_check_shard, tasks):
                found[task.path] = leaks
                progress.step(f"({len(leaks)} leaks)" if leaks else "")
    return CheckLeaksResult(
        num_samples=dataset.num_samples, num_benchmarks=sum(pack.num_pictures for pack in packs), packs=tuple(packs),
        leaks=tuple(leak for task in tasks for leak in found[task.path]),
    )  # fmt: skip


def _check_shard(task: _Task) -> list[FoundLeak]:
    return [
        FoundLeak(key=sample.key, member=extension, leak=leak)
        for sample in read_shard(task.path)
        for extension, data in sample.members.items()
        if not extension.endswith("json")
        for leak in find_leaks(luma(decode_patch(data)), task.packs)
    ]
