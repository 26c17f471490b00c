"""A corpus on any file system of fsspec: built in a staging folder here, published by the same rules of commit.

Each shard goes up while the next ones are made; a file appears under its name when it has been read back. Tables, index and
manifest follow, `_SUCCESS` is last. The staging folder holds the ledger, so that the same command resumes; its tars go once
they are verified.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from . import remote as remotes
from .core import artifacts
from .core.console import Progress
from .core.errors import ConfigError, ManifestError
from .core.records import ShardInfo
from .remote import Remote
from .verify import VerifyResult, verify_corpus
from .weights import cache_dir
from .write import ENTRY

RUN = "ledger/run.json"
MARK = "ledger/published/{:06d}.json"
UPLOADS = 4
"""Files on the way at a time: enough to hide the latency of an object store, few enough for a home line."""


def staging_folder(url: str) -> Path:
    """Say where the corpus of `url` is made: in $IRDISTILL_STAGING, else in the cache."""
    parent = os.environ.get("IRDISTILL_STAGING")
    folder = Path(parent).expanduser() if parent else cache_dir() / "staging"
    return folder / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:20]


class Publisher:
    """Uploads what `build_shards` finishes; without a URL it does nothing. Use as a context manager."""

    def __init__(self, url: str, out: Path) -> None:
        self._out = out
        self._remote = remotes.open_remote(url) if url else None
        self._executor = ThreadPoolExecutor(UPLOADS, thread_name_prefix="curate-publish")
        self._running: dict[int, Future[None]] = {}
        self._fault: BaseException | None = None
        self._opened = False

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def claim(self) -> None:
        """Claim the URL for the job that OUT belongs to; forget shards that are said to be there and are not.

        Raises:
            ConfigError: it holds something else.
        """
        if self._remote is None:
            return
        ours = artifacts.read_json(self._out / RUN)
        if remotes.names(self._remote):
            _check_same_job(self._remote, ours)
        else:
            _put(self._remote, self._out, RUN)
        remotes.remove(self._remote, remotes.TEMPORARY)  # of killed runs
        there = remotes.sizes(self._remote, "shards") | remotes.sizes(self._remote, "metadata")
        there |= remotes.sizes(self._remote, "rejected")
        for mark in sorted((self._out / "ledger" / "published").glob("*.json")):
            if any(there.get(name) != size for name, size in artifacts.read_json(mark).items()):
                if not all((self._out / name).is_file() for name in artifacts.read_json(mark)):
                    artifacts.remove(self._out / ENTRY.format(int(mark.stem)))  # it is made again
                artifacts.remove(mark)

    def offer(self, index: int, shard: ShardInfo) -> None:
        """Start to upload a finished shard, if it is not there yet."""
        if self._remote is not None and index not in self._running:
            if self._fault is not None:
                raise self._fault  # now, not when everything is made
            self._running[index] = self._executor.submit(self._publish_shard, self._remote, index, shard)
            self._running[index].add_done_callback(self._note_fault)

    def _note_fault(self, done: Future[None]) -> None:
        if not done.cancelled() and self._fault is None:
            self._fault = done.exception()

    def finish(self, shards: Sequence[ShardInfo]) -> None:
        """Wait for the shards, then publish tables, index, manifest and, last of all, `_SUCCESS`."""
        if self._remote is None:
            return
        manifest = artifacts.read_json(self._out / "manifest.json")
        for index, shard in enumerate(shards):
            self.offer(index, shard)
        with Progress("publish", len(shards)) as progress:
            for index in range(len(shards)):
                self._running[index].result()
                progress.step()
        leaks = [manifest["leaks"]["file"]] if "leaks" in manifest else []
        for name in (*(part["file"] for part in manifest["images"]), *leaks, "index.json", "manifest.json", "_SUCCESS"):
            self._ensure(self._remote, name)
        remotes.remove(self._remote, remotes.TEMPORARY)

    def _publish_shard(self, remote: Remote, index: int, shard: ShardInfo) -> None:
        mark = self._out / MARK.format(index)
        listed = [name for name in (shard.file, shard.metadata, shard.rejected) if name]
        if not mark.exists():
            for name in listed:
                self._ensure(remote, name)
            artifacts.write_json(mark, {name: (self._out / name).stat().st_size for name in listed})
        if shard.file:
            (self._out / shard.file).unlink(missing_ok=True)

    def _ensure(self, remote: Remote, name: str) -> None:
        local = self._out / name
        sha256 = artifacts.sha256_file(local)
        if remotes.holds(remote, name, num_bytes=local.stat().st_size, sha256=sha256):
            return
        if not self._opened:
            remotes.remove(remote, "_SUCCESS")  # a corpus that claims to be finished is
            self._opened = True
        remotes.put(remote, name, local, sha256=sha256)


def verify_remote(url: str) -> VerifyResult:
    """Do what `verify_corpus` does with a published corpus; one shard at a time is here.

    Raises:
        ManifestError: there is no finished corpus at `url`.
    """
    remote = remotes.open_remote(url)
    found = remotes.names(remote)
    if "manifest.json" not in found:
        raise ManifestError(f"{remote.url} holds no manifest.json: not a corpus, or it is not finished yet")
    if "_SUCCESS" not in found:
        raise ManifestError(f"{remote.url} is not finished (no _SUCCESS): run the same command again, it resumes")
    with tempfile.TemporaryDirectory(prefix="curate-verify-") as folder:
        root = Path(folder)

        @contextlib.contextmanager
        def borrow(names: Sequence[str]) -> Iterator[None]:
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # the check says that it is missing
                    remotes.fetch(remote, name, root / name)
            try:
                yield
            finally:
                for name in names:
                    (root / name).unlink(missing_ok=True)

        with borrow([name for name in ("manifest.json", "_SUCCESS", "index.json") if name in found]):
            return verify_corpus(root, borrow=borrow)


def _check_same_job(remote: Remote, ours: Mapping[str, Any]) -> None:
    try:
        theirs = artifacts.parse_json(remotes.read(remote, RUN), where=f"{remote.url}/{RUN}")
    except FileNotFoundError:
        some = ", ".join(remotes.names(remote)[:3])
        raise ConfigError(
            f"output {remote.url} already holds other files ({some}); choose an empty or new OUT"
        ) from None
    for part, meaning in (
        ("config", "another config"),
        ("inputs", "other inputs"),
        ("versions", "other library versions"),
    ):
        if theirs.get(part) != ours[part]:
            raise ConfigError(f"output {remote.url} was begun with {meaning}; use a new OUT or delete this one")


def _put(remote: Remote, out: Path, name: str) -> None:
    remotes.put(remote, name, out / name, sha256=artifacts.sha256_file(out / name))
