"""The console itself: exit codes, what an interrupt says, and progress that is the truth."""

import io
import re
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


class Clock:
    """Stands in for the module `time`; only the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def test_progress_prints_at_most_once_a_second_and_ends_with_the_truth(clock, capsys):
    with console.Progress("fetch", None, unit="rows") as progress:
        for done in range(0, 45, 5):
            clock.now += 0.25
            progress.at(done, f"({done // 2} pictures)")
    assert capsys.readouterr().err.splitlines() == [
        "fetch 0 rows, 0.00/s (0 pictures)",
        "fetch 20 rows, 16/s (10 pictures)",
        "fetch 40 rows, 18/s (20 pictures)",
    ]


def test_progress_says_the_rest_of_a_second_on_leaving(clock, capsys):
    with console.Progress("fetch", None, unit="rows") as progress:
        clock.now += 1
        progress.at(1)
        clock.now += 0.5
        progress.at(4)
    assert capsys.readouterr().err.splitlines() == ["fetch 1 rows, 1.00/s", "fetch 4 rows, 2.67/s"]


def test_progress_is_alive_while_nothing_happens(clock, capsys):
    with console.Progress("fetch", 5000, unit="rows") as progress:
        for _ in range(21):
            clock.now += 1
            progress.at(1234, "(812 pictures)", first=1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "fetch 1234/5000 rows, 234/s, 0:16 left (812 pictures)",
        "fetch 1234/5000 rows, 21/s, 2:57 left (812 pictures)",
        "fetch 1234/5000 rows, 11/s, 5:38 left (812 pictures)",
    ]


def test_progress_of_what_an_earlier_run_did_is_silent(clock, capsys):
    with console.Progress("fetch", 9, unit="rows") as progress:
        progress.at(9, "(0 new pictures)", first=9)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("total", "numbers"), [(9, "4/9 rows, 2.00/s, 0:02 left"), (None, "4 rows, 2.00/s")])
def test_a_terminal_gets_a_bar_with_numbers(clock, monkeypatch, total, numbers):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with console.Progress("fetch", total, unit="rows") as progress:
        clock.now += 2
        progress.at(4, "([2] pictures)")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "fetch" in shown
    assert f"{numbers} ([2] pictures)" in shown
