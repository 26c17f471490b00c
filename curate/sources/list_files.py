"""The bytes of a list of URLs: local or on any file system that fsspec knows, plain, gzip or zstd, read as a stream."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
from fsspec.registry import known_implementations

from ..core.errors import ConfigError, MissingDependencyError

PARQUET = "parquet"
FORMATS = ("txt", "csv", "tsv", "jsonl", "ndjson", PARQUET)
_COMPRESSIONS = ("gz", "zst")
WANTED = ", ".join(f".{name}" for name in FORMATS) + "; all but parquet also with .gz or .zst after it"
MAX_LINE_BYTES = 16 << 20  # a file without line ends must not fill the memory
_ENDS_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 17
_BOM = b"\xef\xbb\xbf"
DAMAGE = (OSError, EOFError, zlib.error, pa.ArrowException)
_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PAR1": "parquet",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def format_of(where: str) -> tuple[str, str] | None:
    """Tell format and compression ("", "gz" or "zst") by suffix; None: no list."""
    remote = where.startswith(("http://", "https://"))
    parts = (urlsplit(where).path if remote else where).lower().rsplit("/", 1)[-1].split(".")
    compression = parts.pop() if parts[-1] in _COMPRESSIONS else ""
    if len(parts) < 2 or parts[-1] not in FORMATS or (parts[-1] == PARQUET and compression):
        return None
    return parts[-1], compression


def shown(where: str) -> str:
    """Return `where` for messages: without the user, password and query that a URL may hold."""
    return re.sub(r"//[^/@]*@", "//", where).partition("?")[0] if "://" in where else where


def open_bytes(where: str) -> IO[bytes]:
    """Open the file as it is stored.

    Raises:
        ConfigError: it does not exist, is a folder, or cannot be opened.
        MissingDependencyError: its file system needs a package that is not installed.
    """
    try:
        if "://" not in where:
            return Path(where).open("rb")
        return io.BufferedReader(_Remote(fsspec.open(where, "rb").open()), _BUFFER_BYTES)
    except FileNotFoundError as error:
        why = " (or may not be read)" if "://" in where else ""  # http: what fsspec says of a 403, too
        raise ConfigError(f"list {shown(where)} does not exist{why}") from error
    except IsADirectoryError as error:
        raise ConfigError(f"list {shown(where)} is a folder; wanted one file of {WANTED}") from error
    except ImportError as error:
        raise MissingDependencyError(f"cannot open {shown(where)}: {error}; pip install {package_of(where)}") from error
    except Exception as error:  # each remote file system has exceptions of its own
        raise ConfigError(f"cannot open list {shown(where)}: {_one_line(error)}") from error


class _Remote(io.RawIOBase):
    """A file of fsspec, whose many kinds of failure are all OSError here; read through a buffer, for its `readline`."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        # a web server that sends no parts: fsspec's file says it can seek, and then cannot
        return getattr(self._file, "size", 0) is not None and bool(self._file.seekable())

    def readinto(self, buffer: Any) -> int:
        with _as_oserror():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _as_oserror():
            self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextlib.contextmanager
def _as_oserror() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise OSError(_one_line(error)) from error


def fingerprint(where: str) -> str:
    """Hash size, first and last MiB, and all of a parquet footer; a server that gives no parts: the first MiB."""
    with open_bytes(where) as file, blame(where):
        head = file.read(_ENDS_BYTES)
        digest = hashlib.sha256(head)
        if file.seekable():
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - _ENDS_BYTES))
            tail = file.read()
            footer = int.from_bytes(tail[-8:-4], "little") + 8
            if tail[-4:] == b"PAR1" and _ENDS_BYTES < footer < size:
                file.seek(size - footer)
                tail = file.read()
            digest.update(f"\n{size}\n".encode() + tail)
    return digest.hexdigest()


@contextlib.contextmanager
def blame(where: str) -> Iterator[None]:
    """Turn damage and loss of the connection into one line that names the list."""
    try:
        yield
    except DAMAGE as error:
        raise damaged(where, error) from error


def damaged(where: str, error: Exception, after: str = "") -> ConfigError:
    """Make the exception that says what is wrong with a list, and after which row."""
    return ConfigError(f"cannot read list {shown(where)}{after}: {_one_line(error)}")


def byte_lines(where: str) -> Iterator[bytes]:
    """Yield the lines, without the byte order mark, each with its line end.

    A line of more than MAX_LINE_BYTES is cut to MAX_LINE_BYTES + 1.

    Raises:
        ConfigError: it is something else than its suffix says.
        OSError, EOFError, zlib.error: it is damaged; lines before the damage have been yielded.
    """
    with open_bytes(where) as stored, _decompressed(stored, where) as file:
        line = file.readline(MAX_LINE_BYTES + 1)
        _check_magic(line, where)
        line = line.removeprefix(_BOM)
        while line:
            yield line
            while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES + 1)  # the rest of it
            line = file.readline(MAX_LINE_BYTES + 1)


def _decompressed(stored: IO[bytes], where: str) -> Any:
    found = format_of(where)
    compression = found[1] if found else ""
    if compression == "gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=stored), _BUFFER_BYTES)
    if compression == "zst":  # pyarrow's, for python-zstandard's reader takes a cut file for a whole one
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), "zstd"), _BUFFER_BYTES)
    return contextlib.nullcontext(stored)


def _check_magic(start: bytes, where: str) -> None:
    for magic, name in _MAGICS.items():
        if start.startswith(magic):
            raise ConfigError(
                f"list {shown(where)} holds {name}, its name says otherwise; wanted UTF-8 text, or {WANTED}"
            )


def package_of(where: str) -> str:
    """Name the package that brings a file system."""
    known = known_implementations.get(where.partition("://")[0], {})
    module = str(known.get("class", "")).partition(".")[0]
    if module and module != "fsspec":
        return module
    return " ".join(re.findall(r'"(\w+)"', str(known.get("err", "")))) or where.partition("://")[0]


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if "support range requests" in text:  # fsspec's advice is for callers of fsspec
        return "its server sends no parts of a file; download the list first"
    return " ".join(shown(text).split()) or type(error).__name__
