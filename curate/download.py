"""`download`: a list of URLs -> a folder of pictures, each decoded once to be sure, and a table that accounts for every row.

The folder is a source for `build-shards`. `retry` tries some classes of failures again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .core import artifacts, config
from .core.errors import ConfigError, DecodeError, ManifestError
from .core.images import decode_image
from .fetch import config as fetching
from .fetch.config import FetchConfig
from .fetch.faults import CLASSES, FETCHED, SKIPPED
from .fetch.fetcher import GROUP_ROWS, FetchJob, stem_of
from .fetch.ledger import Ledger
from .fetch.probe import fault_of, keep_all
from .fetch.stream import fetch_groups
from .fetch.tables import url_tables
from .pool import Pool
from .sources.urls import UrlList, open_list

PICTURES = "pictures"
TABLE = "urls/part-{:06d}.parquet"
ROWS_PER_PART = 65_536
_JOB = "ledger/download.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadConfig:
    """What to fetch; `list`, `out` and `workers` change nothing in what is fetched."""

    list: str | Path  # a path or any fsspec URL
    out: Path
    url_column: str = ""  # "" = found by its name
    fetch: FetchConfig = field(default_factory=FetchConfig)
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)  # processes that decode

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.workers >= 1:
            raise ConfigError(f"workers must be >= 1, got {self.workers}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadResult:
    """What came: rows by class (`ok` first), bytes of the pictures, and how long this run took."""

    out: Path
    classes: Mapping[str, int]
    num_rows: int
    num_bytes: int
    seconds: float
    resumed: bool


def download(cfg: DownloadConfig) -> DownloadResult:
    """Fetch every URL of a list once; the same command resumes and asks for nothing twice.

    Raises:
        ConfigError: bad list or output, another config or list on a used OUT.
    """
    rows = open_list(str(cfg.list), url_column=cfg.url_column)
    with artifacts.locked_output(cfg.out):
        return _run(cfg, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryConfig:
    """Which failures of a finished or broken-off download to try again."""

    out: Path
    kinds: tuple[str, ...]
    fetch: FetchConfig | None = None  # None: as in the first run
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)

    def __post_init__(self) -> None:
        """Check the classes."""
        check_kinds(self.kinds)


def retry(cfg: RetryConfig) -> DownloadResult:
    """Try the URLs of some classes again; every other row stays as it is.

    Raises:
        ConfigError: OUT is no download, or its list is gone or changed.
    """
    path = cfg.out / _JOB
    if not path.is_file():
        raise ConfigError(f"{cfg.out} is no download (no {_JOB}); wanted the OUT of `curate download`")
    known = artifacts.read_json(path)
    fetch = cfg.fetch or config.build(FetchConfig, known["fetch"], where=str(path))
    again = DownloadConfig(
        list=known["list"], url_column=known["url_column"], out=cfg.out, fetch=fetch, workers=cfg.workers
    )
    rows = open_list(str(again.list), url_column=again.url_column)
    with artifacts.locked_output(cfg.out):
        _claim(again, rows)
        with Ledger(cfg.out) as ledger:
            groups = sorted({row // GROUP_ROWS for row in ledger.reopen(cfg.kinds)})
            ledger.uncheck(groups)
        return _run(again, rows)


def check_kinds(kinds: Collection[str]) -> None:
    """Raise ConfigError unless every name is an error class (or `skipped`)."""
    known = (*CLASSES, SKIPPED)
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds:
        raise ConfigError(f"--class must name some of {', '.join(known)}; got {', '.join(unknown) or 'nothing'}")


def _run(cfg: DownloadConfig, rows: UrlList) -> DownloadResult:
    begin = time.perf_counter()
    resumed = _claim(cfg, rows)
    pictures = cfg.out / PICTURES
    with Ledger(cfg.out) as ledger, Pool(cfg.workers) as pool:
        checked = ledger.checked()
        job = FetchJob(
            cfg=cfg.fetch, rows=rows, out=cfg.out, pictures=pictures, judge=keep_all, is_done=lambda n: n in checked
        )
        for number, verdicts in fetch_groups(job, pool, check_pictures, lambda n: _check_task(n, ledger, pictures)):
            with ledger.transaction():
                ledger.reclassify(verdicts)
                ledger.check(number)
            for (
                row,
                _,
                _,
            ) in verdicts:  # after the ledger knows: a kill in between leaves a file too many, never one too few
                for path in stem_of(pictures, row).parent.glob(f"{row:09d}.*"):
                    path.unlink()
        num_parts = _write_tables(cfg, rows, ledger)
        classes, num_bytes = ledger.classes(), ledger.num_bytes()
    artifacts.write_json(cfg.out / "ledger" / "parts.json", num_parts)
    artifacts.write_bytes(cfg.out / "_SUCCESS", b"")
    return DownloadResult(
        out=cfg.out, classes=classes, num_rows=sum(classes.values()), num_bytes=num_bytes,
        seconds=time.perf_counter() - begin, resumed=resumed,
    )  # fmt: skip


def _claim(cfg: DownloadConfig, rows: UrlList) -> bool:
    """Claim OUT for this list and config; True if an earlier run of the same job was found."""
    path = cfg.out / _JOB
    where = str(cfg.list)
    entry: dict[str, Any] = {
        "list": where if "://" in where else str(Path(where).absolute()), "url_column": rows.url_column,
        "fingerprint": rows.fingerprint, "content": fetching.content(cfg.fetch), "fetch": config.to_plain(cfg.fetch),
    }  # fmt: skip
    if not path.exists():
        artifacts.write_json(path, entry)
        return False
    found = artifacts.read_json(path)
    for part, meaning in (
        ("fingerprint", "another list"),
        ("content", "another config"),
        ("url_column", "another column"),
    ):
        if found.get(part) != entry[part]:
            raise ConfigError(f"output {cfg.out} was begun with {meaning}; use a new OUT or delete this one")
    return True


CheckTask = Sequence[tuple[int, Path]]


def _check_task(number: int, ledger: Ledger, pictures: Path) -> CheckTask:
    outcomes = ledger.rows(number * GROUP_ROWS, (number + 1) * GROUP_ROWS)
    return [
        (outcome.row, stem_of(pictures, outcome.row).with_suffix(outcome.suffix))
        for outcome in outcomes
        if outcome.kind == FETCHED
    ]


def check_pictures(task: CheckTask) -> list[tuple[int, str, str]]:
    """Decode each picture; return (row, class, detail) of those that are none."""
    verdicts = []
    for row, path in task:
        try:
            decode_image(path.read_bytes())
        except DecodeError as error:
            verdicts.append((row, fault_of(error.reason), f"{error.reason}: {error.detail}"))
        except OSError as error:
            raise ManifestError(f"{path} was fetched and is gone: {error.strerror}; run `curate retry`") from error
    return verdicts


def _write_tables(cfg: DownloadConfig, rows: UrlList, ledger: Ledger) -> int:
    import pyarrow.parquet as pq

    num = 0
    for num, table in enumerate(url_tables(ledger, rows, folder=PICTURES, num=ROWS_PER_PART), start=1):
        with artifacts.atomic_path(cfg.out / TABLE.format(num - 1)) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    return num
