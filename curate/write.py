"""Pass 2: one task writes one shard. A task knows its inputs by hash and writes only its own files, so it may run again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .core.artifacts import atomic_path, sha256_file, write_json
from .core.config import to_plain
from .core.errors import ManifestError
from .core.images import decode_image, encode_image, encode_thumbnail
from .core.records import Image, ScannedImage, ScoredPatch, ShardInfo
from .manifest import patch_row, patch_schema, rejected_schema, write_table
from .recipes import Recipe
from .shards import ShardWriter, digest_tar

ENTRY = "ledger/shards/{:06d}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """Everything a worker needs to write shard `index`."""

    index: int
    out: Path
    recipe: Recipe
    patch_size_px: int
    extension: str
    images: tuple[ScannedImage, ...]


def write_shard(task: ShardTask) -> ShardInfo:
    """Write tar, metadata and rejected tables of one shard; the ledger entry last.

    Raises:
        ManifestError: a picture changed since it was scanned, or the tar does not read back as written.
    """
    info = _shard_names(task.index)
    kept: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    with atomic_path(task.out / info["file"]) as temporary:
        with ShardWriter(temporary) as writer:
            for image in task.images:
                _add_image(task, image, writer, kept, dropped)
        digest = writer.close()
        if digest_tar(temporary) != digest:
            raise ManifestError(
                f"{task.out / info['file']} does not read back as written: is the disk full or failing?"
            )
    if not kept:
        (task.out / info["file"]).unlink()
        digest = digest.__class__(0, 0, "", "")
    filters = task.recipe.filters()
    write_table(task.out / info["metadata"], kept, patch_schema(filters))
    write_table(task.out / info["rejected"], dropped, rejected_schema(filters))
    shard = ShardInfo(
        file=info["file"] if kept else "", samples=digest.samples, num_bytes=digest.num_bytes, sha256=digest.sha256,
        md5=digest.md5, metadata=info["metadata"], metadata_sha256=sha256_file(task.out / info["metadata"]),
        rejected=info["rejected"], rejected_sha256=sha256_file(task.out / info["rejected"]),
    )  # fmt: skip
    write_json(task.out / ENTRY.format(task.index), to_plain(shard))
    return shard


def _shard_names(index: int) -> dict[str, str]:
    stem = f"patches-{index:06d}"
    return {
        "file": f"shards/{stem}.tar",
        "metadata": f"metadata/{stem}.parquet",
        "rejected": f"rejected/{stem}.parquet",
    }


def _add_image(
    task: ShardTask, image: ScannedImage, writer: ShardWriter, kept: list[dict[str, Any]], dropped: list[dict[str, Any]]
) -> None:
    data = Path(image.ref.path).read_bytes()
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise ManifestError(f"{image.ref.source} changed while the corpus was built; build again into an empty OUT")
    pixels = decode_image(data, image.facts)
    for patch in image.patches:
        row = patch_row(image, patch, size_px=task.patch_size_px, extension=task.extension)
        region = pixels[patch.y : patch.y + task.patch_size_px, patch.x : patch.x + task.patch_size_px]
        if patch.reason:
            dropped.append(row | {"reason": patch.reason, "thumbnail": encode_thumbnail(region)})
        else:
            kept.append(row | _add_patch(task, image, patch, region, row["key"], writer))


def _add_patch(
    task: ShardTask, image: ScannedImage, patch: ScoredPatch, region: Image, key: str, writer: ShardWriter
) -> dict[str, Any]:
    encoded = encode_image(region, task.extension)
    facts = image.facts
    assert facts is not None, "a candidate was decoded"
    lineage = {
        "key": key, "source": image.ref.source, "image_sha256": image.sha256, "y": patch.y, "x": patch.x,
        "size": task.patch_size_px, "image_width": facts.width, "image_height": facts.height,
    }  # fmt: skip
    writer.add(key, {task.extension: encoded, "json": json.dumps(lineage, ensure_ascii=True).encode()})
    return {"num_bytes": len(encoded), "patch_sha256": hashlib.sha256(encoded).hexdigest()}
