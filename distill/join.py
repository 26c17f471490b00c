"""From one file a shard to one table a corpus, sorted by key, a shard at a time: memory does not grow with the corpus's rows.

Sorted, because selectors take rows in key order, and millions of rows on disk are best read as they lie. Measures finish here,
on the numbers of the whole corpus.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate.core.artifacts import atomic_path, write_bytes
from curate.core.errors import ManifestError, NumericsError

from .descriptors import DESCRIPTORS, PAIR_DESCRIPTORS
from .measure import Complexity, Scores
from .selection import Indices
from .shard_features import KEY_DTYPE, VALUES, read_part
from .table import COLUMNS, DEGRADED_ROWS, ROWS, SUCCESS, values_file


def join_parts(
    folder: Path, parts: Sequence[tuple[Path, int]], complexities: Sequence[Complexity], groups: Indices
) -> None:
    """Write a feature folder's tables from its parts, then remove the parts.

    Args:
        folder: the feature folder; the same parts give the same bytes.
        parts: file and number of patches of each shard, in corpus order, at least one patch in all.
        complexities: measures; the first is the complexity.
        groups: (N,) int64 in key order, equal for patches that belong together (`distill.grouping`).

    Raises:
        ManifestError: parts do not fit each other.
        NumericsError: a score is not finite.
    """
    total = sum(num for _, num in parts)
    first = read_part(*parts[0])
    unsorted = _checked_keys(parts, first)
    if len(groups) != total:
        raise ManifestError(
            f"the corpus's tables name {len(groups)} patches, its shards hold {total}; run curate verify"
        )
    order = np.argsort(unsorted, kind="stable")
    keys, place_of = unsorted[order], np.empty_like(order)
    place_of[order] = np.arange(total)
    arrays = [(ROWS, "rows"), *((values_file(one.name), VALUES + one.name) for one in complexities)]
    if first["degraded_rows"].shape[1]:
        arrays.append((DEGRADED_ROWS, "degraded_rows"))
    with contextlib.ExitStack() as stack:
        targets = {
            name: np.lib.format.open_memmap(
                stack.enter_context(atomic_path(folder / file)), mode="w+", dtype=first[name].dtype,
                shape=(total, first[name].shape[1]),
            )
            for file, name in arrays
        }  # fmt: skip
        descriptors = np.empty((total, first["descriptors"].shape[1]), np.float32)
        start = 0
        for part, num in parts:
            stored = read_part(part, num)
            places = place_of[start : start + num]
            for name, target in targets.items():
                target[places] = stored[name]
            descriptors[places] = stored["descriptors"]
            start += num
        for target in targets.values():
            target.flush()
    scores = {one.name: _finished(one, folder, keys, groups) for one in complexities}
    _write_columns(folder / COLUMNS, keys, descriptors, scores, groups)
    write_bytes(folder / SUCCESS, b"")
    for part, _ in parts:
        part.unlink()
    with contextlib.suppress(OSError):
        parts[0][0].parent.rmdir()


def _checked_keys(parts: Sequence[tuple[Path, int]], first: Mapping[str, NDArray[Any]]) -> NDArray[np.bytes_]:
    """Return all keys in corpus order; refuse a corpus of which some shards hold pairs and others do not."""
    keys = []
    for part, num in parts:
        stored = read_part(part, num)
        for name, array in stored.items():
            if name not in first or array.shape[1:] != first[name].shape[1:]:
                raise ManifestError(
                    f"{part} does not fit {parts[0][0]} ({name}): pairs and single patches in one corpus?"
                )
        keys.append(stored["keys"].astype(KEY_DTYPE))
    return np.concatenate(keys)


def _finished(complexity: Complexity, folder: Path, keys: NDArray[np.bytes_], groups: Indices) -> Scores:
    """Let a measure finish on its numbers."""
    values_NK = np.load(folder / values_file(complexity.name), mmap_mode="r", allow_pickle=False)
    scores = complexity.finish(values_NK, groups)
    for column in (scores.complexity, scores.uncertainty):
        if column is not None and not np.isfinite(column).all():
            key = keys[int(np.argmin(np.isfinite(column)))].decode()
            raise NumericsError(
                f"complexity {complexity.name} gave {column[~np.isfinite(column)][0]} for patch {key}: look at it (curate "
                "explain), drop it (curate filter) or leave this measure out"
            )
    return scores


def _write_columns(
    path: Path,
    keys: NDArray[np.bytes_],
    descriptors: NDArray[np.float32],
    scores: Mapping[str, Scores],
    groups: Indices,
) -> None:
    names = PAIR_DESCRIPTORS if descriptors.shape[1] == len(PAIR_DESCRIPTORS) else DESCRIPTORS
    columns: dict[str, Any] = {"key": pa.array(keys, pa.binary()).cast(pa.string()), "group": groups}
    columns |= {f"descriptor.{name}": descriptors[:, place] for place, name in enumerate(names)}
    columns |= {f"score.{name}": found.complexity for name, found in scores.items()}
    columns |= {f"uncertainty.{n}": found.uncertainty for n, found in scores.items() if found.uncertainty is not None}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def parts_left(parts: Sequence[tuple[Path, int]]) -> Iterator[int]:
    """Yield the places of parts that are still to be made."""
    yield from (place for place, (part, _) in enumerate(parts) if not part.is_file())
