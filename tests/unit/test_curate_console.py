"""The console itself: exit codes, what an interrupt says, and progress that is the truth."""

import sys

import pytest
import typer

from curate.core import console
from curate.core.errors import ConfigError


def app_of(action) -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command()
    def command(number: int = 0) -> None:
        action(number)

    return app


def interrupt(_: int) -> None:
    raise KeyboardInterrupt


def leave(number: int) -> None:
    raise typer.Exit(number)


def refuse(number: int) -> None:
    raise ConfigError(f"number must be > 0,\n got {number}")


@pytest.mark.parametrize(
    ("action", "arguments", "code", "words"),
    [
        (interrupt, [], 130, "interrupted; the same command resumes\n"),
        (refuse, [], 2, "error: number must be > 0, got 0\n"),
        (leave, ["--number", "1"], 1, ""),
        (leave, [], 0, ""),
    ],
)
def test_how_a_command_ends(monkeypatch, capsys, action, arguments, code, words):
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(SystemExit) as ended:
        console.run(app_of(action), [])
    assert (ended.value.code, capsys.readouterr().err) == (code, words)


def test_a_usage_error_is_typers_own(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["program", "--number", "x"])
    with pytest.raises(SystemExit) as ended:
        console.run(app_of(leave), [])
    assert ended.value.code == 2
    words = capsys.readouterr().err
    assert "program [OPTIONS]" in words
    assert "Error: Invalid value for '--number'" in words
