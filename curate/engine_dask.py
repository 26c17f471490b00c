"""Tasks on workers of dask.distributed: a cluster of this machine, or a running one by its address.

There is no graph: each task is one future, and only a few per worker thread are out at a time. A worker that dies costs the
tasks it held; the scheduler runs them again, and so do we. Workers share OUT and the source with this process, by the same
paths.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from types import TracebackType
from typing import Any, TypeVar

from .core import artifacts
from .core.console import note
from .core.errors import ConfigError, ToolkitError
from .engine import Surroundings
from .engine_worker import Proof, one_thread, prove, run_task

WINDOW_PER_THREAD = 2
"""Tasks that are out for each thread of the workers: one runs, one waits beside it."""
ALLOWED_FAILURES = 3
"""Deaths of its worker after which the scheduler of this machine's cluster gives up a task; dask's own default."""
RESUBMITS = 3
"""How often a task that the scheduler gave up is handed in again: with dask's default, it may lose 16 workers in all."""
MEMORY_SHARE_FRAC = 0.8
"""Of this machine's memory (or its control group's), split among the workers; the rest is for this process and the files."""
CONNECT_S, JOIN_S = 10, 60
"""How long to wait for a scheduler to answer, and for its first worker to join."""
START_ATTEMPTS = 3
"""How often to try to start our own cluster: a worker that is killed while it starts takes the rest with it."""
REPLACE_S = 10.0
"""How long a worker of ours may be away until another takes its place; a start takes 1 to 3 s."""
TICK_S = 2.0
"""How often the workers are counted."""
IDLE_S = 300.0
"""How long a running cluster may be without a single worker: a batch system may be slow to replace one."""

Task = TypeVar("Task")
Result = TypeVar("Result")

_LOCAL = {
    "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
    # our workers keep the memory they have once used (curate/pool.py): one that pauses above a level would stay paused
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,  # dask's default: above it the nanny kills the worker, before the kernel does
}
_EVERYWHERE = {
    "distributed.comm.timeouts.connect": f"{CONNECT_S}s",
    "distributed.admin.large-graph-warning-threshold": "1GiB",  # a task holds the records of a shard's patches
}


class DaskEngine:
    """Workers of dask.distributed that live as long as the block, or longer if they were there before."""

    def __init__(self, *, address: str, workers: int, around: Surroundings) -> None:
        self._address, self._workers, self._around = address, workers, around
        self._stack = contextlib.ExitStack()
        self._client: Any = None
        self._cluster: Any = None  # ours, if any
        self._proof: Proof | None = None
        self._lock = threading.Lock()
        self._out: dict[Future[Any], Any] = {}  # what we promised -> the future of dask that will tell
        self._closing = threading.Event()
        self._num_threads = 1

    def __enter__(self) -> DaskEngine:
        with contextlib.ExitStack() as stack:
            import dask
            import distributed  # noqa: F401 - sets up its loggers, which are then made to leave the talking to us

            for name in ("distributed", "distributed.client", "tornado.application"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
            stack.enter_context(dask.config.set(_EVERYWHERE if self._address else _EVERYWHERE | _LOCAL))
            self._client = self._connect(stack) if self._address else self._start(stack)
            stack.callback(self._client.close)
            self._proof = Proof(
                fence=artifacts.fence_of(self._around.out), files=self._around.files,
                versions=tuple(self._around.versions.items()), keep_heap=not self._address,
            )  # fmt: skip
            self._check_workers()
            self._say_dashboard()
            threading.Thread(target=self._watch, name="curate-dask-watch", daemon=True).start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        with self._lock:
            remotes = list(self._out.values())
            self._out.clear()
        with contextlib.suppress(Exception):  # a lost scheduler has nothing to cancel
            self._client.cancel(remotes)
        self._stack.close()

    def run(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[Task, Result]]:
        """Run `function` on every task, a window of them at a time, in the order given; yield them as they finish.

        Raises:
            ToolkitError: a task lost its worker too often, or the scheduler or all workers are gone.
        """
        waiting, running = iter(tasks), dict[Future[Result], Task]()
        try:
            while True:
                room = WINDOW_PER_THREAD * self._num_threads - len(running)
                for task in itertools.islice(waiting, max(0, room)):
                    running[self.submit(function, task)] = task
                if not running:
                    return
                for future in wait(running, timeout=TICK_S, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), self.result(future)
        finally:
            for future in running:
                self._forget(future)

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        """Hand in one task; the future is fulfilled when dask's is, whichever worker that took."""
        promise: Future[Result] = Future()
        self._send(promise, function, task, RESUBMITS)
        return promise

    def result(self, future: Future[Result]) -> Result:
        """Wait for what a submitted task returns, or raises."""
        return future.result()

    def _send(self, promise: Future[Result], function: Callable[[Task], Result], task: Task, left: int) -> None:
        key = f"{function.__name__}-{uuid.uuid4().hex}"
        remote = self._client.submit(run_task, function, task, self._proof, key=key, pure=False)
        with self._lock:
            self._out[promise] = remote
        remote.add_done_callback(lambda done: self._settle(promise, function, task, left, done))

    def _settle(
        self, promise: Future[Result], function: Callable[[Task], Result], task: Task, left: int, remote: Any
    ) -> None:
        """Pass on what dask says of a task, in dask's own thread for that; one that lost its workers is handed in again."""
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        with self._lock:
            current: Any = self._out.get(promise)
        if self._closing.is_set() or current is not remote:
            return
        try:
            value = remote.result()
        except KilledWorker:
            if left:
                self._send(promise, function, task, left - 1)
                return
            self._fail(promise, ToolkitError(_given_up(task)))
        except (FutureCancelledError, CancelledError, OSError, TimeoutError):
            self._fail(promise, ToolkitError(f"{self._lost()}; finished work is kept: run the same command again"))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._fail(promise, error)
        else:
            if self._forget(promise):
                promise.set_result(value)

    def _fail(self, promise: Future[Any], error: BaseException) -> None:
        if self._forget(promise):
            promise.set_exception(error)

    def _forget(self, promise: Future[Any]) -> bool:
        """Let dask drop a task and what it returned; False if another thread has done so."""
        with self._lock:
            remote = self._out.pop(promise, None)
        if remote is not None:
            remote.release()
        return remote is not None

    def _start(self, stack: contextlib.ExitStack) -> Any:
        """Start single-threaded workers on this machine, each with a nanny that restarts it and bounds its memory."""
        from distributed import Client, LocalCluster
        from distributed.system import MEMORY_LIMIT

        faults: list[str] = []
        while len(faults) < START_ATTEMPTS:
            with contextlib.ExitStack() as attempt:
                try:
                    cluster = LocalCluster(
                        n_workers=self._workers, threads_per_worker=1, processes=True, host="127.0.0.1",
                        memory_limit=int(MEMORY_SHARE_FRAC * MEMORY_LIMIT / self._workers),
                        dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
                    )  # fmt: skip
                    attempt.callback(cluster.close)
                    client = Client(cluster, timeout=CONNECT_S, set_as_default=False)
                except (
                    OSError,
                    TimeoutError,
                    RuntimeError,
                ) as error:  # one that is killed while it starts is such a fault
                    faults.append(str(error))
                    continue
                stack.push(attempt.pop_all())
                self._cluster = cluster
                return client
        raise ToolkitError(f"cannot start {self._workers} dask workers on this machine: {faults[-1]}")

    def _connect(self, stack: contextlib.ExitStack) -> Any:
        from distributed import Client

        try:
            client = Client(self._address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigError(
                f"no dask scheduler answers at {self._address} within {CONNECT_S} s; is the address right, is it running?"
            ) from error
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(client.close)
            try:
                client.wait_for_workers(1, timeout=JOIN_S)
            except TimeoutError as error:
                raise ConfigError(
                    f"the dask scheduler at {self._address} has no worker, and none joined within {JOIN_S} s"
                ) from error
            on_failure.pop_all()
        return client

    def _check_workers(self) -> None:
        """Ask every worker that is there whether it finds what it needs; one that joins later is asked by its first task."""
        assert self._proof is not None
        threads = self._client.nthreads()
        self._num_threads = max(1, sum(threads.values()))
        for address, num in threads.items():
            if fault := one_thread(num):
                raise ConfigError(f"dask worker {address} {fault}")
        for address, said in self._client.run(prove, self._proof, on_error="return").items():
            if said and not isinstance(said, OSError):  # one that died just now is asked again when it is back
                raise ConfigError(f"dask worker {address} {said if isinstance(said, str) else _unlike(said)}")

    def _say_dashboard(self) -> None:
        if not self._address and importlib.util.find_spec("bokeh") is None:
            note("dask: no dashboard (pip install bokeh brings it)")
        else:
            note(f"dask: dashboard {self._client.dashboard_link}")

    def _watch(self) -> None:
        """Count the workers now and then; when none has been there for long, what is out fails."""
        last_seen = time.monotonic()
        missing: dict[Any, float] = {}
        while not self._closing.wait(TICK_S):
            if self._cluster is not None:
                with contextlib.suppress(Exception):  # tried again at the next tick
                    self._replace_missing(missing)
            try:
                num = sum(self._client.nthreads().values())
            except Exception:  # noqa: BLE001 - whatever it is, nobody was counted
                num = 0
            now = time.monotonic()
            if num:
                self._num_threads, last_seen = num, now
            elif self._client.status == "closed" or now - last_seen > IDLE_S:
                with self._lock:
                    promises = list(self._out)
                for promise in promises:
                    self._fail(
                        promise, ToolkitError(f"{self._lost()}; finished work is kept: run the same command again")
                    )

    def _replace_missing(self, missing: dict[Any, float]) -> None:
        """Start another worker for each that is away for long: a nanny does not try again when its new worker dies at birth."""
        cluster, now = self._cluster, time.monotonic()
        there = {worker["name"] for worker in cluster.scheduler_info["workers"].values()}
        for name in [name for name in missing if name in there or name not in cluster.worker_spec]:
            del missing[name]
        for name in cluster.worker_spec:
            if name not in there:
                missing.setdefault(name, now)
        gone = [name for name, since in missing.items() if now - since > REPLACE_S]
        if gone:
            cluster.loop.add_callback(_replace, cluster, gone, self._workers)

    def _lost(self) -> str:
        where = f"at {self._address}" if self._address else "of this machine"
        if self._client.status == "running":
            return f"the dask cluster {where} has no worker left"
        return f"lost the connection to the dask scheduler {where}"


def _replace(cluster: Any, names: Sequence[Any], num: int) -> None:
    for name in names:
        cluster.worker_spec.pop(name, None)
    cluster.scale(num)  # closes what is left of the old ones, starts new ones


def _given_up(task: object) -> str:
    sources = list(getattr(task, "sources", ()))
    more = f" and {len(sources) - 1} more" if sources[1:] else ""
    what = f"the task with {sources[0]}{more}" if sources else "a task"
    return (
        f"{what} lost its worker {RESUBMITS + 1} times beyond what the scheduler allows (killed or out of memory); "
        "finished work is kept: run the same command again, with more memory per worker"
    )


def _unlike(error: BaseException) -> str:
    here = importlib.metadata.version("irdistill")
    return f"cannot run irdistill {here}: {type(error).__name__}: {error}; install the same version there"
