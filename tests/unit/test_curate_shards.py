"""Shards: same samples, same bytes; names every reader takes."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.core.errors import ManifestError
from curate.shards import KEY_PATTERN, ShardWriter, patch_key, read_shard, reads_back


def write(path, samples):
    with ShardWriter(path) as writer:
        for key, members in samples:
            writer.add(key, members)
    return writer.close()


def test_same_samples_same_bytes(tmp_path):
    samples = [("a_1", {"png": b"x" * 700, "json": b"{}"}), ("a_2", {"png": b"", "json": b"{}"})]
    first, second = write(tmp_path / "1.tar", samples), write(tmp_path / "2.tar", samples)
    assert first == second and reads_back(tmp_path / "1.tar", first)
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    assert first.samples == 2 and first.num_bytes == (tmp_path / "1.tar").stat().st_size


def test_members_are_fixed_ustar_and_the_image_comes_first(tmp_path):
    write(tmp_path / "a.tar", [("k", {"webp": b"1", "json": b"{}"})])
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == ["k.webp", "k.json"]
    assert {(m.mtime, m.uid, m.gid, m.mode, m.type) for m in members} == {(0, 0, 0, 0o644, tarfile.REGTYPE)}


@pytest.mark.parametrize(
    ("key", "extension"),
    [("a.b", "png"), ("A", "png"), ("", "png"), ("a" * 81, "png"), ("a", "p/g"), ("a" * 80, "x" * 25)],
)
def test_names_some_reader_would_not_take_are_refused(tmp_path, key, extension):
    with ShardWriter(tmp_path / "a.tar") as writer, pytest.raises(ManifestError):
        writer.add(key, {extension: b""})


def test_a_cut_tar_is_one_line(tmp_path):
    write(tmp_path / "a.tar", [("k", {"png": b"x" * 5000, "json": b"{}"})])
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[:2000])
    with pytest.raises(ManifestError, match="not a whole tar"):
        list(read_shard(tmp_path / "a.tar"))


@given(st.integers(0, 99_999), st.integers(0, 99_999), st.integers(8, 99_999))
def test_patch_keys_are_valid_and_sort_by_place(y, x, size):
    key = patch_key("0f" * 32, y, x, size)
    assert KEY_PATTERN.match(key)
    assert patch_key("0f" * 32, y, x, size) == key != patch_key("0e" * 32, y, x, size)


@given(
    st.dictionaries(
        st.from_regex(r"^[a-z0-9_-]{1,30}$", fullmatch=True), st.binary(max_size=2000), min_size=1, max_size=8
    )
)
def test_round_trip(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("shard") / "a.tar"
    digest = write(path, [(key, {"png": data, "json": b"{}"}) for key, data in samples.items()])
    assert {s.key: s.image() for s in read_shard(path)} == {key: ("png", data) for key, data in samples.items()}
    assert digest.samples == len(samples)
    assert len(io.BytesIO(path.read_bytes()).getvalue()) % tarfile.RECORDSIZE == 0
