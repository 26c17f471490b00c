"""Folder -> corpus -> verify, with the faults a user meets."""

import hashlib
import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate import BuildShardsConfig, build_shards, open_dataset, verify_corpus
from curate.core.errors import ConfigError, ManifestError
from curate.core.images import decode_image, decode_patch
from curate.recipes import load_recipe
from curate.stats import corpus_stats

RECIPE = load_recipe("everything", patch_size_px=128)


def config(source: Path, out: Path, **changes) -> BuildShardsConfig:
    return BuildShardsConfig(
        source=source,
        out=out,
        **({"recipe": RECIPE, "patch_size_px": 128, "workers": 1, "images_per_shard": 2} | changes),
    )


def digests(out: Path) -> dict[str, str]:
    names = ("shards/*", "metadata/*", "rejected/*", "images/*", "manifest.json", "index.json", "_SUCCESS")
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for n in names for p in sorted(out.glob(n))
    }


def test_every_input_has_one_row_and_every_patch_its_pixels(photo_folder, tmp_path):
    (photo_folder / "text.jpg").write_text("not a picture")
    shutil.copy(photo_folder / "photo 0.jpg", photo_folder / "same bytes.jpg")
    result = build_shards(config(photo_folder, tmp_path / "c"))
    rows = pq.read_table(tmp_path / "c" / "images").to_pylist()
    assert [row["source"] for row in rows] == sorted(row["source"] for row in rows)
    assert len(rows) == 8 == sum(result.counts.values())
    by_source = {row["source"]: row for row in rows}
    assert by_source["text.jpg"]["status"] == "failed" and by_source["text.jpg"]["reason"] == "not-an-image"
    assert (
        by_source["same bytes.jpg"]["reason"] == "same-bytes"
        and by_source["same bytes.jpg"]["detail"] == "of photo 0.jpg"
    )
    assert by_source["sub/photo 1.png"]["num_patches"] == 6
    assert result.num_ignored == 1
    dataset = open_dataset(tmp_path / "c")
    patches = dataset.rows().to_pylist()
    assert dataset.num_samples == len(patches) == 36
    for sample, row in zip(dataset.samples(), patches, strict=True):
        source = decode_image((photo_folder / row["source"]).read_bytes())
        y, x = row["y"], row["x"]
        assert sample.key == row["key"]
        assert np.array_equal(decode_patch(sample.members["webp"]), source[y : y + 128, x : x + 128])
        assert json.loads(sample.members["json"])["source"] == row["source"]
    verified = verify_corpus(tmp_path / "c")
    assert verified.differences == () and verified.num_samples == 36 and verified.num_inputs == 8


def test_same_pixels_in_another_file_are_one_picture(make_photo, png_bytes, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(png_bytes(make_photo(0)))
    (folder / "b.png").write_bytes(png_bytes(make_photo(0)) + b"trailing")
    (folder / "c.png").write_bytes(png_bytes(make_photo(0).reshape(420, 300, 3)))
    result = build_shards(config(folder, tmp_path / "c"))
    assert result.counts == {"kept": 2, "rejected": 1, "failed": 0}
    assert result.reasons == {"rejected: same-pixels": 1}


@pytest.mark.parametrize("changes", [{"workers": 2}, {"workers": 3}])
def test_workers_change_no_byte(photo_folder, tmp_path, changes):
    build_shards(config(photo_folder, tmp_path / "one"))
    build_shards(config(photo_folder, tmp_path / "many", **changes))
    one, many = digests(tmp_path / "one"), digests(tmp_path / "many")
    assert len(one) > 10
    assert one == many


def test_the_source_may_lie_elsewhere(photo_folder, tmp_path):
    build_shards(config(photo_folder, tmp_path / "1" / "c"))
    shutil.copytree(photo_folder, tmp_path / "moved")
    build_shards(config(tmp_path / "moved", tmp_path / "2" / "c"))
    assert digests(tmp_path / "1" / "c") == digests(tmp_path / "2" / "c")


def test_a_second_run_resumes_and_changes_nothing(photo_folder, tmp_path):
    build_shards(config(photo_folder, tmp_path / "c"))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "c").rglob("*.tar")}
    result = build_shards(config(photo_folder, tmp_path / "c"))
    assert result.resumed and result.num_patches_kept == 36
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "c").rglob("*.tar")} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size_px": 64}, r"another config \(patch_size_px: 128 then, 64 now\)"),
        ({"recipe": load_recipe("photographs", patch_size_px=128)}, r"another config \(recipe\)"),
    ],
)
def test_another_config_on_a_used_output_is_refused(photo_folder, tmp_path, changes, message):
    build_shards(config(photo_folder, tmp_path / "c"))
    with pytest.raises(ConfigError, match=message):
        build_shards(config(photo_folder, tmp_path / "c", **changes))


def test_other_inputs_on_a_used_output_are_refused(photo_folder, tmp_path):
    build_shards(config(photo_folder, tmp_path / "c"))
    shutil.copy(photo_folder / "photo 0.jpg", photo_folder / "new.jpg")
    with pytest.raises(ConfigError, match="other inputs"):
        build_shards(config(photo_folder, tmp_path / "c"))


def test_an_output_with_other_files_is_refused(photo_folder, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"already holds other files \(thesis\.tex\)"):
        build_shards(config(photo_folder, tmp_path / "c"))


def test_output_inside_the_source_is_left_out(photo_folder):
    build_shards(config(photo_folder, photo_folder / "corpus"))
    assert build_shards(config(photo_folder, photo_folder / "corpus")).resumed


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda c: _flip(c / "shards/patches-000000.tar", 3000), "sha256 differs"),
        (lambda c: (c / "shards/patches-000001.tar").unlink(), "missing"),
        (
            lambda c: (c / "shards/patches-000000.tar").write_bytes(
                (c / "shards/patches-000000.tar").read_bytes()[:20480]
            ),
            "sha256 differs",
        ),
        (lambda c: _flip(c / "metadata/patches-000000.parquet", 100), "metadata"),
        (lambda c: (c / "images/part-000000.parquet").unlink(), "images"),
        (lambda c: (c / "index.json").write_text("{}"), "index.json"),
        (lambda c: shutil.copy(c / "shards/patches-000001.tar", c / "shards/patches-000000.tar"), "no metadata row"),
    ],
)
def test_verify_finds_damage(photo_folder, tmp_path, damage, expected):
    build_shards(config(photo_folder, tmp_path / "c"))
    damage(tmp_path / "c")
    differences = verify_corpus(tmp_path / "c").differences
    assert any(expected in line for line in differences), differences


def test_verify_needs_a_finished_corpus(photo_folder, tmp_path):
    with pytest.raises(ManifestError, match=r"holds no manifest\.json"):
        verify_corpus(photo_folder)
    build_shards(config(photo_folder, tmp_path / "c"))
    (tmp_path / "c" / "_SUCCESS").unlink()
    with pytest.raises(ManifestError, match="not finished"):
        verify_corpus(tmp_path / "c")


def test_stats_count_what_the_funnel_counts(photo_folder, tmp_path):
    build_shards(config(photo_folder, tmp_path / "c"))
    stats = corpus_stats(tmp_path / "c")
    assert stats.funnel["patches_kept"] == 36 and stats.kept["sharpness"][0] <= stats.kept["sharpness"][-1]


def test_dropped_patches_have_reason_scores_and_thumbnail(photo_folder, tmp_path):
    recipe = load_recipe("photographs", patch_size_px=128)
    strict = type(recipe)(
        name="strict", measure=recipe.measure, gates=("sharpness",), thresholds={"sharpness": {"min_sharpness": 60.0}}
    )
    result = build_shards(config(photo_folder, tmp_path / "c", recipe=strict))
    dropped = pq.read_table(tmp_path / "c" / "rejected").to_pylist()
    assert len(dropped) == result.patch_reasons["blurry"] > 0
    assert result.num_patches_kept + len(dropped) == 36
    assert all(
        row["reason"] == "blurry" and row["sharpness"] < 60 and row["thumbnail"][:2] == b"\xff\xd8" for row in dropped
    )
    assert verify_corpus(tmp_path / "c").differences == ()


def write_bad(folder: Path, kind: str, photo: np.ndarray, jpeg_bytes, png_bytes) -> None:
    data = jpeg_bytes(photo)
    flipped = bytearray(data)
    for position in range(len(data) // 2, len(data) // 2 + 400, 2):
        flipped[position] ^= 0xFF
    content = {
        "text": ("a.jpg", b"I am a text"), "empty": ("a.jpg", b""), "truncated": ("a.jpg", data[: len(data) // 2]),
        "flipped": ("a.jpg", bytes(flipped)), "pixel": ("a.png", png_bytes(photo[:1, :1])),
    }[kind]  # fmt: skip
    folder.mkdir()
    (folder / content[0]).write_bytes(content[1])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "first: a.jpg: not-an-image"), ("empty", "first: a.jpg: not-an-image: the file is empty"),
        ("truncated", "first: a.jpg: truncated"), ("flipped", "first: a.jpg: damaged"),
        ("pixel", "no patch of 512 px was kept from 1 inputs"),
    ],
)  # fmt: skip
def test_bad_pictures_are_one_clear_line(program, make_photo, jpeg_bytes, png_bytes, tmp_path, kind, message):
    write_bad(tmp_path / "bad", kind, make_photo(0), jpeg_bytes, png_bytes)
    done = program("curate", "build-shards", tmp_path / "bad", tmp_path / "c", "--workers", 1)
    assert done.returncode == 2 and done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert "Traceback" not in done.stderr
    assert {p.name for p in (tmp_path / "c").iterdir()} == {"ledger"}


def test_bad_sources_and_outputs_are_one_clear_line(program, photo_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    cases = [
        ((tmp_path / "missing", tmp_path / "c"), "does not exist"), ((tmp_path / "empty", tmp_path / "c"), "holds no picture"),
        ((tmp_path / "file", tmp_path / "c"), "is a file; wanted a folder"),
        ((photo_folder, tmp_path / "file" / "c"), "cannot write to output"),
    ]  # fmt: skip
    for (source, out), message in cases:
        done = program("curate", "build-shards", source, out)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr
    assert not (tmp_path / "c").exists()


def test_a_read_only_output_is_one_clear_line(photo_folder, tmp_path, monkeypatch):
    """As root nothing is read-only by mode, so the refusal is the operating system's, made here."""
    out = tmp_path / "out"
    out.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    original = Path.mkdir

    def refuse(self, *args, **kwargs):
        if out in self.parents:
            raise PermissionError(13, "Permission denied")
        original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigError, match=r"cannot write to output .*: Permission denied"):
        build_shards(config(photo_folder, out))
    assert list(out.iterdir()) == []


def test_bad_beside_good_is_counted_and_named(program, photo_folder, tmp_path):
    (photo_folder / "broken.jpg").write_text("text")
    done = program(
        "curate",
        "build-shards",
        photo_folder,
        tmp_path / "c",
        "--patch-size",
        128,
        "--recipe",
        "everything",
        "--workers",
        1,
    )
    assert done.returncode == 0, done.stderr
    assert "failed: broken.jpg: not-an-image" in done.stderr
    assert "inputs   7 = 6 kept + 0 rejected + 1 failed" in done.stdout


def _forget_shards(out: Path) -> None:
    for name in ("shards", "metadata", "rejected", "images"):
        shutil.rmtree(out / name)
    shutil.rmtree(out / "ledger" / "shards")
    (out / "_SUCCESS").unlink()


def test_a_lost_spool_is_made_again(photo_folder, tmp_path):
    build_shards(config(photo_folder, tmp_path / "c"))
    before = digests(tmp_path / "c")
    assert not (tmp_path / "c" / "ledger" / "spool").exists()
    _forget_shards(tmp_path / "c")
    build_shards(config(photo_folder, tmp_path / "c"))
    assert digests(tmp_path / "c") == before


def test_a_scan_entry_cut_by_a_power_failure_is_made_again(photo_folder, tmp_path):
    build_shards(config(photo_folder, tmp_path / "c"))
    before = digests(tmp_path / "c")
    _forget_shards(tmp_path / "c")
    entries = sorted((tmp_path / "c" / "ledger" / "scan").iterdir())
    entries[0].write_bytes(b"")
    build_shards(config(photo_folder, tmp_path / "c"))
    assert digests(tmp_path / "c") == before


def test_a_picture_that_changes_under_us_stops_the_build(photo_folder, tmp_path, make_photo, jpeg_bytes):
    build_shards(config(photo_folder, tmp_path / "c"))
    _forget_shards(tmp_path / "c")
    data = bytearray((photo_folder / "photo 0.jpg").read_bytes())
    quality = data.index(b"\xff\xdb") + 10
    data[quality] += 1  # another quantisation step: other pixels, nothing damaged
    (photo_folder / "photo 0.jpg").write_bytes(data)
    for _ in range(2):  # the second run must not trust what the first one found
        with pytest.raises(ManifestError, match=r"photo 0\.jpg, or a picture scanned with it, is not what was scanned"):
            build_shards(config(photo_folder, tmp_path / "c"))
