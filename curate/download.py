"""`download`: a list of URLs -> a folder of pictures, each decoded once to be sure, and a table that accounts for every row.

The folder is a source for `build-shards`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .core import artifacts, config
from .core.errors import ConfigError, DecodeError, ManifestError
from .core.images import decode_image
from .fetch import config as fetching
from .fetch.config import GROUP_ROWS, FetchConfig
from .fetch.faults import FETCHED
from .fetch.fetcher import FetchJob, every_group, stem_of
from .fetch.forgotten import refuse_interrupted
from .fetch.ledger import Ledger
from .fetch.probe import fault_of, keep_all
from .fetch.stream import fetch_groups
from .fetch.tables import url_tables
from .pool import Pool
from .sources.urls import UrlList, open_list

PICTURES = "pictures"
TABLE, TABLE_GLOB = "urls/part-{:06d}.parquet", "urls/part-*.parquet"
ROWS_PER_PART = 65_536
JOB = "ledger/download.json"


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
    """What came: rows by class (`ok` first), one `url: detail` of each error class, bytes of the pictures, time of this run."""

    out: Path
    classes: Mapping[str, int]
    examples: Mapping[str, str]
    num_rows: int
    num_bytes: int
    seconds: float
    resumed: bool
    num_retried: int = 0  # rows that `retry` asked for
    num_came: int = 0  # of them


def download(cfg: DownloadConfig) -> DownloadResult:
    """Fetch every URL of a list once; the same command resumes and asks for nothing twice.

    Raises:
        ConfigError: bad list or output, another config or list on a used OUT.
    """
    rows = open_list(str(cfg.list), url_column=cfg.url_column)
    with artifacts.locked_output(cfg.out):
        return run_locked(cfg, rows)


def run_locked(cfg: DownloadConfig, rows: UrlList) -> DownloadResult:
    """Do what `download` does; the caller holds the lock on OUT."""
    begin = time.perf_counter()
    refuse_interrupted(cfg.out)
    resumed = claim(cfg, rows)
    pictures = cfg.out / PICTURES
    with Ledger(cfg.out) as ledger, Pool(cfg.workers) as pool:
        checked = ledger.checked()
        make_task = functools.partial(_check_task, ledger, pictures)
        job = FetchJob(
            cfg=cfg.fetch, rows=rows, out=cfg.out, pictures=pictures, judge=keep_all,
            batches=functools.partial(every_group, rows, checked.__contains__),
        )  # fmt: skip
        with contextlib.closing(fetch_groups(job, pool, check_pictures, make_task)) as checking:
            for task, verdicts in checking:
                for row, _, _ in verdicts:  # gone before the ledger knows: a kill in between costs asking once more
                    for path in stem_of(pictures, row).parent.glob(f"{row:09d}.*"):
                        path.unlink()
                with ledger.transaction():
                    ledger.reclassify(verdicts)
                    ledger.check(task.number)
        _write_tables(cfg, rows, ledger)
        classes, examples, num_bytes = ledger.classes(), ledger.examples(), ledger.num_bytes()
    artifacts.write_bytes(cfg.out / "_SUCCESS", b"")
    return DownloadResult(
        out=cfg.out, classes=classes, examples=examples, num_rows=sum(classes.values()), num_bytes=num_bytes,
        seconds=time.perf_counter() - begin, resumed=resumed,
    )  # fmt: skip


def claim(cfg: DownloadConfig, rows: UrlList) -> bool:
    """Claim OUT for this list and config; True if an earlier run of the same job was found.

    Raises:
        ConfigError: OUT was begun with others.
    """
    path = cfg.out / JOB
    where = str(cfg.list)
    entry: dict[str, Any] = {
        "list": where if "://" in where else str(Path(where).absolute()), "url_column": cfg.url_column,
        "column": rows.url_column,
        "fingerprint": rows.fingerprint, "content": fetching.content(cfg.fetch), "fetch": config.to_plain(cfg.fetch),
    }  # fmt: skip
    if (cfg.out / "ledger" / "run.json").exists():
        raise ConfigError(f"output {cfg.out} is a corpus; choose another OUT for the download")
    if not path.exists():
        artifacts.write_json(path, entry)
        return False
    found = artifacts.read_json(path)
    for part, meaning in (
        ("fingerprint", "another list"),
        ("content", "another config"),
        ("column", "another column"),
    ):
        if found.get(part) != entry[part]:
            raise ConfigError(f"output {cfg.out} was begun with {meaning}; use a new OUT or delete this one")
    artifacts.write_json(path, entry)  # the list may lie elsewhere by now, the limits may be others
    return True


@dataclass(frozen=True, slots=True)
class CheckTask:
    """Pictures of one group, as (row, file)."""

    number: int
    pictures: tuple[tuple[int, Path], ...]

    @property
    def num_pictures(self) -> int:
        """How many it decodes."""
        return len(self.pictures)


def _check_task(ledger: Ledger, pictures: Path, number: int) -> CheckTask:
    outcomes = ledger.rows(number * GROUP_ROWS, (number + 1) * GROUP_ROWS)
    fetched = [outcome for outcome in outcomes if outcome.kind == FETCHED]
    return CheckTask(number, tuple((one.row, stem_of(pictures, one.row).with_suffix(one.suffix)) for one in fetched))


def check_pictures(task: CheckTask) -> list[tuple[int, str, str]]:
    """Decode each picture; return (row, class, detail) of those that are none."""
    verdicts = []
    for row, path in task.pictures:
        try:
            decode_image(path.read_bytes())
        except DecodeError as error:
            verdicts.append((row, fault_of(error.reason), f"{error.reason}: {error.detail}"))
        except OSError as error:
            raise ManifestError(
                f"{path} was fetched and is gone: {error.strerror}; run the same `curate download` again, it fetches it anew"
            ) from error
    return verdicts


def _write_tables(cfg: DownloadConfig, rows: UrlList, ledger: Ledger) -> None:
    import pyarrow.parquet as pq

    for number, table in enumerate(url_tables(ledger, rows, folder=PICTURES, num=ROWS_PER_PART)):
        with artifacts.atomic_path(cfg.out / TABLE.format(number)) as temporary:
            pq.write_table(table, temporary, compression="zstd")
