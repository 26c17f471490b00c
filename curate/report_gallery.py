"""Small pictures for the report: patches on either side of a threshold, from the tables and, if kept, from their shards."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .core.errors import DecodeError
from .core.images import decode_patch, encode_thumbnail
from .dataset import Dataset, read_table
from .lookup import ShardLookup
from .reselect import shards_of
from .thresholds import Cut, Numbers
from .where import Bools

MAX_SHOWN = 8
MAX_PER_PICTURE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One patch of a gallery; `uri` is "" if nothing of it can be shown."""

    uri: str
    source: str
    place: str
    value: float


def pick_nearest(values: Numbers, cut: Cut, mask: Bools, picture: NDArray[np.int64]) -> list[int]:
    """Pick the rows of `mask` nearest to a threshold, few from each picture, nearest first.

    Args:
        values: (N,) the cut's column.
        cut: the threshold.
        mask: (N,) bool, rows to pick from; those without a value are left out.
        picture: (N,) which picture each was cut from; one patch of each for picture scores, else at most two (more if
            there are too few pictures).
    """
    rows = np.flatnonzero(mask & ~np.isnan(values))
    rows = rows[np.argsort(np.abs(values[rows] - cut.value), kind="stable")][: 200 * MAX_SHOWN]
    picked, later, seen = list[int](), list[int](), dict[int, int]()
    for row in rows.tolist():
        source = int(picture[row])
        seen[source] = seen.get(source, 0) + 1
        allowed = 1 if cut.is_image else MAX_PER_PICTURE
        (picked if seen[source] <= allowed else later).append(row)
    spare = [] if cut.is_image else later
    return sorted([*picked, *spare][:MAX_SHOWN], key=lambda row: (abs(values[row] - cut.value), row))


def show_patches(dataset: Dataset, table: pa.Table, rows: Sequence[int], values: Numbers) -> list[Tile]:
    """Make tiles of some rows of the table of all patches; reads only their shards.

    Args:
        dataset: the corpus.
        table: of `patch_table`, with `key`, `source`, `y`, `x`, `kept` and `shard`.
        rows: which of its rows, in the order to show.
        values: (N,) what to write under each.
    """
    picked = table.take(pa.array(rows, pa.int64())).to_pylist()
    pictures: dict[str, bytes | None] = {}
    for index in sorted({row["shard"] for row in picked}):
        shard = shards_of(dataset)[index]
        kept = [row["key"] for row in picked if row["shard"] == index and row["kept"]]
        if kept:
            with ShardLookup(dataset.root / shard.file) as lookup:
                pictures |= {key: _thumbnail(lookup.read(key).image()[1]) for key in kept}
        dropped = {row["key"] for row in picked if row["shard"] == index and not row["kept"]}
        if dropped:
            stored = read_table(dataset.root / shard.rejected, ["key", "thumbnail"])
            pictures |= {row["key"]: row["thumbnail"] for row in stored.to_pylist() if row["key"] in dropped}
    return [
        Tile(
            uri=_uri(pictures.get(row["key"])), source=row["source"], place=f"x {row['x']}, y {row['y']}",
            value=float(values[index]),
        )
        for index, row in zip(rows, picked, strict=True)
    ]  # fmt: skip


def _thumbnail(data: bytes) -> bytes | None:
    try:
        return encode_thumbnail(decode_patch(data))
    except DecodeError:
        return None


def _uri(data: bytes | None) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" if data else ""
