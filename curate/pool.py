"""A pool of processes that runs independent, idempotent tasks and dies with its parent.

Tasks run on one BLAS thread each, in a worker or here: the number of threads changes the last bit of a matrix product, and
with it the bytes of a corpus.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from threadpoolctl import threadpool_limits

from .core.errors import ToolkitError
from .core.heap import keep_freed_memory

Task = TypeVar("Task")
Result = TypeVar("Result")


class Pool:
    """Worker processes that live as long as the block; one worker is this process. Use as a context manager."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def run(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[Task, Result]]:
        """Run `function` on every task, started in the order given; yield (task, result) as they finish.

        Args:
            function: importable by name; must not depend on what ran before it.
            tasks: picklable values.

        Raises:
            ToolkitError: a worker died (killed, out of memory); what finished is kept by the tasks themselves.
        """
        if self._workers == 1 or (self._executor is None and len(tasks) <= 1):
            tune_libraries(keep_heap=True)
            with threadpool_limits(1):
                yield from ((task, function(task)) for task in tasks)
            return
        futures = {self.submit(function, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], self.result(future)
        finally:
            for future in futures:
                future.cancel()

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        """Start one task as `run` does; one worker is this process, and the task has then finished on return."""
        if self._workers == 1:
            done: Future[Result] = Future()
            tune_libraries(keep_heap=True)
            with threadpool_limits(1):
                done.set_result(function(task))
            return done
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self._workers, mp_context=context, initializer=_start_worker)
        return self._executor.submit(function, task)

    def result(self, future: Future[Result]) -> Result:
        """Wait for what a submitted task returns, or raises.

        Raises:
            ToolkitError: its worker died.
        """
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise ToolkitError(
                "a worker process died (killed or out of memory); finished work is kept: "
                "run the same command again, with fewer --workers if memory is short"
            ) from error


def _start_worker() -> None:
    """Follow the parent into death, so that a killed run leaves no process that still writes."""
    tune_libraries(keep_heap=True)
    threadpool_limits(1)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def tune_libraries(*, keep_heap: bool) -> None:
    """Give this process one OpenCV thread; `keep_heap`: and let it keep the memory it has once used."""
    import cv2
    import numpy  # noqa: F401 - loaded before its threads can be limited

    cv2.setNumThreads(1)  # one picture per process feeds the cores; OpenCV's own pool only adds switches
    if keep_heap:
        keep_freed_memory()
