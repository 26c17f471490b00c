"""What a full, failing or read-only disk does: one line, and errors that cross from a worker to its parent as they are."""

import errno
import inspect
import os
import pickle
import sys

import pytest
import typer

from curate.core import artifacts, console, disk, errors
from curate.core.errors import DecodeError, DiskError, ToolkitError
from curate.shards import ShardWriter

ALL = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ToolkitError)
]  # fmt: skip


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_crosses_to_the_parent_as_it_is(kind):
    error = DecodeError("damaged", "no end") if kind is DecodeError else kind("what; what to do")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), vars(copy)) == (str(error), vars(error))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_the_file_that_could_not_be_written_is_named(tmp_path, number):
    path = tmp_path / "new" / "a.json"
    with pytest.raises(DiskError) as raised, artifacts.atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(number, os.strerror(number))
    assert str(raised.value).startswith(f"cannot write {path}: {os.strerror(number)}")
    assert ("MiB free" in str(raised.value)) == (number == errno.ENOSPC)
    assert list(path.parent.iterdir()) == []


def test_other_errors_are_not_the_disks(tmp_path):
    with pytest.raises(FileNotFoundError), artifacts.atomic_path(tmp_path / "a") as temporary:
        temporary.stat()
    assert disk.explain(PermissionError(errno.EACCES, "no", "a")) == ""


def test_a_disk_without_room_for_the_lock(tmp_path, monkeypatch):
    def full(self, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    with (
        pytest.raises(DiskError, match=r"out: No space left on device \(.* MiB free\); .*make room"),
        artifacts.locked_output(tmp_path / "out"),
    ):
        pass


@pytest.mark.parametrize("name", ["log.jsonl", None])
def test_a_write_outside_our_own_files_ends_in_one_line_too(monkeypatch, capsys, tmp_path, name):
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command()
    def command() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", *([str(tmp_path / name)] if name else []))

    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(SystemExit) as ended:
        console.run(app, [])
    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert line.startswith(f"error: cannot write {tmp_path / name if name else 'a file'}: No space left on device")
    assert line.count("\n") == 1 and "make room and run the same command again" in line


def test_a_tar_that_cannot_be_written_gives_its_room_back(tmp_path):
    """/dev/full takes nothing: the file must be closed all the same, or the disk stays full while the program runs."""
    (tmp_path / "a.tar").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised, ShardWriter(tmp_path / "a.tar") as writer:
        writer.add("key", {"png": bytes(1 << 20), "json": b"{}"})
    assert raised.value.errno == errno.ENOSPC
    assert writer._file.closed
