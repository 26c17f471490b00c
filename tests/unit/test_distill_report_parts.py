"""Parts of the report: the map, the training plan, strata, tables; drawn text is checked for what it says."""

import json
import re
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest

from curate.core.errors import ConfigError, DecodeError
from distill import CurriculumConfig
from distill.report_facts import setting_rows, time_rows, training_plan
from distill.report_gallery import _change, decode_levels, evenly
from distill.report_map import HEIGHT, WIDTH, picture_map, place, point_map
from distill.report_svg import complexity_plot, fit_plot, null_plot, tenths_plot
from restoration.curriculum import curriculum_of_subset, stage_shares


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def plain(config: CurriculumConfig) -> dict:
    from curate.core.config import to_plain

    return json.loads(json.dumps(to_plain(config)))


@pytest.mark.parametrize("sizes", [(9, 8), (41, 40), (1, 99)])
def test_the_plan_is_what_training_samples_by(sizes):
    curriculum = plain(CurriculumConfig())
    plan, theirs = training_plan(curriculum, *sizes), curriculum_of_subset(curriculum)
    assert plan is not None
    times, shares = (np.array(column) for column in zip(*plan.shares, strict=True))
    for step in (0, 250, 499, 501, 600, 777, 899, 901, 999):
        expected = stage_shares(step, 1000, sizes, theirs)[1]
        assert np.interp(step / 1000, times, shares) == pytest.approx(expected, abs=2e-3), step
    assert [round(phase[0], 3) for phase in plan.phases] == [0.0, 0.5, 0.8, 0.9]


def test_the_plan_of_one_half_or_none_is_even_and_of_an_unknown_kind_is_none():
    curriculum = plain(CurriculumConfig())
    assert training_plan(curriculum, 1, 0).shares == [(0.0, 0.0), (1.0, 0.0)]
    assert training_plan({"kind": "none"}, 3, 1).even == 0.25
    assert training_plan(curriculum | {"kind": "anti"}, 3, 1) is None
    assert training_plan({}, 3, 1) is None


@pytest.mark.parametrize("num", [1, 2, 300, 21_000])
def test_the_map_shows_every_patch_inside_its_frame(num):
    rows = np.random.default_rng(0).normal(0, 1, (num, 5)).astype(np.float16)
    rows[0] = 40  # far out
    picked = np.array([0])
    places = place(rows, picked, "pca")
    assert places.shape == (num, 2) and (places >= 0).all() and (places <= [WIDTH, HEIGHT]).all()
    svg = parse(point_map(places, picked, ["stage1"], ["a <b> & c"]))
    kinds = [element.get("class") for element in svg]
    assert ("hex" in kinds) == (num > 20_000) and kinds[-1] == "stage1 pick"
    assert svg[-1][0].text == "a <b> & c"


def test_hexagons_count_every_patch_in_the_nearest_one():
    from distill.report_map import _HEX_PX, _hexagons

    spots = np.array([[50.0, 50.0], [50.4, 50.2], [200.0, 100.0]])
    centres = [
        (float(x), float(y) + _HEX_PX)
        for path in parse(f"<g>{_hexagons(spots)}</g>")
        for x, y in re.findall(r"M([\d.-]+) ([\d.-]+)l", path.get("d"))
    ]
    assert len(centres) == 2
    for spot in spots:
        assert min(np.hypot(spot[0] - x, spot[1] - y) for x, y in centres) <= _HEX_PX + 0.1


def test_thumbnails_move_aside_and_never_cover_each_other():
    places = np.full((12, 2), 150.0)
    svg = parse(picture_map(places, dict.fromkeys(range(12), "data:,"), dict.fromkeys(range(12), "stage2")))
    boxes = [(float(e.get("x")), float(e.get("y"))) for e in svg if e.tag == "image"]
    assert len(boxes) >= 6
    for at, (x, y) in enumerate(boxes):
        assert 0 <= x <= WIDTH - 38 and 0 <= y <= HEIGHT - 38
        assert all(abs(x - left) >= 38 or abs(y - top) >= 38 for left, top in boxes[:at])


def test_an_unknown_layout_is_refused():
    with pytest.raises(ConfigError, match=r"layout must be one of pca, tsne, got 'umap'"):
        place(np.zeros((5, 2), np.float32), np.array([0]), "umap")
    with pytest.raises(ConfigError, match="tsne is for 4 to 10,000 patches, got 2"):
        place(np.zeros((2, 2), np.float32), np.array([0]), "tsne")


def test_tsne_is_the_same_every_time():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(at, 0.1, (15, 6)) for at in (0, 5)])
    once, again = (place(rows, np.array([0]), "tsne") for _ in range(2))
    assert np.array_equal(once, again)
    gap = np.linalg.norm(once[:15].mean(axis=0) - once[15:].mean(axis=0))
    assert gap > 2 * np.linalg.norm(once[:15] - once[:15].mean(axis=0), axis=1).mean()


def test_bars_add_up_to_all_that_was_chosen():
    corpus = np.linspace(0, 1, 200)
    by_stage = {"stage1": np.linspace(0.1, 0.4, 6), "stage2": np.linspace(0.5, 0.9, 4)}
    svg = parse(complexity_plot(corpus, by_stage))
    heights = {stage: sum(float(e.get("height")) for e in svg if e.get("class") == stage) for stage in by_stage}
    assert heights["stage1"] / heights["stage2"] == pytest.approx(6 / 4, rel=0.03)
    tenths = parse(tenths_plot({"stage1": [0.3, 0.2], "stage2": [0.0, 0.5]}))
    assert [e.get("class") for e in tenths if e.tag == "rect"] == ["stage1", "stage1", "stage2"]


def test_plots_of_degenerate_numbers_are_drawn():
    constant = parse(complexity_plot(np.full(5, 0.3), {"stage1": np.array([0.3])}))
    assert [e.get("class") for e in constant if e.tag == "rect"] == ["stage1"]
    assert "nan" not in null_plot([0.0] * 20, [("chosen", "this & that", 0.0)], "unit")
    assert "nan" not in fit_plot([(0, 1.0), (10, 1.0)], None, None)


def test_a_change_is_amplified_and_measured():
    before = np.full((8, 8, 3), 100, np.float32)
    after = before.copy()
    after[0, 0, 0] += 2.0
    change = _change(before, after, 64)
    assert change.largest == 2.0 and change.gain == 50
    assert change.psnr_db == pytest.approx(10 * np.log10(255**2 / (4 / 192)))
    assert _change(before, before, 64).psnr_db is None


def test_sixteen_bits_keep_their_fractions():
    deep = np.full((4, 5, 3), (1000, 2000, 30_000), np.uint16)
    data = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    assert decode_levels(data)[0, 0] == pytest.approx(np.array([1000, 2000, 30_000]) / 257, abs=1e-4)
    plain8 = cv2.imencode(".png", np.full((4, 5, 3), 9, np.uint8))[1].tobytes()
    assert decode_levels(plain8).max() == 9.0
    with pytest.raises(DecodeError):
        decode_levels(b"\x89PNG broken")


def test_times_are_numbers_or_tables(tmp_path):
    assert time_rows(tmp_path) == []
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "seconds.json").write_text(json.dumps({"a": 3.0, "b": {"seconds": 1.0, "peak_mib": 512}}))
    steps = time_rows(tmp_path)
    assert [(step.name, step.seconds, step.share, step.peak_mib) for step in steps] == [
        ("a", 3.0, 0.75, None), ("b", 1.0, 0.25, 512),
    ]  # fmt: skip


def test_small_tables():
    assert setting_rows({"a": {"b": [1, 2]}, "c": "d"}) == [("a.b", "[1, 2]"), ("c", "d")]
    assert evenly(5, 3) == [0, 2, 4] and evenly(2, 9) == [0, 1] and evenly(1, 1) == [0]
