"""`forget` in a download: the files go, their rows in the table and the ledger say why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from .core import artifacts
from .dataset import read_table
from .download import PICTURES, TABLE_GLOB
from .fetch.config import GROUP_ROWS
from .fetch.faults import FETCHED
from .fetch.fetcher import PARTS, stem_of
from .fetch.forgotten import JOURNAL, Forgotten, load_forgotten, record
from .fetch.ledger import Ledger, Outcome
from .manifest import store_table

_KIND, _DETAIL = "opt-out", "forgotten on request"
_CHUNK_ROWS = 1024 * GROUP_ROWS


def forget_in_download(out: Path, asked: Forgotten) -> tuple[int, int, int, bool]:
    """Remove the pictures that match from a download, finished or not; the caller holds the lock.

    Returns:
        Requests that are new, pictures removed, bytes removed, and whether an interrupted run was finished.
    """
    num_recorded = record(out, asked)
    resumed = (out / JOURNAL).exists()
    artifacts.write_json(out / JOURNAL, {"download": True})
    with Ledger(out) as ledger:
        matching = {one.row: one for one in _matching(ledger, load_forgotten(out))}
        for one in matching.values():  # files first: while the ledger names a picture, it can be found again
            for folder in (stem_of(out / PICTURES, one.row).parent, out / PARTS):
                for path in folder.glob(f"{one.row:09d}.*"):
                    path.unlink()
        with ledger.transaction():
            ledger.reclassify((row, _KIND, _DETAIL) for row in matching)
    gone = _forget_in_tables(out)
    artifacts.remove(out / JOURNAL)
    fetched = [one for one in matching.values() if one.kind == FETCHED]
    return num_recorded, max(len(fetched), gone), sum(one.num_bytes for one in fetched), resumed


def _matching(ledger: Ledger, forgotten: Forgotten) -> Iterator[Outcome]:
    for start in range(0, ledger.num_rows(), _CHUNK_ROWS):
        for one in ledger.rows(start, start + _CHUNK_ROWS):
            urls = {one.url, one.final_url}
            if one.kind != _KIND and (forgotten.matches("", "", one.sha256) or any(map(forgotten.matches_url, urls))):
                yield one


def _forget_in_tables(out: Path) -> int:
    """Bring the finished tables in line with the ledger; returns how many rows changed."""
    num = 0
    with Ledger(out) as ledger:
        for path in sorted(out.glob(TABLE_GLOB)):
            table = read_table(path)
            rows = table.to_pylist()
            known = {one.row: one for one in ledger.rows(rows[0]["row"], rows[-1]["row"] + 1)}
            stale = [row for row in rows if row["class"] == "ok" and known[row["row"]].kind == _KIND]
            for row in stale:
                row.update({"class": _KIND, "detail": _DETAIL, "file": None, "num_bytes": None})
            if stale:
                store_table(path, pa.Table.from_pylist(rows, schema=table.schema))
            num += len(stale)
    return num
