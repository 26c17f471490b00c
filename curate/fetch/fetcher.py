"""The downloader's loop: list rows in, finished groups of rows out, in a thread of its own.

Rows are cut into groups of GROUP_ROWS; a group is the unit that is decoded, scanned and resumed. The loop reads ahead in the
list until `rows_ahead` URLs wait for their hosts, so a slow host holds its own rows up and nobody else's.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
import logging
import queue
import re
import resource
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from ..sources.urls import ListRow, UrlList
from .client import Client
from .config import GROUP_ROWS, FetchConfig
from .faults import FETCHED, Fault
from .forgotten import load_forgotten
from .hosts import Hosts
from .ledger import Ledger, Outcome, now
from .one import Getter
from .probe import HeaderJudge
from .robots import Robots, RobotsAnswer
from .urls import MAX_CHARS, Url, parse_url, redact

_log = logging.getLogger(__name__)
_NUM_FILES = 65_536
_NUM_TOLD = 10
PARTS = "ledger/parts"
"""Bodies that are not complete yet, by row."""

Batch = tuple[int, list[ListRow]]
"""Number of a group, and its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchJob:
    """What to fetch, and where to.

    Attributes:
        cfg: manners and limits.
        rows: the list.
        out: holds `ledger/`; the lock is the caller's.
        pictures: folder of the pictures, one subfolder per GROUP_ROWS rows.
        judge: rejects by header.
        batches: reads the list; is told how to count rows that need nothing any more. Runs in a thread of its own.
    """

    cfg: FetchConfig
    rows: UrlList
    out: Path
    pictures: Path
    judge: HeaderJudge
    batches: Callable[[Callable[[int], None]], Iterator[Batch]]


def every_group(rows: UrlList, is_done: Callable[[int], bool], skip: Callable[[int], None]) -> Iterator[Batch]:
    """Read the list in groups of GROUP_ROWS, leaving out those that are done (decoded, too)."""
    first = next(number for number in itertools.count() if not is_done(number))
    skip(first * GROUP_ROWS)
    found = rows.rows(first * GROUP_ROWS)
    for number in itertools.count(first):
        batch = list(itertools.islice(found, GROUP_ROWS))
        if not batch:
            return
        if is_done(number):
            skip(len(batch))
        else:
            yield number, batch


def some_groups(
    rows: UrlList, groups: Sequence[tuple[int, Sequence[int]]], skip: Callable[[int], None]
) -> Iterator[Batch]:
    """Read given groups of rows; each group's rows ascend. Groups of several retries may overlap: the list is read again."""
    run: list[tuple[int, Sequence[int]]] = []
    for group in groups:
        if run and group[1][0] < run[-1][1][-1]:
            yield from _ascending_groups(rows, run)
            run = []
        run.append(group)
    if run:
        yield from _ascending_groups(rows, run)


def _ascending_groups(rows: UrlList, groups: Sequence[tuple[int, Sequence[int]]]) -> Iterator[Batch]:
    """Read groups that follow one another in the list, in one go."""
    picked = {row: number for number, members in groups for row in members}
    first, last = groups[0][1][0], groups[-1][1][-1]
    found = itertools.islice(rows.rows(first), last - first + 1)
    chosen = ((picked[row.index], row) for row in found if row.index in picked)
    for number, members in itertools.groupby(chosen, key=lambda each: each[0]):
        yield number, [row for _, row in members]


def stem_of(pictures: Path, row: int) -> Path:
    """Path of a row's picture without its suffix."""
    return pictures / f"{row // GROUP_ROWS:06d}" / f"{row:09d}"


class Fetcher:
    """Runs the loop. Use as a context manager; leaving it stops the loop and waits for it."""

    def __init__(self, job: FetchJob) -> None:
        self._job = job
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._ready = threading.Event()
        self._waiting_bytes: dict[int, int] = {}
        self._room: asyncio.Event | None = None
        self.num_settled = 0  # rows of the list behind us
        self.num_skipped = 0  # of them in groups that were done before

    def __enter__(self) -> Fetcher:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._main is not None and self._thread.is_alive():
            self._call(self._main.cancel)
        self._thread.join()

    def event(self, timeout: float | None = None) -> tuple[str, Any]:
        """Wait for what happens next: ("group", (number, rows)) as its last URL is done, ("end", None), or what was posted.

        Args:
            timeout: wait at most this many seconds, then return ("nothing", None); None: as long as it takes.

        Raises:
            ConfigError: the list cannot be read, or is not the one the ledger was begun with.
        """
        try:
            kind, value = self._events.get(timeout=timeout)
        except queue.Empty:
            return "nothing", None
        if kind == "error":
            raise value
        return kind, value

    def post(self, kind: str, value: object) -> None:
        """Add an event of the caller's own, from any thread."""
        self._events.put((kind, value))

    def release(self, group: int) -> None:
        """Say that the group's pictures are decoded: their bytes no longer count as waiting."""
        self._call(self._release, group)

    def _call(self, function: Callable[..., object], *values: object) -> None:
        assert self._loop is not None, "entered"
        try:
            self._loop.call_soon_threadsafe(function, *values)
        except RuntimeError:  # the loop has ended by itself
            return

    def _release(self, group: int) -> None:
        self._waiting_bytes.pop(group, None)
        if self._room is not None:
            self._room.set()

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
            self._events.put(("end", None))
        except asyncio.CancelledError:
            self._events.put(("end", None))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            while isinstance(error, BaseExceptionGroup):  # of the loop's tasks; the first is what went wrong
                error = error.exceptions[0]
            self._events.put(("error", error))
        finally:
            self._ready.set()

    async def _work(self) -> None:
        self._loop, self._main, self._room = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
        self._ready.set()
        _allow_files()
        job = self._job
        with Ledger(job.out) as ledger:
            async with Client(job.cfg) as client:
                in_flight = asyncio.Semaphore(job.cfg.max_in_flight)
                pauses_s = (job.cfg.backoff_s, 2 * job.cfg.backoff_s)
                robots = Robots(functools.partial(_robots_txt, client, in_flight), pauses_s=pauses_s)
                hosts = Hosts(job.cfg)
                forgotten = load_forgotten(job.out)
                getter = Getter(
                    job.cfg, client, robots if job.cfg.robots else None, hosts, forgotten, job.judge, in_flight
                )
                intake = _Intake(job, forgotten.matches, self._skip)
                try:
                    await self._feed(intake, getter, ledger)
                finally:
                    await robots.close()
                    _tell_parked(hosts.summary())

    async def _feed(self, intake: _Intake, getter: Getter, ledger: Ledger) -> None:
        """Admit groups while there is room; each row of a group is a task."""
        assert self._room is not None, "set by _work"
        window = asyncio.Semaphore(self._job.cfg.rows_ahead)
        async with asyncio.TaskGroup() as tasks:
            batches = intake.groups()
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                number, num_rows, todo = batch
                self.num_settled += num_rows - len(todo)
                left = itertools.count(len(todo) - 1, -1)
                self._waiting_bytes[number] = 0
                if not todo:
                    self._finished(number, num_rows)
                for wanted in todo:
                    await window.acquire()
                    task = tasks.create_task(self._one(wanted, getter, ledger, (number, num_rows), left))
                    task.add_done_callback(lambda _: window.release())
                while sum(self._waiting_bytes.values()) > self._job.cfg.max_waiting_bytes:
                    self._room.clear()
                    await self._room.wait()

    async def _one(
        self, wanted: Wanted, getter: Getter, ledger: Ledger, group: tuple[int, int], left: Iterator[int]
    ) -> None:
        row = wanted.known.row
        part = self._job.out / PARTS / f"{row:09d}.part"
        outcome = await getter.get(wanted.url, wanted.hashes, wanted.known, stem_of(self._job.pictures, row), part)
        ledger.put(outcome)
        self.num_settled += 1
        self._waiting_bytes[group[0]] += outcome.num_bytes
        if next(left) == 0:
            self._finished(*group)

    def _skip(self, num_rows: int) -> None:
        self.num_skipped += num_rows
        self.num_settled += num_rows

    def _finished(self, number: int, num_rows: int) -> None:
        self._events.put(("group", (number, num_rows)))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A row whose URL is to be fetched."""

    url: Url
    hashes: dict[str, str]
    known: Outcome


def _tell_parked(parked: Mapping[str, str]) -> None:
    for origin, why in itertools.islice(parked.items(), _NUM_TOLD):
        _log.warning("%s: %s", origin, why)
    if len(parked) > _NUM_TOLD:
        _log.warning("... and %d more hosts were left alone", len(parked) - _NUM_TOLD)


async def _robots_txt(client: Client, in_flight: asyncio.Semaphore, origin: str) -> RobotsAnswer:
    """Fetch a robots.txt within the limit that holds for pictures, too."""
    async with in_flight:
        return await client.robots_txt(origin)


def _allow_files() -> None:
    """Let this process open as many files as it may: every connection is one, and the usual limit of 1,024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _NUM_FILES if hard == resource.RLIM_INFINITY else min(hard, _NUM_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Intake:
    """Reads the list group by group and settles what needs no request: broken rows, duplicates, forgotten pictures."""

    def __init__(
        self, job: FetchJob, is_forgotten: Callable[[str, str, str], bool], skip: Callable[[int], None]
    ) -> None:
        self._job, self._is_forgotten, self._skip = job, is_forgotten, skip

    def groups(self) -> Iterator[tuple[int, int, list[Wanted]]]:
        """Yield (group, its number of rows, those to fetch)."""
        with Ledger(self._job.out) as ledger:  # this runs in another thread than the loop
            for number, batch in self._job.batches(self._skip):
                with ledger.transaction():
                    known = {outcome.row: outcome for outcome in ledger.rows_at([row.index for row in batch])}
                    settled = [self._settle(row, known.get(row.index), ledger) for row in batch]
                yield number, len(batch), [wanted for wanted in settled if wanted is not None]

    def _settle(self, row: ListRow, known: Outcome | None, ledger: Ledger) -> Wanted | None:
        """Return what is to be fetched; None if the row has an outcome, now or already."""
        name = name_of(row)
        if known is not None and known.url != name:
            raise ConfigError(
                f"row {row.index} of {self._job.rows.where} is {name!r}, and was {known.url!r} when {self._job.out} was begun: "
                "the list changed; use a new OUT"
            )
        if known is not None and known.kind and not self._is_lost(known):
            return None
        outcome = known or Outcome(row=row.index, url=name)
        try:
            if row.fault:
                raise Fault("policy", row.fault)
            url = parse_url(row.url)
            first = ledger.claim(hashlib.sha256(url.text.encode()).digest()[:16], row.index)
            if first != row.index:
                raise Fault("duplicate", f"of row {first}")
            if self._is_forgotten(url.host, name, ""):
                raise Fault("opt-out", "forgotten on request")
        except Fault as fault:
            ledger.put(replace(outcome, kind=fault.kind, detail=fault.detail, started=now(), ended=now()))
            return None
        if known is None:
            ledger.put(outcome)
        return Wanted(url, dict(row.hashes), outcome)

    def _is_lost(self, known: Outcome) -> bool:
        """True for a picture that was fetched, was not decoded yet, and is gone (a power cut, a hand)."""
        path = stem_of(self._job.pictures, known.row).with_suffix(known.suffix)
        return known.kind == FETCHED and not path.is_file()


def name_of(row: ListRow) -> str:
    """Name a row in tables: its URL without credentials, cut if it is too long to be one."""
    name = row.url or ""
    try:
        url = parse_url(name)
        name = url.text if url.credentials else name
    except Fault:  # what cannot be parsed may hold a password anywhere
        name = re.sub(r"//.*@", "//", redact(name), flags=re.DOTALL)
    return name if len(name) <= MAX_CHARS else f"{name[:200]}..."
