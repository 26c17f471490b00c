"""The pixels of chosen patches in any order, without holding more than a few tars' headers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

import pyarrow.parquet as pq

from curate import Dataset
from curate.core.images import decode_image, decode_patch
from curate.core.records import Image
from curate.lookup import ShardLookup

_OPEN_TARS = 64  # a thousand samples' headers are about 1 MB


class PatchReader:
    """Reads patches by their row in the feature table; any thread may. Use as a context manager."""

    def __init__(self, dataset: Dataset, key_of_row: Mapping[int, str]) -> None:
        self._dataset, self._key_of_row = dataset, key_of_row
        self._shard_of = _shards_of(dataset, set(key_of_row.values()))
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
            row: one of those given.

        Returns:
            The clean picture, (H, W, 3) uint8 RGB, and its degraded version; None for a single patch.

        Raises:
            ManifestError: a tar is broken.
            DecodeError: an image is damaged.
        """
        key = self._key_of_row[row]
        with self._lock:
            members = self._lookup(self._shard_of[key]).read(key).members
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


def _shards_of(dataset: Dataset, keys: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for shards in dataset.stages.values():
        for shard in shards:
            if shard.samples:
                listed = pq.read_table(dataset.root / shard.metadata, columns=["key"]).column("key").to_pylist()
                found |= dict.fromkeys(keys.intersection(listed), shard.file)
    return found
