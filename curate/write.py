"""Pass 2: one task writes one shard from the spool. It writes only its own files, so it may run again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .core.artifacts import atomic_path, sha256_file, write_json
from .core.config import to_plain
from .core.errors import ManifestError
from .core.records import ScannedImage, ScoredPatch, ShardInfo
from .manifest import patch_row, patch_schema, rejected_schema, write_table
from .recipes import Recipe
from .shards import ShardWriter, TarDigest, reads_back
from .spool import read_patches

ENTRY = "ledger/shards/{:06d}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """Everything a worker needs to write shard `index`; its images share one extension and split.

    `check_spool`: an earlier run wrote the spool, so its bytes are hashed again.
    """

    index: int
    out: Path
    recipe: Recipe
    patch_size_px: int
    check_spool: bool
    images: tuple[ScannedImage, ...]
    split: str

    @property
    def sources(self) -> list[str]:
        """Names of its inputs, for messages."""
        return [image.ref.source for image in self.images]

    def spools(self) -> set[int]:
        """Numbers of the spool files it reads."""
        return {image.spool for image in self.images}


@dataclass(slots=True)
class _Tables:
    kept: list[dict[str, Any]]
    dropped: list[dict[str, Any]]


def write_shard(task: ShardTask) -> ShardInfo:
    """Write tar, metadata and rejected tables of one shard; the ledger entry last.

    Raises:
        ManifestError: the spool is damaged, or the tar does not read back as written.
    """
    names = shard_names(task.index)
    tables = _Tables([], [])
    digest = _write_tar(task, task.out / names["file"], tables)
    filters = task.recipe.filters()
    write_table(task.out / names["metadata"], tables.kept, patch_schema(filters))
    write_table(task.out / names["rejected"], tables.dropped, rejected_schema(filters))
    shard = ShardInfo(
        file=names["file"] if tables.kept else "", samples=digest.samples, num_bytes=digest.num_bytes,
        sha256=digest.sha256, md5=digest.md5, metadata=names["metadata"],
        metadata_sha256=sha256_file(task.out / names["metadata"]), rejected=names["rejected"],
        rejected_sha256=sha256_file(task.out / names["rejected"]), split=task.split,
    )  # fmt: skip
    write_json(task.out / ENTRY.format(task.index), to_plain(shard))
    return shard


def shard_names(index: int) -> dict[str, str]:
    """Name the three files of a shard, relative to the corpus."""
    stem = f"patches-{index:06d}"
    return {
        "file": f"shards/{stem}.tar",
        "metadata": f"metadata/{stem}.parquet",
        "rejected": f"rejected/{stem}.parquet",
    }


def _write_tar(task: ShardTask, path: Path, tables: _Tables) -> TarDigest:
    with atomic_path(path) as temporary:
        with ShardWriter(temporary) as writer:
            for image in task.images:
                for patch, data, pair in read_patches(task.out, image, check=task.check_spool):
                    _add(task, image, patch, data, pair, writer, tables)
        digest = writer.close()
        if not reads_back(temporary, digest):
            raise ManifestError(f"{path} does not read back as written: is the disk full or failing?")
    if tables.kept:
        return digest
    path.unlink()
    return TarDigest(0, 0, "", "")


def _add(
    task: ShardTask,
    image: ScannedImage,
    patch: ScoredPatch,
    data: bytes,
    pair: bytes,
    writer: ShardWriter,
    tables: _Tables,
) -> None:
    row = patch_row(image, patch, size_px=task.patch_size_px)
    if patch.reason:
        thumbnail = None if patch.sha256 else data  # one that the plan dropped was encoded for the shard; it gets none
        tables.dropped.append(row | {"reason": patch.reason, "keeper": patch.keeper or None, "thumbnail": thumbnail})
        return
    tables.kept.append(row)
    extension = image.extension
    members = {f"gt.{extension}": data, f"lq.{extension}": pair} if patch.pair_num_bytes else {extension: data}
    writer.add(row["key"], members | {"json": _lineage(image, row)})


def _lineage(image: ScannedImage, row: dict[str, Any]) -> bytes:
    assert image.facts is not None, "a candidate was decoded"
    lineage = {
        **{name: row[name] for name in ("key", "source", "image_sha256", "y", "x", "size")},
        "image_width": image.facts.width, "image_height": image.facts.height,
    }  # fmt: skip
    return json.dumps(lineage, ensure_ascii=True).encode()
