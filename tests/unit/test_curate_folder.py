"""What counts as an input, and that every other file is counted."""

import os

import pytest

from curate.core.errors import ConfigError
from curate.sources.folder import list_inputs


def test_every_file_is_an_input_or_counted_as_ignored(tmp_path, make_photo, jpeg_bytes):
    root = tmp_path / "photos"
    (root / ".thumbnails" / "deep").mkdir(parents=True)
    (root / "sub").mkdir()
    data = jpeg_bytes(make_photo(0, 32, 32))
    for name in ("a.jpg", "sub/no suffix", ".hidden.jpg", ".thumbnails/b.jpg", ".thumbnails/deep/c.jpg"):
        (root / name).write_bytes(data)
    (root / "notes.txt").write_text("BM is how a bitmap starts, and this text does not")
    (root / "empty.heic").write_bytes(b"")
    (root / "gone.png").symlink_to(root / "nowhere.png")
    listing = list_inputs(root, leave_out=tmp_path / "out")
    assert [ref.source for ref in listing.inputs] == ["a.jpg", "empty.heic", "gone.png", "sub/no suffix"]
    assert len(listing.inputs) + listing.num_ignored == 8


def test_the_output_inside_the_source_is_left_out(tmp_path, make_photo, jpeg_bytes):
    (tmp_path / "out" / "shards").mkdir(parents=True)
    for name in ("a.jpg", "out/shards/b.jpg"):
        (tmp_path / name).write_bytes(jpeg_bytes(make_photo(0, 32, 32)))
    listing = list_inputs(tmp_path, leave_out=tmp_path / "out")
    assert [ref.source for ref in listing.inputs] == ["a.jpg"] and listing.num_ignored == 0


@pytest.mark.timeout(10)
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"holds no picture \(2 other files\)"):
        list_inputs(tmp_path, leave_out=tmp_path / "out")
