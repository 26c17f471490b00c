"""Source shards, pairs, flat patches kept on purpose, grids: what build-shards can do beyond the default."""

import hashlib
import io
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate import BuildShardsConfig, build_shards, lossless, open_dataset, verify_corpus
from curate.core.config import percent
from curate.core.errors import ConfigError, MissingDependencyError
from curate.core.images import decode_image, decode_patch
from curate.core.records import ImageFacts
from curate.dedup.phash import phash
from curate.grid import Grid, grid_origins
from curate.recipes import Recipe, load_recipe
from curate.shards import read_shard
from curate.sources.folder import list_inputs
from curate.view import ImageView

RECIPE = load_recipe("everything", patch_size_px=64)
try:
    lossless.require_libturbojpeg()
    HAVE = True
except MissingDependencyError:
    HAVE = False
needs_turbojpeg = pytest.mark.skipif(not HAVE, reason="libturbojpeg is not installed")


def config(source: Path, out: Path, **changes) -> BuildShardsConfig:
    fixed = {"recipe": RECIPE, "patch_size_px": 64, "workers": 1, "images_per_shard": 2}
    return BuildShardsConfig(source=source, out=out, **(fixed | changes))


@needs_turbojpeg
def test_source_shards_hold_jpegs_and_the_rest_is_lossless(photo_folder, tmp_path, make_photo, jpeg_bytes):
    exif = Image.Exif()
    exif[0x0112] = 6
    (photo_folder / "turned.jpg").write_bytes(jpeg_bytes(make_photo(9), exif=exif))
    build_shards(config(photo_folder, tmp_path / "c", patch_format="source"))
    dataset = open_dataset(tmp_path / "c")
    shards = [shard for group in dataset.stages.values() for shard in group]
    extensions = [{s.image()[0] for s in read_shard(dataset.root / shard.file)} for shard in shards]
    assert extensions == [{"jpg"}, {"jpg"}, {"webp"}, {"webp"}]  # listed by extension, one each
    rows = {row["key"]: row for row in dataset.rows().to_pylist()}
    by_source = {row["source"]: row["extension"] for row in rows.values()}
    assert by_source["photo 0.jpg"] == "jpg" and by_source["turned.jpg"] == by_source["photo 3.png"] == "webp"
    for sample in dataset.samples():
        row = rows[sample.key]
        whole = decode_image((photo_folder / row["source"]).read_bytes())
        crop = whole[row["y"] : row["y"] + 64, row["x"] : row["x"] + 64]
        rim = slice(1, -1) if row["extension"] == "jpg" else slice(None)
        assert np.array_equal(decode_patch(sample.image()[1])[rim, rim], crop[rim, rim])
    assert not verify_corpus(tmp_path / "c").differences


@needs_turbojpeg
def test_source_bytes_do_not_depend_on_workers(photo_folder, tmp_path):
    for workers in (1, 2):
        build_shards(config(photo_folder, tmp_path / f"{workers}", patch_format="source", workers=workers))
    one, two = (open_dataset(tmp_path / name).content_hash for name in ("1", "2"))
    assert one == two


def make_pairs(root: Path, make_photo) -> tuple[Path, Path]:
    for folder in ("target", "input"):
        (root / folder).mkdir(parents=True)
    for index in range(3):
        clean = make_photo(index, 130, 200)
        rain = np.clip(clean.astype(int) + 40 * (np.indices(clean.shape[:2]).sum(0) % 7 == 0)[..., None], 0, 255)
        Image.fromarray(clean).save(root / "target" / f"{index}.png")
        Image.fromarray(rain.astype(np.uint8)).save(root / "input" / f"{index}.png")
    return root / "target", root / "input"


def test_pairs_are_aligned_and_counted(tmp_path, make_photo):
    clean, degraded = make_pairs(tmp_path / "p", make_photo)
    (degraded / "alone.png").write_bytes((degraded / "0.png").read_bytes())
    for folder, name in ((clean, "0.png"), (degraded, "1.png")):  # the same scene in another rain
        (folder / "again.png").write_bytes((folder / name).read_bytes())
    Image.fromarray(make_photo(7, 130, 200)).save(clean / "small.png")
    Image.fromarray(make_photo(7, 65, 100)).save(degraded / "small.png")
    Image.fromarray(make_photo(8, 130, 200)).save(clean / "widow.png")
    result = build_shards(config(clean, tmp_path / "c", paired=degraded))
    rows = {row["source"]: row for row in pq.read_table(tmp_path / "c" / "images").to_pylist()}
    assert (rows["widow.png"]["status"], rows["widow.png"]["reason"]) == ("failed", "pair-missing")
    assert rows["small.png"]["reason"] == "pair-size" and result.counts["kept"] == 4
    dataset = open_dataset(tmp_path / "c")
    assert (
        dataset.manifest["funnel"]["unpaired"] == 1
        and dataset.num_samples == len({s.key for s in dataset.samples()}) == 4 * 2 * 3
    )
    table = {row["key"]: row for row in dataset.rows().to_pylist()}
    for sample in dataset.samples():
        assert sorted(sample.members) == ["gt.webp", "json", "lq.webp"]
        row = table[sample.key]
        window = (slice(row["y"], row["y"] + 64), slice(row["x"], row["x"] + 64))
        for member, folder in (("gt.webp", clean), ("lq.webp", degraded)):
            whole = decode_image((folder / row["source"]).read_bytes())
            assert np.array_equal(decode_patch(sample.members[member]), whole[window])
        assert row["pair_sha256"] == hashlib.sha256(sample.members["lq.webp"]).hexdigest()
    assert not verify_corpus(tmp_path / "c").differences


def source_pairs(root: Path, make_photo, jpeg_bytes) -> tuple[Path, Path]:
    clean, degraded = root / "gt", root / "lq"
    for folder in (clean, degraded):
        folder.mkdir(parents=True)
    photo = make_photo(1, 128, 192)
    (clean / "both.jpg").write_bytes(jpeg_bytes(photo, progressive=True))
    (degraded / "both.jpg").write_bytes(jpeg_bytes(photo, quality=20))
    (clean / "mixed.jpg").write_bytes(jpeg_bytes(make_photo(2, 128, 192), progressive=True))
    Image.fromarray(photo).save(degraded / "mixed.png")
    return clean, degraded


@needs_turbojpeg
def test_a_pair_is_cut_without_decoding_only_if_both_can_be(tmp_path, make_photo, jpeg_bytes):
    clean, degraded = source_pairs(tmp_path / "p", make_photo, jpeg_bytes)
    build_shards(config(clean, tmp_path / "c", paired=degraded, patch_format="source"))
    dataset = open_dataset(tmp_path / "c")
    rows = {row["key"]: row for row in dataset.rows().to_pylist()}
    for sample in dataset.samples():
        jpeg = rows[sample.key]["source"] == "both.jpg"
        assert set(sample.members) == ({"gt.jpg", "lq.jpg", "json"} if jpeg else {"gt.webp", "lq.webp", "json"})
        starts = {data[:2] for name, data in sample.members.items() if name != "json"}
        assert starts == {b"\xff\xd8" if jpeg else b"RI"}
    assert dataset.num_samples == 12


@needs_turbojpeg
def test_damage_in_the_degraded_picture_is_not_blamed_on_the_clean_one(tmp_path, make_photo, jpeg_bytes):
    clean, degraded = source_pairs(tmp_path / "p", make_photo, jpeg_bytes)
    data = (degraded / "both.jpg").read_bytes()
    (degraded / "both.jpg").write_bytes(data[: len(data) // 2])
    build_shards(config(clean, tmp_path / "c", paired=degraded, patch_format="source"))
    rows = {row["source"]: row["reason"] for row in pq.read_table(tmp_path / "c" / "images").to_pylist()}
    assert rows["both.jpg"].startswith("pair-") and not rows["mixed.jpg"]


def test_the_same_name_goes_before_the_same_stem(tmp_path, make_photo):
    clean, degraded = make_pairs(tmp_path / "p", make_photo)
    for folder in (clean, degraded):
        (folder / "0.bmp").write_bytes((folder / "1.png").read_bytes())
    refs = {ref.source: ref for ref in list_inputs(clean, leave_out=tmp_path / "c", paired=degraded).inputs}
    assert (refs["0.bmp"].pair_source, refs["0.png"].pair_source) == ("0.bmp", "0.png")
    (clean / "0.webp").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"0\.webp may be paired with 0\.bmp, 0\.png of"):
        list_inputs(clean, leave_out=tmp_path / "c", paired=degraded)


def test_another_folder_of_degraded_pictures_is_another_job(tmp_path, make_photo):
    clean, degraded = make_pairs(tmp_path / "p", make_photo)
    build_shards(config(clean, tmp_path / "c", paired=degraded))
    other = shutil.copytree(degraded, tmp_path / "other")
    (other / "0.png").write_bytes((other / "0.png").read_bytes() + b"tail")
    with pytest.raises(ConfigError, match="other inputs"):
        build_shards(config(clean, tmp_path / "c", paired=other))


def test_what_cannot_work_is_said_at_once(tmp_path):
    with pytest.raises(ConfigError, match="recipe everything has no such gate"):
        config(tmp_path, tmp_path / "c", keep_flat_frac=0.05)
    with pytest.raises(ConfigError, match="multiple of 16, got 100"):
        config(tmp_path, tmp_path / "c", patch_format="source", patch_size_px=100)
    search = Recipe(name="x", measure=(), grid=Grid(phase="search"))
    with pytest.raises(ConfigError, match="multiples of 8"):
        config(tmp_path, tmp_path / "c", recipe=search, patch_size_px=100)


def test_pairs_and_single_pictures_are_different_jobs(tmp_path, make_photo):
    clean, degraded = make_pairs(tmp_path / "p", make_photo)
    build_shards(config(clean, tmp_path / "c"))
    with pytest.raises(ConfigError, match="another config"):
        build_shards(config(clean, tmp_path / "c", paired=degraded))


def test_some_flat_patches_are_kept_on_purpose(tmp_path, make_photo):
    (tmp_path / "in").mkdir()
    sky = np.full((1280, 1280, 3), 180, np.uint8)
    sky[:64] = make_photo(1, 64, 1280)
    Image.fromarray(sky).save(tmp_path / "in" / "sky.png")
    recipe = Recipe(name="flat", measure=("flat_area", "sharpness"), gates=("flat_area", "sharpness"))
    build_shards(config(tmp_path / "in", tmp_path / "c", recipe=recipe, keep_flat_frac=0.2))
    kept = open_dataset(tmp_path / "c").rows().to_pylist()
    flat = [row for row in kept if row["kept_flat"]]
    assert {row["flat_area"] for row in flat} == {1.0} and 50 <= len(flat) <= 110  # of 380
    build_shards(config(tmp_path / "in", tmp_path / "d", recipe=recipe, keep_flat_frac=0.2, workers=2))
    assert open_dataset(tmp_path / "c").content_hash == open_dataset(tmp_path / "d").content_hash
    build_shards(config(tmp_path / "in", tmp_path / "e", recipe=recipe))
    assert not any(row["kept_flat"] for row in open_dataset(tmp_path / "e").rows().to_pylist())


@pytest.mark.parametrize("text", ["5", "0.05", "-1%", "101%", "x%", ""])
def test_a_share_needs_its_sign(text):
    with pytest.raises(ConfigError, match="--keep-flat must be a percentage"):
        percent(text, name="--keep-flat")
    assert percent("5%", name="--keep-flat") == 0.05


def view_of(grey: np.ndarray) -> ImageView:
    height, width = grey.shape
    facts = ImageFacts(format="png", width=width, height=height, orientation=1, mode="L", policy="", icc_profile="")
    return ImageView(facts=facts, num_bytes=1, grey=grey, load_rgb=lambda: np.repeat(grey[..., None], 3, axis=2))


def test_the_grid_finds_the_texture(make_photo):
    grey = np.full((200, 300), 128, np.uint8)
    grey[72:200, 40:296] = make_photo(2, 128, 256)[..., 1]
    origin = grid_origins(view_of(grey), Grid(), 128, (8, 8))
    found = grid_origins(view_of(grey), Grid(phase="search"), 128, (8, 8))
    energy = cv2.Laplacian(grey, cv2.CV_64F, ksize=1) ** 2

    def texture(y0: int, x0: int) -> float:
        means = [energy[y0 : y0 + 128, x : x + 128].mean() for x in (x0, x0 + 128)]
        return sum(mean for mean in means if mean >= 20)

    totals = {(y, x): texture(y, x) for y in range(0, 73, 8) for x in range(0, 45, 8)}
    assert origin == [(0, 0), (0, 128)] and len(found) == 2
    assert totals[found[0]] == pytest.approx(max(totals.values()), rel=1e-6) and totals[found[0]] > 1.5 * totals[0, 0]
    flat = view_of(np.full((200, 300), 9, np.uint8))
    assert grid_origins(flat, Grid(phase="search"), 128, (8, 8)) == origin


def test_stride_makes_patches_overlap(make_photo):
    view = view_of(make_photo(2, 128, 192)[..., 1])
    assert grid_origins(view, Grid(stride_px=32), 128, (8, 8)) == [(0, 0), (0, 32), (0, 64)]
    for bad in ({"stride_px": 4}, {"phase": "best"}):
        with pytest.raises(ConfigError, match="grid"):
            Grid(**bad)
    recipe = Recipe(name="x", measure=("flat_area",), grid=Grid(stride_px=32))
    assert recipe.grid.stride_px == 32


def test_phash_survives_recompression(make_photo):
    for seed in range(6):
        photo = make_photo(seed, 256, 256)
        grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
        ours = int(phash(grey), 16)
        out = io.BytesIO()
        Image.fromarray(grey).save(out, "JPEG", quality=60)
        again = np.asarray(Image.open(io.BytesIO(out.getvalue())))
        assert (ours ^ int(phash(again), 16)).bit_count() <= 4
        assert (
            ours ^ int(phash(cv2.cvtColor(make_photo(seed + 20, 256, 256), cv2.COLOR_RGB2GRAY)), 16)
        ).bit_count() > 10
