"""Crash safety, shown: a corpus built under kills and on a full disk equals the uninterrupted one byte for byte.

For each way of building: one run that nobody disturbs, then the same command on another OUT, killed with SIGKILL at random
moments and exactly before and after the calls that make a file visible (`os.replace`, `os.fsync`, `os.unlink`: see
tests/fault/hook), restarted at once each time, until it has finished. Then the same on a small tmpfs that runs full.

    python benchmarks/fault_injection.py SOURCE OUT [--random 50] [--only everything|default|source|disk]... [--no-result]

Needs root for the tmpfs, libturbojpeg0 for `source`. Prints where each kill fell; exits 1 if anything differs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from pathlib import Path

from common import write_result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fault"))
from full_disk import EVENTS, run_full
from kill_schedule import build_command, schedule, table, torture
from kills import Job, digests

WAYS = {
    "everything": ("--recipe", "everything", "--workers", "2"),
    "default": ("--workers", "2"),
    "source": ("--patch-format", "source", "--workers", "2"),
}
DISK = "disk"


def kill_way(name: str, source: Path, work: Path, num_random: int, seed: int) -> tuple[dict[str, float | int], int]:
    """Torture one way of building; return printable numbers and the number of faults."""
    whole = Job(
        build_command(source, work / "whole" / "c", *WAYS[name]), work / "whole" / "c", work / "logs" / name / "whole"
    )
    for run in (first := whole.run(), idle := whole.run()):
        if run.code:
            sys.exit(f"{name}: the uninterrupted run ended with {run.code}: {run.stderr[-500:]}")
    wanted = digests(whole.out)
    killed = Job(
        build_command(source, work / "killed" / "c", *WAYS[name]),
        work / "killed" / "c",
        work / "logs" / name / "killed",
    )
    killed.rng.seed(seed)
    plan = schedule(random.Random(seed), num_random=num_random, scan_s=first.locked_s, idle_s=idle.locked_s)
    begin = time.monotonic()
    outcome = torture(killed, wanted, plan)
    print(f"== {name}: uninterrupted {first.seconds:.1f} s, killed {len(outcome.kills)} times\n{table(outcome)}")
    for fault in outcome.faults:
        print(f"FAULT {name}: {fault}")
    at_random = [kill for kill in outcome.kills if kill.planned == "random"]
    values = {
        f"{name}, kills": len(outcome.kills),
        f"{name}, of them at random moments": len(at_random),
        f"{name}, of them exactly before or after a call": len(outcome.kills) - len(at_random),
        f"{name}, planned kills that did not fall": len(plan) - len(outcome.kills),
        f"{name}, corpora finished under them": outcome.num_corpora,
        f"{name}, files compared": len(wanted),
        f"{name}, differences": len(outcome.faults),
        f"{name}, uninterrupted, s": first.seconds,
        f"{name}, all killed runs, s": time.monotonic() - begin,
    }
    for whom in ("group", "parent", "writer", "worker"):
        values[f"{name}, kills of the {whom}"] = sum(kill.who == whom for kill in outcome.kills)
    for phase in ("start", "scan", "write", "finish", "done"):
        values[f"{name}, kills in phase {phase}"] = sum(kill.phase.startswith(phase) for kill in outcome.kills)
    shutil.rmtree(work / "killed")
    shutil.rmtree(work / "whole")
    return values, len(outcome.faults)


def fill_disk(source: Path, work: Path) -> tuple[dict[str, float | int], int]:
    """Let the disk run full five times; return printable numbers and the number of faults."""
    options = ("--patch-format", "source", "--workers", "1")
    whole = Job(
        build_command(source, work / "whole" / "c", *options), work / "whole" / "c", work / "logs" / DISK / "whole"
    )
    if (run := whole.run()).code:
        sys.exit(f"{DISK}: the uninterrupted run ended with {run.code}: {run.stderr[-500:]}")
    out = work / "small" / "c"
    result = run_full(
        Job(build_command(source, out, *options), out, work / "logs" / DISK / "full"),
        digests(whole.out),
        whole.out / "ledger",
    )
    print(f"== {DISK}: {len(EVENTS)} events")
    for line in result.lines:
        print(f"  {line}")
    for fault in result.faults:
        print(f"FAULT {DISK}: {fault}")
    shutil.rmtree(work / "whole")
    return {"full disk, events": len(result.lines), "full disk, differences": len(result.faults)}, len(result.faults)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--random", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=[*WAYS, DISK])
    parser.add_argument("--no-result", action="store_true")
    args = parser.parse_args()
    values: dict[str, float | int] = {}
    num_faults = 0
    for name in args.only or [*WAYS, DISK]:
        way = (
            kill_way(name, args.source, args.out, args.random, args.seed)
            if name in WAYS
            else fill_disk(args.source, args.out)
        )
        values |= way[0]
        num_faults += way[1]
    if not args.no_result:
        write_result(
            "fault-injection", "corpora built under SIGKILL and on a full disk, beside uninterrupted ones", values
        )
    sys.exit(1 if num_faults else 0)


if __name__ == "__main__":
    main()
