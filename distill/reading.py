"""The pixels of chosen patches in any order, without holding more than a few tars' headers."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate import Dataset
from curate.core.errors import ManifestError
from curate.core.images import decode_image, decode_patch
from curate.core.records import Image
from curate.lookup import ShardLookup

_OPEN_TARS = 64  # a thousand samples' headers are about 1 MB


class PatchReader:
    """Reads patches by their row in the feature table; any thread may. Use as a context manager."""

    def __init__(self, dataset: Dataset, keys: NDArray[np.str_]) -> None:
        self._dataset, self._keys = dataset, keys  # (N,) sorted: row -> key
        self._files = [shard.file for shards in dataset.stages.values() for shard in shards if shard.samples]
        self._file_of: NDArray[np.int32] | None = None  # found when a patch is asked for: many calibrations ask none
        self._open: OrderedDict[str, ShardLookup] = OrderedDict()
        self._lock = threading.Lock()

    def __enter__(self) -> PatchReader:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1].__exit__()

    def read(self, row: int) -> tuple[Image, Image | None]:
        """Decode one patch.

        Args:
            row: place in the sorted keys.

        Returns:
            The clean picture, (H, W, 3) uint8 RGB, and its degraded version; None for a single patch.

        Raises:
            ManifestError: a tar is broken, or the corpus's tables do not name a patch.
            DecodeError: an image is damaged.
        """
        key = str(self._keys[row])
        with self._lock:
            if self._file_of is None:
                self._file_of = _files_of(self._dataset, self._keys)
            members = self._lookup(self._files[self._file_of[row]]).read(key).members
        pictures = {name.rpartition(".")[0]: _decode(data, name) for name, data in members.items() if name != "json"}
        return (pictures["gt"], pictures["lq"]) if "gt" in pictures else (pictures[""], None)

    def _lookup(self, file: str) -> ShardLookup:
        if file not in self._open:
            if len(self._open) >= _OPEN_TARS:
                self._open.popitem(last=False)[1].__exit__()
            self._open[file] = ShardLookup(self._dataset.root / file)
        self._open.move_to_end(file)
        return self._open[file]


def _decode(data: bytes, name: str) -> Image:
    return decode_image(data) if name.endswith("jpg") else decode_patch(data)


def _files_of(dataset: Dataset, keys: NDArray[np.str_]) -> NDArray[np.int32]:
    """Say in which shard, counted without the empty ones, each of the sorted keys lies."""
    found = np.full(len(keys), -1, np.int32)
    shards = [shard for group in dataset.stages.values() for shard in group if shard.samples]
    for number, shard in enumerate(shards):
        listed = np.array(pq.read_table(dataset.root / shard.metadata, columns=["key"]).column("key").to_pylist())
        places = np.minimum(np.searchsorted(keys, listed), len(keys) - 1)
        found[places[keys[places] == listed]] = number
    if (found < 0).any():
        raise ManifestError(f"{dataset.root}: its tables do not name patch {keys[np.argmin(found)]}; run curate verify")
    return found
