"""What `restore` does to files that are there already, to names and formats that cannot be written, and beside a limit."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate.core.artifacts import sha256_file
from curate.core.errors import ConfigError, DiskError, ManifestError
from restoration import RestoreConfig, inference, restore
from restoration.restorer import Restorer


@pytest.fixture(scope="module")
def same(make_run, tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("same"))


def run(run: Path, source: Path, out: Path, **more):
    return restore(RestoreConfig(run=run, source=source, out=out, device="cpu", **more))


def write(path: Path, grey: int = 90, size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, 10, 200)).save(path)
    return path


def test_a_file_is_replaced_only_by_its_own_name(same, tmp_path):
    source, other = write(tmp_path / "photos/a.jpg"), write(tmp_path / "photos/a.png", 5)
    before = other.read_bytes()
    with pytest.raises(ConfigError, match=r"a\.png exists already: name the file"):
        run(same, source, tmp_path / "photos")
    assert other.read_bytes() == before
    run(same, source, other)
    assert other.read_bytes() != before
    with pytest.raises(ConfigError, match="is the input itself"):
        run(same, other, tmp_path / "photos")


def test_results_of_another_input_are_not_replaced(same, tmp_path):
    for number, folder in enumerate(("one", "two")):
        write(tmp_path / folder / "a.png", 50 + number)
        write(tmp_path / folder / f"{folder}.png")
    out = tmp_path / "out"
    run(same, tmp_path / "one", out)
    before = (out / "a.png").read_bytes()
    result = run(same, tmp_path / "two", out)
    assert [path.name for path in result.written] == ["two.png"] and (out / "a.png").read_bytes() == before
    ((name, reason),) = result.failed
    assert name == "a.png" and f"{tmp_path}/one/a.png" in reason and "choose another OUT" in reason
    again = run(same, tmp_path / "one", out)
    assert again.num_skipped == 2 and not again.failed
    write(tmp_path / "one/a.png", 7)  # its own input changed
    run(same, tmp_path / "one", out)
    assert (out / "a.png").read_bytes() != before
    shutil.copytree(tmp_path / "one", tmp_path / "copy")  # names, sizes and times are equal: it may be another picture
    assert len(run(same, tmp_path / "copy", out).failed) == 2
    shutil.move(tmp_path / "one", tmp_path / "moved")
    assert run(same, tmp_path / "moved", out).num_skipped == 2, "a folder may be moved"


def test_patches_of_another_content_are_restored_again(same, tmp_path):
    from curate.shards import ShardWriter

    root = tmp_path / "corpus"
    (root / "shards").mkdir(parents=True)
    for number in (1, 2):
        data = io.BytesIO()
        Image.new("RGB", (16, 16), (number, 0, 0)).save(data, "PNG", compress_level=0)  # of one length
        writer = ShardWriter(root / "shards/patches-000000.tar")
        writer.add("one_0", {"png": data.getvalue(), "json": b"{}"})
        digest = writer.close()
        row = {"file": "shards/patches-000000.tar", "metadata": "", "metadata_sha256": ""}
        row |= {name: getattr(digest, name) for name in digest.__slots__}
        manifest = {"schema_version": 1, "kind": "corpus", "content_hash": f"hash {number}", "shards": [row]}
        (root / "manifest.json").write_text(json.dumps(manifest))
        (root / "_SUCCESS").write_text("")
        result = run(same, root, tmp_path / "out")
        with Image.open(result.written[0]) as found:
            assert found.getpixel((0, 0)) == (number, 0, 0)
        assert run(same, root, tmp_path / "out").num_skipped == 1


def test_a_manifest_of_something_else_makes_no_corpus(same, tmp_path):
    folder = write(tmp_path / "site/a.png").parent
    (folder / "manifest.json").write_text('{"name": "My app", "icons": []}')
    assert [path.name for path in run(same, folder, tmp_path / "out").written] == ["a.png"]
    for broken in ('{"kind": "corpus"', '{"kind": "corpse"}'):
        (folder / "manifest.json").write_text(broken)
        with pytest.raises(ManifestError, match=r"manifest\.json"):
            run(same, folder, tmp_path / "out")


def test_the_log_names_the_weights_that_were_loaded(same, make_run, tmp_path, monkeypatch):
    """Training goes on and moves last.json between the two."""
    moving = make_run(tmp_path / "run")
    weights = sha256_file(moving / "checkpoints/step-00000001.safetensors")

    def load_and_move(*arguments, **more):
        loaded = load_run(*arguments, **more)
        pointer = moving / "checkpoints/last.json"
        pointer.write_text(pointer.read_text().replace("step-00000001", "step-00000002"))
        (moving / "checkpoints/step-00000002.safetensors").write_bytes(b"newer")
        return loaded

    load_run = inference.load_run
    monkeypatch.setattr(inference, "load_run", load_and_move)
    run(moving, write(tmp_path / "in/a.png").parent, tmp_path / "out")
    first = json.loads((tmp_path / "out/restored.jsonl").read_text().splitlines()[0])
    assert (first["checkpoint"], first["weights_sha256"]) == ("step-00000001.safetensors", weights)


def test_names_of_any_length_and_bytes(program, same, tmp_path):
    folder = tmp_path / "in"
    fits, too_long = "f" * 251 + ".png", "x" * 251 + ".jpg"  # 255 bytes; the second one's result would have 256
    for name in (fits, "z.png"):
        write(folder / name)
    write(folder / too_long)
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes((folder / "z.png").read_bytes())
    result = run(same, folder, tmp_path / "tiffs", format="tiff")
    assert [path.name for path in result.written] == [os.fsdecode(b"caf\xe9.tiff"), "z.tiff"]
    assert [name for name, _ in result.failed] == [fits, too_long]
    assert all("File name too long" in reason for _, reason in result.failed)
    told = program("restoration", "restore", same, folder, tmp_path / "out", "--device", "cpu")
    assert told.returncode == 0 and "caf\\udce9.png" in told.stdout, told.stderr
    assert (tmp_path / "out" / fits).is_file() and len(told.stdout.splitlines()) == 4


def test_a_failing_disk_ends_a_folder(same, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inference, "write_picture", fail)
    with pytest.raises(DiskError, match="No space left"):
        run(same, write(tmp_path / "in/a.png").parent, tmp_path / "out")


def test_what_cannot_be_written_is_told_before_the_work(same, tmp_path, monkeypatch):
    source = write(tmp_path / "in.png", size=(16390, 2))
    monkeypatch.setattr(inference, "restore_picture", lambda *_, **__: pytest.fail("restored"))
    with pytest.raises(ConfigError, match=r"out\.webp: webp holds at most 16383 pixels"):
        run(same, source, tmp_path / "out.webp")
    with pytest.raises(ConfigError, match=r"in\.png is no folder"):
        run(same, source, source / "sub/out.png")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ConfigError, match="no permission to write into"):
        run(same, source, tmp_path / "new/sub/out.png")


def test_a_plan_counts_all_that_is_held_of_a_picture(same, tmp_path, monkeypatch):
    """Equal channels go through as one; three and alpha are held."""
    planned = []

    def plan(self, height, width, bytes_per_pixel):
        planned.append(bytes_per_pixel)
        return before(self, height, width, bytes_per_pixel)

    before = Restorer.plan
    monkeypatch.setattr(Restorer, "plan", plan)
    image = np.full((16, 16, 4), 77, np.uint8)
    Image.fromarray(image).save(tmp_path / "in.png")
    run(same, tmp_path / "in.png", tmp_path / "out.png")
    assert planned == [4, 4]
