"""What the commands for lists of URLs say: while they run, at the end, and of flags that do not fit."""

import sys

import loopback
import pytest
from answers import answer, dispatch, later, picture

from curate.cli import app
from curate.core import console

ROUTES = {"/robots.txt": answer(404), "/slow.jpg": later(2.3, picture(0))}
ROUTES |= {f"/{number}.jpg": picture(number) for number in range(4)} | {"/busy.jpg": answer(503)}


@pytest.fixture
def site():
    with loopback.Web({"host": dispatch(ROUTES)}) as web:
        yield web.sites["host"]
        assert web.errors == []


@pytest.fixture
def curate(monkeypatch, capsys):
    """Run a command in this process; return exit code, stdout and stderr as lines."""

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", ["curate", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            console.run(app, ("curate",))
        found = capsys.readouterr()
        return int(ended.value.code or 0), found.out.splitlines(), found.err.splitlines()

    return run


@pytest.fixture
def listed(site, tmp_path):
    """Write a list of paths of the site (or whole URLs), and settings that let it be asked and give up soon."""

    def write(*paths: str, name: str = "list.txt") -> list[object]:
        urls = [path if "://" in path else site.origin + path for path in paths]
        (tmp_path / name).write_text("\n".join(urls) + "\n")
        settings = tmp_path / "fetch.toml"
        settings.write_text(f'allow_private = ["{site.place}"]\nmax_attempts = 2\nbackoff_s = 0.01\n')
        return [tmp_path / name, "--fetch", settings, "--workers", 1]

    return write


def test_progress_comes_while_no_group_is_complete(curate, listed, tmp_path):
    listing, *options = listed("/0.jpg", "/1.jpg", "/slow.jpg", "/busy.jpg", "/3.jpg")
    code, _, said = curate("download", listing, tmp_path / "out", *options)
    assert code == 0
    lines = [line for line in said if line.startswith("fetch ")]
    assert any(line.startswith("fetch 4 rows, ") and line.endswith("/s (0 pictures)") for line in lines[:-1])
    assert lines[-1].startswith("fetch 5 rows, ")
    assert lines[-1].endswith("/s (4 pictures)")
