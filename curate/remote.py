"""Files on any file system that fsspec knows: written so that a reader sees a whole file or none, and read back before that."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .core.errors import ConfigError, MissingDependencyError, ToolkitError
from .sources.list_files import package_of, shown

TEMPORARY = ".publishing"
"""Folder of the files that are not yet verified; not among the final ones, whose names readers match with patterns."""
BLOCK_BYTES = 8 << 20
ATTEMPTS, WAIT_S = 3, 2.0
"""How often one file is tried, and the pause between (doubled each time); file systems retry on their own below that."""
_WITHOUT_FOLDERS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "memory"}
"""Where a folder is only a prefix; making one there would make a bucket."""
_EXTRAS = {"s3": "s3", "s3a": "s3"}


@dataclass(frozen=True, slots=True)
class Remote:
    """A folder somewhere.

    Attributes:
        url: as the user gave it, without a password.
        fs: the fsspec file system.
        root: the folder's path in it.
    """

    url: str
    fs: Any
    root: str

    def path(self, name: str) -> str:
        """Give the full path of a file in the folder."""
        return posixpath.join(self.root, name)


def is_url(text: str) -> bool:
    """Say whether a place is to be opened with fsspec."""
    return "://" in text


def open_remote(url: str) -> Remote:
    """Find the file system of a URL; the folder need not exist.

    Raises:
        MissingDependencyError: its package is not installed.
        ConfigError: there is no such file system, or it needs other settings.
    """
    import fsspec

    scheme = url.partition("://")[0]
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = f"'irdistill[{_EXTRAS[scheme]}]'" if scheme in _EXTRAS else package_of(url)
        raise MissingDependencyError(f"cannot open {shown(url)}: {error}; pip install {package}") from error
    except Exception as error:  # each file system has exceptions of its own
        raise ConfigError(f"cannot open {shown(url)}: {_line(error)}") from error
    if not root.strip("/"):
        raise ConfigError(f"{shown(url)} names no folder; wanted such as s3://bucket/corpus")
    return Remote(shown(url).rstrip("/"), fs, root.rstrip("/"))


def names(remote: Remote) -> list[str]:
    """List what lies directly in the folder; nothing if it does not exist."""
    with _said(remote, "list"):
        try:
            remote.fs.invalidate_cache()
            found = remote.fs.ls(remote.root, detail=False)
        except FileNotFoundError:
            return []
    return sorted(posixpath.basename(path.rstrip("/")) for path in found if path.rstrip("/") != remote.root)


def sizes(remote: Remote, folder: str) -> dict[str, int]:
    """List the files under a sub-folder: name in `remote` -> bytes."""
    with _said(remote, "list"):
        try:
            remote.fs.invalidate_cache()
            found = remote.fs.find(remote.path(folder), detail=True)
        except FileNotFoundError:
            return {}
    start = len(remote.root.strip("/")) + 1
    return {path.strip("/")[start:]: int(info["size"] or 0) for path, info in found.items()}


def exists(remote: Remote, name: str) -> bool:
    """Say whether a file is there."""
    with _said(remote, "read"):
        remote.fs.invalidate_cache()
        return bool(remote.fs.exists(remote.path(name)))


def read(remote: Remote, name: str) -> bytes:
    """Read a small file; FileNotFoundError if it is not there."""
    with _said(remote, "read"):
        data: bytes = remote.fs.cat_file(remote.path(name))
        return data


def fetch(remote: Remote, name: str, target: Path) -> None:
    """Copy a file to this machine; FileNotFoundError if it is not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _said(remote, "read"):
        remote.fs.get_file(remote.path(name), str(target))


def holds(remote: Remote, name: str, *, num_bytes: int, sha256: str) -> bool:
    """Read a file back and say whether it is the one that is meant."""
    with _said(remote, "read"):
        try:
            return _is(remote.fs, remote.path(name), num_bytes, sha256)
        except FileNotFoundError:
            return False


def put(remote: Remote, name: str, local: Path, *, sha256: str) -> None:
    """Make a local file appear under its final name: upload under a temporary one, read back, move.

    Raises:
        ToolkitError: it cannot be written, or does not read back as it was sent.
    """
    num_bytes = local.stat().st_size
    for attempt in range(ATTEMPTS):
        temporary = remote.path(f"{TEMPORARY}/{secrets.token_hex(8)}-{posixpath.basename(name)}")
        try:
            _make_folders(remote, temporary, remote.path(name))
            remote.fs.put_file(str(local), temporary)
            if not _is(remote.fs, temporary, num_bytes, sha256):
                raise OSError("it does not read back as it was sent")
            _move(remote, temporary, remote.path(name))
            return
        except Exception as error:  # each file system has exceptions of its own
            if isinstance(error, PermissionError) or attempt + 1 == ATTEMPTS:
                raise ToolkitError(
                    f"cannot write {remote.url}/{name}: {_line(error)}; the same command resumes"
                ) from error
            time.sleep(WAIT_S * 2**attempt)


def remove(remote: Remote, name: str) -> None:
    """Remove a file or a folder with all that is in it; nothing happens if it is not there."""
    with _said(remote, "write"), contextlib.suppress(FileNotFoundError):
        remote.fs.invalidate_cache()
        if remote.fs.exists(remote.path(name)):
            remote.fs.rm(remote.path(name), recursive=True)


def _is(fs: Any, path: str, num_bytes: int, sha256: str) -> bool:
    fs.invalidate_cache()
    if fs.info(path)["size"] != num_bytes:
        return False
    digest = hashlib.sha256()
    with fs.open(
        path, "rb", cache_type="none" if num_bytes <= BLOCK_BYTES else "readahead", block_size=BLOCK_BYTES
    ) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest() == sha256


def _has_folders(remote: Remote) -> bool:
    protocol = remote.fs.protocol
    return not _WITHOUT_FOLDERS & set((protocol,) if isinstance(protocol, str) else protocol)


def _make_folders(remote: Remote, *paths: str) -> None:
    if _has_folders(remote):
        for path in paths:
            remote.fs.makedirs(posixpath.dirname(path), exist_ok=True)


def _move(remote: Remote, temporary: str, final: str) -> None:
    if _has_folders(remote):
        remote.fs.mv(temporary, final)  # a rename
    else:
        remote.fs.cp_file(temporary, final)  # inside the store, where a file appears when it is whole
        remote.fs.rm_file(temporary)


@contextlib.contextmanager
def _said(remote: Remote, verb: str) -> Iterator[None]:
    """Turn what a file system raises into one line that names the place."""
    try:
        yield
    except FileNotFoundError:
        raise
    except ToolkitError:
        raise
    except Exception as error:  # each file system has exceptions of its own
        raise ToolkitError(f"cannot {verb} {remote.url}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(shown(str(error)).split()) or type(error).__name__
