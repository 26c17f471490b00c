"""Where `build_shards` gets its inputs from: a folder that is there, or a list of URLs that is fetched while it is scanned.

Both give the same: scanned tasks in input order, and what the table of inputs says beside the scan.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from .core import artifacts
from .core.config import to_plain
from .core.console import Progress
from .core.errors import ConfigError
from .core.records import InputRef, ScannedImage
from .engine import Engine
from .fetch.config import GROUP_ROWS, FetchConfig
from .scan import ScanConfig
from .sources.folder import Listing, list_inputs
from .splits import Origin
from .spool import ScanTask, is_scanned, read_entry, run_scan_task, scan_tasks

if TYPE_CHECKING:
    from .fetch.ledger import Ledger, Outcome

BODIES, LIST = "ledger/bodies", "ledger/list.json"
FETCHED_ALL = "ledger/fetched"
"""There when every row of the list was tried."""


class Intake(Protocol):
    """What `build_shards` needs to know of its inputs."""

    @property
    def fingerprint(self) -> str:
        """Changes when the inputs change, as far as that is cheap to see."""
        ...

    @property
    def num_ignored(self) -> int:
        """Files that are no inputs."""
        ...

    @property
    def num_unpaired(self) -> int:
        """Degraded pictures without a clean one."""
        ...

    def samples(self) -> list[tuple[Path, int]]:
        """Name some files, with their sizes in bytes, that tasks will read: is the source there for a worker?"""
        ...

    def scan(self, config: ScanConfig, pool: Engine) -> list[ScanTask]:
        """Scan what is not scanned yet; return every task, in input order."""
        ...

    def read(self, tasks: Sequence[ScanTask]) -> list[ScannedImage]:
        """Read what the tasks found, one record per input, in input order."""
        ...

    def rounds(self) -> Mapping[int, int]:
        """Inputs that came in a later attempt -> number of that attempt."""
        ...

    def settle(self, scanned: Sequence[ScannedImage]) -> None:
        """Take note of what the scan found."""
        ...

    def origins(self) -> Sequence[Origin]:
        """Who made each input and where it came from, in input order."""
        ...

    @property
    def fields(self) -> list[pa.Field]:
        """Columns of the table of inputs that only this kind of intake has."""
        ...

    def rows(self, images: Sequence[ScannedImage], num: int) -> Iterator[list[Mapping[str, Any]]]:
        """Yield, `num` inputs at a time and in input order, what the table of inputs says beside the scan."""
        ...


@dataclass(frozen=True, slots=True)
class FolderIntake:
    """Pictures that lie in a folder; of a folder that `download` made, it is known where they came from."""

    root: Path
    listing: Listing
    out: Path

    @property
    def fingerprint(self) -> str:
        """Hash of names and sizes."""
        return hashlib.sha256("\n".join(map(_fingerprint, self.listing.inputs)).encode()).hexdigest()

    @property
    def num_ignored(self) -> int:
        """Files that are no inputs."""
        return self.listing.num_ignored

    @property
    def num_unpaired(self) -> int:
        """Degraded pictures without a clean one."""
        return self.listing.num_unpaired

    def samples(self) -> list[tuple[Path, int]]:
        """Name the first file that can be read, and its pair."""
        for ref in self.listing.inputs:
            if ref.num_bytes >= 0:
                pair = [(Path(ref.pair_path), ref.pair_num_bytes)] if ref.pair_path and ref.pair_num_bytes >= 0 else []
                return [(Path(ref.path), ref.num_bytes), *pair]
        return []

    def scan(self, config: ScanConfig, pool: Engine) -> list[ScanTask]:
        """Scan the files, the long tasks first, so that no worker is left with one at the end."""
        tasks = scan_tasks(self.listing.inputs, config, self.out)
        todo = [task for task in tasks if not is_scanned(self.out, task.index)]
        todo.sort(key=lambda task: -task.num_bytes)
        total = sum(len(task.refs) for task in tasks)
        done = total - sum(len(task.refs) for task in todo)
        with Progress("scan", total, done=done, unit="pictures") as progress:
            for task, _ in pool.run(run_scan_task, todo):
                progress.step(num=len(task.refs))
        return tasks

    def read(self, tasks: Sequence[ScanTask]) -> list[ScannedImage]:
        """Read what the tasks found, one record per file."""
        return [image for task in tasks for image in read_entry(task)]

    def rounds(self) -> dict[int, int]:
        """A folder is read once."""
        return {}

    def settle(self, scanned: Sequence[ScannedImage]) -> None:
        """Nothing is kept of a folder beside the scan."""

    def origins(self) -> Sequence[Origin]:
        """Take what a download noted; other folders say nothing."""
        from .fetch.tables import downloaded_origins

        known = downloaded_origins(self.root)
        return [Origin(*known.get(ref.source, ("", ""))) for ref in self.listing.inputs]

    @property
    def fields(self) -> list[pa.Field]:
        """None of its own."""
        return []

    def rows(self, images: Sequence[ScannedImage], num: int) -> Iterator[list[Mapping[str, Any]]]:
        """Yield what the download's table says of its pictures; of others nothing is known beside the scan."""
        from .fetch.tables import downloaded

        known = downloaded(self.root)
        for start in range(0, len(images), num):
            yield [known.get(image.ref.source, {}) for image in images[start : start + num]]


class ListIntake:
    """Pictures that a list of URLs names: fetched into `ledger/bodies`, scanned, and deleted."""

    def __init__(self, where: str, out: Path, *, url_column: str, fetch: FetchConfig) -> None:
        from .sources.urls import open_list

        self._list, self._url_column = open_list(where, url_column=url_column), url_column
        self._out, self._fetch = out, fetch
        self.num_ignored = self.num_unpaired = 0

    @property
    def fingerprint(self) -> str:
        """Hash of the list's size, ends and URL column."""
        return f"{self._list.fingerprint}/{self._list.url_column}"

    def samples(self) -> list[tuple[Path, int]]:
        """None: what is fetched lies in the output."""
        return []

    def scan(self, config: ScanConfig, pool: Engine) -> list[ScanTask]:
        """Fetch and scan side by side, group by group."""
        from .fetch.fetcher import every_group, some_groups
        from .fetch.ledger import Ledger

        where = self._list.where if "://" in self._list.where else str(Path(self._list.where).absolute())
        entry = {"list": where, "url_column": self._url_column, "fetch": to_plain(self._fetch)}
        artifacts.write_json(self._out / LIST, entry)
        with Ledger(self._out) as ledger:
            every = functools.partial(every_group, self._list, functools.partial(is_scanned, self._out))
            self._fetch_and_scan(config, pool, ledger, every, {})
            artifacts.write_bytes(self._out / FETCHED_ALL, b"")
            again = dict(ledger.retries())
            todo = [(number, rows) for number, rows in again.items() if not is_scanned(self._out, number)]
            if todo:
                self._fetch_and_scan(config, pool, ledger, functools.partial(some_groups, self._list, todo), again)
            shutil.rmtree(self._out / BODIES, ignore_errors=True)
            numbers = [*range(-(-ledger.num_rows() // GROUP_ROWS)), *again]
            return [self._task(config, ledger, again, number) for number in numbers]

    def _fetch_and_scan(
        self,
        config: ScanConfig,
        pool: Engine,
        ledger: Ledger,
        batches: Callable[..., Any],
        again: Mapping[int, list[int]],
    ) -> None:
        from .fetch.fetcher import FetchJob
        from .fetch.probe import header_judge
        from .fetch.stream import fetch_groups

        job = FetchJob(
            cfg=self._fetch, rows=self._list, out=self._out, pictures=self._out / BODIES, batches=batches,
            judge=header_judge(config.recipe, config.patch_size_px),
        )  # fmt: skip
        make_task = functools.partial(self._task, config, ledger, again)
        num_rows = sum(len(rows) for number, rows in again.items() if not is_scanned(self._out, number)) or None
        with contextlib.closing(fetch_groups(job, pool, run_scan_task, make_task, num_rows)) as scanning:
            for task, _ in scanning:
                for ref in task.refs:
                    if ref.path:
                        Path(ref.path).unlink(missing_ok=True)

    def _task(self, config: ScanConfig, ledger: Ledger, again: Mapping[int, list[int]], number: int) -> ScanTask:
        rows = again[number] if number in again else range(number * GROUP_ROWS, (number + 1) * GROUP_ROWS)
        refs = tuple(_ref(outcome, self._out / BODIES) for outcome in ledger.rows_at(rows))
        return ScanTask(index=number, out=self._out, config=config, refs=refs)

    def read(self, tasks: Sequence[ScanTask]) -> list[ScannedImage]:
        """Read what the tasks found, one record per row of the list; of a row that was tried again, the last one."""
        from .fetch.ledger import Ledger

        with Ledger(self._out) as ledger:
            again = dict(ledger.retries())
        images = [image for task in tasks if task.index not in again for image in read_entry(task)]
        for task in tasks:
            if task.index in again:
                for row, image in zip(again[task.index], read_entry(task), strict=True):
                    images[row] = image
        return self._without_forgotten(images)

    def _without_forgotten(self, images: list[ScannedImage]) -> list[ScannedImage]:
        """Take out what people asked to forget while the corpus was not finished."""
        from .fetch.forgotten import load_forgotten
        from .fetch.ledger import Ledger

        forgotten = load_forgotten(self._out)
        if not forgotten:
            return images
        with Ledger(self._out) as ledger:
            for row, image in enumerate(images):
                if image.sha256 and not image.forgotten:
                    urls = {image.ref.url, ledger.rows_at([row])[0].final_url}
                    if forgotten.matches("", "", image.sha256) or any(map(forgotten.matches_url, urls)):
                        images[row] = replace(image, scores={}, patches=(), fingerprint=None, leaks=(), forgotten=True)
        return images

    def rounds(self) -> dict[int, int]:
        """Rows that were tried again -> the last group they were in."""
        from .fetch.ledger import Ledger

        with Ledger(self._out) as ledger:
            return {row: number for number, rows in ledger.retries() for row in rows}

    def settle(self, scanned: Sequence[ScannedImage]) -> None:
        """Write to the ledger which bodies were no pictures after all."""
        from .fetch.ledger import Ledger
        from .fetch.probe import fault_of

        verdicts = [
            (row, fault_of(image.reason), f"{image.reason}: {image.detail}")
            for row, image in enumerate(scanned)
            if image.status == "failed" and not image.ref.fault
        ]
        with Ledger(self._out) as ledger, ledger.transaction():
            ledger.reclassify(verdicts)

    def origins(self) -> Sequence[Origin]:
        """Take authors from the list's own column, if it has one, and URLs from the ledger."""
        from .fetch.ledger import Ledger
        from .fetch.tables import list_authors

        authors = [author or "" for extras in self._list.extras() for author in list_authors(extras)]
        with Ledger(self._out) as ledger:
            return [Origin(author, one.url) for author, one in zip(authors, ledger.rows(0, len(authors)), strict=True)]

    @property
    def fields(self) -> list[pa.Field]:
        """The list's own columns."""
        return list(self._list.schema)

    def rows(self, images: Sequence[ScannedImage], num: int) -> Iterator[list[Mapping[str, Any]]]:
        """Join the ledger and the list's own columns to the inputs."""
        from .fetch.ledger import Ledger
        from .fetch.tables import list_licences, provenance

        start = 0
        with Ledger(self._out) as ledger:
            for extras in self._list.extras(num=num):
                outcomes = ledger.rows(start, start + len(extras))
                columns = extras.to_pylist()
                yield [
                    {
                        "url": outcome.url, "licence": licence or outcome.licence or None,
                        "provenance": provenance(asdict(outcome)) if outcome.sha256 else None,
                        "num_bytes": outcome.num_bytes or None, **own,
                    }
                    for outcome, licence, own in zip(outcomes, list_licences(extras), columns, strict=True)
                ]  # fmt: skip
                start += len(extras)


def open_intake(
    source: str | Path, *, out: Path, paired: Path | None, url_column: str, fetch: FetchConfig
) -> FolderIntake | ListIntake:
    """Open SOURCE: a folder, else a list of URLs by its suffix.

    Raises:
        ConfigError: neither, or unreadable.
    """
    from .sources.urls import is_list

    if not Path(source).is_dir() and is_list(str(source)):
        if paired is not None:
            raise ConfigError(f"--paired needs folders on both sides, got the list {source}")
        return ListIntake(str(source), out, url_column=url_column, fetch=fetch)
    return FolderIntake(Path(source), list_inputs(Path(source), leave_out=out, paired=paired), out)


def _ref(outcome: Outcome, bodies: Path) -> InputRef:
    """Make an input of a row of the ledger; a row without a picture says why."""
    from .fetch.faults import PASSING, SKIPPED
    from .fetch.fetcher import stem_of
    from .fetch.ledger import LEDGER

    # what decoding finds belongs to the scan, not to the ref: a ref is the same before and after
    fetched = bool(outcome.sha256)
    fault, detail = ("", "") if fetched else (outcome.kind, outcome.detail)
    if fault == SKIPPED:
        fault, _, detail = detail.partition(": ")
    elif fault in PASSING:
        detail = f"what happened: {LEDGER}"  # its text depends on the moment, and a corpus must not
    is_unique = outcome.kind not in ("duplicate", "policy")
    return InputRef(
        source=outcome.url if is_unique else f"{outcome.url} (row {outcome.row})", url=outcome.url or "(none)",
        path=str(stem_of(bodies, outcome.row).with_suffix(outcome.suffix)) if fetched else "",
        num_bytes=outcome.num_bytes, fault=fault, fault_detail=detail,
        unwanted=outcome.kind in (SKIPPED, "duplicate", "robots", "opt-out", "policy"),
    )  # fmt: skip


def _fingerprint(ref: InputRef) -> str:
    pair = f"\t{ref.pair_source}\t{ref.pair_num_bytes}" if ref.pair_path else ""
    return f"{ref.source}\t{ref.num_bytes}{pair}"
