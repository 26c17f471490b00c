"""The spool: what pass 1 encoded, kept in `ledger/` until the plan has said which shard each patch goes to.

One task scans a few pictures and writes two files: the bytes of their patches, and a ledger entry that says where each
begins. The entry is written last, so that a killed task simply runs again.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .core import artifacts, config
from .core.errors import ManifestError
from .core.records import InputRef, ScannedImage, ScoredPatch
from .scan import ScanConfig, scan_image, scan_stages

ENTRY = "ledger/scan/{:06d}.json"
SPOOL = "ledger/spool/{:06d}.bin"
MIN_GROUP_BYTES, MAX_GROUP_BYTES, MAX_GROUP_INPUTS, NUM_GROUPS = 1 << 20, 64 << 20, 64, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanTask:
    """Scan `refs`; number `index` of the spool is theirs alone."""

    index: int
    out: Path
    config: ScanConfig
    refs: tuple[InputRef, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the inputs: what the task roughly costs."""
        return sum(max(0, ref.num_bytes) for ref in self.refs)

    @property
    def sources(self) -> list[str]:
        """Names of its inputs, for messages."""
        return [ref.source for ref in self.refs]

    @property
    def num_pictures(self) -> int:
        """Inputs that are opened; the others are known to be none."""
        return sum(not ref.fault for ref in self.refs)


def scan_tasks(refs: Sequence[InputRef], scan: ScanConfig, out: Path) -> list[ScanTask]:
    """Cut the inputs, in order, into tasks of similar cost; the cut depends on nothing but the inputs."""
    total = sum(max(0, ref.num_bytes) for ref in refs)
    limit = min(MAX_GROUP_BYTES, max(MIN_GROUP_BYTES, total // NUM_GROUPS))
    groups: list[list[InputRef]] = []
    held = limit
    for ref in refs:
        if held >= limit or len(groups[-1]) >= MAX_GROUP_INPUTS:
            groups.append([])
            held = 0
        groups[-1].append(ref)
        held += max(0, ref.num_bytes)
    return [ScanTask(index=i, out=out, config=scan, refs=tuple(group)) for i, group in enumerate(groups)]


def run_scan_task(task: ScanTask) -> None:
    """Scan the task's pictures into its spool; the ledger entry comes last."""
    stages = scan_stages(task.config)
    scanned, position = [], 0
    with (
        artifacts.atomic_path(task.out / SPOOL.format(task.index), sync=False) as temporary,
        temporary.open("wb") as file,
    ):
        for ref in task.refs:
            image, blobs = scan_image(ref, stages, task.config.seed)
            patches = tuple(dataclasses.replace(patch, offset=position + patch.offset) for patch in image.patches)
            scanned.append(dataclasses.replace(image, spool=task.index, patches=patches))
            file.writelines(blobs)
            position += sum(map(len, blobs))
    if (task.out / ENTRY.format(task.index)).exists() and read_entry(task) != scanned:
        raise ManifestError(_changed(task.refs[0].source, task.out))
    entry = config.canonical_json([config.to_plain(image) for image in scanned])
    artifacts.write_bytes(task.out / ENTRY.format(task.index), entry, sync=False)


def is_scanned(out: Path, index: int) -> bool:
    """Say whether a task has finished; an entry that a power cut damaged counts as none."""
    path = out / ENTRY.format(index)
    if path.exists():
        try:
            artifacts.read_json(path)
        except ManifestError:
            path.unlink()
    return path.exists()


def read_entry(task: ScanTask) -> list[ScannedImage]:
    """Read what a finished task found; `ref` is today's, because the source may lie elsewhere than it did."""
    entries = artifacts.read_json(task.out / ENTRY.format(task.index))
    images = [config.build(ScannedImage, entry, where="ledger") for entry in entries]
    return [dataclasses.replace(image, ref=ref) for image, ref in zip(images, task.refs, strict=True)]


def read_patches(out: Path, image: ScannedImage, *, check: bool) -> Iterator[tuple[ScoredPatch, bytes, bytes]]:
    """Yield each patch of one picture with its bytes and those of its degraded version (b"" if there is none).

    `check` hashes them: needed when another run, or a rescan, wrote the spool.

    Raises:
        ManifestError: the spool is gone or is not what the ledger says.
    """
    path = out / SPOOL.format(image.spool)
    try:
        with path.open("rb") as file:
            for patch in image.patches:
                file.seek(patch.offset)
                data, pair = file.read(patch.num_bytes), file.read(patch.pair_num_bytes)
                if not _as_scanned(patch, data, pair, check=check):
                    raise ManifestError(_changed(image.ref.source, out))
                yield patch, data, pair
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}: delete {out} and run again") from error


def _as_scanned(patch: ScoredPatch, data: bytes, pair: bytes, *, check: bool) -> bool:
    if (len(data), len(pair)) != (patch.num_bytes, patch.pair_num_bytes):
        return False
    wanted = [(data, patch.sha256), (pair, patch.pair_sha256)] if check else []
    return all(not sha256 or hashlib.sha256(part).hexdigest() == sha256 for part, sha256 in wanted)


def _changed(source: str, out: Path) -> str:
    return (
        f"{source}, or a picture scanned with it, is not what was scanned before "
        f"(did it change, is the disk failing?): delete {out} and run again"
    )
