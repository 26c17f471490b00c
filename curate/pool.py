"""A process pool that runs independent, idempotent tasks and dies with its parent."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from .core.errors import ToolkitError

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int
) -> Iterator[tuple[int, Result]]:
    """Run `function` on every task; yield (index, result) as they finish.

    Args:
        function: importable by name; must not depend on what ran before it.
        tasks: picklable values.
        workers: processes; 1 runs in this process.

    Raises:
        ToolkitError: a worker died (killed, out of memory); what finished is kept by the tasks themselves.
    """
    if workers == 1 or len(tasks) <= 1:
        _quiet_libraries()
        for index, task in enumerate(tasks):
            yield index, function(task)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_start_worker) as pool:
        futures = {pool.submit(function, task): index for index, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise ToolkitError(
                "a worker process died (killed or out of memory); finished shards are kept: "
                "run the same command again, with fewer --workers if memory is short"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Follow the parent into death, so that a killed run leaves no process that still writes."""
    _quiet_libraries()
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _quiet_libraries() -> None:
    import cv2

    cv2.setNumThreads(1)  # one picture per process feeds the cores; OpenCV's own pool only adds switches
