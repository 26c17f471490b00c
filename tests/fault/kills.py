"""Run a command of ours and kill it at a moment, or fill its disk; see what is left. Shared by tests/fault and benchmarks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

CURATE = str(Path(sys.executable).parent / "curate")
HOOK = Path(__file__).parent / "hook"
REPOSITORY = Path(__file__).parents[2]
MARK = "IRDISTILL_FAULT_MARK"
"""In the environment of a command and of all it starts: a worker's command line says nothing of OUT."""
KILLED, LIMIT_S, GRACE_S = -signal.SIGKILL, 400.0, 10.0
WORKER_DIED = "a worker process died"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A call to meet: the n-th `call` (over all processes) on a name in OUT that matches, before or after it.

    `who`: `group` (all at once), `parent`, or `writer` (the process that makes the call). `action`: `kill`, or a file that
    takes all room that is left.
    """

    call: str
    name: str
    when: str
    nth: int = 1
    who: str = "group"
    action: str = "kill"


@dataclass(frozen=True, slots=True, kw_only=True)
class After:
    """A moment in time: so many seconds after the lock of OUT was taken (nothing is written before that).

    `who`: `group`, `parent` or `worker` (one, at random; the parent while there is none).
    """

    seconds: float
    who: str = "group"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a run ended.

    `fell`: it was killed, by us; `last`: the last traced call before that; `locked_s`: seconds since the first.
    """

    code: int
    stderr: str
    fell: bool
    last: str
    phase: str
    seconds: float
    locked_s: float


@dataclass(slots=True)
class Job:
    """One command that writes `out`; `trace` and `stderr` lie in `work`."""

    command: Sequence[str]
    out: Path
    work: Path
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def run(self, moment: Point | After | None = None) -> Run:
        """Run until it ends or is killed at `moment`."""
        self.work.mkdir(parents=True, exist_ok=True)
        for name in ("trace", "trace.count"):
            (self.work / name).unlink(missing_ok=True)
        begin = time.monotonic()
        with (self.work / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                self.command, stdout=subprocess.DEVNULL, stderr=stderr, env=self._environment(moment), start_new_session=True
            )  # fmt: skip
            try:
                if isinstance(moment, After):
                    self._kill_after(process, moment)
                code = process.wait(LIMIT_S)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        words = (self.work / "stderr").read_text(errors="replace")
        end, locked = time.time(), self._locked()
        fell = code == KILLED or (code == 2 and WORKER_DIED in words)
        return Run(
            code=code, stderr=words, fell=fell, last=self._last(), phase=phase_of(self.out), seconds=time.monotonic() - begin,
            locked_s=end - locked if locked else 0.0,
        )  # fmt: skip

    def _environment(self, moment: Point | After | None) -> dict[str, str]:
        order = {"root": str(self.out), "trace": str(self.work / "trace")}
        if isinstance(moment, Point):
            order |= {"point": asdict(moment)}
        paths = [str(HOOK), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        more = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "IRDISTILL_FAULT": json.dumps(order)}
        return {**os.environ, **more, MARK: str(self.out)}

    def _kill_after(self, process: subprocess.Popen[bytes], moment: After) -> None:
        trace = self.work / "trace"
        while process.poll() is None and not (trace.exists() and trace.stat().st_size):
            time.sleep(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment.seconds)
            return
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if moment.who == "group":
                os.killpg(process.pid, signal.SIGKILL)
            elif moment.who == "parent":
                process.kill()
            else:
                workers = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
                self.rng.choice(workers).kill() if workers else process.kill()

    def _locked(self) -> float:
        trace = self.work / "trace"
        return float(trace.read_text().partition("\t")[0] or 0) if trace.exists() else 0.0

    def _last(self) -> str:
        trace = self.work / "trace"
        lines = trace.read_text().splitlines() if trace.exists() else []
        hits = [line for line in lines if line.endswith("HIT")]
        if not lines:
            return "nothing yet"
        _, _, call, when, name, _ = (hits or lines)[-1].split("\t")
        return f"{when} {call} {name}"


def phase_of(out: Path) -> str:
    """Say how far a build is, from its ledger."""
    ledger = out / "ledger"
    num_scanned, num_shards = (len(list((ledger / name).glob("[0-9]*.json"))) for name in ("scan", "shards"))
    if (out / "_SUCCESS").exists():
        return "done"
    if any((out / "images").glob("part-*")) or (out / "index.json").exists():
        return "finish"
    if num_shards or any((out / "shards").glob("[!.]*")):
        return f"write, {num_shards} shards done"
    return f"scan, {num_scanned} tasks done" if num_scanned else "start"


def digests(out: Path) -> dict[str, str]:
    """Hash every file of a corpus that is not in its ledger."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.relative_to(out).parts[0] != "ledger")
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def leftovers(out: Path) -> list[str]:
    """Name the temporary files in OUT, ledger included."""
    return sorted(str(path.relative_to(out)) for path in out.rglob(".tmp-*"))


def processes(out: Path) -> list[int]:
    """List the processes that some command on OUT started and that are still there."""
    found = []
    for process in psutil.process_iter(["pid"]):
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(out) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def wait_for_none(out: Path) -> list[int]:
    """Give the workers of a killed parent a while to notice; return those that did not."""
    end = time.monotonic() + GRACE_S
    while (left := processes(out)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a tmpfs of `size` at `folder`.

    Raises:
        PermissionError: this machine does not let us.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        raise PermissionError(f"no mount program: {error}") from error
    if done.returncode:
        raise PermissionError(f"tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def resize(folder: Path, size: str) -> None:
    """Give a mounted tmpfs another size."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True, capture_output=True)
