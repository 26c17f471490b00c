"""A build on a small disk that runs full at five stages: what the command says, what it leaves, and whether it resumes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kills import Job, Point, Run, digests, leftovers, processes, resize, small_disk

FILLER = "filler"
EVENTS = {
    "scan": r"ledger/(spool/\d+\.bin|scan/\d+\.json)",
    "tar": r"shards/patches-\d+\.tar",
    "parquet": r"(metadata|rejected)/patches-\d+\.parquet",
    "ledger": r"ledger/shards/\d+\.json",
    "manifest": r"manifest\.json",
}
"""What is written when the disk runs full -> which file the command has to name."""
_FILL = {
    "parquet": ("replace", r"shards/patches-\d+\.tar"),
    "ledger": ("replace", r"rejected/patches-\d+\.parquet"),
    "manifest": ("replace", r"index\.json"),
}
"""After which call another program takes all that is left of the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FullDisk:
    """What the command said at each event; `faults` says what should not be."""

    lines: tuple[str, ...]
    faults: tuple[str, ...]


def run_full(job: Job, wanted: dict[str, str], ledger: Path, events: Mapping[str, str] = EVENTS) -> FullDisk:
    """Let the disk of `job.out` run full at each of EVENTS, make room each time, and finish.

    Args:
        job: its OUT lies in a folder of its own, where the small disk will be; with one worker, one file fails at a time.
        wanted: digests of the uninterrupted corpus.
        ledger: that of the uninterrupted corpus; says how large the spool becomes.
        events: some of EVENTS, in their order, with what may be named.

    Raises:
        PermissionError: no tmpfs can be mounted here.
    """
    lines, faults = [], []
    spool = _spool_bytes(ledger)
    scan = sum(path.stat().st_size + 4096 for path in (ledger / "scan").glob("*.json"))
    sizes = {"scan": spool // 2, "tar": spool + scan + spool // 10 + (1 << 18)}
    with small_disk(job.out.parent, str(sizes["scan"])) as disk:
        for event, named in events.items():
            resize(disk, str(sizes[event]) if event in sizes else _just_enough(disk))
            point = None
            if event in _FILL:
                call, name = _FILL[event]
                point = Point(call=call, name=name, when="after", action=str(disk / FILLER))
            run = job.run(point)
            lines.append(f"{event}: {run.stderr.strip().splitlines()[-1] if run.stderr.strip() else '(nothing)'}")
            faults += [f"{event}: {fault}" for fault in check_full(job, run, named, wanted)]
            if event == "ledger":
                faults += [f"still full: {fault}" for fault in check_full(job, job.run(), r".*", wanted)]
            (disk / FILLER).unlink(missing_ok=True)
        last = job.run()
        faults += [f"the last run ended with {last.code}: {last.stderr[-300:]}"] if last.code else []
        faults += ["the last corpus differs"] if digests(job.out) != wanted else []
        faults += [f"left: {left}" for left in [leftovers(job.out)] if left]
    return FullDisk(lines=tuple(lines), faults=tuple(faults))


def check_full(job: Job, run: Run, named: str, wanted: dict[str, str]) -> list[str]:
    """Say what is wrong with how a command ended on a full disk: its words, its exit code, the files it left."""
    words = run.stderr.strip().splitlines() or [""]
    path = f"{job.out}/{named}"
    checks = {
        f"exit code {run.code}, wanted 2": run.code == 2,
        f"a traceback: {run.stderr[-1500:]}": "Traceback" not in run.stderr,
        f"last line {words[-1]!r}, wanted what, where, what to do": _is_clear(words[-1], path),
        "more than one line of errors": sum("error" in line for line in words) == 1,
        f"temporary files: {leftovers(job.out)}": not leftovers(job.out),
        f"processes: {processes(job.out)}": not processes(job.out),
        "a file at its final name is not whole": digests(job.out).items() <= wanted.items()
        and _ledger_is_whole(job.out),
    }
    return [fault for fault, is_good in checks.items() if not is_good]


def _is_clear(line: str, path: str) -> bool:
    what, advice = r"No space left on device \(\d+\.\d MiB free.*\)", "make room and run the same command again"
    return re.fullmatch(rf"error: cannot write {path}: {what}; .* {advice}", line) is not None


def _ledger_is_whole(out: Path) -> bool:
    for path in (out / "ledger").rglob("*.json"):
        json.loads(path.read_text())  # raises on half a file
    return True


def _spool_bytes(ledger: Path) -> int:
    images = [image for path in (ledger / "scan").glob("*.json") for image in json.loads(path.read_text())]
    return sum(patch["num_bytes"] + patch["pair_num_bytes"] for image in images for patch in image["patches"])


def _just_enough(disk: Path) -> str:
    """Four times what is there and some: a filler of all memory would help nobody."""
    used = sum(path.stat().st_size for path in disk.rglob("*") if path.is_file())
    return str(4 * used + (16 << 20))
