"""Files that are either whole or absent: write to a temporary name, fsync, rename, fsync the folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .disk import explain, explained
from .errors import ConfigError, DiskError, ManifestError

TEMP_PREFIX = ".tmp-"
LOCK = "ledger/lock"
_TEMP_NAME_CHARS = 50  # of at most 4 bytes: with what stands before it a name may have 255


@dataclass(frozen=True, slots=True)
class Fence:
    """One hold of the lock on an output, known to whoever writes for the holder.

    A worker on another machine may be thought dead and go on: what it writes after the lock was given back must not appear.
    """

    out: Path
    token: str

    def holds(self) -> bool:
        """Say whether the lock is still the one that was taken."""
        try:
            return (self.out / LOCK).read_text(encoding="ascii", errors="replace") == self.token
        except OSError:
            return False


_fence: ContextVar[Fence | None] = ContextVar("fence", default=None)


@contextlib.contextmanager
def atomic_path(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it is flushed to disk and renamed to `path`.

    On an exception the temporary file is removed and `path` stays as it was. `sync=False` is for files that can be made
    again: a power cut may leave them damaged, a kill may not.

    Raises:
        DiskError: the disk is full, failing or read-only.
    """
    _check_fence(path)
    # two machines may have the same process number
    temporary = path.parent / f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{path.name[-_TEMP_NAME_CHARS:]}"
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if sync:
                _fsync(temporary)
            _check_fence(path)
            temporary.replace(path)
            if sync:
                _fsync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def fenced(fence: Fence) -> Iterator[None]:
    """Let nothing appear by `atomic_path` in this block once the lock that `fence` stands for is given back."""
    before = _fence.set(fence)
    try:
        yield
    finally:
        _fence.reset(before)


def fence_of(out: Path) -> Fence:
    """Give the fence of the lock that this process holds on `out`."""
    return Fence(out, (out / LOCK).read_text(encoding="ascii"))


def _check_fence(path: Path) -> None:
    fence = _fence.get()
    if fence is not None and not fence.holds():
        raise ManifestError(f"{path} is not written: the run that asked for it has ended, or {fence.out} is gone")


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a file atomically."""
    with atomic_path(path, sync=sync) as temporary:
        temporary.write_bytes(data)


def remove(path: Path) -> None:
    """Remove a file, if it is there, so that it stays removed after a power cut."""
    with explained(path):
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            _fsync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically: two-space indent, key order kept, NaN refused."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_success(out: Path) -> None:
    """Say that `out` is finished: `_SUCCESS` holds the sha256 of manifest.json, whose own damage would show nowhere else."""
    write_bytes(out / "_SUCCESS", f"{sha256_file(out / 'manifest.json')}\n".encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        ManifestError: missing, unreadable or not JSON.
    """
    try:
        return parse_json(path.read_bytes(), where=str(path))
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}") from error


def parse_json(data: bytes, *, where: str) -> Any:
    """Parse JSON of ours.

    Raises:
        ManifestError: it is none.
    """
    try:
        return json.loads(data.decode())
    except ValueError as error:
        raise ManifestError(f"{where} is not JSON: {error}") from error


def sha256_file(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked_output(out: Path) -> Iterator[None]:
    """Make `out`, check that it is ours and can be written, and hold it alone until the block ends.

    The lock is the kernel's (flock), so a killed process leaves none behind. Temporary files of killed runs are removed at
    the start, those of killed workers at the end.

    Raises:
        ConfigError: `out` holds files but no ledger of ours, cannot be made or written, or another process works on it.
        DiskError: the disk is full, failing or read-only.
    """
    try:
        if out.is_dir() and not (out / LOCK).is_file() and any(map(_is_something, out.iterdir())):
            some = ", ".join(sorted(path.name for path in out.iterdir())[:3])
            raise ConfigError(f"output {out} already holds other files ({some}); choose an empty or new OUT")
        (out / "ledger").mkdir(parents=True, exist_ok=True)
        (out / LOCK).touch()
        lock = (out / LOCK).open("r+b", buffering=0)
    except OSError as error:
        if line := explain(error, out):
            raise DiskError(line) from error
        raise ConfigError(
            f"cannot write to output {out}: {error.strerror}; choose a folder you may write to"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another process is writing to {out}; wait for it or choose another OUT") from error
        sweep(out)  # first: it may be what fills the disk
        try:
            _write_token(lock, secrets.token_hex(16))
        except OSError as error:
            raise ConfigError(f"cannot write to output {out}: {error.strerror}") from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a failing disk has been told of already
                _write_token(lock, "0" * 32)
            sweep(out)


def _write_token(lock: BinaryIO, token: str) -> None:
    """Overwrite the token in place, which a full disk allows, and let other machines see it."""
    lock.seek(0)
    lock.write(token.encode())
    os.fsync(lock.fileno())


def sweep(out: Path) -> None:
    """Remove the temporary files of killed processes; the caller holds the lock, and nobody writes for it."""
    for stale in out.rglob(f"{TEMP_PREFIX}*"):
        if re.match(rf"{re.escape(TEMP_PREFIX)}\d+-", stale.name) and stale.is_file():
            stale.unlink(missing_ok=True)


def _is_something(path: Path) -> bool:
    """False for the empty `ledger` that a kill at the very start leaves."""
    return path.name != "ledger" or not path.is_dir() or any(path.iterdir())


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
