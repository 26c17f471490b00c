"""One contract over every file of `distill/selectors`: exact budgets, plain errors, the same rows however many threads."""

import dataclasses
import importlib
from typing import Any

import numpy as np
import pytest

from curate.core import plugins
from curate.core.errors import BudgetError, ConfigError, NumericsError, PluginError
from distill.blocks import use_threads
from distill.partition import CellConfig
from distill.selection import Features, Selection

PACKAGE = "distill.selectors"
SELECTORS = plugins.names(PACKAGE)
NEEDS = {name: plugins.load(PACKAGE, name).needs for name in SELECTORS}
MEASURES = sorted({need for needs in NEEDS.values() for need in needs})
IN_CELLS = [name for name in SELECTORS if "cells" in plugins.load(PACKAGE, name).__dataclass_fields__]
FROM_DRAWS = {"random", "ccs"}  # whose answer depends on the seed


def _request(num_rows: int = 60, *, seed: int = 7) -> tuple[Features, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = Features(
        rows=rng.normal(size=(num_rows, 12)).astype(np.float32),
        descriptors=rng.normal(size=(num_rows, 8)).astype(np.float32),
        measures={name: rng.random(num_rows) for name in MEASURES},
    )
    scores, groups = rng.random(num_rows), np.sort(rng.integers(0, 12, num_rows))
    for array in (features.rows, features.descriptors, scores, groups, *features.measures.values()):
        array.setflags(write=False)
    return features, scores, groups


def _select(
    name: str, features: Features, scores: np.ndarray, groups: np.ndarray, num: int, seed: int = 0, **values: Any
) -> Selection:
    return plugins.load(PACKAGE, name)(**values).select(features, scores, groups, num, np.random.default_rng(seed))


def _same(left: Selection, right: Selection) -> bool:
    return all(
        getattr(left, name).tobytes() == getattr(right, name).tobytes() for name in ("indices", "strata", "gains")
    )


def test_the_folder_holds_what_the_issue_lists() -> None:
    assert set(SELECTORS) == {
        "strat_fl", "random", "top", "bottom", "window", "herding", "kcenter", "fl", "ccs", "moderate", "d2",
        "moser_loss", "psnr_bic",
    }  # fmt: skip
    with pytest.raises(PluginError, match="strat_fl"):
        plugins.load(PACKAGE, "strat-lf")


@pytest.mark.parametrize("name", SELECTORS)
def test_every_file_names_itself_and_its_source(name: str) -> None:
    module = importlib.import_module(f"{PACKAGE}.{name}")
    assert module.Plugin.name == name
    assert "Source:" in (module.__doc__ or "")
    assert dataclasses.is_dataclass(module.Plugin)
    assert module.Plugin.__dataclass_params__.frozen
    assert set(NEEDS[name]) <= set(plugins.names("distill.complexity"))


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("num", [1, 2, 13, 59, 60])
def test_a_selector_gives_exactly_what_was_asked(name: str, num: int) -> None:
    picked = _select(name, *_request(), num)
    assert picked.indices.dtype == picked.strata.dtype == np.int64
    assert picked.gains.dtype == np.float64
    assert len(picked.indices) == len(set(picked.indices.tolist())) == num == len(picked.strata) == len(picked.gains)
    assert picked.indices.min() >= 0
    assert picked.indices.max() < 60
    assert np.isfinite(picked.gains).all()
    assert _same(picked, _select(name, *_request(), num))


@pytest.mark.parametrize("name", SELECTORS)
def test_the_seed_matters_only_where_rows_are_drawn(name: str) -> None:
    one, two = (_select(name, *_request(), 13, seed) for seed in (0, 1))
    assert _same(one, two) == (name not in FROM_DRAWS)


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selector_refuses_what_cannot_be_met(name: str) -> None:
    for num in (0, 61):
        with pytest.raises(BudgetError, match="num must be"):
            _select(name, *_request(), num)


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["rows", "descriptors", "scores"])
def test_the_first_row_that_is_not_finite_is_named(name: str, bad: float, where: str) -> None:
    features, scores, groups = _request()
    arrays = {"rows": features.rows.copy(), "descriptors": features.descriptors.copy(), "scores": scores.copy()}
    arrays[where][[50, 41]] = bad
    broken = Features(rows=arrays["rows"], descriptors=arrays["descriptors"], measures=features.measures)
    with pytest.raises(NumericsError, match=rf"{where} of patch 41\b") as caught:
        _select(name, broken, arrays["scores"], groups, 5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in SELECTORS if NEEDS[name]])
def test_a_measure_that_is_missing_short_or_not_finite_is_named(name: str) -> None:
    features, scores, groups = _request()
    need = NEEDS[name][0]
    with pytest.raises(ConfigError, match=f"{name} needs the scores of complexity {need}.*none") as caught:
        _select(name, dataclasses.replace(features, measures={}), scores, groups, 5)
    assert "\n" not in str(caught.value)
    with pytest.raises(BudgetError, match="59 scores of 60"):
        _select(name, dataclasses.replace(features, measures={need: np.zeros(59)}), scores, groups, 5)
    values = np.where(np.arange(60) == 33, np.nan, 0.0)
    with pytest.raises(NumericsError, match=f"{need} of patch 33"):
        _select(name, dataclasses.replace(features, measures={need: values}), scores, groups, 5)


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selector_survives_rows_that_are_all_the_same(name: str) -> None:
    features = Features(
        rows=np.ones((20, 6), np.float16), descriptors=np.ones((20, 8), np.float32),
        measures=dict.fromkeys(MEASURES, np.ones(20)),
    )  # fmt: skip
    groups = np.zeros(20, np.int64)
    assert len(set(_select(name, features, np.ones(20), groups, 9).indices.tolist())) == 9
    if name in IN_CELLS:
        cells = CellConfig(mean_rows=4, min_rows=2, max_rows=5)
        picked = _select(name, features, np.ones(20), groups, 9, exact_rows=1, cells=cells)
        assert len(set(picked.indices.tolist())) == 9


@pytest.mark.parametrize("name", IN_CELLS)
@pytest.mark.parametrize("num", [1, 7, 60, 400, 900])
def test_in_cells_a_selector_gives_exactly_what_was_asked(name: str, num: int) -> None:
    cells = CellConfig(mean_rows=100, min_rows=60, max_rows=150)
    picked = _select(name, *_request(900), num, exact_rows=100, cells=cells)
    assert len(picked.indices) == len(set(picked.indices.tolist())) == num == len(picked.strata) == len(picked.gains)
    assert picked.indices.min() >= 0
    assert picked.indices.max() < 900


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("exact_rows", [20_000, 500])
def test_the_number_of_threads_changes_no_byte(name: str, exact_rows: int) -> None:
    values = {"exact_rows": exact_rows, "cells": CellConfig(mean_rows=350, min_rows=250, max_rows=500)}
    if name not in IN_CELLS:
        values = {}
    request = _request(1500)
    with use_threads(1):
        alone = _select(name, *request, 150, **values)
    with use_threads(2):
        together = _select(name, *request, 150, **values)
    assert _same(alone, together)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("strat_fl", {"tail_cut_frac": 1.0}), ("strat_fl", {"tail_cut_frac": float("nan")}),
        ("strat_fl", {"low_cut_frac": -0.1}), ("strat_fl", {"miss_frac": 0.0}), ("strat_fl", {"num_strata": 0}),
        ("strat_fl", {"rank": 0}), ("strat_fl", {"min_per_stratum": 0}), ("strat_fl", {"binning": "other"}),
        ("strat_fl", {"large": "other"}), ("strat_fl", {"exact_rows": 0}), ("strat_fl", {"num_reference_rows": 0}),
        ("fl", {"rank": 0}), ("fl", {"exact_rows": 0}), ("fl", {"miss_frac": 1.0}), ("fl", {"large": "other"}),
        ("ccs", {"mis_ratio_frac": 1.0}), ("ccs", {"num_strata": 0}), ("d2", {"gamma": float("nan")}),
        ("d2", {"num_neighbours": 0}), ("d2", {"mis_ratio_frac": -1.0}), ("herding", {"rank": 0}),
        ("herding", {"exact_rows": 0}), ("kcenter", {"rank": 0}), ("kcenter", {"exact_rows": 0}),
        ("moderate", {"rank": 0}), ("moser_loss", {"tail_cut_frac": 1.0}), ("window", {"centre_frac": 1.1}),
        ("window", {"low_frac": 0.5, "high_frac": 0.5}),
    ],
)  # fmt: skip
def test_nonsense_is_refused_by_name(name: str, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=name):
        plugins.load(PACKAGE, name)(**values)


@pytest.mark.parametrize("sizes", [(0, 1, 2), (5, 4, 10), (5, 11, 10), (5, 7, 9)])
def test_cells_that_cannot_be_made_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="cells"):
        CellConfig(min_rows=sizes[0], mean_rows=sizes[1], max_rows=sizes[2])


def test_a_window_that_is_too_narrow_is_refused() -> None:
    with pytest.raises(BudgetError, match="12 of 60 ranks"):
        _select("window", *_request(), 13, low_frac=0.4, high_frac=0.6)
