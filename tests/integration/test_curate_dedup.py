"""No picture twice, no benchmark in a corpus, splits that share nothing: whole builds on made pictures."""

import base64
import dataclasses
import os
import shutil

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate import BuildShardsConfig, build_shards, load_encoder, open_dataset, verify_corpus
from curate.audit import CheckLeaksConfig, check_leaks
from curate.core.errors import ConfigError, ManifestError, MissingDependencyError
from curate.dedup.rules import Dedup
from curate.fingerprint import embed
from curate.forget import ForgetConfig, forget
from curate.recipes import load_recipe
from curate.refilter import FilterConfig, filter_corpus
from curate.why import explain, tell

EVERYTHING = load_recipe("everything", patch_size_px=128)
NEAR = dataclasses.replace(EVERYTHING, dedup=Dedup(perceptual=True, partial=True, patches=True))


def build(source, out, **changes):
    settings = {"recipe": NEAR, "patch_size_px": 128, "workers": 1, "images_per_shard": 2} | changes
    return build_shards(BuildShardsConfig(source=source, out=out, **settings))


def images(corpus):
    return {row["source"]: row for row in pq.read_table(corpus / "images").to_pylist()}


def dropped(corpus):
    return [row for path in sorted((corpus / "rejected").glob("*")) for row in pq.read_table(path).to_pylist()]


def save(folder, name, image, **options):
    folder.mkdir(exist_ok=True)
    Image.fromarray(image).save(folder / name, **options)


@pytest.fixture
def originals(tmp_path, make_photo):
    """Five pictures of 420 x 560 px."""
    pictures = [make_photo(seed, 420, 560) for seed in range(5)]
    for number, picture in enumerate(pictures):
        save(tmp_path / "photos", f"p{number}.png", picture)
    return pictures


def test_copies_of_every_kind_are_found_and_name_their_keeper(originals, tmp_path):
    folder = tmp_path / "photos"
    copies = {
        "x-small.png": cv2.resize(originals[0], (280, 210), interpolation=cv2.INTER_AREA),
        "x-mirrored.png": np.ascontiguousarray(originals[1][:, ::-1]),
        "x-turned.png": np.ascontiguousarray(np.rot90(originals[2])),
        "x-cropped.png": np.ascontiguousarray(originals[3][60:400, 80:540]),
    }
    for name, picture in copies.items():
        save(folder, name, picture)
    save(folder, "x-jpeg.jpg", originals[4], quality=40)
    result = build(folder, tmp_path / "c")
    rows = images(tmp_path / "c")
    assert {name: rows[name]["keeper"] for name in (*copies, "x-jpeg.jpg")} == {
        "x-small.png": "p0.png", "x-mirrored.png": "p1.png", "x-turned.png": "p2.png", "x-cropped.png": "p3.png",
        "x-jpeg.jpg": "p4.png",
    }  # fmt: skip
    assert {rows[name]["reason"] for name in copies} == {"near-duplicate", "part-of"}
    assert all(
        rows[name]["near"] and rows[name]["group"] == rows[rows[name]["keeper"]]["image_sha256"][:20] for name in copies
    )
    assert result.counts == {"kept": 5, "rejected": 5, "failed": 0}
    assert not verify_corpus(tmp_path / "c").differences
    said = "\n".join(tell(explain(tmp_path / "c", "x-mirrored.png")))
    assert "near-duplicate: of p1.png" in said and "mirrored" in said


def test_unlike_pictures_are_all_kept(originals, tmp_path):
    assert build(tmp_path / "photos", tmp_path / "c").counts["kept"] == 5


def test_one_watermark_on_two_pictures_is_no_copy(tmp_path, make_photo):
    for number in range(3):
        scene = make_photo(number, 560, 560)  # each darkens towards another side
        picture = cv2.GaussianBlur(np.ascontiguousarray(np.rot90(scene, number)[:420]), (0, 0), 6)
        for line, scale in ((150, 1.0), (380, 1.2)):
            cv2.putText(picture, "SAMPLE (c) 26", (20, line), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 2)
        save(tmp_path / "photos", f"p{number}.png", picture)
    recipe = dataclasses.replace(EVERYTHING, dedup=Dedup(partial=True))
    assert build(tmp_path / "photos", tmp_path / "c", recipe=recipe).counts["kept"] == 3
    careless = dataclasses.replace(EVERYTHING, dedup=Dedup(partial=True, min_part_ncc=-1.0))
    assert build(tmp_path / "photos", tmp_path / "d", recipe=careless).counts["kept"] == 1  # the check tells them apart


def test_a_new_batch_is_compared_without_the_old_pixels(originals, tmp_path, make_photo):
    build(tmp_path / "photos", tmp_path / "old")
    for shard in (tmp_path / "old" / "shards").glob("*"):
        shard.write_bytes(b"")  # whoever read a pixel of it would fail
    shutil.rmtree(tmp_path / "photos")
    save(tmp_path / "new", "copy.png", originals[0])
    save(tmp_path / "new", "near.jpg", originals[1], quality=50)
    save(tmp_path / "new", "fresh.png", make_photo(77, 420, 560))
    result = build(tmp_path / "new", tmp_path / "c", known=(tmp_path / "old",))
    rows = images(tmp_path / "c")
    assert result.counts == {"kept": 1, "rejected": 2, "failed": 0}
    assert (rows["copy.png"]["reason"], rows["near.jpg"]["reason"]) == ("same-bytes", "near-duplicate")
    assert rows["near.jpg"]["keeper"] == "p1.png (known corpus 1)"
    assert open_dataset(tmp_path / "c").manifest["config"]["known"] == [open_dataset(tmp_path / "old").content_hash]
    with pytest.raises(ConfigError, match="another config"):
        build(tmp_path / "new", tmp_path / "c")


def test_an_earlier_corpus_without_hashes_is_refused_by_name(originals, tmp_path):
    build(tmp_path / "photos", tmp_path / "old", recipe=EVERYTHING)
    with pytest.raises(ConfigError, match=r"--known .*old.*stores no phash"):
        build(tmp_path / "photos", tmp_path / "c", known=(tmp_path / "old",))
    with pytest.raises(ManifestError, match="manifest"):
        build(tmp_path / "photos", tmp_path / "d", known=(tmp_path / "photos",))


def test_meaning_is_compared_by_any_encoder(originals, tmp_path):
    save(tmp_path / "photos", "x-copy.jpg", originals[0], quality=70)
    recipe = dataclasses.replace(EVERYTHING, dedup=Dedup(semantic="handcrafted", min_cosine=0.995))
    result = build(tmp_path / "photos", tmp_path / "c", recipe=recipe)
    rows = images(tmp_path / "c")
    assert rows["x-copy.jpg"]["keeper"] == "p0.png" and rows["x-copy.jpg"]["reason"] == "semantic-duplicate"
    assert result.counts == {"kept": 5, "rejected": 1, "failed": 0}
    assert np.frombuffer(rows["p0.png"]["embedding"], "<f2").shape == (192,)


def test_unlike_pictures_do_not_mean_the_same_to_a_vit(tmp_path, make_photo):
    """Rows of a ViT share most of their length whatever they show."""
    try:
        load_encoder("vit_s14")
    except MissingDependencyError as error:
        if os.environ.get("IRDISTILL_REQUIRE_WEIGHTS"):
            raise
        pytest.skip(str(error))
    one = make_photo(0, 300, 300)
    other = np.full((300, 300, 3), 90, np.uint8)
    cv2.circle(other, (150, 150), 90, (220, 40, 40), -1)
    rows = [
        np.frombuffer(base64.b64decode(embed(x, "vit_s14")), "<f2").astype(float) for x in (one, one // 2 + 60, other)
    ]
    assert rows[0] @ rows[1] > 0.85 > 0.7 > rows[0] @ rows[2]


def test_the_same_tile_of_two_pictures_is_kept_once(originals, tmp_path, make_photo):
    other = make_photo(50, 420, 560)
    other[128:256, 256:384] = originals[0][0:128, 0:128]
    save(tmp_path / "photos", "other.png", other)
    recipe = dataclasses.replace(EVERYTHING, dedup=Dedup(patches=True))
    build(tmp_path / "photos", tmp_path / "c", recipe=recipe)
    (row,) = dropped(tmp_path / "c")
    assert row["reason"] == "same-tile" and row["thumbnail"] is None and row["num_bytes"] is None
    kept = {r["key"]: r["source"] for r in open_dataset(tmp_path / "c").rows().to_pylist()}
    assert {row["source"], kept[row["keeper"]]} == {"p0.png", "other.png"}
    assert not verify_corpus(tmp_path / "c").differences
    assert row["keeper"] in "\n".join(tell(explain(tmp_path / "c", row["key"])))


def test_two_crops_of_one_photograph_share_no_patch(tmp_path, make_photo):
    photograph = make_photo(60, 700, 1100)
    left, right = photograph[:600, :800], photograph[70:690, 333:1100]
    save(tmp_path / "photos", "left.png", np.ascontiguousarray(left))
    save(tmp_path / "photos", "right.png", np.ascontiguousarray(right))
    recipe = dataclasses.replace(EVERYTHING, dedup=Dedup(partial=True))
    build(tmp_path / "photos", tmp_path / "c", recipe=recipe)
    kept = open_dataset(tmp_path / "c").rows().to_pylist()
    assert {row["source"] for row in kept} == {"left.png", "right.png"}
    corner = {"left.png": (0, 0), "right.png": (70, 333)}
    seen = np.zeros((700, 1100), int)
    for row in kept:
        y, x = row["y"] + corner[row["source"]][0], row["x"] + corner[row["source"]][1]
        seen[y : y + 128, x : x + 128] += 1
    once, twice = (seen > 0).mean(), (seen > 1).mean()
    assert twice < 0.1 * once  # patches that are shared by less than half of them stay
    gone = [row for row in dropped(tmp_path / "c") if row["reason"] == "same-tile"]
    keys = {row["key"]: row["source"] for row in kept}
    assert len(gone) >= 6 and all(keys[row["keeper"]] != row["source"] for row in gone)
    assert not verify_corpus(tmp_path / "c").differences


def test_number_of_workers_changes_no_byte(originals, tmp_path):
    save(tmp_path / "photos", "x-mirrored.png", np.ascontiguousarray(originals[1][:, ::-1]))
    save(tmp_path / "bench", "b.png", originals[2][30:300, 40:400])
    changes = {"against": (str(tmp_path / "bench"),), "splits": {"val": 0.4}}
    for workers in (1, 2):
        build(tmp_path / "photos", tmp_path / f"c{workers}", workers=workers, **changes)
    one, two = (open_dataset(tmp_path / f"c{workers}").manifest for workers in (1, 2))
    assert one == two
    assert (tmp_path / "c1" / "leaks.parquet").read_bytes() == (tmp_path / "c2" / "leaks.parquet").read_bytes()


def test_benchmark_pictures_are_kept_out_and_the_rest_stays(originals, tmp_path, make_photo):
    benchmark = make_photo(90, 200, 300)
    save(tmp_path / "bench", "b.png", benchmark)
    save(tmp_path / "photos", "stolen.jpg", cv2.resize(benchmark, (420, 280)), quality=80)
    host = make_photo(91, 520, 650)
    host[160:360, 160:460] = benchmark
    save(tmp_path / "photos", "host.png", host)
    result = build(tmp_path / "photos", tmp_path / "c", against=(str(tmp_path / "bench"),), recipe=EVERYTHING)
    rows = images(tmp_path / "c")
    assert rows["stolen.jpg"]["reason"] == "benchmark" and "bench/b.png" in rows["stolen.jpg"]["detail"]
    assert result.counts["kept"] == 6 and result.num_leaks == 2
    gone = {(row["y"], row["x"]) for row in dropped(tmp_path / "c") if row["source"] == "host.png"}
    assert gone == {(y, x) for y in (128, 256) for x in (128, 256, 384)}
    assert {row["reason"] for row in dropped(tmp_path / "c")} == {"benchmark"}
    leaks = pq.read_table(tmp_path / "c" / "leaks.parquet").to_pylist()
    assert [(row["source"], row["benchmark"], row["num_patches_removed"]) for row in leaks] == [
        ("host.png", "b.png", 6), ("stolen.jpg", "b.png", 6),
    ]  # fmt: skip
    assert not verify_corpus(tmp_path / "c").differences
    key = next(row["key"] for row in dropped(tmp_path / "c") if row["source"] == "host.png")
    assert "bench/b.png" in "\n".join(tell(explain(tmp_path / "c", key)))
    filtered = filter_corpus(FilterConfig(corpus=tmp_path / "c", out=tmp_path / "f", where="entropy > 0"))
    assert (
        filtered.held_back == {"benchmark": 12}
        and images(tmp_path / "f")["stolen.jpg"]["reason"] == "benchmark"
        and not verify_corpus(tmp_path / "f").differences
    )


def test_check_leaks_exits_1_on_a_leak_and_0_without(originals, tmp_path, program):
    save(tmp_path / "bench", "b.png", originals[2][30:300, 40:400])
    build(tmp_path / "photos", tmp_path / "c", recipe=EVERYTHING)
    found = check_leaks(CheckLeaksConfig(corpus=tmp_path / "c", against=(str(tmp_path / "bench"),), workers=1))
    sources = {row["key"]: row["source"] for row in open_dataset(tmp_path / "c").rows().to_pylist()}
    assert {sources[leak.key] for leak in found.leaks} == {"p2.png"} and found.num_benchmarks == 1
    ended = program("curate", "check-leaks", tmp_path / "c", "--against", tmp_path / "bench", "--workers", 1)
    assert ended.returncode == 1 and "bench/b.png" in ended.stdout
    build(tmp_path / "photos", tmp_path / "d", recipe=EVERYTHING, against=(str(tmp_path / "bench"),))
    clean = program("curate", "check-leaks", tmp_path / "d", "--against", tmp_path / "bench", "--workers", 1)
    assert clean.returncode == 0 and clean.stdout.startswith("no leak"), clean.stdout + clean.stderr
    nothing = program("curate", "check-leaks", tmp_path / "d")
    assert nothing.returncode == 2 and "--against" in nothing.stderr


def test_a_named_pack_needs_its_folder_no_more(originals, tmp_path, program, monkeypatch):
    monkeypatch.setenv("IRDISTILL_CACHE", str(tmp_path / "cache"))
    save(tmp_path / "bench", "b.png", originals[2])
    made = program("curate", "make-pack", tmp_path / "bench", "mine")
    assert made.returncode == 0, made.stderr
    shutil.rmtree(tmp_path / "bench")
    result = build(tmp_path / "photos", tmp_path / "c", recipe=EVERYTHING, against=("mine",))
    assert result.counts == {"kept": 4, "rejected": 1, "failed": 0}
    bad = program("curate", "build-shards", tmp_path / "photos", tmp_path / "d", "--against", "nosuch")
    assert bad.returncode == 2 and "mine" in bad.stderr and len(bad.stderr.strip().splitlines()) == 1


def test_held_out_patches_have_shards_of_their_own(originals, tmp_path, make_photo):
    for number in range(5, 12):
        save(tmp_path / "photos", f"p{number}.png", make_photo(number, 300, 300))
    result = build(tmp_path / "photos", tmp_path / "c", splits={"val": 0.3})
    dataset = open_dataset(tmp_path / "c")
    assert set(result.num_by_split) == {"train", "val"} and min(result.num_by_split.values()) > 0
    for shard in dataset.stages[""]:
        assert set(pq.read_table(tmp_path / "c" / shard.metadata)["split"].to_pylist()) <= {shard.split}
    assert open_dataset(tmp_path / "c", split="train").num_samples == result.num_by_split["train"]
    with pytest.raises(ManifestError, match="no sample of split 'test'"):
        open_dataset(tmp_path / "c", split="test")
    more = build(tmp_path / "photos", tmp_path / "again", splits={"val": 0.3})
    assert more.num_by_split == result.num_by_split


def test_filter_brings_no_benchmark_back(tmp_path, make_photo):
    """What a gate dropped inside a leak is no less a leak."""
    benchmark = make_photo(90, 280, 420)
    benchmark[:128, :128] = 128  # a flat corner: dropped by the gate, not only by the leak
    save(tmp_path / "bench", "b.png", benchmark)
    save(tmp_path / "photos", "stolen.png", benchmark)
    save(tmp_path / "photos", "own.png", make_photo(1, 280, 420))
    recipe = dataclasses.replace(load_recipe("photographs", patch_size_px=128), dedup=Dedup())
    build(tmp_path / "photos", tmp_path / "c", recipe=recipe, against=(str(tmp_path / "bench"),))
    assert {row["reason"] for row in dropped(tmp_path / "c") if row["source"] == "stolen.png"} == {"benchmark"}
    settings = {
        "corpus": tmp_path / "c",
        "out": tmp_path / "f",
        "where": "flat_area >= 0",
        "source": tmp_path / "photos",
    }
    filter_corpus(FilterConfig(**settings))
    assert {row["source"] for row in open_dataset(tmp_path / "f").rows().to_pylist()} == {"own.png"}


def test_a_batch_of_nothing_new_is_a_finished_corpus(originals, tmp_path):
    build(tmp_path / "photos", tmp_path / "old")
    result = build(tmp_path / "photos", tmp_path / "c", known=(tmp_path / "old",))
    assert result.counts == {"kept": 0, "rejected": 5, "failed": 0}
    assert not verify_corpus(tmp_path / "c").differences


def test_an_earlier_corpus_that_holds_out_asks_for_the_same_here(originals, tmp_path, make_photo):
    for number in range(5, 12):
        save(tmp_path / "photos", f"p{number}.png", make_photo(number, 300, 300))
    build(tmp_path / "photos", tmp_path / "old", splits={"val": 0.3})
    save(tmp_path / "new", "n.png", make_photo(77, 300, 300))
    with pytest.raises(ConfigError, match="give --split val"):
        build(tmp_path / "new", tmp_path / "c", known=(tmp_path / "old",))


def test_a_shard_in_another_split_than_its_rows_is_named(originals, tmp_path, make_photo):
    for number in range(5, 12):
        save(tmp_path / "photos", f"p{number}.png", make_photo(number, 300, 300))
    build(tmp_path / "photos", tmp_path / "c", splits={"val": 0.3})
    manifest = tmp_path / "c" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"split": "val"', '"split": "train"'))
    assert any("holds another split" in line for line in verify_corpus(tmp_path / "c").differences)


def test_forgetting_leaves_no_fingerprint_and_no_leak(originals, tmp_path):
    save(tmp_path / "bench", "b.png", originals[2][30:300, 40:400])
    build(tmp_path / "photos", tmp_path / "c", against=(str(tmp_path / "bench"),))
    sha256 = images(tmp_path / "c")["p2.png"]["image_sha256"]
    forget(ForgetConfig(out=tmp_path / "c", sha256s=(sha256,)))
    row = images(tmp_path / "c")["p2.png"]
    assert (
        row["reason"] == "forgotten"
        and row["phash"] is row["thumbnail"] is row["keypoints"] is row["fine_detail"] is None
    )
    assert pq.read_table(tmp_path / "c" / "leaks.parquet").to_pylist() == []
    assert not verify_corpus(tmp_path / "c").differences
