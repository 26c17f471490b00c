"""The ledger as tables: what a person, or a corpus, is told of each URL. The list's own columns come from the list itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..sources.urls import UrlList
from .config import GROUP_ROWS
from .faults import FETCHED
from .ledger import Ledger, Outcome

_FIELDS = (
    ("row", pa.int64()), ("url", pa.string()), ("class", pa.string()), ("detail", pa.string()), ("file", pa.string()),
    ("sha256", pa.string()), ("num_bytes", pa.int64()), ("status", pa.int32()), ("attempts", pa.int32()),
    ("final_url", pa.string()), ("content_type", pa.string()), ("etag", pa.string()), ("last_modified", pa.string()),
    ("licence", pa.string()), ("started", pa.float64()), ("ended", pa.float64()), ("not_before", pa.float64()),
)  # fmt: skip
_LICENCE_COLUMNS = ("list_licence", "list_license", "list_licence_url", "list_license_url")
_AUTHOR_COLUMNS = ("list_author", "list_photographer", "list_creator", "list_artist", "list_user", "list_owner")


def url_tables(ledger: Ledger, rows: UrlList, *, folder: str, num: int) -> Iterator[pa.Table]:
    """Yield one row per list row, `num` rows a table: the ledger's columns, then `list_*`.

    Args:
        ledger: holds every row of the list.
        rows: the list.
        folder: of the pictures, as `file` is to name it.
        num: rows per table.
    """
    start = 0
    for extras in rows.extras(num=num):
        outcomes = ledger.rows(start, start + len(extras))
        licences = list_licences(extras)
        values = [_row(outcome, folder, licence) for outcome, licence in zip(outcomes, licences, strict=True)]
        columns = [pa.array([value[name] for value in values], type=kind) for name, kind in _FIELDS]
        named = [*(name for name, _ in _FIELDS), *extras.column_names]
        yield pa.Table.from_arrays([*columns, *extras.columns], names=named)
        start += len(extras)


def list_licences(extras: pa.Table) -> list[str | None]:
    """Take the licence of each row from the list's own column, if it has one; as text."""
    return _first_column(extras, _LICENCE_COLUMNS)


def list_authors(extras: pa.Table) -> list[str | None]:
    """Take who made the picture of each row from the list's own column, if it has one; as text."""
    return _first_column(extras, _AUTHOR_COLUMNS)


def _first_column(extras: pa.Table, names: Sequence[str]) -> list[str | None]:
    for name in names:
        for column in extras.column_names:
            if column.lower() == name:
                return [None if value is None else str(value) for value in extras[column].to_pylist()]
    return [None] * len(extras)


def downloaded(root: Path) -> dict[str, dict[str, Any]]:
    """Read what `download` noted of its pictures.

    Args:
        root: its OUT; {} for any other folder.

    Returns:
        file relative to `root` -> url, licence, provenance.
    """
    import pyarrow.parquet as pq

    columns = ["file", "url", "licence", *_PROVENANCE]
    known = {}
    for part in sorted(root.glob("urls/part-*.parquet")):
        if set(columns) <= set(pq.read_schema(part).names):
            for row in pq.read_table(part, columns=columns).to_pylist():
                if row["file"] is not None:
                    known[row["file"]] = {name: row[name] for name in ("url", "licence")} | {
                        "provenance": provenance(row)
                    }
    return known


_PROVENANCE = ("content_type", "etag", "final_url", "last_modified", "status")


def downloaded_origins(root: Path) -> dict[str, tuple[str, str]]:
    """Read who made the pictures of a download, and where they came from: file relative to `root` -> author, URL."""
    import pyarrow.parquet as pq

    known: dict[str, tuple[str, str]] = {}
    for part in sorted(root.glob("urls/part-*.parquet")):
        names = pq.read_schema(part).names
        if {"file", "url"} <= set(names):
            columns = [name for name in names if name in ("file", "url") or name.lower() in _AUTHOR_COLUMNS]
            table = pq.read_table(part, columns=columns)
            rows = zip(table["file"].to_pylist(), list_authors(table), table["url"].to_pylist(), strict=True)
            known |= {file: (author or "", url or "") for file, author, url in rows if file is not None}
    return known


def provenance(row: Mapping[str, Any]) -> str | None:
    """Describe where a picture came from, as canonical JSON without times; None if no server answered."""
    known = {name: row[name] for name in _PROVENANCE}
    known = {name: value for name, value in known.items() if value not in ("", None)}
    return json.dumps(known, ensure_ascii=False, sort_keys=True) if known else None


def _row(outcome: Outcome, folder: str, licence: str | None) -> dict[str, object]:
    fetched = outcome.kind == FETCHED
    file = f"{folder}/{outcome.row // GROUP_ROWS:06d}/{outcome.row:09d}{outcome.suffix}"
    return {
        "row": outcome.row, "url": outcome.url, "class": outcome.kind, "detail": outcome.detail,
        "file": file if fetched else None, "sha256": outcome.sha256 or None,
        "num_bytes": outcome.num_bytes if fetched else None, "status": outcome.status, "attempts": outcome.attempts,
        "final_url": outcome.final_url or None, "content_type": outcome.content_type or None, "etag": outcome.etag or None,
        "last_modified": outcome.last_modified or None, "licence": licence or outcome.licence or None,
        "started": outcome.started, "ended": outcome.ended, "not_before": outcome.not_before,
    }  # fmt: skip
