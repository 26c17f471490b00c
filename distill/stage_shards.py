"""Write the chosen patches as shards of a stage: the corpus's own bytes and rows, in corpus order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate import Dataset, read_shard
from curate.core.artifacts import atomic_path, sha256_file
from curate.core.errors import ManifestError
from curate.core.records import ShardInfo
from curate.shards import ShardSample, ShardWriter, TarDigest, reads_back


def write_stage(
    dataset: Dataset, keys: Iterable[str], out: Path, stage: str, samples_per_shard: int
) -> list[ShardInfo]:
    """Copy the samples named by `keys` to `out/stage/` and their rows to `out/metadata/`.

    Args:
        dataset: the corpus.
        keys: which samples; their order does not matter.
        out: the subset's root.
        stage: `stage1` or `stage2`.
        samples_per_shard: most samples in one tar.

    Returns:
        What the manifest says of each shard; empty when `keys` is.

    Raises:
        ManifestError: the corpus does not hold what its manifest and tables say, or a shard reached the disk damaged.
    """
    wanted = frozenset(keys)
    rows = _stage_rows(dataset, wanted)
    samples = _stage_samples(dataset, wanted)
    return [
        _write_shard(list(islice(samples, table.num_rows)), table, out, stage, number)
        for number, table in enumerate(_shard_tables(rows, samples_per_shard))
    ]


def _shard_tables(rows: pa.Table, samples_per_shard: int) -> list[pa.Table]:
    """Cut the rows, in order, into shards of one file extension each: readers take one per shard."""
    tables = []
    for _, run in groupby(enumerate(rows.column("extension").to_pylist()), key=lambda item: item[1]):
        places = [place for place, _ in run]
        whole = rows.slice(places[0], len(places))
        tables += [whole.slice(at, samples_per_shard) for at in range(0, len(places), samples_per_shard)]
    return tables


def _stage_rows(dataset: Dataset, wanted: frozenset[str]) -> pa.Table:
    tables = []
    for shard in _corpus_shards(dataset):
        table = pq.read_table(dataset.root / shard.metadata)
        tables.append(table.filter(pa.array(_mask(table, wanted))))
    rows = pa.concat_tables(tables)
    if rows.num_rows != len(wanted):
        raise ManifestError(f"{dataset.root}: its tables name {rows.num_rows} of the {len(wanted)} chosen patches")
    return rows


def _stage_samples(dataset: Dataset, wanted: frozenset[str]) -> Iterator[ShardSample]:
    for shard in _corpus_shards(dataset):
        keys = pq.read_table(dataset.root / shard.metadata, columns=["key"])
        if _mask(keys, wanted).any():
            yield from (sample for sample in read_shard(dataset.root / shard.file) if sample.key in wanted)


def _corpus_shards(dataset: Dataset) -> list[ShardInfo]:
    return [shard for group in dataset.stages.values() for shard in group if shard.samples]


def _mask(table: pa.Table, wanted: frozenset[str]) -> NDArray[np.bool_]:
    return np.array([key in wanted for key in table.column("key").to_pylist()], dtype=np.bool_)


def _write_shard(samples: list[ShardSample], rows: pa.Table, out: Path, stage: str, number: int) -> ShardInfo:
    if [sample.key for sample in samples] != rows.column("key").to_pylist():
        raise ManifestError(
            f"the corpus's shards and tables list the samples of {stage} differently; run curate verify"
        )
    file, metadata = f"{stage}/patches-{number:06d}.tar", f"metadata/{stage}-{number:06d}.parquet"
    with atomic_path(out / metadata) as temporary:
        pq.write_table(rows.combine_chunks(), temporary, compression="zstd")
    digest = _write_tar(samples, out / file)
    return ShardInfo(
        file=file, samples=digest.samples, num_bytes=digest.num_bytes, sha256=digest.sha256, md5=digest.md5,
        metadata=metadata, metadata_sha256=sha256_file(out / metadata),
    )  # fmt: skip


def _write_tar(samples: list[ShardSample], path: Path) -> TarDigest:
    with atomic_path(path) as temporary:
        with ShardWriter(temporary) as writer:
            for sample in samples:
                writer.add(sample.key, sample.members)
            digest = writer.close()
        if not reads_back(temporary, digest):
            raise ManifestError(f"{path} read back differently from what was written; check the disk")
    return digest
