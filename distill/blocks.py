"""Work over millions of rows in blocks: features may lie on disk, and the number of threads must change no byte.

Blocks have fixed shapes and BLAS runs on one thread in each, so a block's result is the same whoever computes it, and
results come back in order. `use_threads` says how many blocks are in work at once.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from curate.core.errors import ConfigError

BLOCK_ROWS = 8192  # 384 columns of float64 are 24 MiB
_BLOCKS_PER_RELEASE = 16  # 96 MiB of a float16 memory map with 384 columns stay resident at most

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_threads: ContextVar[int] = ContextVar("distill_threads", default=0)


def available_cores() -> int:
    """Count the cores that this process may use; where the system does not say (macOS, Windows), those of the machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def num_threads() -> int:
    """Return how many blocks may be in work at once: what `use_threads` said, else one per core of this process."""
    return _threads.get() or available_cores()


@contextmanager
def use_threads(num: int) -> Iterator[None]:
    """Let this much run at once inside the `with`; 0 = one per core. Changes no result.

    Raises:
        ConfigError: a negative number.
    """
    if not num >= 0:
        raise ConfigError(f"threads must be >= 0 (0 = one per core), got {num}")
    token = _threads.set(num)
    try:
        yield
    finally:
        _threads.reset(token)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS and OpenMP to one thread inside the `with`: parallel sums would depend on how many there are."""
    with threadpool_limits(1):
        yield


def ordered_map(function: Callable[[_In], _Out], items: Iterable[_In], *, ahead: int = 1) -> Iterator[_Out]:
    """Yield `function` of each item in order, computed in several threads.

    Args:
        function: pure.
        items: taken as they are needed.
        ahead: results more than there are threads that may wait, so that memory stays bounded.
    """
    threads = num_threads()
    if threads == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= threads + ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def slices(num_rows: int, block_rows: int = BLOCK_ROWS) -> list[slice]:
    """Cut 0..num_rows into slices of `block_rows`, the last one shorter."""
    return [slice(start, min(start + block_rows, num_rows)) for start in range(0, num_rows, block_rows)]


def map_rows(function: Callable[[NDArray[Any], slice], _Out], rows_ND: NDArray[Any]) -> Iterator[_Out]:
    """Yield `function(block, where)` for each block of rows in order; of a memory map few blocks are resident."""
    results = ordered_map(lambda where: function(rows_ND[where], where), slices(len(rows_ND)))
    for number, result in enumerate(results):
        yield result
        if number % _BLOCKS_PER_RELEASE == _BLOCKS_PER_RELEASE - 1:
            release(rows_ND)
    release(rows_ND)


def release(rows: NDArray[Any]) -> None:
    """Give the pages of a read-only memory map back: they are on disk, and would count as this process's memory."""
    mapped = getattr(rows, "_mmap", None)
    if isinstance(rows, np.memmap) and rows.mode == "r" and isinstance(mapped, mmap.mmap):
        mapped.madvise(mmap.MADV_DONTNEED)


def first_not_finite(values: NDArray[Any]) -> int | None:
    """Return the first row that holds NaN or infinity; None if all are finite."""

    def look(block: NDArray[Any], where: slice) -> int | None:
        finite = np.isfinite(block)
        if finite.all():
            return None
        return int(where.start) + int(np.argmin(finite.reshape(len(block), -1).all(axis=1)))

    return next((row for row in map_rows(look, values) if row is not None), None)
