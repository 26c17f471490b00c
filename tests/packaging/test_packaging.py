"""What is installed: four packages and nothing else; programs that start fast and silently."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = ("curate", "distill", "restoration", "pipelines")
HEAVY = ("torch", "open_clip", "timm", "webdataset", "faiss", "dask")


def test_the_wheel_holds_exactly_four_packages(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    folders = {name.split("/")[0] for name in names}
    assert folders == {*PROGRAMS, next(f for f in folders if f.endswith(".dist-info"))}
    assert {"pipelines/report.html.j2", "distill/report.html.j2", "curate/filters/_niqe_model.json"} <= set(names)
    assert not [name for name in names if name.endswith((".pyc", ".onnx", ".tar"))]


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_loads_no_torch(name):
    code = f"""
import sys
sys.argv = [{name!r}, "--help"]
from {name}.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print([heavy for heavy in {HEAVY!r} if heavy in sys.modules])
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Usage:" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("name", PROGRAMS)
def test_import_is_silent_and_light(name):
    code = f"import sys, {name}; print([h for h in {(*HEAVY, 'numpy', 'cv2')!r} if h in sys.modules], {name}.__distribution__)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[] irdistill\n", "")


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_public_name_imports(name):
    code = f"import {name}; print([n for n in {name}.__all__ if getattr({name}, n, None) is None], len({name}.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    missing, count = done.stdout.rsplit(" ", 1)
    assert missing == "[]" and 1 <= int(count) <= 12
