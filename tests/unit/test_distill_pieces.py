"""The small parts of `distill`: views, descriptors, strata, kernel, ranks, curriculum."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from curate.core.errors import BudgetError, ConfigError, ImageError, ManifestError
from distill import stage_shards
from distill.choose import Chosen
from distill.choose import choose as choose_of_tasks
from distill.complexity.vit_entropy import Plugin as VitEntropy
from distill.curriculum import CurriculumConfig
from distill.descriptors import describe
from distill.features import FeaturesConfig
from distill.kernel import fit_kernel, standardise, whiten
from distill.measure import Patches
from distill.selection import Features, Selector, check_request
from distill.selectors.random import Plugin as Random
from distill.selectors.top import Plugin as Top
from distill.strata import equal_mass, equal_width, largest_remainder, water_fill, without_ends
from distill.table import FeatureTable
from distill.views import global_view, native_crops


def test_crops_are_centred_at_the_quarters() -> None:
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    crops = native_crops(image, 224)
    assert len(crops) == 4
    for crop, (y, x) in zip(crops, [(16, 16), (16, 272), (272, 16), (272, 272)], strict=True):
        assert np.array_equal(crop, image[y : y + 224, x : x + 224])


@pytest.mark.parametrize(
    ("size", "num"), [((223, 900), 0), ((224, 224), 1), ((224, 600), 2), ((300, 300), 4), ((128, 128), 0)]
)
def test_crops_stay_inside_and_are_never_cut_twice(size: tuple[int, int], num: int) -> None:
    crops = native_crops(np.zeros((*size, 3), np.uint8), 224)
    assert len(crops) == num
    assert all(crop.shape == (224, 224, 3) for crop in crops)


def test_the_global_view_is_antialiased() -> None:
    stripes = np.zeros((896, 896, 3), np.uint8)
    stripes[:, ::2] = 255
    inside = global_view(stripes, 224)[8:-8, 8:-8].astype(int)
    assert inside.std() < 2
    assert abs(inside.mean() - 127.5) < 2


def test_descriptors_of_a_constant_patch() -> None:
    image = np.full((64, 64, 3), (255, 0, 51), np.uint8)
    assert describe(image).tolist() == pytest.approx([1.0, 0.0, 0.2, 0, 0, 0, 0, 0])
    with pytest.raises(ImageError):
        describe(np.zeros((4, 4), np.uint8))


def test_descriptors_by_hand(make_photo: Callable[..., np.ndarray]) -> None:
    image = make_photo(3)
    grey = np.round(image.astype(float) @ [0.299, 0.587, 0.114])
    padded = np.pad(grey, 1, mode="reflect")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * grey
    got = describe(image)
    assert got[:3] == pytest.approx(image.mean(axis=(0, 1)) / 255, abs=1e-6)
    assert got[3:6] == pytest.approx(image.std(axis=(0, 1)) / 255, abs=1e-6)
    assert got[7] == pytest.approx(np.log1p(laplacian.var()), rel=1e-2)


def test_water_filling_gives_small_strata_all_they_have() -> None:
    assert water_fill([2, 10, 10], 12) == [2, 5, 5]
    assert water_fill([10, 10, 10], 29) == [9, 9, 10] or sum(water_fill([10, 10, 10], 29)) == 29
    assert water_fill([1, 1, 98], 50) == [1, 1, 48]
    assert water_fill([5], 3) == [3]


def test_strata_are_of_equal_mass_and_the_tail_is_cut() -> None:
    scores = np.arange(100)[::-1].astype(float)
    pool = without_ends(scores, 0.0, 0.05, 20)
    assert len(pool) == 95
    assert scores[pool].tolist() == list(range(95))
    assert [len(stratum) for stratum in equal_mass(pool, 10)] == [10] * 5 + [9] * 5
    assert len(without_ends(scores, 0.0, 0.05, 99)) == 99


def test_the_simplest_are_cut_after_the_most_complex_and_the_budget_stays() -> None:
    scores = np.arange(100)[::-1].astype(float)
    assert scores[without_ends(scores, 0.01, 0.05, 20)].tolist() == list(range(1, 95))
    assert scores[without_ends(scores, 0.5, 0.3, 60)].tolist() == list(range(10, 70))
    assert len(without_ends(scores, 0.9, 0.9, 100)) == 100


def test_strata_of_equal_width_by_hand() -> None:
    scores = np.array([0.0, 0.1, 0.2, 0.25, 0.5, 0.5, 1.0])
    assert [rows.tolist() for rows in equal_width(np.arange(7), scores, 4)] == [[0, 1, 2], [3], [4, 5], [6]]
    assert [rows.tolist() for rows in equal_width(np.arange(3), np.ones(3), 2)] == [[], [0, 1, 2]]


def test_the_largest_remainders_get_what_is_left_over() -> None:
    assert largest_remainder([5, 3, 2], 5) == [3, 1, 1]
    assert largest_remainder([1, 1, 1], 2) == [1, 1, 0]
    assert largest_remainder([0, 7, 0], 7) == [0, 7, 0]
    assert largest_remainder([0, 0], 0) == [0, 0]


def test_whitened_rows_are_uncorrelated_and_the_kernel_is_one_on_itself() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(400, 6)) @ rng.normal(size=(6, 30))).astype(np.float32)
    white = whiten(rows, 6)
    assert np.cov(white.T, bias=True) == pytest.approx(np.eye(6), abs=1e-5)
    assert whiten(rows, 64).shape[1] == 6
    assert whiten(np.ones((5, 3), np.float32), 3).tolist() == [[0.0]] * 5
    assert standardise(np.ones((5, 3), np.float32)).tolist() == [[0.0] * 3] * 5
    kernel = fit_kernel(Features(rows=rows, descriptors=rows[:, :8]), 64)
    every = np.arange(50)
    similar = kernel.between(every, every)
    assert np.diag(similar) == pytest.approx(np.ones(50))
    assert similar == pytest.approx(similar.T)
    assert ((similar >= 0) & (similar <= 1)).all()


def test_the_kernel_is_the_spec_s_formula() -> None:
    rng = np.random.default_rng(1)
    features = Features(
        rows=rng.normal(size=(80, 5)).astype(np.float32), descriptors=rng.normal(size=(80, 8)).astype(np.float32)
    )
    z, low = whiten(features.rows, 5), standardise(features.descriptors)
    wanted = np.zeros((80, 80))
    for part in (z, low):
        squares = ((part[:, None] - part[None]) ** 2).sum(-1)
        bandwidth = np.median(np.sqrt(squares[np.triu_indices(80, 1)]))
        wanted += 0.5 * np.exp(-squares / (2 * bandwidth**2))
    assert fit_kernel(features, 5).between(np.arange(80), np.arange(80)) == pytest.approx(
        wanted, abs=1e-6
    )  # float32 rows


def _entropies(views: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Score patches that have no crops: (N,)."""
    every = np.arange(len(views))
    patches = Patches(
        clean=list(views), degraded=list(views), views=views, tokens=tokens, owner=every,
        is_global=np.ones(len(views), np.bool_),
    )  # fmt: skip
    plugin = VitEntropy()
    return plugin.finish(plugin.measure(patches), every).complexity


def test_entropy_of_known_spectra() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    one_direction = np.outer(np.arange(16.0), np.ones(32)).astype(np.float32)
    simplex = np.eye(16, 32, dtype=np.float32)
    scores = _entropies(noise, np.stack([one_direction, simplex]))
    assert scores == pytest.approx([0.0, 1.0], abs=1e-6)
    assert _entropies(noise[:1], np.stack([simplex])).tolist() == pytest.approx([1.0])
    wide = np.random.default_rng(1).normal(size=(1, 40, 12)).astype(np.float32)
    shares = np.linalg.svd(wide[0] - wide[0].mean(0), compute_uv=False) ** 2
    shares = shares / shares.sum()
    assert _entropies(noise[:1], wide) == pytest.approx([-(shares * np.log(shares)).sum() / np.log(12)], abs=1e-6)


def test_one_colour_scores_zero_even_if_positions_differ() -> None:
    tokens = np.random.default_rng(0).normal(size=(1, 16, 32)).astype(np.float32)
    assert _entropies(np.full((1, 8, 8, 3), 90, np.uint8), tokens).tolist() == [0.0]


def _table(num: int, *, keys: list[str] | None = None, scores: list[float] | None = None) -> FeatureTable:
    rng = np.random.default_rng(0)
    return FeatureTable(
        keys=np.array(keys or [f"{number:020x}_00000_00000_64" for number in range(num)]),
        rows=rng.normal(size=(num, 4)).astype(np.float32), descriptors=rng.normal(size=(num, 8)).astype(np.float32),
        complexity=np.array(scores or rng.random(num)),
    )  # fmt: skip


def choose(table: FeatureTable, selector: Selector, num: int, seed: int) -> Chosen:
    """Choose of a corpus that is one task."""
    return choose_of_tasks(table, {"clean": np.arange(len(table))}, selector, {"clean": num}, seed)


def test_the_simple_half_is_stage_one_and_the_odd_one_is_simple() -> None:
    table = _table(20)
    chosen = choose(table, Top(), 5, 0)
    assert chosen.stage == ["stage1"] * 3 + ["stage2"] * 2
    assert max(chosen.complexity[:3]) <= min(chosen.complexity[3:])
    assert sorted(chosen.complexity.tolist()) == sorted(table.complexity.tolist())[-5:]
    assert choose(table, Random(), 1, 0).stage == ["stage1"]


def test_ranks_average_ties() -> None:
    chosen = choose(_table(4, scores=[0.1, 0.5, 0.5, 0.9]), Top(), 4, 0)
    assert dict(zip(chosen.complexity.tolist(), chosen.rank.tolist(), strict=True)) == {
        0.1: 0.125,
        0.5: 0.5,
        0.9: 0.875,
    }


def test_two_patches_of_one_key_are_refused() -> None:
    with pytest.raises(ManifestError, match="one key"):
        choose(_table(2, keys=["a", "a"]), Top(), 1, 0)


def test_another_seed_gives_another_random_subset() -> None:
    assert choose(_table(50), Random(), 5, 0).key == choose(_table(50), Random(), 5, 0).key
    assert choose(_table(50), Random(), 5, 0).key != choose(_table(50), Random(), 5, 1).key


def test_requests_that_cannot_be_met() -> None:
    features = Features(rows=np.zeros((3, 2), np.float32), descriptors=np.zeros((3, 8), np.float32))
    with pytest.raises(BudgetError, match=r"\[1, 3\], got 4"):
        check_request(features, np.zeros(3), np.zeros(3, np.int64), 4)
    with pytest.raises(BudgetError, match="one length"):
        check_request(features, np.zeros(2), np.zeros(3, np.int64), 1)


@pytest.mark.parametrize(
    "values",
    [{"t_switch": 0.95}, {"t_switch": float("nan")}, {"breaks": (0.9, 0.8)}, {"temp": 0.0},
     {"floor": 1.5}, {"mix": (-0.1, 0.5)}, {"w2a": (-1.0, 0.0)}],
)  # fmt: skip
def test_a_bad_curriculum_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="curriculum"):
        CurriculumConfig(**values)


def test_bad_feature_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="features"):
        FeaturesConfig(batch_patches=0)


def test_stage_shards_hold_one_extension_each_and_keep_the_order():
    extensions = ["jpg"] * 5 + ["webp"] * 3
    rows = pa.table({"key": [str(i) for i in range(8)], "extension": extensions})
    tables = stage_shards._shard_tables(rows, 2)
    assert [table.column("key").to_pylist() for table in tables] == [["0", "1"], ["2", "3"], ["4"], ["5", "6"], ["7"]]
    assert all(len(set(table.column("extension").to_pylist())) == 1 for table in tables)
    assert stage_shards._shard_tables(rows.slice(0, 0), 2) == []
