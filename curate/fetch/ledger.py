"""The ledger: one row per URL, in SQLite, committed the moment a URL is done; a kill costs the URLs in flight.

It holds what no corpus may hold (times, attempts), and what the corpus's tables take from it (classes, headers, hashes).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.disk import room
from ..core.errors import DiskError, ManifestError
from .faults import FETCHED

LEDGER = "ledger/urls.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS urls (
  row INTEGER PRIMARY KEY, url TEXT NOT NULL, class TEXT NOT NULL DEFAULT '', detail TEXT NOT NULL DEFAULT '',
  status INTEGER, attempts INTEGER NOT NULL DEFAULT 0, final_url TEXT NOT NULL DEFAULT '', etag TEXT NOT NULL DEFAULT '',
  last_modified TEXT NOT NULL DEFAULT '', content_type TEXT NOT NULL DEFAULT '', licence TEXT NOT NULL DEFAULT '',
  num_bytes INTEGER NOT NULL DEFAULT 0, sha256 TEXT NOT NULL DEFAULT '', suffix TEXT NOT NULL DEFAULT '',
  started REAL, ended REAL, not_before REAL);
CREATE TABLE IF NOT EXISTS first_rows (key BLOB PRIMARY KEY, row INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checked (number INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS retries (row INTEGER NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (row, number));
"""
_OF_THE_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
"""A ledger that cannot be opened for one of these is not damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one URL ended, or stands.

    Attributes:
        row: its row in the list.
        url: as the list has it, without credentials.
        kind: `ok`, `skipped` (the recipe rejects its header), one of `faults.CLASSES`; "" while nothing is decided.
        detail: for people.
        status: HTTP status of the last answer.
        attempts: requests for the URL itself, over all runs since it was last asked to be tried.
        final_url: after redirects, without credentials; "" without an answer.
        etag: of the answer.
        last_modified: of the answer.
        content_type: what the server calls it; believed by nobody.
        licence: target of a `Link: rel="license"` header.
        num_bytes: of the picture.
        sha256: of the picture.
        suffix: of the stored file, by its first bytes.
        started: seconds since 1970.
        ended: seconds since 1970.
        not_before: when the server said to come back; seconds since 1970.
    """

    row: int
    url: str
    kind: str = ""
    detail: str = ""
    status: int | None = None
    attempts: int = 0
    final_url: str = ""
    etag: str = ""
    last_modified: str = ""
    content_type: str = ""
    licence: str = ""
    num_bytes: int = 0
    sha256: str = ""
    suffix: str = ""
    started: float | None = None
    ended: float | None = None
    not_before: float | None = None


_FIELDS = [field.name for field in dataclasses.fields(Outcome)]
_COLUMNS = ["class" if name == "kind" else name for name in _FIELDS]
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM urls"
_UPSERT = f"INSERT OR REPLACE INTO urls ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"

_REOPEN = """UPDATE urls SET class = '', detail = '', status = NULL, attempts = 0, final_url = '', etag = '',
last_modified = '', content_type = '', licence = '', num_bytes = 0,
sha256 = '', suffix = '', started = NULL, ended = NULL, not_before = NULL
WHERE row = ?"""


class Ledger:
    """One connection to OUT's ledger, for one thread at a time. Use as a context manager."""

    def __init__(self, out: Path) -> None:
        self._path = path = out / LEDGER
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # WAL without a flush per commit: survives a kill whole; a power cut may take the last commits back, never tear one
            self._db = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in _OF_THE_DISK:
                raise DiskError(_no_room(path, error)) from error
            raise ManifestError(f"cannot read {path}: {error}: delete {out} and run again") from error

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything in the block at once, or nothing.

        Raises:
            DiskError: the ledger cannot be written.
        """
        with self._writing():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has rolled it back already
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise DiskError(_no_room(self._path, error)) from error

    def put(self, outcome: Outcome) -> None:
        """Write one row, over what was there.

        Raises:
            DiskError: the ledger cannot be written.
        """
        with self._writing():
            self._db.execute(_UPSERT, [getattr(outcome, name) for name in _FIELDS])

    def claim(self, key: bytes, row: int) -> int:
        """Say which row has this URL first: `row` itself, unless an earlier one claimed it."""
        self._db.execute("INSERT OR IGNORE INTO first_rows VALUES (?, ?)", (key, row))
        return int(self._db.execute("SELECT row FROM first_rows WHERE key = ?", (key,)).fetchone()[0])

    def rows(self, start: int, stop: int) -> list[Outcome]:
        """Read rows start..stop-1 that are known, in order."""
        found = self._db.execute(f"{_SELECT} WHERE row >= ? AND row < ? ORDER BY row", (start, stop))
        return [Outcome(**dict(zip(_FIELDS, values, strict=True))) for values in found]

    def rows_at(self, numbers: Sequence[int]) -> list[Outcome]:
        """Read some rows, those that are known, in order."""
        marks = ", ".join("?" * len(numbers))
        found = self._db.execute(f"{_SELECT} WHERE row IN ({marks}) ORDER BY row", list(numbers))
        return [Outcome(**dict(zip(_FIELDS, values, strict=True))) for values in found]

    def num_rows(self) -> int:
        """Rows known so far: one more than the last."""
        return int(self._db.execute("SELECT COALESCE(MAX(row) + 1, 0) FROM urls").fetchone()[0])

    def classes(self) -> dict[str, int]:
        """Count rows by class, `ok` first, then most frequent first."""
        counted = dict(self._db.execute("SELECT class, COUNT(*) FROM urls WHERE class != '' GROUP BY class"))
        return dict(sorted(counted.items(), key=lambda item: (item[0] != FETCHED, -item[1], item[0])))

    def examples(self) -> dict[str, str]:
        """Give the first row of each class that is no picture, as `url: detail`."""
        found = self._db.execute(
            "SELECT class, url, detail, MIN(row) FROM urls WHERE class NOT IN ('', ?) GROUP BY class", (FETCHED,)
        )  # beside MIN, SQLite takes the other columns from the row that has it (sqlite.org/lang_select.html#bareagg)
        return {kind: f"{url}: {detail}" if detail else url for kind, url, detail, _ in found}

    def num_bytes(self) -> int:
        """Bytes of all pictures that were fetched."""
        return int(
            self._db.execute("SELECT COALESCE(SUM(num_bytes), 0) FROM urls WHERE class = ?", (FETCHED,)).fetchone()[0]
        )

    def reclassify(self, verdicts: Iterable[tuple[int, str, str]]) -> None:
        """Write, as (row, class, detail), why a picture that came is none to keep."""
        self._db.executemany("UPDATE urls SET class = ?2, detail = ?3 WHERE row = ?1 AND class = 'ok'", list(verdicts))

    def reopen(self, kinds: Collection[str]) -> list[int]:
        """Forget the outcome of every row of these classes, so that it is tried again; return the rows, in order."""
        marks = ", ".join("?" * len(kinds))
        rows = [
            row for (row,) in self._db.execute(f"SELECT row FROM urls WHERE class IN ({marks}) ORDER BY row", [*kinds])
        ]
        self._db.executemany(_REOPEN, ((row,) for row in rows))
        return rows

    def add_retries(self, groups: Iterable[tuple[int, Sequence[int]]]) -> None:
        """Note which rows each further group tries again."""
        self._db.executemany("INSERT INTO retries VALUES (?2, ?1)", ((n, row) for n, rows in groups for row in rows))

    def retries(self) -> list[tuple[int, list[int]]]:
        """Return the groups of rows that were tried again, with their rows, in order."""
        found = self._db.execute("SELECT number, row FROM retries ORDER BY number, row")
        return [
            (number, [row for _, row in rows]) for number, rows in itertools.groupby(found, key=lambda each: each[0])
        ]

    def check(self, number: int) -> None:
        """Note that the pictures of a group were decoded."""
        self._db.execute("INSERT OR IGNORE INTO checked VALUES (?)", (number,))

    def uncheck(self, numbers: Sequence[int]) -> None:
        """Take it back: some of the group's rows are to be fetched again."""
        self._db.executemany("DELETE FROM checked WHERE number = ?", ((number,) for number in numbers))

    def checked(self) -> set[int]:
        """Return the numbers of the groups whose pictures were decoded."""
        return {number for (number,) in self._db.execute("SELECT number FROM checked")}


def _no_room(path: Path, error: sqlite3.OperationalError) -> str:
    return (
        f"cannot write {path}: {error}{room(path)}; what was fetched is kept: make room and run the same command again"
    )


def now() -> float:
    """Return the time of day: of the ledger only, never of a corpus."""
    return time.time()
