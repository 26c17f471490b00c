"""`verify_corpus`: read everything back and compare it with the manifest; a reader cannot tell a cut tar, a count can.

What the manifest says of itself is in `curate.verify_manifest`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .core.artifacts import sha256_file
from .core.console import Progress
from .core.errors import DecodeError, ManifestError
from .core.images import decode_patch
from .core.records import ShardInfo
from .dataset import Dataset
from .shards import ShardSample, read_shard
from .verify_manifest import InputsTally, check_index, check_manifest, check_strays, open_damaged

UNREADABLE = (ManifestError, pa.ArrowException, OSError, ValueError, KeyError)
"""What damaged files raise when they are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """What was read and every difference found, one line each; none means the corpus is what its manifest says."""

    num_shards: int
    num_samples: int
    num_inputs: int
    differences: tuple[str, ...]


@dataclass(slots=True)
class _Found:
    """What one shard turned out to hold; `reasons` is None if its table of dropped patches cannot be read."""

    samples: int = 0
    reasons: Counter[str] | None = None
    differences: list[str] = field(default_factory=list)


Borrow = Callable[[Sequence[str]], AbstractContextManager[object]]
"""Makes some files of the corpus be there while the block runs."""


def verify_corpus(root: Path, *, threads: int = 2, borrow: Borrow = nullcontext) -> VerifyResult:
    """Re-hash every file, re-decode every patch, and check all counts; look for files that do not belong.

    Args:
        root: a finished corpus.
        threads: shards read at a time (decoders release the GIL).
        borrow: for a corpus that lies elsewhere: called with names of files before they are read.

    Returns:
        All differences, each beginning with the file's name; never stops at the first, unless the manifest cannot be read.

    Raises:
        ManifestError: there is no finished corpus at `root`.
    """
    dataset, differences = open_damaged(root)
    if dataset is None:
        return VerifyResult(num_shards=0, num_samples=0, num_inputs=0, differences=tuple(differences))
    shards = [shard for group in dataset.stages.values() for shard in group]
    differences += check_manifest(dataset.manifest)
    found_in_shards: list[_Found] = []
    with Progress("verify", len(shards)) as progress, ThreadPoolExecutor(threads) as pool:
        for found in pool.map(lambda shard: _check_shard(root, shard, borrow), shards):
            found_in_shards.append(found)
            differences += found.differences
            progress.step()
    num_inputs, found_in_images = _check_images(dataset, borrow)
    differences += found_in_images
    differences += _check_dropped(dataset, [found.reasons for found in found_in_shards])
    differences += check_index(dataset, shards)
    differences += check_strays(dataset, shards)
    return VerifyResult(
        num_shards=len(shards), num_samples=sum(found.samples for found in found_in_shards), num_inputs=num_inputs,
        differences=tuple(differences),
    )  # fmt: skip


def _check_shard(root: Path, shard: ShardInfo, borrow: Borrow) -> _Found:
    with borrow([name for name in (shard.metadata, shard.rejected, shard.file) if name]):
        return _check_whole_shard(root, shard)


def _check_whole_shard(root: Path, shard: ShardInfo) -> _Found:
    """Hash the files of one shard; look into those that are what the manifest says, and into the tar in any case."""
    found = _Found()
    files = {shard.metadata: shard.metadata_sha256, shard.rejected: shard.rejected_sha256, shard.file: shard.sha256}
    damaged = {name: line for name, sha256 in files.items() if name and (line := _check_file(root, name, sha256))}
    found.differences += damaged.values()
    name = shard.rejected
    try:
        if name and name not in damaged:
            found.reasons = Counter(pq.read_table(root / name, columns=["reason"])["reason"].to_pylist())
        name = shard.metadata
        if name not in damaged:
            rows = {row["key"]: row for row in pq.read_table(root / name).to_pylist()}
            if {row.get("split") for row in rows.values()} - {None, shard.split}:
                found.differences.append(f"{name}: holds another split than {shard.split}, the shard's")
            name = shard.file or shard.metadata
            if (root / name).is_file():
                _check_samples(root, shard, rows, found)
    except UNREADABLE as error:
        found.differences.append(f"{name}: {error}")
    return found


def _check_samples(root: Path, shard: ShardInfo, rows: Mapping[str, Mapping[str, Any]], found: _Found) -> None:
    keys: list[str] = []
    for sample in read_shard(root / shard.file) if shard.file else ():
        keys.append(sample.key)
        lines = _check_sample(sample, rows.get(sample.key))
        found.differences += [f"{shard.file}: {sample.key}: {line}" for line in lines]
    found.samples = len(keys)
    if len(keys) != shard.samples:
        found.differences.append(
            f"{shard.file or shard.metadata}: {len(keys)} samples, the manifest says {shard.samples}"
        )
    if keys != list(rows):
        found.differences.append(f"{shard.metadata}: keys differ from those of {shard.file or 'a shard without a tar'}")


def _check_file(root: Path, name: str, sha256: str) -> str:
    """Return a line if a file is missing, unreadable or not the one the manifest lists; else ""."""
    try:
        if not (root / name).is_file():
            return f"{name}: missing"
        return "" if sha256_file(root / name) == sha256 else f"{name}: sha256 differs from the manifest"
    except OSError as error:  # bad sectors, no permission
        return f"{name}: cannot be read: {error.strerror}"


def _check_sample(sample: ShardSample, row: Mapping[str, Any] | None) -> Iterator[str]:
    if row is None:
        yield "no metadata row"
        return
    extension = row["extension"]
    wanted = {extension: row["patch_sha256"]}
    if row["pair_sha256"] is not None:
        wanted = {f"gt.{extension}": row["patch_sha256"], f"lq.{extension}": row["pair_sha256"]}
    if sorted(sample.members) != sorted([*wanted, "json"]):
        yield f"members {sorted(sample.members)}, wanted {', '.join(wanted)} and json"
        return
    for member, sha256 in wanted.items():
        yield from _check_picture(member, sample.members[member], sha256, row["size"])
    try:
        lineage = json.loads(sample.members["json"])
        if any(lineage[name] != row[name] for name in ("key", "source", "image_sha256", "y", "x", "size")):
            yield "its json differs from its row"
    except (ValueError, KeyError, TypeError):
        yield "its json cannot be read"


def _check_picture(member: str, data: bytes, sha256: str, size_px: int) -> Iterator[str]:
    if hashlib.sha256(data).hexdigest() != sha256:
        yield f"the sha256 of {member} differs from its row"
    try:
        shape = decode_patch(data).shape
        if shape != (size_px, size_px, 3):
            yield f"{member} decodes to {shape}, wanted {(size_px, size_px, 3)}"
    except DecodeError as error:
        yield f"{member}: {error}"


def _check_images(dataset: Dataset, borrow: Borrow) -> tuple[int, list[str]]:
    """Hash the tables of inputs and count what they say; counts are compared only if every table could be read."""
    differences: list[str] = []
    tally = InputsTally()
    for part in dataset.manifest["images"]:
        with borrow([part["file"]]):
            if line := _check_file(dataset.root, part["file"], part["sha256"]):
                differences.append(line)
                continue
            try:
                table = pq.read_table(dataset.root / part["file"], columns=list(InputsTally.COLUMNS))
                if table.num_rows != part["rows"]:
                    differences.append(f"{part['file']}: {table.num_rows} rows, the manifest says {part['rows']}")
                tally.add(table)
            except UNREADABLE as error:
                differences.append(f"{part['file']}: {error}")
    if leaks := dataset.manifest.get("leaks"):
        with borrow([leaks["file"]]):
            differences += filter(None, [_check_file(dataset.root, leaks["file"], leaks["sha256"])])
    return tally.num_inputs, differences or tally.compare(dataset)


def _check_dropped(dataset: Dataset, found: Sequence[Counter[str] | None]) -> list[str]:
    counted: Counter[str] = Counter()
    for reasons in found:
        if reasons is None:
            return []
        counted += reasons
    funnel = dataset.manifest["funnel"]
    if dict(counted) != funnel["patch_reasons"]:
        return [f"manifest.json: patch_reasons {funnel['patch_reasons']}, rejected/ holds {dict(counted)}"]
    num = counted.total() + dataset.num_samples
    return [] if num == funnel["patches"] else [f"manifest.json: {funnel['patches']} patches, the tables hold {num}"]
