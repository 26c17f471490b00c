"""Curriculum, schedule, tasks, tiling, hold-out: the pure parts of training, each by hand-computed values and properties."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.core.errors import ConfigError, ManifestError, NumericsError, PluginError
from restoration.curriculum import CurriculumConfig, curriculum_of_subset, stage_shares
from restoration.data import centre_crop, hold_out, picture_of
from restoration.schedule import warmup_cosine
from restoration.store import PatchRef
from restoration.tasks import TASKS, make_degradation
from restoration.tiling import Grid, restore_tiles, spread_windows, tile_spans

DEFAULT = CurriculumConfig()


def refs(stage: str, *keys: str) -> tuple[PatchRef, ...]:
    return tuple(PatchRef(key, stage, Path("a.tar"), 0, 1, "webp") for key in keys)


def test_curriculum_at_every_phase():
    shares = {step: stage_shares(step, 100, (10, 10), DEFAULT) for step in (0, 49, 50, 70, 89, 90, 99)}
    assert shares[0] == shares[49] == (1.0, 0.0)
    assert shares[50] == (0.5, 0.5)
    assert shares[70] == pytest.approx((0.35, 0.65))
    assert shares[89][1] == pytest.approx(0.7925)
    assert shares[90] == shares[99] == (0.5, 0.5)


def test_curriculum_controls_and_single_stages():
    assert stage_shares(0, 10, (3, 1), CurriculumConfig(kind="none")) == (0.75, 0.25)
    assert stage_shares(0, 10, (7,), DEFAULT) == (1.0,)
    assert stage_shares(0, 10, (0, 7), DEFAULT) == (0.0, 1.0)
    with pytest.raises(ConfigError, match="empty"):
        stage_shares(0, 10, (0, 0), DEFAULT)


@given(st.integers(0, 999), st.integers(1, 500), st.integers(1, 500))
def test_curriculum_shares_sum_to_one_and_keep_the_floor(step, simple, hard):
    shares = stage_shares(step, 1000, (simple, hard), DEFAULT)
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0
    if step >= 500:
        total = simple + hard
        assert shares[0] >= 0.3 * simple / total - 1e-12 and shares[1] >= 0.3 * hard / total - 1e-12


@pytest.mark.parametrize(
    "values", [{"kind": "anti"}, {"switch_frac": 0.95}, {"first_share": 0.9}, {"floor_share": float("nan")}]
)
def test_curriculum_refuses_nonsense(values):
    with pytest.raises(ConfigError, match="curriculum"):
        CurriculumConfig(**values)


def test_schedule_rises_then_falls():
    rates = [warmup_cosine(step, 100, peak=2e-4, final=1e-6, num_warmup=10) for step in range(100)]
    assert rates[0] == pytest.approx(2e-5) and rates[9] == rates[10] == pytest.approx(2e-4)
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert 1e-6 < rates[-1] < 1.2e-6
    assert warmup_cosine(0, 1, peak=1.0, final=0.0, num_warmup=0) == 1.0


@pytest.mark.parametrize("task", TASKS)
def test_named_tasks_have_one_strength(task):
    image = np.random.default_rng(0).random((3, 16, 16), np.float32)
    first, second = (make_degradation(task).apply(image, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_task_words():
    noise, jpeg, bicubic = (make_degradation(name) for name in ("noise0-50", "jpeg10-40", "sr2"))
    assert (noise.min_sigma_levels, noise.max_sigma_levels) == (0, 50)
    assert (jpeg.min_quality, jpeg.max_quality) == (10, 40)
    assert bicubic.scale == 2
    for wrong in ("nois25", "jpg25", "sr2.5", "noise-25", ""):
        with pytest.raises(PluginError, match="noise25"):
            make_degradation(wrong)
    for wrong in ("noise50-20", "jpeg0", "sr1", "sr2-4", "noise300"):
        with pytest.raises(ConfigError):
            make_degradation(wrong)


def test_ranges_are_drawn_anew_for_every_picture():
    grey, rng = np.full((3, 64, 64), 0.5, np.float32), np.random.default_rng(0)
    spreads = [float(make_degradation("noise0-50").apply(grey, rng).std() * 255) for _ in range(20)]
    assert min(spreads) < 10 and max(spreads) > 40


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.sampled_from([64, 128, 512]), st.sampled_from([8, 16, 32]))
def test_tiles_cover_overlap_and_start_on_the_jpeg_grid(eighths, tile_px, overlap_px):
    size = 8 * eighths
    spans = tile_spans(size, tile_px, overlap_px)
    assert spans[0][0] == 0 and spans[-1][1] == size
    assert all(start % 8 == 0 for start, _ in spans)
    assert {stop - start for start, stop in spans} == {min(size, tile_px)}
    assert all(before[1] - after[0] >= overlap_px for before, after in itertools.pairwise(spans))


def grid(tile_px: int = 64, overlap_px: int = 16, **more: int) -> Grid:
    return Grid(tile_px=tile_px, overlap_px=overlap_px, margin_px=more.pop("margin_px", 4), **more)


@pytest.mark.parametrize("size", [(40, 40), (64, 200), (203, 131), (129, 64), (1, 1), (3, 70)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 3), (np.uint16, 3), (np.uint16, 1)])
def test_tiling_an_identity_is_exact(size, batch, dtype, channels):
    top = np.iinfo(dtype).max
    image = np.random.default_rng(0).integers(0, top, (*size, channels), dtype, endpoint=True)
    seen = []
    restored = restore_tiles(image, lambda tiles, _: tiles, grid(batch=batch), on_tiles=lambda *told: seen.append(told))
    np.testing.assert_array_equal(restored, image)
    assert seen[-1][0] == seen[-1][1]


def test_tiling_knows_where_each_tile_lies_and_enlarges():
    image = np.random.default_rng(0).integers(0, 256, (90, 150, 3), np.uint8)

    def run(tiles, places):
        for tile, place in zip(tiles, places, strict=True):
            inside = image[place.top : place.top + 64, place.left : place.left + 64].transpose(2, 0, 1) / np.float32(
                255
            )
            np.testing.assert_array_equal(tile[:, : inside.shape[1], : inside.shape[2]], inside)
            assert (place.height, place.width) == (96, 152)
        return tiles.repeat(2, axis=2).repeat(2, axis=3)

    restored = restore_tiles(image, run, grid(scale=2, batch=2))
    np.testing.assert_array_equal(restored, image.repeat(2, axis=0).repeat(2, axis=1))


def test_tiles_blend_without_a_step_and_their_margins_are_not_used():
    """Tiles that disagree by 100 levels meet in a ramp, not an edge; the 4 px at their inner borders may be anything."""
    counter = itertools.count()
    image = np.zeros((64, 112, 3), np.uint8)

    def run(tiles, places):
        output = tiles + np.float32(next(counter) % 2 * 100 / 255)
        output[..., :, :4] = 1.0 if places[0].left else output[..., :, :4]
        return output

    restored = restore_tiles(image, run, grid(overlap_px=16))
    steps = np.abs(np.diff(restored[32, :, 0].astype(int)))
    assert steps.max() <= 100 / 8 + 1 and restored.max() == 100


def test_an_output_that_is_not_finite_is_refused():
    with pytest.raises(NumericsError, match="not finite"):
        restore_tiles(np.zeros((8, 8, 3), np.uint8), lambda tiles, _: tiles * np.float32(np.nan), grid())


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 40))
def test_windows_are_spread_inside_the_picture(rows, columns, num):
    size = (8 * rows, 8 * columns)
    corners = spread_windows(size, 64, num)
    assert 1 <= len(corners) <= max(num, 1) and len(set(corners)) == len(corners)
    assert all(0 <= top <= max(0, size[0] - 64) and 0 <= left <= max(0, size[1] - 64) for top, left in corners)
    assert all(top % 8 == 0 and left % 8 == 0 for top, left in corners)


def test_hold_out_keeps_pictures_apart():
    stages = (refs("stage1", "a_0", "a_1", "b_0", "c_0"), refs("stage2", "a_2", "d_0", "e_0"))
    kept, held = hold_out(stages, share=0.3, max_patches=4)
    pictures = {picture_of(ref.key) for ref in held}
    assert held and len(held) <= 4
    assert not pictures & {picture_of(ref.key) for stage in kept for ref in stage}
    assert sum(map(len, kept)) + len(held) == 7 and all(kept)
    shuffled = (stages[1], stages[0])
    assert {ref.key for ref in hold_out(shuffled, share=0.3, max_patches=4)[1]} == {ref.key for ref in held}


@pytest.mark.parametrize(
    "stages", [(refs("", "a_0"),), (refs("", "a_0", "a_1"),), (refs("stage1", "a_0"), refs("stage2", "b_0"))]
)
def test_hold_out_never_empties_a_stage(stages):
    assert hold_out(stages, share=0.9, max_patches=8) == (stages, ())


def test_centre_crop():
    image = np.arange(21 * 35 * 3, dtype=np.uint16).reshape(21, 35, 3).astype(np.uint8)
    assert centre_crop(image, max_px=100, multiple=16).shape == (16, 32, 3)
    np.testing.assert_array_equal(centre_crop(image, max_px=100, multiple=16), image[2:18, 1:33])
    assert centre_crop(image, max_px=8).shape == (8, 8, 3)
    assert centre_crop(image[:5], max_px=100, multiple=16).shape == (5, 32, 3)


def test_a_subset_carries_its_curriculum_as_data():
    carried = {"t_switch": 0.4, "breaks": [0.8, 0.95], "mix": [0.3, 0.7], "floor": 0.2, "temp": 0.25, "w2a": [0.5, 0.4]}
    read = curriculum_of_subset(carried)
    assert (read.switch_frac, read.full_share_frac, read.uniform_frac) == (0.4, 0.95, 0.95)
    assert (read.first_share, read.last_share, read.floor_share, read.kind) == (0.3, 0.7, 0.2, "two-stage")
    assert curriculum_of_subset({}) == CurriculumConfig()
    with pytest.raises(ManifestError, match="unreadable curriculum"):
        curriculum_of_subset({"breaks": 3})
    with pytest.raises(ConfigError, match="switch_frac"):
        curriculum_of_subset({"t_switch": 2})


def test_what_distill_writes_is_what_training_reads():
    """The two packages know each other through the manifest alone; this is where the names meet."""
    from curate.core.config import to_plain
    from distill import CurriculumConfig as Written

    assert curriculum_of_subset(to_plain(Written())) == CurriculumConfig()
