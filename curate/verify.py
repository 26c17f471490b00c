"""`verify_corpus`: read everything back and compare it with the manifest; a reader cannot tell a cut tar, a count can."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .core.artifacts import sha256_file
from .core.console import Progress
from .core.errors import DecodeError, ManifestError
from .core.images import decode_patch
from .core.records import ShardInfo
from .dataset import Dataset, open_dataset
from .shards import ShardSample, read_shard


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """What was read and every difference found, one line each; none means the corpus is what its manifest says."""

    num_shards: int
    num_samples: int
    num_inputs: int
    differences: tuple[str, ...]


Borrow = Callable[[Sequence[str]], AbstractContextManager[object]]
"""Makes some files of the corpus be there while the block runs."""


def verify_corpus(root: Path, *, threads: int = 2, borrow: Borrow = nullcontext) -> VerifyResult:
    """Re-hash every file, re-decode every patch, and check all counts.

    Args:
        root: a finished corpus.
        threads: shards read at a time (decoders release the GIL).
        borrow: for a corpus that lies elsewhere: called with names of files before they are read.

    Returns:
        All differences; never stops at the first.

    Raises:
        ManifestError: there is no finished corpus at `root`.
    """
    dataset = open_dataset(root)
    if dataset.kind != "corpus":
        raise ManifestError(f"{root} is a {dataset.kind}; `curate verify` reads corpora")
    shards = [shard for group in dataset.stages.values() for shard in group]
    differences: list[str] = []
    num_samples = 0
    with Progress("verify", len(shards)) as progress, ThreadPoolExecutor(threads) as pool:
        for samples, found in pool.map(lambda shard: _check_shard(root, shard, borrow), shards):
            num_samples += samples
            differences += found
            progress.step()
    num_inputs, found_in_images = _check_images(dataset, borrow)
    differences += found_in_images
    differences += _check_index(root, shards)
    return VerifyResult(
        num_shards=len(shards), num_samples=num_samples, num_inputs=num_inputs, differences=tuple(differences)
    )


def _check_shard(root: Path, shard: ShardInfo, borrow: Borrow) -> tuple[int, list[str]]:
    with borrow([name for name in (shard.metadata, shard.rejected, shard.file) if name]):
        return _check_whole_shard(root, shard)


def _check_whole_shard(root: Path, shard: ShardInfo) -> tuple[int, list[str]]:
    files = [
        (shard.metadata, shard.metadata_sha256),
        (shard.rejected, shard.rejected_sha256),
        (shard.file, shard.sha256),
    ]
    differences = [line for name, sha256 in files if name for line in _check_file(root, name, sha256)]
    if not shard.file or not (root / shard.file).is_file() or not (root / shard.metadata).is_file():
        return 0, differences
    try:
        rows = {row["key"]: row for row in pq.read_table(root / shard.metadata).to_pylist()}
        keys: list[str] = []
        for sample in read_shard(root / shard.file):
            keys.append(sample.key)
            differences += [
                f"{shard.file}: {sample.key}: {line}" for line in _check_sample(sample, rows.get(sample.key))
            ]
    except (ManifestError, pa.ArrowInvalid, OSError) as error:
        return 0, [*differences, f"{shard.file}: {error}"]
    if len(keys) != shard.samples:
        differences.append(f"{shard.file}: {len(keys)} samples, the manifest says {shard.samples}")
    if keys != list(rows):
        differences.append(f"{shard.metadata}: keys differ from those of {shard.file}")
    return len(keys), differences


def _check_file(root: Path, name: str, sha256: str) -> Iterator[str]:
    if not (root / name).is_file():
        yield f"{name}: missing"
    elif sha256_file(root / name) != sha256:
        yield f"{name}: sha256 differs from the manifest"


def _check_sample(sample: ShardSample, row: dict[str, Any] | None) -> Iterator[str]:
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
        if any(lineage.get(name) != row[name] for name in ("key", "source", "image_sha256", "y", "x", "size")):
            yield "its json differs from its row"
    except ValueError:
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
    differences: list[str] = []
    status: list[str] = []
    num_kept_patches = 0
    for part in dataset.manifest["images"]:
        with borrow([part["file"]]):
            differences += _check_file(dataset.root, part["file"], part["sha256"])
            try:
                table = pq.read_table(dataset.root / part["file"], columns=["status", "num_kept"])
            except (OSError, pa.ArrowInvalid) as error:
                differences.append(f"{part['file']}: {error}")
                continue
        status += table["status"].to_pylist()
        kept = zip(table["status"].to_pylist(), table["num_kept"].to_pylist(), strict=True)
        num_kept_patches += sum(count for name, count in kept if name == "kept")
    funnel = dataset.manifest["funnel"]
    counts = {name: status.count(name) for name in ("kept", "rejected", "failed")}
    if sum(counts.values()) != funnel["inputs"] or any(counts[name] != funnel[name] for name in counts):
        differences.append(
            f"images/: {counts} of {len(status)} rows, the manifest says {funnel['inputs']} inputs: {funnel}"
        )
    if num_kept_patches != dataset.num_samples:
        differences.append(f"images/: {num_kept_patches} kept patches, the shards hold {dataset.num_samples}")
    return len(status), differences


def _check_index(root: Path, shards: list[ShardInfo]) -> list[str]:
    try:
        listed = json.loads((root / "index.json").read_text())["shardlist"]
    except (OSError, ValueError, KeyError) as error:
        return [f"index.json: {error}"]
    wanted = [(s.file, s.samples, s.num_bytes, s.md5) for s in shards if s.samples]
    found = [(e.get("url"), e.get("nsamples"), e.get("filesize"), e.get("md5sum")) for e in listed]
    return [] if found == wanted else ["index.json: differs from the manifest"]
