"""Dask schedulers, workers and their deaths, for tests; functions that workers run."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
LOOPBACK = ["--host", "127.0.0.1"]


def die(task: object) -> None:
    """Kill the worker that runs this."""
    os.kill(os.getpid(), signal.SIGKILL)


def eat(task: object) -> None:
    """Use more and more memory, up to 3 GiB, slowly enough for a nanny that looks ten times a second."""
    held = []
    for _ in range(96):
        held.append(bytearray(b"x") * (32 << 20))
        time.sleep(0.1)


def workers_under(pid: int) -> list[psutil.Process]:
    """List the worker processes that nannies in or under process `pid` have started."""
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    return []


def kill_while_running(
    process: subprocess.Popen[str], owners: list[int], *, every_s: float, ready: Callable[[], bool], limit: int = 10_000
) -> int:
    """Kill a worker picked at random every `every_s` seconds, once `ready()`; return how many when `process` has ended."""
    rng, num, due = random.Random(0), 0, 0.0
    while process.poll() is None:
        time.sleep(0.02)
        if not due and ready():
            due = time.monotonic() + every_s
        if due and time.monotonic() >= due:
            num += num < limit and _kill_one(owners, rng)
            due = time.monotonic() + every_s
    return num


def kill_at_marks(
    process: subprocess.Popen[str], owners: list[int], *, marks: list[int], progress: Callable[[], int]
) -> int:
    """Kill a worker picked at random when `progress()` reaches each mark, on a fast machine as on a slow one.

    Returns how many were killed when `process` has ended.
    """
    rng, num, waiting = random.Random(0), 0, list(marks)
    while process.poll() is None:
        time.sleep(0.005)
        if waiting and progress() >= waiting[0] and _kill_one(owners, rng):
            num, waiting = num + 1, waiting[1:]
    return num


def _kill_one(owners: list[int], rng: random.Random) -> bool:
    workers = [worker for owner in owners for worker in workers_under(owner)]
    with contextlib.suppress(psutil.NoSuchProcess):
        if workers:
            rng.choice(workers).kill()
            return True
    return False


@contextlib.contextmanager
def scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a scheduler; gives its address."""
    file = folder / "scheduler.json"
    command = [BIN / "dask", "scheduler", *LOOPBACK, "--port", "0", "--no-dashboard", "--scheduler-file", file]
    with _run(command, folder) as process:
        wait_until(file.exists)
        text = wait_until(lambda: "tcp://" in file.read_text() and file.read_text())
        yield "tcp://" + text.split("tcp://")[1].split('"')[0], process


@contextlib.contextmanager
def worker(address: str, folder: Path, *options: str, threads: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker with its nanny, in a folder of its own."""
    folder.mkdir()
    with _run([BIN / "dask", "worker", address, "--nthreads", str(threads), *options], folder) as process:
        yield process


def wait_until(condition: Callable[[], object], *, seconds: float = 60) -> object:
    """Wait for something true, and return it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return value


@contextlib.contextmanager
def _run(command: list[object], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), cwd=folder, stdout=log, stderr=log)
        try:
            yield process
        finally:
            family = [process]
            with contextlib.suppress(psutil.Error):
                family += psutil.Process(process.pid).children(recursive=True)
            for one in family:
                with contextlib.suppress(psutil.Error, ProcessLookupError):
                    one.kill()
            process.wait()
            shutil.rmtree(folder / "dask-scratch-space", ignore_errors=True)
