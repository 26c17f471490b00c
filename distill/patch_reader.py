"""Read any patch of a corpus by its place, from any thread: what a calibration draws its real minibatches from.

A tar is indexed by its headers alone; only where patches lie is kept in memory, as three numbers a member.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate import Dataset
from curate.core.errors import ManifestError
from curate.core.images import decode_patch
from curate.core.records import Image

GT, LQ = "gt.", "lq."  # what the extension of a pair's members begins with
_NONE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchReader:
    """Places in the order of the keys that it was opened with.

    Attributes:
        files: the tars.
        clean: (N, 3) int64: number of the tar, offset and length of the clean member.
        degraded: the same of the degraded member; -1 where there is none.
    """

    files: tuple[Path, ...]
    clean: NDArray[np.int64]
    degraded: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.clean)

    def __call__(self, place: int) -> tuple[Image, Image | None]:
        """Return native pixels, (H, W, 3) uint8 each: clean and, of a pair, degraded.

        Raises:
            DecodeError: the bytes are damaged.
        """
        has_pair = self.degraded[place, 0] != _NONE
        return self._image(self.clean[place]), self._image(self.degraded[place]) if has_pair else None

    def _image(self, where: NDArray[np.int64]) -> Image:
        number, offset_bytes, num_bytes = where.tolist()
        with self.files[number].open("rb") as file:
            file.seek(offset_bytes)
            return decode_patch(file.read(num_bytes))


def open_reader(dataset: Dataset, keys: NDArray[np.str_]) -> PatchReader:
    """Index a corpus.

    Args:
        dataset: the corpus.
        keys: (N,) keys of its patches; place i of the reader is keys[i].

    Raises:
        ManifestError: a shard is not whole, or a key has no patch.
    """
    files = tuple(dataset.root / shard.file for group in dataset.stages.values() for shard in group if shard.samples)
    order = np.argsort(keys)
    ordered = keys[order]
    clean, degraded = (np.full((len(keys), 3), _NONE, np.int64) for _ in range(2))
    for number, path in enumerate(files):
        for key, extension, offset_bytes, num_bytes in _members(path):
            at = int(np.searchsorted(ordered, key))
            if at < len(keys) and ordered[at] == key:
                target = degraded if extension.startswith(LQ) else clean
                target[order[at]] = (number, offset_bytes, num_bytes)
    if (missing := np.flatnonzero(clean[:, 0] == _NONE)).size:
        raise ManifestError(f"{dataset.root}: no shard holds the patch {keys[missing[0]]}; run curate verify")
    return PatchReader(files=files, clean=clean, degraded=degraded)


def _members(path: Path) -> list[tuple[str, str, int, int]]:
    """List (key, extension, offset, length) of a tar's images."""
    try:
        with tarfile.open(path, "r:") as tar:
            named = [(header.name.partition("."), header) for header in tar]
    except (OSError, tarfile.TarError) as error:
        raise ManifestError(f"{path} is not a whole tar: {error}") from error
    return [
        (key, extension, header.offset_data, header.size)
        for (key, _, extension), header in named if not extension.endswith("json")
    ]  # fmt: skip
