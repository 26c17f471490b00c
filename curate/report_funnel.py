"""The counts of the report: how inputs became patches, and what each reason took away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .reselect import count_reasons

Row = Mapping[str, Any]
NUM_EXAMPLES = 4
MAX_DETAIL = 100


def funnel_rows(
    funnel: Mapping[str, Any], images: Sequence[Row], num_bytes_kept: int, *, of_list: bool = False
) -> list[dict[str, Any]]:
    """List the stages, each followed by what was taken away before the next one.

    Args:
        funnel: of the manifest.
        images: one row per input.
        num_bytes_kept: bytes of the kept patches.
        of_list: the inputs are the rows of a list of URLs, of which many are never fetched.

    Returns:
        Rows with `label`, `pictures`, `patches`, `num_bytes` (None: not counted there), `loss` (True for what was taken
        away, with negative counts) and `share` (of the pictures, or from the cutting on of the patches).
    """
    fetched = [row for row in images if row["image_sha256"]] if of_list else images
    readable = [row for row in fetched if row["status"] != "failed"]
    cut = [row for row in readable if row["num_patches"]]
    patches = funnel["patches"]
    rows = []
    if of_list:
        rows.append(_row("rows of the list", len(images), None, None, float(bool(images)), loss=False))
        rows += [
            row | {"num_bytes": None} for row in _losses(images, [row for row in images if not row["image_sha256"]])
        ]
    rows.append(_stage("fetched" if of_list else "given", fetched, len(images)))
    rows += _losses(images, [row for row in fetched if row["status"] == "failed"])
    rows.append(_stage("could be read", readable, len(images)))
    rows += _losses(images, [row for row in readable if not row["num_patches"]])
    rows.append(_stage("cut into patches", cut, len(images)) | {"patches": patches})
    for reason, count in funnel["patch_reasons"].items():
        rows.append(_row(f"dropped: {reason}", None, -count, None, count / max(patches, 1), loss=True))
    kept = funnel["patches_kept"]
    rows.append(_row("kept in shards", funnel["kept"], kept, num_bytes_kept, kept / max(patches, 1), loss=False))
    return rows


def examples_by_reason(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Count pictures by reason, most frequent first, with a few names of each."""
    found = []
    for reason, count in count_reasons(rows).items():
        members = [row for row in rows if row["reason"] == reason]
        first = {row["source"]: row for row in reversed(members)}
        names = list(dict.fromkeys(row["source"] for row in members))
        found.append({
            "reason": reason, "status": members[0]["status"], "count": count, "num_pictures": len(names),
            "examples": [_example(first[name]) for name in names[:NUM_EXAMPLES]],
        })  # fmt: skip
    return found


def patches_by_reason(table: pa.Table) -> list[dict[str, Any]]:
    """Count dropped patches by reason, most frequent first, with a few pictures of each.

    Args:
        table: of `patch_table`, with `source` and `reason` (null for kept patches).
    """
    found = []
    for item in pc.value_counts(table["reason"].combine_chunks().drop_null()).to_pylist():
        sources = pc.unique(table.filter(pc.equal(table["reason"], item["values"]))["source"])
        found.append({
            "reason": item["values"], "count": item["counts"], "num_pictures": len(sources),
            "examples": sources.slice(0, NUM_EXAMPLES).to_pylist(),
        })  # fmt: skip
    return sorted(found, key=lambda row: (-row["count"], row["reason"]))


def _example(row: Row) -> str:
    """Name a picture, with what the decoder or the plan had to say of it."""
    detail = "" if row["reason"] == "no-patch-kept" else str(row.get("detail") or "")
    return str(row["source"]) + (
        f" ({detail[:MAX_DETAIL]}{'...' if len(detail) > MAX_DETAIL else ''})" if detail else ""
    )


def _stage(label: str, rows: Sequence[Row], total: int) -> dict[str, Any]:
    return _row(label, len(rows), None, _size(rows), len(rows) / max(total, 1), loss=False)


def _losses(images: Sequence[Row], lost: Sequence[Row]) -> list[dict[str, Any]]:
    rows = []
    for label, count in count_reasons([{"reason": f"{row['status']}: {row['reason']}"} for row in lost]).items():
        size = _size([row for row in lost if label == f"{row['status']}: {row['reason']}"])
        rows.append(_row(label, -count, None, -size, count / max(len(images), 1), loss=True))
    return rows


def _row(
    label: str, pictures: int | None, patches: int | None, num_bytes: int | None, share: float, *, loss: bool
) -> dict[str, Any]:
    return {
        "label": label, "pictures": pictures, "patches": patches, "num_bytes": num_bytes, "share": share, "loss": loss,
    }  # fmt: skip


def _size(rows: Sequence[Row]) -> int:
    return sum(max(0, row["num_bytes"] or 0) for row in rows)
