"""The command line of `restoration`: help without torch, frozen flags, one line for bad input."""

from __future__ import annotations

import subprocess
import sys

import pytest

import restoration

FLAGS = {
    "train": {"--model", "--recipe", "--steps", "--hours", "--val", "--device", "--seed", "--config"},
    "evaluate": {"--task", "--protocol", "--depth", "--head", "--checkpoint", "--metrics", "--device"},
    "preview": {"--degradations", "--seed"},
    "import-checkpoint": {"--model", "--config"},
    "restore": {"--task", "--depth", "--self-ensemble", "--max-memory", "--format", "--checkpoint", "--device"},
    "export": {"--format", "--task", "--depth", "--checkpoint", "--licence"},
    "serve": {"--port", "--host", "--max-memory", "--checkpoint", "--device"},
}


def test_help_loads_no_torch():
    code = (
        "import sys; sys.argv = ['restoration', '--help']\n"
        "from restoration.cli import main\n"
        "try: main()\nexcept SystemExit as e: assert not e.code\n"
        "assert not {'torch', 'cv2', 'webdataset'} & set(sys.modules), sorted(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert all(command in result.stdout for command in FLAGS)


def test_flags_are_frozen():
    from typer.main import get_command

    from restoration.cli import app

    commands = get_command(app).commands
    assert {name: {o for p in c.params for o in p.opts if o.startswith("--")} for name, c in commands.items()} == FLAGS
    assert all(parameter.help for command in commands.values() for parameter in command.params)


def test_public_names():
    assert len(restoration.__all__) <= 12 and restoration.__distribution__ == "irdistill"
    for name in restoration.__all__:
        assert callable(getattr(restoration, name)), name
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = restoration.nothing_here


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "/nowhere", "{tmp}/out"], "manifest.json"),
        (["train", "/nowhere", "{tmp}/out", "--model", "dynet-tinny"], "dynet-tiny"),
        (["train", "/nowhere", "{tmp}/out", "--steps", "0"], "steps"),
        (["train", "/nowhere", "{tmp}/out", "--config", "{tmp}/none.toml"], "none.toml"),
        (["evaluate", "/nowhere", "{tmp}", "--task", "noise25"], "holds no picture"),
        (["evaluate", "/nowhere", "{tmp}/x", "--task", "noise25"], "not a folder"),
        (["evaluate", "/nowhere", "{tmp}", "--task", "nose25"], "noise25"),
        (["evaluate", "/nowhere", "{tmp}", "--task", "rain", "--protocol", "promtir"], "promptir, restormer, ychannel"),
        (["preview", "{tmp}", "{tmp}/a.png", "--degradations", "noise25,rane"], "rain"),
        (["restore", "/nowhere", "{tmp}/a.png", "{tmp}/b.png"], "does not exist"),
        (["restore", "/nowhere", "{tmp}/a.png", "{tmp}/b.png", "--max-memory", "lots"], "2GB"),
    ],
)
def test_bad_input_is_one_line(program, tmp_path, arguments, expected):
    result = program("restoration", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.returncode == 2 and expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and not list(tmp_path.iterdir())
