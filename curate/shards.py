"""WebDataset shards: plain USTAR tars that every reader agrees on. Reading with webdataset itself: `stream`.

Rules (spec/curation.md section 4): a key has no dot; the members of a key stand together, image first; names are flat
ASCII under 100 bytes; mtime, uid, gid and mode are fixed, so the same samples give the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .core.artifacts import sha256_file
from .core.errors import ManifestError

KEY_PATTERN = re.compile(r"^[a-z0-9_-]{1,80}$")
_EXTENSION_PATTERN = re.compile(r"^[a-z0-9]+(\.[a-z0-9]+)*$")


def patch_key(image_sha256: str, y: int, x: int, size_px: int) -> str:
    """Name a patch for ever: first 20 hex of the sha256 of the source file's bytes, origin and size."""
    return f"{image_sha256[:20]}_{y:05d}_{x:05d}_{size_px}"


@dataclass(frozen=True, slots=True)
class TarDigest:
    """What identifies a finished tar."""

    samples: int
    num_bytes: int
    sha256: str
    md5: str


class ShardWriter:
    """Write samples to one tar, in the order given; hashes are taken on the way out. Use as a context manager.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.tar"
        >>> with ShardWriter(path) as writer:
        ...     writer.add("abc_0", {"png": b"pixels", "json": b"{}"})
        >>> [(s.key, sorted(s.members)) for s in read_shard(path)]
        [('abc_0', ['json', 'png'])]
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._samples = 0
        self._num_bytes = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(
            OSError
        ):  # what could not be written cannot be flushed; its room is given back all the same
            self._file.close()

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample.

        Args:
            key: matches `^[a-z0-9_-]{1,80}$`.
            members: extension -> bytes, the image first.

        Raises:
            ManifestError: a key, extension or name that some reader would not take.
        """
        if not KEY_PATTERN.match(key):
            raise ManifestError(f"shard key {key!r} does not match {KEY_PATTERN.pattern}")
        for extension, data in members.items():
            name = f"{key}.{extension}"
            if not _EXTENSION_PATTERN.match(extension) or len(name) >= 100:
                raise ManifestError(f"shard member {name!r} must be flat lower-case ASCII under 100 bytes")
            header = tarfile.TarInfo(name)
            header.size, header.mode = len(data), 0o644
            for part in (header.tobuf(tarfile.USTAR_FORMAT, "ascii"), data, b"\0" * (-len(data) % tarfile.BLOCKSIZE)):
                self._write(part)
        self._samples += 1

    def close(self) -> TarDigest:
        """Write the end of the archive (two zero blocks, padded to a record) and return the digest."""
        if not self._file.closed:
            end = 2 * tarfile.BLOCKSIZE
            self._write(b"\0" * (end + -(self._num_bytes + end) % tarfile.RECORDSIZE))
            self._file.close()
        return TarDigest(self._samples, self._num_bytes, self._sha256.hexdigest(), self._md5.hexdigest())

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._md5.update(data)
        self._num_bytes += len(data)


@dataclass(frozen=True, slots=True)
class ShardSample:
    """One sample as read: `members` maps extension (`webp`, `gt.png`, `json`) to bytes."""

    key: str
    members: Mapping[str, bytes]

    def image(self) -> tuple[str, bytes]:
        """Return (extension, bytes) of the only image member."""
        return next((e, d) for e, d in self.members.items() if not e.endswith("json"))


def read_shard(path: Path) -> Iterator[ShardSample]:
    """Yield the samples of one tar in order.

    Raises:
        ManifestError: the file is missing or is not a whole tar.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            key, members = "", dict[str, bytes]()
            for header in tar:
                name_key, _, extension = header.name.partition(".")
                if name_key != key and members:
                    yield ShardSample(key, members)
                    members = {}
                key = name_key
                content = tar.extractfile(header)
                members[extension] = content.read() if content is not None else b""
            if members:
                yield ShardSample(key, members)
    except (OSError, tarfile.TarError) as error:
        raise ManifestError(f"{path} is not a whole tar: {error}") from error


def reads_back(path: Path, digest: TarDigest) -> bool:
    """Read a finished tar and say whether its samples, size and hash are those of `digest`."""
    if (path.stat().st_size, sha256_file(path)) != (digest.num_bytes, digest.sha256):
        return False
    with tarfile.open(path, mode="r:") as tar:
        return len({name.partition(".")[0] for name in tar.getnames()}) == digest.samples


def stream(paths: list[Path]) -> Any:
    """Open shards with webdataset itself (loads torch): an iterable of dicts with `__key__` and members."""
    import webdataset

    return webdataset.WebDataset([str(path) for path in paths], shardshuffle=False, empty_check=False)
