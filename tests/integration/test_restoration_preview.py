"""`restoration preview`: a sheet whose record makes the same pixels again, from a folder and from a corpus."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from curate import BuildShardsConfig, build_shards
from curate.core import plugins
from curate.core.errors import ConfigError, PluginError
from curate.recipes import load_recipe
from restoration.degradations import to_levels, to_pixels
from restoration.preview import GAP_PX, HEADER_PX, LABEL_PX, PreviewConfig, every_task, make_preview
from restoration.tasks import FOLDER, make_degradation, replay


@pytest.fixture
def folder(tmp_path, make_photo):
    for name in ("a", "b", "c"):
        Image.fromarray(make_photo(ord(name), 90, 120)).save(tmp_path / f"{name}.png")
    return tmp_path


def read(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_the_record_makes_the_sheet_again(folder):
    result = make_preview(PreviewConfig(
        data=folder, out=folder / "out", degradations="noise25, rain,jpeg,real-esrgan", seed=4, crop_px=64, columns=3,
    ))  # fmt: skip
    assert result.sheet == folder / "out" / "preview.png" and result.record == folder / "out" / "preview.json"
    sheet, record = read(result.sheet), json.loads(result.record.read_text())
    assert [row["name"] for row in record["pictures"]] == ["a.png", "c.png"]
    cell_px = 200
    section = sheet.shape[0] // 2
    for number, row in enumerate(record["pictures"]):
        top, left = row["top"], row["left"]
        clean_CHW = to_pixels(read(folder / row["name"])[top : top + 64, left : left + 64])
        pictures = [clean_CHW, *(replay(e["degradation"], clean_CHW, e["parameters"]) for e in row["damaged"])]
        for place, picture in enumerate(pictures):
            top = number * section + HEADER_PX + place // 3 * (cell_px + LABEL_PX + GAP_PX)
            left = GAP_PX + place % 3 * (cell_px + GAP_PX)
            np.testing.assert_array_equal(sheet[top : top + 64, left : left + 64], to_levels(picture))
        assert [entry["task"] for entry in row["damaged"]] == ["noise25", "rain", "jpeg", "real-esrgan"]
    again = make_preview(PreviewConfig(
        data=folder, out=folder / "again.png", degradations="jpeg,noise25", seed=4, crop_px=64,
    ))  # fmt: skip
    fewer = json.loads(again.record.read_text())["pictures"][0]["damaged"]
    assert fewer[1] == record["pictures"][0]["damaged"][0]  # what else is shown changes nothing
    assert set(result.mean_psnr_db) == {"noise25", "rain", "jpeg", "real-esrgan"}
    assert 19 < result.mean_psnr_db["noise25"] < 22


def test_pictures_of_different_sizes_share_one_sheet(tmp_path, make_photo):
    """A crop that is larger than the smallest cell and one that is not: every section has the larger cells."""
    sizes = {"a.png": (90, 120), "b.png": (300, 260)}
    for name, size in sizes.items():
        Image.fromarray(make_photo(ord(name[0]), *size)).save(tmp_path / name)
    result = make_preview(PreviewConfig(data=tmp_path, out=tmp_path / "out", degradations="jpeg10,sr2", crop_px=256))
    sheet, record = read(result.sheet), json.loads(result.record.read_text())
    section = sheet.shape[0] // 2
    assert sheet.shape[1] == 3 * (256 + GAP_PX) + GAP_PX and section == HEADER_PX + 256 + LABEL_PX + 2 * GAP_PX
    for number, row in enumerate(record["pictures"]):
        height, width = (min(side, 256) for side in sizes[row["name"]])
        clean = read(tmp_path / row["name"])[row["top"] : row["top"] + height, row["left"] : row["left"] + width]
        top = number * section + HEADER_PX
        np.testing.assert_array_equal(sheet[top : top + height, GAP_PX : GAP_PX + width], clean)


def test_all_shows_every_file(folder):
    shown = {make_degradation(task).name for task in every_task()}
    assert shown == set(plugins.names(FOLDER))
    assert {"rain-heavy", "real-esrgan", "bsrgan", "sr4"} <= set(every_task())
    result = make_preview(PreviewConfig(data=folder, out=folder / "all.png", num_pictures=1, crop_px=48))
    assert len(result.mean_psnr_db) == len(every_task()) and read(result.sheet).shape[1] < 1400


def test_a_large_photograph_is_shrunk_into_its_cell(tmp_path):
    """Squares of one colour each, 4 x 4 pixels: averaged they are the pixels of the crop."""
    small = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    Image.fromarray(small.repeat(4, 0).repeat(4, 1)).save(tmp_path / "large.png")
    result = make_preview(
        PreviewConfig(data=tmp_path, out=tmp_path / "s.png", degradations="blur", crop_px=32, max_shrink=4)
    )
    row = json.loads(result.record.read_text())["pictures"][0]
    assert row["shrink"] == 4
    crop = small[row["top"] : row["top"] + 32, row["left"] : row["left"] + 32]
    np.testing.assert_array_equal(read(result.sheet)[HEADER_PX : HEADER_PX + 32, GAP_PX : GAP_PX + 32], crop)


def test_the_most_detailed_place_is_shown(tmp_path):
    image = np.full((120, 160, 3), 90, np.uint8)
    image[:40, 120:] = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    result = make_preview(PreviewConfig(data=tmp_path, out=tmp_path / "s.png", degradations="jpeg10", crop_px=64))
    row = json.loads(result.record.read_text())["pictures"][0]
    assert (row["top"], row["left"]) == (0, 96)


def test_patches_of_a_corpus(tmp_path, photo_folder, program):
    build_shards(BuildShardsConfig(
        source=photo_folder, out=tmp_path / "corpus", recipe=load_recipe("everything", patch_size_px=96), patch_size_px=96,
    ))  # fmt: skip
    result = program("restoration", "preview", tmp_path / "corpus", tmp_path / "sheet", "--degradations", "haze,blur")
    assert result.returncode == 0, result.stderr
    assert "haze" in result.stdout and str(tmp_path / "sheet" / "preview.png") in result.stdout
    record = json.loads((tmp_path / "sheet" / "preview.json").read_text())
    assert len(record["pictures"]) == 2 and record["pictures"][0]["height"] == 96


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"out": "sheet.jpg"}, "must end in .png"), ({"degradations": ","}, "commas"), ({"degradations": "rane"}, "rain"),
        ({"data": "none"}, "CORPUS or SUBSET"), ({"data": "empty"}, "holds no picture"), ({"seed": -1}, "seed"),
        ({"crop_px": 0}, "crop_px"),
    ],
)  # fmt: skip
def test_bad_input(folder, values, expected):
    (folder / "empty").mkdir()
    paths = {"data": folder / values.get("data", ""), "out": folder / values.get("out", "sheet.png")}
    with pytest.raises((ConfigError, PluginError), match=expected):
        make_preview(PreviewConfig(**{**values, **paths}))
    assert not list(folder.glob("sheet*"))
