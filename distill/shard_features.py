"""The features of one shard: a task that knows its inputs, writes one file and may be run anywhere, any number of times.

Batches never cross shards, so a run that was killed and goes on sees the same batches and gives the same bytes.
"""

from __future__ import annotations

import itertools
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate import read_shard
from curate.core.artifacts import atomic_path
from curate.core.errors import ManifestError
from curate.encoders._loading import one_torch_thread
from curate.shards import ShardSample

from .look import Glance, Looker, Recipe, looker_of

KEY_DTYPE = "S80"  # curate.shards.KEY_PATTERN
VALUES = "values."  # before a measure's name, in a part


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to look at, for a worker in another process.

    Attributes:
        recipe: how to look.
        shard: the tar.
        samples: how many the manifest says it holds.
        part: the file to write.
    """

    recipe: Recipe
    shard: Path
    samples: int
    part: Path


def look_at_shard(task: ShardTask) -> dict[str, float]:
    """Do a task: one batch after the other, on this thread. Returns seconds per step."""
    looker = looker_of(task.recipe)
    with one_torch_thread(looker.eyes.uses_torch):
        glances = (looker.look(batch) for batch in batches(task.shard, looker.eyes.config.batch_patches))
        return write_part(task.part, glances, task.shard, task.samples, lambda num: None)


def look_in_threads(looker: Looker, pool: Executor, shard: Path) -> Iterator[Glance]:
    """Look at a shard's batches in several threads and yield them in order; few batches are in memory at once."""
    waiting: deque[Future[Glance]] = deque()
    for batch in batches(shard, looker.eyes.config.batch_patches):
        waiting.append(pool.submit(looker.look, batch))
        if len(waiting) > 2 * looker.eyes.workers:
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()


def batches(shard: Path, size: int) -> Iterator[list[ShardSample]]:
    """Cut a shard's samples into batches, as bytes."""
    samples = read_shard(shard)
    while batch := list(itertools.islice(samples, size)):
        yield batch


def write_part(
    part: Path, glances: Iterator[Glance], shard: Path, samples: int, tell: Callable[[int], None]
) -> dict[str, float]:
    """Write what was seen of a shard, whole or not at all.

    Args:
        part: the .npz to write.
        glances: in order.
        shard: the tar, for messages.
        samples: how many there must be.
        tell: told of each batch.

    Returns:
        Step -> seconds.

    Raises:
        ManifestError: the shard holds another number of samples than the manifest says.
    """
    seen: list[Glance] = []
    seconds: dict[str, float] = {}
    for glance in glances:
        seen.append(glance)
        add_seconds(seconds, glance.seconds)
        tell(len(glance.keys))
    keys = [key for glance in seen for key in glance.keys]
    if len(keys) != samples:
        raise ManifestError(f"{shard} holds {len(keys)} samples, the manifest says {samples}; run curate verify")
    if len({glance.degraded_rows.shape[1] for glance in seen}) != 1:
        raise ManifestError(f"{shard} holds pairs and single patches; run curate verify")
    arrays: dict[str, Any] = {
        "keys": np.array(keys, dtype=KEY_DTYPE),
        "rows": np.concatenate([glance.rows for glance in seen]),
        "degraded_rows": np.concatenate([glance.degraded_rows for glance in seen]),
        "descriptors": np.concatenate([glance.descriptors for glance in seen]),
    }
    arrays |= {VALUES + name: np.concatenate([glance.values[name] for glance in seen]) for name in seen[0].values}
    with atomic_path(part) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return seconds


def add_seconds(total: dict[str, float], more: Mapping[str, float]) -> None:
    """Add times step by step."""
    for step, seconds in more.items():
        total[step] = total.get(step, 0.0) + seconds


def read_part(part: Path, samples: int) -> Mapping[str, NDArray[Any]]:
    """Read a part.

    Raises:
        ManifestError: it is damaged, or of another shard.
    """
    try:
        with part.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ManifestError(f"cannot read {part}: {error}; delete the file, it is made again") from error
    if len(arrays["keys"]) != samples:
        raise ManifestError(
            f"{part} holds {len(arrays['keys'])} patches, wanted {samples}; delete the file, it is made again"
        )
    return arrays
