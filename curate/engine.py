"""Where tasks run: in processes of this machine, or on workers of dask.distributed. What a task is does not depend on it.

A task is an idempotent function of one picklable value that writes only its own files and returns something small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from .core.errors import ConfigError
from .pool import Pool

PROCESS, DASK = "process", "dask"
SCHEMES = ("tcp", "tls")

Task = TypeVar("Task")
Result = TypeVar("Result")


class Engine(Protocol):
    """Runs tasks on workers that live as long as the block; a context manager."""

    def __enter__(self) -> Engine:
        """Start, or get ready to."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what still runs."""
        ...

    def run(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[Task, Result]]:
        """Run `function`, importable by name, on every task, started in the order given; yield them as they finish.

        Raises:
            ToolkitError: workers died, or cannot be reached; what finished is kept by the tasks themselves.
        """
        ...

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        """Start one task as `run` does."""
        ...

    def result(self, future: Future[Result]) -> Result:
        """Wait for what a submitted task returns, or raises.

        Raises:
            ToolkitError: its worker died.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a worker on another machine must find as it is here.

    Attributes:
        out: the output, locked by this process; absolute.
        files: of the source, with their sizes in bytes; absolute.
        versions: package -> version.
    """

    out: Path
    files: tuple[tuple[Path, int], ...]
    versions: Mapping[str, str]


def check_engine(name: str) -> None:
    """Refuse what is no engine.

    Raises:
        ConfigError: neither process, dask nor an address.
    """
    if name not in (PROCESS, DASK) and not _is_address(name):
        raise ConfigError(f"engine must be process, dask or tcp://HOST:PORT, got {name!r}")


def open_engine(name: str, *, workers: int, around: Surroundings) -> Engine:
    """Make the engine of that name.

    Args:
        name: `process`; `dask` for workers of dask.distributed on this machine; the address of a dask scheduler.
        workers: processes on this machine; a cluster has what it has.
        around: what the workers must find.

    Raises:
        ConfigError: unknown name.
    """
    check_engine(name)
    if name == PROCESS:
        return Pool(workers)
    from .engine_dask import DaskEngine

    return DaskEngine(address="" if name == DASK else name, workers=workers, around=around)


def _is_address(name: str) -> bool:
    try:
        parts = urlsplit(name)
        return parts.scheme in SCHEMES and bool(parts.hostname) and parts.port is not None
    except ValueError:
        return False
