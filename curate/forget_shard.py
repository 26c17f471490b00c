"""One shard without the pictures that are to be forgotten. Each of its files is changed by itself, so it may run again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from .core.artifacts import atomic_path, remove, sha256_file, write_json
from .core.config import to_plain
from .core.errors import ManifestError
from .core.records import ShardInfo
from .dataset import read_table
from .manifest import store_table
from .shards import ShardWriter, TarDigest, read_shard, reads_back
from .write import ENTRY


def num_patches_of(root: Path, shard: ShardInfo, sources: pa.Array) -> tuple[int, int]:
    """Count the kept and the dropped patches that a shard holds of `sources`, from two columns."""
    tables = (read_table(root / name, ["source"]) for name in (shard.metadata, shard.rejected))
    kept, dropped = (int(pc.sum(pc.is_in(table["source"], sources)).as_py() or 0) for table in tables)
    return kept, dropped


def forget_in_shard(root: Path, index: int, shard: ShardInfo, sources: pa.Array) -> ShardInfo:
    """Take every patch of `sources` out of the tar and both tables; the ledger entry last.

    Tar and tables may each be the old or the new one: that is how an interrupted run leaves them.

    Raises:
        ManifestError: the tar is damaged, or holds something else than its table says.
    """
    metadata, rejected = (_without(root / name, sources) for name in (shard.metadata, shard.rejected))
    digest = _rewrite_tar(root, shard, metadata["key"].to_pylist())
    store_table(root / shard.metadata, metadata)
    store_table(root / shard.rejected, rejected)
    info = replace(
        shard, file=shard.file if digest.samples else "", samples=digest.samples, num_bytes=digest.num_bytes,
        sha256=digest.sha256, md5=digest.md5, metadata_sha256=sha256_file(root / shard.metadata),
        rejected_sha256=sha256_file(root / shard.rejected),
    )  # fmt: skip
    write_json(root / ENTRY.format(index), to_plain(info))
    return info


def _without(path: Path, sources: pa.Array) -> pa.Table:
    table = read_table(path)
    return table.filter(pc.invert(pc.is_in(table["source"], sources)))


def _rewrite_tar(root: Path, shard: ShardInfo, keys: Collection[str]) -> TarDigest:
    path = root / shard.file
    if not shard.file or not keys:
        if shard.file:
            remove(path)
        return TarDigest(0, 0, "", "")
    wanted, found = frozenset(keys), []
    with atomic_path(path) as temporary:
        with ShardWriter(temporary) as writer:
            for sample in read_shard(path):
                if sample.key in wanted:
                    writer.add(sample.key, sample.members)
                    found.append(sample.key)
        digest = writer.close()
        if found != list(keys):
            raise ManifestError(f"{path} holds other samples than {shard.metadata} says; run `curate verify`")
        if not reads_back(temporary, digest):
            raise ManifestError(f"{path} does not read back as written: is the disk full or failing?")
    return digest
