"""One shard chosen again: kept samples are copied byte for byte, patches that come back are cut from their photographs."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .core.artifacts import atomic_path, sha256_file, write_json
from .core.config import to_plain
from .core.errors import ManifestError
from .core.records import ShardInfo
from .dataset import read_table
from .lookup import ShardLookup
from .manifest import write_table
from .photographs import Photographs
from .reselect import WHERE_REASON
from .shards import ShardSample, ShardWriter, TarDigest, reads_back
from .where import Bools

ENTRY = "ledger/shards/{:06d}.json"
Row = dict[str, Any]
_OF_THE_BYTES = ("num_bytes", "patch_sha256", "pair_num_bytes", "pair_sha256")
"""Columns that only a stored patch has; null for dropped ones."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReshardTask:
    """Everything needed to choose one shard again.

    Attributes:
        index: number of the shard.
        parent: the corpus that is read.
        out: the corpus that is written.
        shard: its entry in the parent's manifest.
        photographs: folder of the photographs; needed only if a patch comes back.
        places: source -> (place in input order, width, height).
        keep: (N,) bool over its kept, then its dropped patches.
        by_rule: (N,) bool, dropped by a rule that is no gate: such a patch keeps its reason.
    """

    index: int
    parent: Path
    out: Path
    shard: ShardInfo
    photographs: Path | None
    places: Mapping[str, tuple[int, int, int]]
    keep: Bools
    by_rule: Bools


@dataclass(slots=True)
class _Patch:
    row: Row
    was_kept: bool
    keep: bool
    by_rule: bool


def reshard(task: ReshardTask) -> ShardInfo:
    """Write tar, metadata and rejected tables of one shard; the ledger entry last.

    Raises:
        ConfigError: a photograph changed.
        ManifestError: the parent's shard is not what its tables say, or the new tar does not read back as written.
    """
    metadata, rejected = (read_table(task.parent / name) for name in (task.shard.metadata, task.shard.rejected))
    file = f"shards/{Path(task.shard.metadata).stem}.tar"
    kept: list[Row] = []
    dropped: list[Row] = []
    with atomic_path(task.out / file) as temporary:
        with ShardWriter(temporary) as writer:
            for row, sample in _chosen(task, _patches(task, metadata.to_pylist(), rejected.to_pylist())):
                if sample is None:
                    dropped.append(row)
                else:
                    writer.add(sample.key, sample.members)
                    kept.append(row)
        digest = writer.close()
        if not reads_back(temporary, digest):
            raise ManifestError(f"{task.out / file} does not read back as written: is the disk full or failing?")
    if not kept:
        (task.out / file).unlink()
        digest = TarDigest(0, 0, "", "")
    write_table(task.out / task.shard.metadata, kept, metadata.schema)
    write_table(task.out / task.shard.rejected, dropped, rejected.schema)
    info = replace(
        task.shard, file=file if kept else "", samples=digest.samples, num_bytes=digest.num_bytes, sha256=digest.sha256,
        md5=digest.md5, metadata_sha256=sha256_file(task.out / task.shard.metadata),
        rejected_sha256=sha256_file(task.out / task.shard.rejected),
    )  # fmt: skip
    write_json(task.out / ENTRY.format(task.index), to_plain(info))
    return info


def _patches(task: ReshardTask, kept: list[Row], dropped: list[Row]) -> list[_Patch]:
    """Join both tables in the order in which the patches were cut."""
    was_kept = [True] * len(kept) + [False] * len(dropped)
    patches = [
        _Patch(row, was, keep, by_rule)
        for row, was, keep, by_rule in zip(
            [*kept, *dropped], was_kept, task.keep.tolist(), task.by_rule.tolist(), strict=True
        )
    ]
    return sorted(patches, key=lambda patch: (task.places[patch.row["source"]][0], patch.row["y"], patch.row["x"]))


def _chosen(task: ReshardTask, patches: list[_Patch]) -> Iterable[tuple[Row, ShardSample | None]]:
    """Yield each patch's new row, with its sample if it is kept."""
    lookup = ShardLookup(task.parent / task.shard.file) if task.shard.file else None
    try:
        for _, group in itertools.groupby(patches, key=lambda patch: patch.row["source"]):
            members = list(group)
            cut = iter(_cut(task, [patch.row for patch in members if patch.keep and not patch.was_kept]))
            for patch in members:
                if not patch.keep:
                    yield _dropped_row(patch), None
                elif patch.was_kept:
                    assert lookup is not None, "a shard with kept patches has a tar"
                    yield patch.row, _checked(lookup.read(patch.row["key"]), patch.row, task.shard.file)
                else:
                    yield _returned(task, patch.row, next(cut))
    finally:
        if lookup is not None:
            lookup.__exit__()


def _checked(sample: ShardSample, row: Row, file: str) -> ShardSample:
    if hashlib.sha256(sample.image()[1]).hexdigest() != row["patch_sha256"]:
        raise ManifestError(f"{file}: {sample.key}: the image's sha256 differs from its row; run `curate verify`")
    return sample


def _cut(task: ReshardTask, rows: list[Row]) -> list[bytes]:
    if not rows:
        return []
    assert task.photographs is not None, "checked before the first shard"
    first = rows[0]
    return Photographs(root=task.photographs).cut(
        first["source"], first["image_sha256"], [(row["y"], row["x"]) for row in rows],
        size_px=first["size"], extension=first["extension"],
    )  # fmt: skip


def _returned(task: ReshardTask, row: Row, encoded: bytes) -> tuple[Row, ShardSample]:
    _, width, height = task.places[row["source"]]
    lineage = {
        **{name: row[name] for name in ("key", "source", "image_sha256", "y", "x", "size")},
        "image_width": width, "image_height": height,
    }  # fmt: skip
    members = {row["extension"]: encoded, "json": json.dumps(lineage, ensure_ascii=True).encode()}
    new = row | {"num_bytes": len(encoded), "patch_sha256": hashlib.sha256(encoded).hexdigest()}
    return new, ShardSample(row["key"], members)


def _dropped_row(patch: _Patch) -> Row:
    """A patch dropped now has no thumbnail (that would mean decoding it); one dropped before keeps its own."""
    reason = patch.row["reason"] if patch.by_rule else WHERE_REASON
    return patch.row | dict.fromkeys(_OF_THE_BYTES) | {"reason": reason, "kept_flat": False}
