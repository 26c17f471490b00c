"""Killed at every call that makes a file visible, and at random: the corpus is the uninterrupted one, byte for byte.

The long version, on photographs, is benchmarks/fault_injection.py.
"""

import json
import random
import signal
import subprocess

import pytest
from kill_schedule import POINTS, SHARD_POINTS, build_command, check_finished, schedule, table, torture
from kills import CURATE, KILLED, After, Job, Point, digests, leftovers, phase_of, processes, wait_for_none

from curate import open_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
NOT_OF_FILTER = ("spool", "scan entry", "removal of a spool", "plan.json")
NOT_OF_FORGET = ("removal of a spool",)
OPTIONS = ("--recipe", "everything", "--patch-size", "64")


@pytest.fixture(scope="module")
def source(make_folder, tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("kills") / "photos", num=36)


@pytest.mark.parametrize(("workers", "when"), [("2", "before"), ("2", "after"), ("1", "after")])
def test_killed_at_every_point_equals_uninterrupted(source, tmp_path, workers, when):
    whole = Job(build_command(source, tmp_path / "whole" / "c", *OPTIONS), tmp_path / "whole" / "c", tmp_path / "logs")
    first, idle = whole.run(), whole.run()
    assert (first.code, idle.code) == (0, 0), first.stderr
    out = tmp_path / "killed" / "c"
    job = Job(build_command(source, out, *OPTIONS, "--workers", workers), out, tmp_path / "logs")
    plan = schedule(random.Random(when + workers), num_random=10, scan_s=first.locked_s, idle_s=idle.locked_s)
    half = [(name, moment) for name, moment in plan if isinstance(moment, After) or moment.when == when]
    half = half[: len(half) * 2 // 3] if workers == "1" else half
    outcome = torture(job, digests(whole.out), half)
    print(table(outcome))
    assert outcome.faults == ()
    exact = {name for name, _ in half} - {"random"}
    assert len(exact) > len(POINTS) // 2
    assert len(exact & {kill.planned for kill in outcome.kills}) >= len(exact) - 1


def test_a_dead_worker_is_one_line_and_the_same_command_resumes(source, tmp_path):
    out = tmp_path / "c"
    job = Job(build_command(source, out, *OPTIONS, "--workers", "2"), out, tmp_path / "logs")
    run = job.run(Point(call="replace", name=r"ledger/scan/.*", when="before", nth=2, who="writer"))
    *_, line = run.stderr.strip().splitlines()
    assert (run.code, "Traceback" in run.stderr) == (2, False)
    assert line.startswith("error: a worker process died") and "run the same command again" in line
    assert wait_for_none(out) == []
    assert job.run().code == 0
    assert leftovers(out) == []


def test_workers_follow_their_killed_parent(source, tmp_path):
    out = tmp_path / "c"
    job = Job(build_command(source, out, *OPTIONS, "--workers", "2"), out, tmp_path / "logs")
    run = job.run(Point(call="replace", name=r"ledger/spool/.*", when="after", who="parent"))
    assert (run.code, phase_of(out)) == (KILLED, run.phase)
    assert wait_for_none(out) == [], "workers outlived their killed parent"


def test_processes_are_found_by_what_they_inherit(tmp_path):
    """The check itself: a worker's command line does not name OUT, so it is found by its environment."""
    import os
    import sys

    from kills import MARK

    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=os.environ | {MARK: str(tmp_path)}
    )
    try:
        assert child.pid in processes(tmp_path)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert processes(tmp_path) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_filter_killed_at_every_point(source, tmp_path, when):
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    assert Job(build_command(source, corpus, *OPTIONS), corpus, tmp_path / "logs").run().code == 0
    table = open_dataset(corpus).rows(["y"])
    assert len(set(table["y"].to_pylist())) > 2
    command = [CURATE, "filter", str(corpus), "{}", "--where", "y < 100"]

    def job(where) -> Job:
        return Job([part.format(where) for part in command], where, tmp_path / "logs")

    whole = tmp_path / "whole"
    assert job(whole).run().code == 0
    wanted = digests(whole)
    for name in (name for name in POINTS if name not in NOT_OF_FILTER):
        call, pattern = POINTS[name]
        run = job(out).run(Point(call=call, name=pattern, when=when))
        assert run.fell, (name, run.code, run.stderr)
    assert job(out).run().code == 0
    assert check_finished(job(out), wanted) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_forget_killed_at_every_point(source, tmp_path, when):
    corpus = tmp_path / "corpus"
    assert Job(build_command(source, corpus, *OPTIONS), corpus, tmp_path / "logs").run().code == 0
    sha256 = open_dataset(corpus).rows(["image_sha256"])["image_sha256"][0].as_py()
    whole = tmp_path / "whole"
    subprocess.run(["cp", "-r", str(corpus), str(whole)], check=True)

    def job(where) -> Job:
        return Job([CURATE, "forget", str(where), "--sha256", sha256], where, tmp_path / "logs")

    assert job(whole).run().code == 0
    wanted = digests(whole)
    assert wanted != digests(corpus)
    points = POINTS | {
        "the request": ("replace", r"ledger/forgotten\.jsonl"),
        "the journal": ("replace", r"ledger/forget\.json"),
        "removal of _SUCCESS": ("unlink", "_SUCCESS"),
        "removal of the journal": ("unlink", r"ledger/forget\.json"),
    }
    rewriting = [name for name in SHARD_POINTS if name not in NOT_OF_FORGET]
    finishing = ["images parquet", "scan entry", "index.json", "manifest.json", "_SUCCESS", "removal of the journal"]
    for name in ("the request", "the journal", "removal of _SUCCESS", *rewriting, *finishing):
        call, pattern = points[name]
        run = job(corpus).run(Point(call=call, name=pattern, when=when))
        assert run.fell, (name, run.code, run.stderr)
    assert job(corpus).run().code == 0
    assert not (corpus / "ledger" / "forget.json").exists()
    assert check_finished(job(corpus), wanted) == []
    forgotten = [json.loads(line) for line in (corpus / "ledger" / "forgotten.jsonl").read_text().splitlines()]
    assert forgotten == [{"sha256": sha256}]
