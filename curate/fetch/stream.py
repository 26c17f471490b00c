"""Fetch groups and hand each to the pool as soon as it is complete, so that network and decoders do not wait in turn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import TypeVar

from ..core.console import Progress
from ..pool import Pool
from .fetcher import Fetcher, FetchJob

Task = TypeVar("Task")
Result = TypeVar("Result")


def fetch_groups(
    job: FetchJob, pool: Pool, function: Callable[[Task], Result], make_task: Callable[[int], Task]
) -> Generator[tuple[Task, Result], None, None]:
    """Run `function(make_task(group))` in the pool for every fetched group.

    Args:
        job: what to fetch.
        pool: where pictures are decoded.
        function: importable by name.
        make_task: called here, in this thread, when all URLs of the group are done.

    Yields:
        (task, result), in the order in which they finish.

    Raises:
        ConfigError: the list cannot be read, or changed.
        ToolkitError: a worker died.
    """
    with Fetcher(job) as fetcher, Progress("fetch", job.rows.num_rows, unit="rows") as progress:
        ended, num_running, num_shown = False, 0, 0
        while not ended or num_running:
            kind, value = fetcher.event()
            if kind == "end":
                ended = True
            elif kind == "group":
                number, num_rows = value
                task = make_task(number)
                future = pool.submit(function, task)
                num_running += 1
                future.add_done_callback(functools.partial(_post, fetcher, (number, num_rows, task)))
            else:
                (number, num_rows, task), future = value
                num_running -= 1
                fetcher.release(number)
                yield task, pool.result(future)
                num_new = num_rows + fetcher.num_skipped - num_shown
                num_shown = fetcher.num_skipped
                progress.step(f"({fetcher.num_settled} fetched)", num=num_new)


def _post(fetcher: Fetcher, what: tuple[int, int, Task], done: Future[Result]) -> None:
    fetcher.post("decoded", (what, done))
