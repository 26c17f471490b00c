"""`retry`: try the failed URLs of some classes again, in a download or in a corpus; what is there stays as it is."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from .build import BuildShardsConfig, BuildShardsResult, build_shards
from .core import artifacts, config
from .core.errors import ConfigError
from .download import JOB, DownloadConfig, DownloadResult, claim, run_locked
from .fetch.config import GROUP_ROWS, FetchConfig
from .fetch.faults import CLASSES
from .fetch.forgotten import refuse_interrupted
from .fetch.ledger import Ledger
from .intake import LIST
from .sources.urls import open_list
from .spool import is_scanned


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryConfig:
    """Which failures to try again; everything else is as it was in the first run."""

    out: Path
    kinds: tuple[str, ...]
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)

    def __post_init__(self) -> None:
        """Check the classes."""
        unknown = [kind for kind in self.kinds if kind not in CLASSES]
        if unknown or not self.kinds:
            raise ConfigError(f"--class must name some of {', '.join(CLASSES)}; got {', '.join(unknown) or 'nothing'}")


def retry(cfg: RetryConfig) -> DownloadResult | BuildShardsResult:
    """Try the URLs of some error classes again.

    A corpus gets new shards for what comes now; its shards, and every row that is not tried again, stay as they are.

    Raises:
        ConfigError: OUT is neither a download nor a corpus of a list, is not finished, or its list is gone or changed.
    """
    if (cfg.out / JOB).is_file():
        return _retry_download(cfg)
    if (cfg.out / LIST).is_file():
        return _retry_corpus(cfg)
    raise ConfigError(
        f"{cfg.out} was not made from a list of URLs; wanted the OUT of `curate download` or `build-shards LIST`"
    )


def _retry_download(cfg: RetryConfig) -> DownloadResult:
    path = cfg.out / JOB
    known = artifacts.read_json(path)
    again = DownloadConfig(
        list=known["list"], url_column=known["url_column"], out=cfg.out, workers=cfg.workers,
        fetch=config.build(FetchConfig, known["fetch"], where=str(path)),
    )  # fmt: skip
    rows = open_list(str(again.list), url_column=again.url_column)
    with artifacts.locked_output(cfg.out):
        refuse_interrupted(cfg.out)
        claim(again, rows)
        (cfg.out / "_SUCCESS").unlink(missing_ok=True)
        with Ledger(cfg.out) as ledger, ledger.transaction():
            ledger.uncheck(sorted({row // GROUP_ROWS for row in ledger.reopen(cfg.kinds)}))
        return run_locked(again, rows)


def _retry_corpus(cfg: RetryConfig) -> BuildShardsResult:
    again = _first_config(cfg)
    open_list(str(again.source), url_column=again.url_column)  # is it still there? Asked before anything is changed
    with artifacts.locked_output(cfg.out), Ledger(cfg.out) as ledger:
        refuse_interrupted(cfg.out)
        retries = ledger.retries()
        if (cfg.out / "_SUCCESS").exists():
            (cfg.out / "_SUCCESS").unlink()  # before the ledger changes: a corpus that claims to be finished is
            _reopen(ledger, cfg.kinds)
        elif all(is_scanned(cfg.out, number) for number, _ in retries):
            raise ConfigError(f"{cfg.out} is not finished: run its build-shards command again first")
    return build_shards(again)


def _reopen(ledger: Ledger, kinds: Collection[str]) -> None:
    """Put the rows of these classes into new groups, after those there are."""
    used = [number for number, _ in ledger.retries()]
    first = max([-(-ledger.num_rows() // GROUP_ROWS), *(number + 1 for number in used)])
    with ledger.transaction():
        rows = ledger.reopen(kinds)
        groups = [rows[start : start + GROUP_ROWS] for start in range(0, len(rows), GROUP_ROWS)]
        ledger.add_retries(enumerate(groups, start=first))


def _first_config(cfg: RetryConfig) -> BuildShardsConfig:
    known, begun = artifacts.read_json(cfg.out / LIST), artifacts.read_json(cfg.out / "ledger" / "run.json")
    content = {name: value for name, value in begun["config"].items() if name not in ("paired", "fetch")}
    fixed = {
        "source": known["list"], "url_column": known["url_column"], "fetch": known["fetch"], "out": cfg.out,
        "workers": cfg.workers,
    }  # fmt: skip
    return config.build(BuildShardsConfig, content | fixed, where=str(cfg.out / "ledger"))
