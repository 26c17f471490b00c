"""A finished corpus or subset on disk, opened for reading: the contract that distill and restoration rely on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .core.artifacts import read_json
from .core.config import build
from .core.errors import ManifestError
from .core.records import ShardInfo
from .shards import ShardSample, read_shard

SCHEMA_VERSION = 1
KINDS = ("corpus", "subset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A corpus (one stage, named "") or a subset (stages `stage1`, `stage2`); nothing is read until asked for.

    Attributes:
        root: the folder.
        kind: `corpus` or `subset`.
        stages: stage name -> its shards, in order.
        manifest: the whole manifest.json.
    """

    root: Path
    kind: str
    stages: Mapping[str, tuple[ShardInfo, ...]]
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def num_samples(self) -> int:
        """Samples over all stages."""
        return sum(shard.samples for shards in self.stages.values() for shard in shards)

    @property
    def content_hash(self) -> str:
        """Hash of the pixels and tables, equal for equal content wherever it lies."""
        return str(self.manifest["content_hash"])

    def samples(self, stage: str | None = None) -> Iterator[ShardSample]:
        """Yield every sample of one stage (None: of all), in shard order."""
        for name, shards in self.stages.items():
            if stage is None or name == stage:
                for shard in shards:
                    if shard.samples:
                        yield from read_shard(self.root / shard.file)

    def rows(self, columns: list[str] | None = None) -> pa.Table:
        """Read the metadata of all kept patches, one row per sample, in the order of `samples()`."""
        shards = [shard for group in self.stages.values() for shard in group]
        return pa.concat_tables([read_table(self.root / shard.metadata, columns) for shard in shards])


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read one of our parquet files.

    Raises:
        ManifestError: missing, cut or without a column.
    """
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(f"cannot read {path}: {error}; run `curate verify`") from error


def read_manifest(root: Path) -> dict[str, Any]:
    """Read the manifest of a corpus or subset, finished or not.

    Raises:
        ManifestError: not one of ours, or of another schema version.
    """
    if not (root / "manifest.json").is_file():
        raise ManifestError(f"{root} holds no manifest.json: not a corpus or subset, or it is not finished yet")
    manifest = read_json(root / "manifest.json")
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if kind not in KINDS:
        raise ManifestError(f"{root}/manifest.json: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ManifestError(
            f"{root}: schema_version {manifest.get('schema_version')!r}, this release reads {SCHEMA_VERSION}"
        )
    return dict(manifest)


def open_dataset(root: Path, *, split: str | None = None) -> Dataset:
    """Open a finished corpus or subset.

    Args:
        root: its folder.
        split: only the shards of this split, such as `train`; None for all.

    Raises:
        ManifestError: not one of ours, not finished, or of another schema version.
    """
    manifest = read_manifest(root)
    kind = manifest["kind"]
    if not (root / "_SUCCESS").is_file():
        raise ManifestError(f"{root} is not finished (no _SUCCESS): run the same command again, it resumes")
    listed = {"": manifest.get("shards", [])} if kind == "corpus" else manifest.get("stages", {})
    stages = {
        name: tuple(build(ShardInfo, shard, where=f"{root}/manifest.json: shard") for shard in shards)
        for name, shards in listed.items()
    }
    if split is not None:
        stages = {name: tuple(shard for shard in shards if shard.split == split) for name, shards in stages.items()}
        if not any(shard.samples for shards in stages.values() for shard in shards):
            nothing = not any(shard.get("samples") for shards in listed.values() for shard in shards)
            why = ": it holds no patch at all, curate stats shows why" if nothing else ""
            raise ManifestError(f"{root} holds no sample of split {split!r}{why}")
    return Dataset(root=root, kind=kind, stages=stages, manifest=manifest)
