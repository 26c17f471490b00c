"""`retry`: try the failed URLs of some classes again, in a download or in a corpus; what is there stays as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .build import BuildShardsConfig, BuildShardsResult, build_shards
from .core import artifacts, config
from .core.errors import ConfigError
from .download import JOB, DownloadConfig, DownloadResult, claim, run_locked
from .fetch.config import GROUP_ROWS, FetchConfig, load_fetch_config
from .fetch.faults import CLASSES, FETCHED
from .fetch.forgotten import refuse_interrupted
from .fetch.ledger import Ledger
from .intake import FETCHED_ALL, LIST, open_intake
from .job import PLACES, check_same_job
from .sources.urls import open_list
from .world import open_world


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryConfig:
    """Which failures to try again; everything else is as it was in the first run, but for what is given here."""

    out: Path
    kinds: tuple[str, ...]
    fetch_file: Path | None = None  # TOML of FetchConfig fields; None: those of the last run
    contact: str = ""
    allow_private: tuple[str, ...] = ()  # added to those of the last run
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)

    def __post_init__(self) -> None:
        """Check the classes."""
        unknown = [kind for kind in self.kinds if kind not in CLASSES]
        if unknown or not self.kinds:
            raise ConfigError(f"--class must name some of {', '.join(CLASSES)}; got {', '.join(unknown) or 'nothing'}")
        if not self.workers >= 1:
            raise ConfigError(f"workers must be >= 1, got {self.workers}")


def retry(cfg: RetryConfig) -> DownloadResult | BuildShardsResult:
    """Try the URLs of some error classes again.

    A corpus gets new shards for what comes now; its shards, and every row that is not tried again, stay as they are.

    Raises:
        ConfigError: OUT is neither a download nor a corpus of a list, not every URL was tried once, or its list is gone or
            changed.
    """
    if (cfg.out / JOB).is_file():
        return _retry_download(cfg)
    if (cfg.out / LIST).is_file():
        return _retry_corpus(cfg)
    raise ConfigError(
        f"{cfg.out} was not made from a list of URLs; wanted the OUT of `curate download` or `build-shards LIST`"
    )


def _retry_download(cfg: RetryConfig) -> DownloadResult:
    known = artifacts.read_json(cfg.out / JOB)
    again = DownloadConfig(
        list=known["list"],
        url_column=known["url_column"],
        out=cfg.out,
        workers=cfg.workers,
        fetch=_settings(cfg, known),
    )
    rows = open_list(str(again.list), url_column=again.url_column)
    with artifacts.locked_output(cfg.out):
        refuse_interrupted(cfg.out)
        claim(again, rows)
        if not (cfg.out / "_SUCCESS").exists() and not (cfg.out / FETCHED_ALL).exists():
            raise ConfigError(f"{cfg.out} is not finished: run its download command again first")
        artifacts.write_bytes(cfg.out / FETCHED_ALL, b"")  # a retry that is killed may be run again
        artifacts.remove(cfg.out / "_SUCCESS")
        with Ledger(cfg.out) as ledger, ledger.transaction():
            reopened = ledger.reopen(cfg.kinds)
            ledger.uncheck(sorted({row // GROUP_ROWS for row in reopened}))
        result = run_locked(again, rows)
    return replace(result, num_retried=len(reopened), num_came=_num_came(cfg.out, reopened))


def _retry_corpus(cfg: RetryConfig) -> BuildShardsResult:
    again = _first_config(cfg)
    open_list(str(again.source), url_column=again.url_column)  # is it still there? Asked before anything is changed
    with artifacts.locked_output(cfg.out), Ledger(cfg.out) as ledger:
        refuse_interrupted(cfg.out)
        if not (cfg.out / FETCHED_ALL).exists():
            raise ConfigError(f"{cfg.out} is not finished: run its build-shards command again first")
        _check_same_job(again)  # before anything is changed: a corpus that cannot go on stays finished
        artifacts.remove(cfg.out / "_SUCCESS")  # before the ledger changes: a corpus that claims to be finished is
        with ledger.transaction():
            reopened = ledger.reopen(cfg.kinds)
            groups = [reopened[start : start + GROUP_ROWS] for start in range(0, len(reopened), GROUP_ROWS)]
            ledger.add_retries(enumerate(groups, start=_first_free_group(ledger)))
    result = build_shards(again)
    return replace(result, num_retried=len(reopened), num_came=_num_came(cfg.out, reopened))


def _check_same_job(again: BuildShardsConfig) -> None:
    intake = open_intake(again.source, out=again.out, paired=None, url_column=again.url_column, fetch=again.fetch)
    world = open_world(again.against, again.known, again.of_pictures, again.out, splits=(*again.splits,))
    check_same_job(again, intake, world)


def _first_free_group(ledger: Ledger) -> int:
    return max([-(-ledger.num_rows() // GROUP_ROWS), *(number + 1 for number, _ in ledger.retries())])


def _num_came(out: Path, rows: list[int]) -> int:
    with Ledger(out) as ledger:
        pieces = [rows[start : start + GROUP_ROWS] for start in range(0, len(rows), GROUP_ROWS)]
        return sum(one.kind == FETCHED for piece in pieces for one in ledger.rows_at(piece))


def _settings(cfg: RetryConfig, known: Mapping[str, Any]) -> FetchConfig:
    """Take the last run's settings, or the file's, and add what the flags say."""
    if cfg.fetch_file is not None:
        return load_fetch_config(cfg.fetch_file, contact=cfg.contact, allow_private=cfg.allow_private)
    last = config.build(FetchConfig, known["fetch"], where=str(cfg.out / "ledger"))
    allowed = tuple(dict.fromkeys((*last.allow_private, *cfg.allow_private)))
    return replace(last, contact=cfg.contact or last.contact, allow_private=allowed)


def _first_config(cfg: RetryConfig) -> BuildShardsConfig:
    known, begun = artifacts.read_json(cfg.out / LIST), artifacts.read_json(cfg.out / "ledger" / "run.json")
    places = artifacts.read_json(cfg.out / PLACES) if (cfg.out / PLACES).exists() else {}
    content = {
        name: value for name, value in begun["config"].items() if name not in ("paired", "fetch", "against", "known")
    }
    fixed = {
        "source": known["list"], "url_column": known["url_column"], "fetch": _settings(cfg, known), "out": cfg.out,
        "workers": cfg.workers, **places,
    }  # fmt: skip
    return config.build(BuildShardsConfig, content | fixed, where=str(cfg.out / "ledger"))
