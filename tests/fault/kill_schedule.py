"""A schedule of kills over a whole build, and what must hold after it. The tests run a short one, the benchmark a long one."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kills import CURATE, After, Job, Point, Run, digests, leftovers, phase_of, wait_for_none

SCAN_POINTS = {
    "run.json": ("replace", r"ledger/run\.json"),
    "spool": ("replace", r"ledger/spool/\d+\.bin"),
    "scan entry": ("replace", r"ledger/scan/\d+\.json"),
}
SHARD_POINTS = {
    "fsync of a tar": ("fsync", r"shards/\.tmp-.*\.tar"),
    "tar": ("replace", r"shards/.*\.tar"),
    "fsync of shards/": ("fsync", "shards"),
    "metadata parquet": ("replace", r"metadata/.*\.parquet"),
    "rejected parquet": ("replace", r"rejected/.*\.parquet"),
    "shard's ledger entry": ("replace", r"ledger/shards/\d+\.json"),
    "removal of a spool": ("unlink", r"ledger/spool/\d+\.bin"),
}
FINISH_POINTS = {
    "images parquet": ("replace", r"images/.*\.parquet"),
    "index.json": ("replace", r"index\.json"),
    "manifest.json": ("replace", r"manifest\.json"),
    "plan.json": ("replace", r"ledger/plan\.json"),
    "_SUCCESS": ("replace", "_SUCCESS"),
}
POINTS = {**SCAN_POINTS, **SHARD_POINTS, **FINISH_POINTS}
START_S = 1.0
"""About what two workers need to start and to write a shard each."""
WHO = ("group", "writer", "parent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One row of the table. `planned`: `random`, or the point; `cycle`: number of the corpus it fell on."""

    cycle: int
    planned: str
    who: str
    phase: str
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a torture came to; `faults` says what should not be, and is empty if all is well."""

    kills: tuple[Kill, ...]
    num_corpora: int
    num_begun_again: int
    faults: tuple[str, ...]


def schedule(rng: random.Random, *, num_random: int, scan_s: float, idle_s: float) -> list[tuple[str, Point | After]]:
    """Every point once before and once after its call, in the order of a build, with random moments between.

    Args:
        rng: draws the moments.
        num_random: how many.
        scan_s: how long a whole scan takes; random moments while it lasts lie within a fifth of it.
        idle_s: how long a run that has nothing to do holds the lock; those while the corpus is finished lie within twice of it,
            those while shards are written within that and START_S.
    """
    exact = [(name, when) for when in ("before", "after") for name in POINTS]
    plan: list[tuple[str, Point | After]] = []
    given = 0
    for index, (name, when) in enumerate(exact):
        longest_s = scan_s / 5 if name in SCAN_POINTS else 2 * idle_s + (START_S if name in SHARD_POINTS else 0.0)
        while given < num_random * (index + 1) // len(exact):
            moment = After(seconds=rng.uniform(0.0, longest_s), who=rng.choice(("group", "group", "parent", "worker")))
            plan.append(("random", moment))
            given += 1
        call, pattern = POINTS[name]
        nth = rng.randint(1, 3) if name in ("spool", "scan entry") else 1
        plan.append((f"{when} {name}", Point(call=call, name=pattern, when=when, nth=nth, who=WHO[index % len(WHO)])))
    return plan


def torture(job: Job, wanted: dict[str, str], plan: Sequence[tuple[str, Point | After]]) -> Outcome:
    """Kill by plan, restart at once, each time; begin again on an empty OUT whenever the corpus is finished."""
    kills: list[Kill] = []
    faults: list[str] = []
    corpora = again = 0
    for name, moment in plan:
        for _ in range(
            3
        ):  # a moment that came too late finds a finished corpus: check it, begin again, wait for the moment
            if phase_of(job.out) == "done":
                faults += check_finished(job, wanted)
                shutil.rmtree(job.out)
                corpora += 1
            run = job.run(moment)
            faults += _wrong_end(run, name)
            if run.fell:
                kills.append(Kill(cycle=corpora + 1, planned=name, who=moment.who, phase=run.phase, last=run.last))
                break
            again += 1
    last = job.run()
    if last.code:
        faults.append(f"the last run ended with {last.code}: {last.stderr[-300:]}")
    faults += check_finished(job, wanted)
    return Outcome(kills=tuple(kills), num_corpora=corpora + 1, num_begun_again=again, faults=tuple(faults))


def _wrong_end(run: Run, name: str) -> list[str]:
    if run.fell or run.code == 0:
        return []
    return [f"{name}: ended with {run.code}: {run.stderr[-300:]}"]


def check_finished(job: Job, wanted: dict[str, str]) -> list[str]:
    """Say what is wrong with a finished corpus: bytes, temporary files, processes, `curate verify`."""
    faults = [f"processes left: {left}" for left in [wait_for_none(job.out)] if left]
    faults += [f"temporary files left: {left}" for left in [leftovers(job.out)] if left]
    found = digests(job.out)
    different = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    faults += [f"differs from the uninterrupted corpus: {', '.join(different)}"] if different else []
    verified = subprocess.run([CURATE, "verify", str(job.out)], capture_output=True, text=True, check=False)
    return faults + ([f"verify: {verified.stdout[-300:]}{verified.stderr[-300:]}"] if verified.returncode else [])


def table(outcome: Outcome) -> str:
    """Write one line per kill."""
    lines = [f"{'no':>3} {'corpus':>6}  {'planned':<28} {'whom':<7} {'phase on disk':<22} last call before it"]
    for number, kill in enumerate(outcome.kills, 1):
        lines.append(f"{number:>3} {kill.cycle:>6}  {kill.planned:<28} {kill.who:<7} {kill.phase:<22} {kill.last}")
    return "\n".join(lines)


def build_command(source: Path, out: Path, *options: str) -> list[str]:
    """Write a command line of build-shards."""
    return [CURATE, "build-shards", str(source), str(out), *options]
