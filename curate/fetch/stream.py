"""Fetch groups and hand each to the pool as soon as it is complete, so that network and decoders do not wait in turn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Protocol, TypeVar

from ..core.console import Progress
from ..engine import Engine
from .fetcher import Fetcher, FetchJob

TICK_S = 1.0
"""How long to wait for a group until progress is shown again."""


class Pictures(Protocol):
    """What progress needs to know of a task."""

    @property
    def num_pictures(self) -> int:
        """How many pictures it opens."""
        ...


Task = TypeVar("Task", bound=Pictures)
Result = TypeVar("Result")


def fetch_groups(
    job: FetchJob,
    pool: Engine,
    function: Callable[[Task], Result],
    make_task: Callable[[int], Task],
    num_rows: int | None = None,
) -> Generator[tuple[Task, Result], None, None]:
    """Run `function(make_task(group))` in the pool for every fetched group.

    Args:
        job: what to fetch.
        pool: where pictures are decoded.
        function: importable by name.
        make_task: called here, in this thread, when all URLs of the group are done.
        num_rows: how many rows `job.batches` gives, for progress; None: all of the list.

    Yields:
        (task, result), in the order in which they finish.

    Raises:
        ConfigError: the list cannot be read, or changed.
        ToolkitError: a worker died.
    """
    total = job.rows.num_rows if num_rows is None else num_rows
    with Fetcher(job) as fetcher, Progress("fetch", total, unit="rows") as progress:
        ended, num_running, num_pictures = False, 0, 0
        while not ended or num_running:
            kind, value = fetcher.event(timeout=TICK_S)
            if kind == "end":
                ended = True
            elif kind == "group":
                task = make_task(value[0])
                future = pool.submit(function, task)
                num_running += 1
                future.add_done_callback(functools.partial(_post, fetcher, (value[0], task)))
            elif kind == "decoded":
                (number, task), future = value
                num_running -= 1
                fetcher.release(number)
                result = pool.result(future)
                num_pictures += task.num_pictures
                yield task, result
            _tell(progress, fetcher, total, num_pictures)


def _tell(progress: Progress, fetcher: Fetcher, total: int | None, num_pictures: int) -> None:
    """Say how far it is. Skipped rows are counted in whole groups: the last of a list, or a retry's, may have fewer."""
    settled, old = fetcher.num_settled, fetcher.num_skipped
    if total is not None:
        settled, old = min(settled, total), min(old, total)
    elif settled == old > 0:
        return  # nobody knows where the list ends
    progress.at(settled, f"({num_pictures} {'new ' if old else ''}pictures)", first=old)


def _post(fetcher: Fetcher, what: tuple[int, Task], done: Future[Result]) -> None:
    fetcher.post("decoded", (what, done))
