"""The bytes of one URL on their way to disk: counted, hashed, and kept when the connection breaks."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from ..core.artifacts import read_json, write_bytes
from ..core.config import build, canonical_json, to_plain
from ..core.errors import ConfigError, ManifestError, ToolkitError
from .faults import Fault

HEAD_BYTES = 65_536
"""Kept in memory; a longer body goes to a file."""
_HASH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """Which bytes a part file holds: only an answer that says the same may be joined to it."""

    url: str
    validator: str
    total: int | None


class Body:
    """One body. Bytes up to HEAD_BYTES wait in memory, more of them in a part file; `finish` makes it the picture.

    Beside a part file lies what it is a part of, written first and removed last: a kill at any moment leaves no part of
    unknown origin.

    Args:
        stem: path of the finished file without its suffix.
        part: path of the part file.
        max_bytes: limit of the body.
        algorithms: hashes to take beside sha256.
    """

    def __init__(self, stem: Path, part: Path, *, max_bytes: int, algorithms: Sequence[str] = ()) -> None:
        self._stem, self._part, self._max_bytes = stem, part, max_bytes
        self.version: Version | None  # of the bytes that come next; None: not to be resumed
        self._names = ("sha256", *(name for name in algorithms if name != "sha256"))
        self._file: FileIO | None = None
        self._has_part = False
        self._start()

    @property
    def _about(self) -> Path:
        return self._part.with_suffix(".json")

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Keep a full disk from passing for a server's fault: both are OSErrors."""
        try:
            yield
        except OSError as error:
            raise ToolkitError(
                f"cannot write {self._stem}: {error.strerror}; what was fetched is kept: "
                "make room and run the same command again"
            ) from error

    def recover(self) -> None:
        """Take up what a killed run left in the part file, if it is known what that is."""
        if not self._part.exists():
            return
        self._has_part = True
        try:
            self.version = build(Version, read_json(self._about), where="part")
        except (ManifestError, ConfigError):
            self.restart()
            return
        file = self._part.open("r+b", buffering=0)
        while data := file.read(_HASH_BYTES):
            self._count(data)
        self._file = file

    def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            Fault: `too-large`.
        """
        if self.size + len(data) > self._max_bytes:
            raise Fault("too-large", f"more than {self._max_bytes} bytes")
        self._count(data)
        if self._file is None and self.size <= HEAD_BYTES:
            return
        with self._on_disk():
            if self._file is None:
                self._part.parent.mkdir(parents=True, exist_ok=True)
                self._has_part = True
                if self.version is not None:
                    write_bytes(self._about, canonical_json(to_plain(self.version)), sync=False)
                self._file = self._part.open("wb", buffering=0)
                self._file.write(self.head)
                data = data[len(data) - (self.size - len(self.head)) :]
            self._file.write(data)

    def restart(self) -> None:
        """Begin again with no bytes; nothing stays on disk."""
        self.pause()
        if self._has_part:
            self._part.unlink(missing_ok=True)
            self._about.unlink(missing_ok=True)
            self._has_part = False
        self._start()

    def pause(self) -> None:
        """Leave a long body on disk, for a later run."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def hashes(self) -> dict[str, str]:
        """Return hex digests by algorithm."""
        return {name: hasher.hexdigest() for name, hasher in self._hashers.items()}

    def finish(self, suffix: str) -> None:
        """Put the whole body at STEM + suffix."""
        final = self._stem.with_name(self._stem.name + suffix)
        with self._on_disk():
            if self._file is not None:
                self.pause()
                final.parent.mkdir(parents=True, exist_ok=True)
                self._part.replace(final)
                self._about.unlink(missing_ok=True)
                return
            try:
                final.write_bytes(self.head)  # a kill in between leaves no row in the ledger: it is written again
            except FileNotFoundError:  # the first of its folder
                final.parent.mkdir(parents=True, exist_ok=True)
                final.write_bytes(self.head)

    def _start(self) -> None:
        self.version = None
        self.size = 0
        self.head = bytearray()
        self._hashers = {name: hashlib.new(name, usedforsecurity=False) for name in self._names}

    def _count(self, data: bytes) -> None:
        self.size += len(data)
        if len(self.head) < HEAD_BYTES:
            self.head += data[: HEAD_BYTES - len(self.head)]
        for hasher in self._hashers.values():
            hasher.update(data)


class Unpacker:
    """Undo a Content-Encoding piece by piece, giving at most `piece_bytes` at a time: a bomb is met by the byte limit."""

    def __init__(self, encoding: str, *, piece_bytes: int = 1 << 20) -> None:
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise Fault("protocol", f"Content-Encoding {encoding[:40]!r}, although only identity was asked for")
        self._unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
        self._piece_bytes = piece_bytes

    def feed(self, data: bytes, body: Body) -> None:
        """Unpack into `body`.

        Raises:
            Fault: `protocol` if the stream is damaged, `too-large` from the body.
        """
        try:
            while data:
                body.write(self._unpacker.decompress(data, self._piece_bytes))
                data = self._unpacker.unconsumed_tail
        except zlib.error as error:
            raise Fault("protocol", f"Content-Encoding: {error}") from error

    def close(self) -> None:
        """Check that the stream came to its end.

        Raises:
            Fault: `truncated`.
        """
        if not self._unpacker.eof:
            raise Fault("truncated", "the compressed body ends early", again=True)
