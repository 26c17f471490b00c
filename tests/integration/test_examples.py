"""The examples run as they stand, and stay short."""

import subprocess
import sys
from pathlib import Path

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
