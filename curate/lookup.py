"""Samples of one shard by key: headers are read once, bytes only of what is asked for."""

from __future__ import annotations

import contextlib
import tarfile
from pathlib import Path

from .core.errors import ManifestError
from .shards import ShardSample


class ShardLookup:
    """Open one tar for reading by key. Use as a context manager.

    Raises:
        ManifestError: the tar is missing or broken, or lacks the key asked for.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._members: dict[str, list[tarfile.TarInfo]] = {}
        try:
            with contextlib.ExitStack() as opened:
                self._tar = opened.enter_context(tarfile.open(path, "r:"))
                for header in self._tar:
                    self._members.setdefault(header.name.partition(".")[0], []).append(header)
                self._opened = opened.pop_all()  # closed by __exit__, or at once if a header is broken
        except (OSError, tarfile.TarError) as error:
            raise ManifestError(f"{path} is not a whole tar: {error}; run `curate verify`") from error

    def __enter__(self) -> ShardLookup:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def read(self, key: str) -> ShardSample:
        """Read one sample, its members in the order of the tar."""
        try:
            members = {}
            for header in self._members.get(key, []):
                content = self._tar.extractfile(header)
                members[header.name.partition(".")[2]] = content.read() if content is not None else b""
        except (OSError, tarfile.TarError) as error:
            raise ManifestError(f"{self._path} is not a whole tar: {error}; run `curate verify`") from error
        if not members:
            raise ManifestError(f"{self._path} holds no sample {key}; run `curate verify`")
        return ShardSample(key, members)
