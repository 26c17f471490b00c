"""Write the chosen patches as shards of a stage, in corpus order.

Without a transform these are the corpus's own bytes and rows. A transform (an accepted calibration) changes pixels: they are
written as 16-bit PNG, because a change of 0.3 to 2 levels would drown in 8 bits, and the rows name the new bytes.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate import Dataset, read_shard
from curate.core.artifacts import atomic_path, sha256_file
from curate.core.errors import ManifestError
from curate.core.images import decode_patch, encode_deep
from curate.core.records import Image, ShardInfo
from curate.encoders._loading import one_torch_thread
from curate.shards import ShardSample, ShardWriter, TarDigest, reads_back

Transform = Callable[[Image, Image | None], tuple[NDArray[np.uint16], NDArray[np.uint16] | None]]
"""(clean, degraded or None) -> the same in 16 bits; called from several threads."""

_DEEP = "png"


def write_stage(
    dataset: Dataset,
    keys: Iterable[str],
    out: Path,
    stage: str,
    samples_per_shard: int,
    *,
    transform: Transform | None = None,
    workers: int = 1,
) -> list[ShardInfo]:
    """Write the samples named by `keys` to `out/stage/` and their rows to `out/metadata/`.

    Args:
        dataset: the corpus.
        keys: which samples; their order does not matter.
        out: the subset's root.
        stage: `stage1` or `stage2`.
        samples_per_shard: most samples in one tar.
        transform: what is done to the pixels; None copies bytes.
        workers: samples transformed at once; changes no byte.

    Returns:
        What the manifest says of each shard; empty when `keys` is.

    Raises:
        ManifestError: the corpus does not hold what its manifest and tables say, or a shard reached the disk damaged.
        DecodeError: a patch to be transformed is damaged.
    """
    wanted = frozenset(keys)
    rows = _stage_rows(dataset, wanted)
    samples = _stage_samples(dataset, wanted)
    if transform is not None:
        rows = _renamed(rows)
        samples = _transformed(samples, transform, workers)
    return [
        _write_shard(islice(samples, table.num_rows), table, out, stage, number, deep=transform is not None)
        for number, table in enumerate(_shard_tables(rows, samples_per_shard))
    ]


def _renamed(rows: pa.Table) -> pa.Table:
    """Every patch becomes a PNG, whatever it was."""
    column = rows.schema.get_field_index("extension")
    return rows.set_column(column, rows.schema.field(column), pa.array([_DEEP] * rows.num_rows, pa.string()))


def _transformed(samples: Iterator[ShardSample], transform: Transform, workers: int) -> Iterator[ShardSample]:
    """Transform in threads, in order; few samples are in memory at once."""
    waiting: deque[Future[ShardSample]] = deque()
    with one_torch_thread(), ThreadPoolExecutor(workers) as pool:
        for sample in samples:
            waiting.append(pool.submit(_transform_one, sample, transform))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _transform_one(sample: ShardSample, transform: Transform) -> ShardSample:
    images = {extension: decode_patch(data) for extension, data in sample.members.items() if extension != "json"}
    by_part = {extension.rpartition(".")[0]: image for extension, image in images.items()}  # "", or "gt" and "lq"
    pair = by_part.keys() == {"gt", "lq"}
    if not pair and by_part.keys() != {""}:
        raise ManifestError(f"sample {sample.key} holds {', '.join(sample.members)}; wanted one picture or gt and lq")
    clean, degraded = transform(by_part["gt" if pair else ""], by_part.get("lq"))
    if pair:
        assert degraded is not None, "a transform gives back what it got"
        members = {f"gt.{_DEEP}": encode_deep(clean), f"lq.{_DEEP}": encode_deep(degraded)}
    else:
        members = {_DEEP: encode_deep(clean)}
    return ShardSample(sample.key, members | {"json": sample.members["json"]} if "json" in sample.members else members)


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


def _write_shard(
    samples: Iterable[ShardSample], rows: pa.Table, out: Path, stage: str, number: int, *, deep: bool
) -> ShardInfo:
    file, metadata = f"{stage}/patches-{number:06d}.tar", f"metadata/{stage}-{number:06d}.parquet"
    written: list[_Written] = []
    digest = _write_tar(_noted(samples, written), out / file)
    if [sample.key for sample in written] != rows.column("key").to_pylist():
        raise ManifestError(
            f"the corpus's shards and tables list the samples of {stage} differently; run curate verify"
        )
    table = _with_bytes(rows, written) if deep else rows
    with atomic_path(out / metadata) as temporary:
        pq.write_table(table.combine_chunks(), temporary, compression="zstd")
    return ShardInfo(
        file=file, samples=digest.samples, num_bytes=digest.num_bytes, sha256=digest.sha256, md5=digest.md5,
        metadata=metadata, metadata_sha256=sha256_file(out / metadata),
    )  # fmt: skip


class _Written(NamedTuple):
    """What a row says of the bytes of one sample; the pair's part is None where there is none."""

    key: str
    num_bytes: int
    patch_sha256: str
    pair_num_bytes: int | None
    pair_sha256: str | None


def _noted(samples: Iterable[ShardSample], written: list[_Written]) -> Iterator[ShardSample]:
    """Pass samples on and note what they hold."""
    for sample in samples:
        pair = sample.members.get(f"lq.{_DEEP}")
        data = next(data for extension, data in sample.members.items() if not extension.startswith("lq."))
        pair_facts = (None, None) if pair is None else (len(pair), _sha256(pair))
        written.append(_Written(sample.key, len(data), _sha256(data), *pair_facts))
        yield sample


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _with_bytes(rows: pa.Table, written: list[_Written]) -> pa.Table:
    """Set the columns that describe bytes, those that the table has."""
    for name in _Written._fields[1:]:
        column = rows.schema.get_field_index(name)
        if column >= 0:
            field = rows.schema.field(column)
            rows = rows.set_column(column, field, pa.array([getattr(sample, name) for sample in written], field.type))
    return rows


def _write_tar(samples: Iterable[ShardSample], path: Path) -> TarDigest:
    with atomic_path(path) as temporary:
        with ShardWriter(temporary) as writer:
            for sample in samples:
                writer.add(sample.key, sample.members)
            digest = writer.close()
        if not reads_back(temporary, digest):
            raise ManifestError(f"{path} read back differently from what was written; check the disk")
    return digest
