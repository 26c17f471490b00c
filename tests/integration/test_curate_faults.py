"""Kills and other people's readers; slow, so they run in `make test-slow`."""

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from curate import open_dataset, verify_corpus

pytestmark = pytest.mark.slow


def command(source: Path, out: Path, workers: int) -> list[str]:
    script = str(Path(sys.executable).parent / "curate")
    options = ["--recipe", "everything", "--patch-size", "64", "--workers", str(workers)]
    return [script, "build-shards", str(source), str(out), *options]


def digests(out: Path) -> dict[str, str]:
    names = ("shards/*", "metadata/*", "rejected/*", "images/*", "manifest.json", "index.json", "_SUCCESS")
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for n in names for p in sorted(out.glob(n))
    }


@pytest.mark.timeout(400)
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_three_times_equals_uninterrupted(make_folder, tmp_path, workers):
    source = make_folder(tmp_path / "photos", num=48)
    subprocess.run(command(source, tmp_path / "whole" / "c", 2), check=True, capture_output=True)
    rng = random.Random(workers)
    killed = 0
    out = tmp_path / "killed" / "c"
    for entries in (2, 5, 8):  # of run.json, 6 scan tasks and 3 shards: early, late in the scan, while writing
        process = subprocess.Popen(command(source, out, workers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len([p for p in out.rglob("ledger/**/*.json") if p.name[0] != "."]) < entries:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        visible = [p for p in out.rglob("*.tar") if not p.name.startswith(".tmp-")]
        for tar in visible:  # visible = whole, even now
            assert tar.read_bytes()[-1024:] == b"\0" * 1024
    assert killed >= 2
    time.sleep(1.5)
    workers_left = [p for p in psutil.process_iter(["cmdline"]) if str(out) in " ".join(p.info["cmdline"] or [])]
    assert workers_left == [], "workers outlived their killed parent"
    subprocess.run(command(source, out, workers), check=True, capture_output=True)
    assert digests(out) == digests(tmp_path / "whole" / "c")
    assert verify_corpus(out).differences == ()


@pytest.fixture(scope="module")
def corpus(make_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers")
    source = make_folder(folder / "photos", num=36)
    subprocess.run(command(source, folder / "c", 2), check=True, capture_output=True)
    return folder / "c"


def run_reader(code: str) -> list:
    """Run a reader in a process of its own: both leave files open, which pytest would report as ours."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_webdataset_reads_what_the_manifest_counts(corpus):
    code = f"""
import json, pathlib
from curate.shards import stream
samples = list(stream(sorted(pathlib.Path({str(corpus)!r}).glob("shards/*.tar"))))
assert all(set(sample) >= {{"__key__", "webp", "json"}} for sample in samples)
print(json.dumps([sample["__key__"] for sample in samples]))
"""
    keys = run_reader(code)
    dataset = open_dataset(corpus)
    assert len(keys) == dataset.num_samples > 100
    assert keys == dataset.rows(["key"])["key"].to_pylist()


def test_wids_reads_what_the_manifest_counts(corpus, tmp_path):
    code = f"""
import json, wids
dataset = wids.ShardListDataset({str(corpus / "index.json")!r}, cache_dir={str(tmp_path)!r}, keep=True)
print(json.dumps([len(dataset), sorted(k for k in dataset[len(dataset) - 1] if k.startswith("."))]))
"""
    assert run_reader(code) == [open_dataset(corpus).num_samples, [".json", ".webp"]]


def test_a_corpus_may_be_moved(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "moved")
    assert verify_corpus(tmp_path / "moved").differences == ()
