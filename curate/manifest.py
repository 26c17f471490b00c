"""The tables of a corpus: Parquet schemas (versioned in docs/formats.md) and one deterministic way to write them."""

from __future__ import annotations

import base64
import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .core.artifacts import atomic_path
from .core.records import Fingerprint, ScannedImage, Score, ScoredPatch
from .recipes import Filter
from .shards import patch_key

ROW_GROUP_ROWS = 32_768
_PIXEL_PACKAGES = ("irdistill", "simplejpeg", "pillow", "opencv-python-headless", "numpy", "pyarrow", "isal")

_IMAGE_FIELDS = (
    ("source", pa.string()), ("status", pa.string()), ("reason", pa.string()), ("detail", pa.string()),
    ("image_sha256", pa.string()), ("pixels_sha256", pa.string()), ("pair_sha256", pa.string()),
    ("num_bytes", pa.int64()), ("format", pa.string()),
    ("width", pa.int32()), ("height", pa.int32()), ("orientation", pa.int8()), ("mode", pa.string()), ("policy", pa.string()),
    ("icc_profile", pa.string()), ("jpeg_progressive", pa.bool_()), ("extension", pa.string()), ("num_patches", pa.int32()),
    ("num_kept", pa.int32()), ("url", pa.string()), ("licence", pa.string()), ("provenance", pa.string()),
    ("group", pa.string()), ("keeper", pa.string()), ("near", pa.string()), ("split", pa.string()),
)  # fmt: skip
_PATCH_FIELDS = (
    ("key", pa.string()), ("source", pa.string()), ("image_sha256", pa.string()), ("y", pa.int32()), ("x", pa.int32()),
    ("size", pa.int32()), ("extension", pa.string()), ("num_bytes", pa.int64()), ("patch_sha256", pa.string()),
    ("pair_num_bytes", pa.int64()), ("pair_sha256", pa.string()), ("kept_flat", pa.bool_()), ("phash", pa.string()),
    ("average_hash", pa.string()), ("split", pa.string()),
)  # fmt: skip
FINGERPRINT_FIELDS = (
    ("phash", pa.string()), ("turned_phashes", pa.string()), ("average_hash", pa.string()), ("thumbnail", pa.binary()),
    ("fine_detail", pa.float64()), ("embedding", pa.binary()), ("keypoints", pa.binary()),
)  # fmt: skip
"""Columns of a picture's fingerprint; null where it has none."""


def image_schema(filters: Iterable[Filter]) -> pa.Schema:
    """One row per input: facts, status and every image-level score."""
    return pa.schema([*_IMAGE_FIELDS, *FINGERPRINT_FIELDS, *_score_fields(filters, "image", "")])


def patch_schema(filters: Sequence[Filter]) -> pa.Schema:
    """One row per kept patch: every patch-level score, and the image's scores with the prefix `image_`."""
    return pa.schema([*_PATCH_FIELDS, *_score_fields(filters, "patch", ""), *_score_fields(filters, "image", "image_")])


def rejected_schema(filters: Sequence[Filter]) -> pa.Schema:
    """One row per dropped patch: the columns of `patch_schema`, then `reason`, `keeper` and a JPEG `thumbnail` of 128 px."""
    more = [("reason", pa.string()), ("keeper", pa.string()), ("thumbnail", pa.binary())]
    return pa.schema([*patch_schema(filters), *more])


def image_row(image: ScannedImage) -> dict[str, Any]:
    """Describe one input; unknown values are null."""
    facts = image.facts
    return {
        "source": image.ref.source, "status": image.status, "reason": image.reason, "detail": image.detail,
        "image_sha256": image.sha256, "pixels_sha256": image.pixels_sha256 or None,
        "pair_sha256": image.pair_sha256 or None, "num_bytes": image.ref.num_bytes,
        "format": facts and facts.format, "width": facts and facts.width, "height": facts and facts.height,
        "orientation": facts and facts.orientation, "mode": facts and facts.mode, "policy": facts and facts.policy,
        "icc_profile": facts and facts.icc_profile, "jpeg_progressive": facts and facts.jpeg and facts.jpeg.progressive,
        "extension": image.extension or None, "num_patches": len(image.patches),
        "num_kept": sum(not patch.reason for patch in image.patches), "group": image.group or None,
        "keeper": image.keeper or None, "near": image.near or None, "split": image.split or None,
        **fingerprint_row(image.fingerprint), **image.scores,
    }  # fmt: skip


def fingerprint_row(found: Fingerprint | None) -> dict[str, Any]:
    """Describe a fingerprint; nothing without one."""
    if found is None:
        return {}
    return {
        "phash": found.phashes[0], "turned_phashes": ",".join(found.phashes[1:]), "average_hash": found.average_hash,
        "thumbnail": bytes.fromhex(found.thumbnail), "fine_detail": found.detail,
        "embedding": base64.b64decode(found.embedding) or None, "keypoints": base64.b64decode(found.keypoints) or None,
    }  # fmt: skip


def read_fingerprint(row: Mapping[str, Any]) -> Fingerprint | None:
    """Make a fingerprint of the row of a picture; None if it has none."""
    if row.get("phash") is None:
        return None
    return Fingerprint(
        phashes=(row["phash"], *row["turned_phashes"].split(",")), average_hash=row["average_hash"],
        thumbnail=row["thumbnail"].hex(), detail=row["fine_detail"],
        embedding=base64.b64encode(row["embedding"] or b"").decode(),
        keypoints=base64.b64encode(row["keypoints"] or b"").decode(),
    )  # fmt: skip


def patch_row(image: ScannedImage, patch: ScoredPatch, *, size_px: int) -> dict[str, Any]:
    """Describe one patch; what a dropped one never had (bytes, hashes) is null."""
    scores: Mapping[str, Score] = {f"image_{name}": value for name, value in image.scores.items()}
    kept = not patch.reason
    return {
        "key": patch_key(image.identity, patch.y, patch.x, size_px), "source": image.ref.source, "image_sha256": image.sha256,
        "y": patch.y, "x": patch.x, "size": size_px, "extension": image.extension,
        "num_bytes": patch.num_bytes if kept else None, "patch_sha256": (kept and patch.sha256) or None,
        "pair_num_bytes": (kept and patch.pair_num_bytes) or None, "pair_sha256": (kept and patch.pair_sha256) or None,
        "kept_flat": patch.kept_flat, "phash": patch.phash or None, "average_hash": patch.average_hash or None,
        "split": image.split or None, **patch.scores, **scores,
    }  # fmt: skip


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows to Parquet, atomically and with the same bytes for the same rows (absent keys are null)."""
    columns = [pa.array([row.get(field.name) for row in rows], type=field.type) for field in schema]
    store_table(path, pa.Table.from_arrays(columns, schema=schema))


def store_table(path: Path, table: pa.Table) -> None:
    """Write a table to Parquet as `write_table` does; equal tables give equal bytes, however they are chunked."""
    table = table.combine_chunks()
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP_ROWS)


def tool_versions(*more: str) -> dict[str, str]:
    """Versions of everything that can change a pixel or a byte; `more` names optional packages that are in use."""
    return {name: importlib.metadata.version(name) for name in (*_PIXEL_PACKAGES, *more)}


def _score_fields(filters: Iterable[Filter], level: str, prefix: str) -> list[tuple[str, pa.DataType]]:
    return [(f"{prefix}{name}", pa.float64()) for plugin in filters if plugin.level == level for name in plugin.columns]
