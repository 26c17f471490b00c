"""A corpus at a URL: whole files or none, `_SUCCESS` last, only what is missing goes up again, others' places left alone."""

import hashlib
import sys
from pathlib import Path

import fsspec
import pytest

from curate import BuildShardsConfig, build_shards
from curate import remote as remotes
from curate.core.errors import ConfigError, ManifestError, MissingDependencyError, ToolkitError
from curate.publish import staging_folder, verify_remote
from curate.recipes import load_recipe


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


@pytest.fixture(autouse=True)
def _own_staging(tmp_path, monkeypatch):
    monkeypatch.setenv("IRDISTILL_STAGING", str(tmp_path / "staging"))


def build(source: Path, url: str, *, size: int = 64, shard: int = 2):
    recipe = load_recipe("everything", patch_size_px=size)
    return build_shards(
        BuildShardsConfig(
            source=source, out=staging_folder(url), publish=url, recipe=recipe, patch_size_px=size, images_per_shard=shard,
            workers=1,
        )
    )  # fmt: skip


def local_digests(out: Path) -> dict[str, str]:
    files = [path for path in out.rglob("*") if path.is_file() and path.relative_to(out).parts[0] != "ledger"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def remote_digests(url: str) -> dict[str, str]:
    fs, root = fsspec.core.url_to_fs(url)
    names = {path.strip("/")[len(root.strip("/")) + 1 :]: path for path in fs.find(root)}
    return {
        name: hashlib.sha256(fs.cat_file(path)).hexdigest()
        for name, path in names.items()
        if not name.startswith("ledger/")
    }


@pytest.fixture
def appeared(monkeypatch) -> list[str]:
    """Names in the order in which files appear."""
    log: list[str] = []
    original = remotes._move

    def move(remote, temporary, final):
        original(remote, temporary, final)
        log.append(final.strip("/")[len(remote.root.strip("/")) + 1 :])

    monkeypatch.setattr(remotes, "_move", move)
    return log


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_the_bytes_are_those_of_a_local_corpus(photo_folder, tmp_path, memory, appeared, scheme):
    url = f"{scheme}://{tmp_path}/published/c"
    result = build(photo_folder, url)
    recipe = load_recipe("everything", patch_size_px=64)
    build_shards(
        BuildShardsConfig(
            source=photo_folder, out=tmp_path / "c", recipe=recipe, patch_size_px=64, images_per_shard=2, workers=1
        )
    )
    assert remote_digests(url) == local_digests(tmp_path / "c")
    assert result.published == url and result.num_shards == 3
    assert appeared[0] == "ledger/run.json" and appeared[-3:] == ["index.json", "manifest.json", "_SUCCESS"]
    assert not list(staging_folder(url).glob("shards/*")), "tars go once they are verified"
    assert verify_remote(url).differences == ()
    appeared.clear()
    assert build(photo_folder, url).resumed
    assert appeared == [], "nothing goes up twice"


def test_without_the_staging_folder_only_the_ledger_is_made_again(
    photo_folder, memory, appeared, monkeypatch, tmp_path
):
    build(photo_folder, "memory://bucket/c")
    before = remote_digests("memory://bucket/c")
    appeared.clear()
    monkeypatch.setenv("IRDISTILL_STAGING", str(tmp_path / "another machine"))
    assert not build(photo_folder, "memory://bucket/c").resumed
    assert appeared == [] and remote_digests("memory://bucket/c") == before


def test_what_is_missing_or_damaged_over_there_is_named_and_made_again(photo_folder, memory, appeared):
    url = "memory://bucket/c"
    build(photo_folder, url)
    before = remote_digests(url)
    memory.rm("/bucket/c/shards/patches-000001.tar")
    data = bytearray(memory.cat_file("/bucket/c/metadata/patches-000000.parquet"))
    memory.pipe_file("/bucket/c/metadata/patches-000000.parquet", bytes(data[:-1]))
    memory.rm("/bucket/c/images/part-000000.parquet")
    said = "\n".join(verify_remote(url).differences)
    assert "shards/patches-000001.tar: missing" in said
    assert "metadata/patches-000000.parquet: sha256 differs" in said
    assert "images/part-000000.parquet: missing" in said
    appeared.clear()
    build(photo_folder, url)
    assert remote_digests(url) == before
    assert sorted(appeared) == [
        "_SUCCESS", "images/part-000000.parquet", "metadata/patches-000000.parquet", "shards/patches-000001.tar",
    ]  # fmt: skip
    assert appeared[-1] == "_SUCCESS", "it was taken away while the corpus was not whole"


def test_a_flipped_bit_over_there_is_found(photo_folder, memory):
    build(photo_folder, "memory://bucket/c")
    data = bytearray(memory.cat_file("/bucket/c/shards/patches-000002.tar"))
    data[len(data) // 2] ^= 4
    memory.pipe_file("/bucket/c/shards/patches-000002.tar", bytes(data))
    assert any(
        line.startswith("shards/patches-000002.tar: ") for line in verify_remote("memory://bucket/c").differences
    )


def test_another_job_and_other_files_are_refused(photo_folder, memory, monkeypatch, tmp_path):
    build(photo_folder, "memory://bucket/c")
    before = remote_digests("memory://bucket/c")
    with pytest.raises(ConfigError, match="was begun with another config"):
        build(photo_folder, "memory://bucket/c", size=32)
    monkeypatch.setenv("IRDISTILL_STAGING", str(tmp_path / "another machine"))
    with pytest.raises(ConfigError, match="output memory://bucket/c was begun with another config"):
        build(photo_folder, "memory://bucket/c", size=32)
    memory.pipe_file("/bucket/thesis/chapter1.tex", b"precious")
    with pytest.raises(ConfigError, match=r"already holds other files \(chapter1.tex\)"):
        build(photo_folder, "memory://bucket/thesis")
    assert remote_digests("memory://bucket/c") == before
    assert memory.find("/bucket/thesis") == ["/bucket/thesis/chapter1.tex"]


def test_a_file_that_does_not_read_back_never_appears(photo_folder, memory, monkeypatch):
    monkeypatch.setattr(remotes, "WAIT_S", 0.0)
    original = type(memory).put_file

    def cut(self, lpath, rpath, **more):
        original(self, lpath, rpath, **more)
        if rpath.endswith(".tar"):
            self.pipe_file(rpath, self.cat_file(rpath)[:-512])

    monkeypatch.setattr(type(memory), "put_file", cut)
    with pytest.raises(
        ToolkitError, match=r"cannot write memory://bucket/c/shards/.*does not read back as it was sent"
    ):
        build(photo_folder, "memory://bucket/c")
    assert not [path for path in memory.find("/bucket/c") if path.endswith("_SUCCESS") or "/shards/" in path]
    monkeypatch.setattr(type(memory), "put_file", original)
    build(photo_folder, "memory://bucket/c")
    assert verify_remote("memory://bucket/c").differences == ()
    assert not [path for path in memory.find("/bucket/c") if remotes.TEMPORARY in path]


def test_one_bad_moment_of_the_network_is_no_end(photo_folder, memory, monkeypatch):
    monkeypatch.setattr(remotes, "WAIT_S", 0.0)
    original, failures = type(memory).put_file, iter([True, False, True, True])

    def shaky(self, lpath, rpath, **more):
        if next(failures, False):
            raise TimeoutError("the network is slow today")
        original(self, lpath, rpath, **more)

    monkeypatch.setattr(type(memory), "put_file", shaky)
    build(photo_folder, "memory://bucket/c")
    assert next(failures, None) is None and verify_remote("memory://bucket/c").differences == ()


def test_places_that_cannot_be_used_are_one_line(photo_folder, memory, program, monkeypatch):
    with pytest.raises(ManifestError, match=r"memory://bucket/none holds no manifest\.json"):
        verify_remote("memory://bucket/none")
    memory.pipe_file("/bucket/half/manifest.json", b"{}")
    with pytest.raises(ManifestError, match="is not finished"):
        verify_remote("memory://bucket/half")
    with pytest.raises(ConfigError, match="names no folder"):
        remotes.open_remote("memory://")
    with pytest.raises(ConfigError, match="cannot open nosuch://a/b"):
        remotes.open_remote("nosuch://a/b")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'irdistill\[s3\]'"):
        remotes.open_remote("s3://key:secret@bucket/c")
    for command in (["stats"], ["report"], ["explain"], ["filter"], ["forget"], ["retry"]):
        more = {"explain": ["KEY"], "filter": ["out", "--where", "x > 1"], "retry": ["--class", "timeout"]}
        done = program("curate", *command, "s3://bucket/c", *more.get(command[0], []))
        assert done.returncode == 2
        assert done.stderr.strip() == (
            "error: s3://bucket/c: wanted a folder of this machine; only build-shards (OUT) and verify take URLs"
        )
