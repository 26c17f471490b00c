"""The examples run as they stand, and stay short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from curate.engine import check_engine

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_examples_run_in_order(make_folder, tmp_path):
    photos = make_folder(tmp_path / "photos")
    said = run("01_curate_a_folder.py", photos, tmp_path / "corpus")
    assert "36 patches" in said and "differences from the manifest: 0" in said
    said = run("02_choose_and_train.py", tmp_path / "corpus", tmp_path / "work")
    assert "8 of 36 patches" in said and "20 steps" in said
    said = run("03_curate_a_list_of_urls.py", photos, tmp_path / "listed")
    assert "8 URLs: {'kept': 6, 'rejected': 0, 'failed': 2}" in said and "36 patches" in said
    assert "'failed: http-4xx': 1, 'failed: not-image': 1" in said


def test_examples_are_short():
    assert all(len(path.read_text().splitlines()) < 60 for path in EXAMPLES.glob("*.py"))


@pytest.mark.slow
def test_the_slurm_example_runs_here(make_folder, tmp_path):
    photos = make_folder(tmp_path / "photos")
    assert "36 patches in 1 shards" in run(
        "dask_slurm.py", photos, tmp_path / "c", "--jobs", "2", "--local", "--patch-size", "128"
    )


def test_the_slurm_example_asks_for_single_threaded_jobs(tmp_path):
    """A stand-in for dask-jobqueue: what the example asks of it, up to the point where SLURM would be called."""
    (tmp_path / "dask_jobqueue.py").write_text(
        """
class SLURMCluster:
    def __init__(self, **options): print(options); self.options = options
    def adapt(self, **limits): print(limits); raise SystemExit(7)
"""
    )
    command = [sys.executable, str(EXAMPLES / "dask_slurm.py"), "photos", "c", "--jobs", "3", "--partition", "short"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 7, done.stderr
    assert "'cores': 1" in done.stdout and "'queue': 'short'" in done.stdout and "'maximum': 3" in done.stdout


def test_the_kubernetes_example_starts_what_the_engine_wants():
    parts = {
        part["kind"] + "/" + part["metadata"]["name"]: part
        for part in yaml.safe_load_all((EXAMPLES / "dask_kubernetes.yaml").read_text())
    }
    pods = {
        name: part["spec"]["template"]["spec"]
        for name, part in parts.items()
        if name.split("/")[0] in ("Deployment", "Job")
    }
    assert sorted(pods) == ["Deployment/dask-scheduler", "Deployment/dask-worker", "Job/curate"]
    assert len({pod["containers"][0]["image"] for pod in pods.values()}) == 1
    worker, client = pods["Deployment/dask-worker"], pods["Job/curate"]
    assert worker["containers"][0]["command"][3:5] == ["--nthreads", "1"]
    assert worker["volumes"] == client["volumes"]
    assert worker["containers"][0]["volumeMounts"] == client["containers"][0]["volumeMounts"]
    build_shards = client["containers"][0]["command"]
    assert build_shards[:2] == ["curate", "build-shards"]
    check_engine(build_shards[-1])
