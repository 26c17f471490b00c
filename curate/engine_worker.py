"""What runs on a worker of dask: a check that the worker is like the client, once, then the task."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from threadpoolctl import threadpool_limits

from .core import artifacts
from .core.artifacts import Fence
from .core.errors import ConfigError
from .pool import tune_libraries

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a worker must find.

    Attributes:
        fence: of OUT; its token is new for every run, so that a folder of the same name is not enough.
        files: of the source, with their sizes in bytes.
        versions: (package, version).
        keep_heap: the worker is ours alone and may keep the memory it has once used.
    """

    fence: Fence
    files: tuple[tuple[Path, int], ...]
    versions: tuple[tuple[str, str], ...]
    keep_heap: bool


def run_task(function: Callable[[Task], Result], task: Task, proof: Proof) -> Result:
    """Run `function(task)`; nothing of it appears in OUT once the client has given back the lock.

    Raises:
        ConfigError: this worker is not like the client.
    """
    from distributed import get_worker

    worker = get_worker()
    if fault := one_thread(worker.state.nthreads) or _prove_once(proof):
        raise ConfigError(f"dask worker {worker.address} {fault}")
    tune_libraries(keep_heap=proof.keep_heap)
    threadpool_limits(1)  # for good: taking it back would be felt by whatever else this process does
    with artifacts.fenced(proof.fence):
        return function(task)


def one_thread(num: int) -> str:
    """Say what is wrong with a worker of `num` threads; "" if nothing."""
    if num == 1:
        return ""
    return (
        f"has {num} threads; one process decodes one picture at a time: start workers with --nthreads 1 and as many processes "
        "with --nworkers"
    )


def prove(proof: Proof) -> str:
    """Say what this worker lacks; "" if nothing."""
    for name, version in proof.versions:
        found = _version(name)
        if found != version:
            return f"has {name} {found}, this machine has {version}: install the same versions"
    if not proof.fence.holds():
        return (
            f"does not see {proof.fence.out} as it is here: OUT must lie on a file system that all workers share, "
            "by the same path"
        )
    for path, num_bytes in proof.files:
        try:
            if path.stat().st_size != num_bytes:
                return f"sees another {path} than this machine: all workers must share the source, by the same path"
        except OSError as error:
            return f"cannot see {path} ({error.strerror}): all workers must share the source, by the same path"
    return ""


@functools.lru_cache(maxsize=8)
def _prove_once(proof: Proof) -> str:
    return prove(proof)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
