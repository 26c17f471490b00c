"""One contract over every file of `distill/selectors` and `distill/complexity`."""

import dataclasses
import importlib

import numpy as np
import pytest

from curate.core import plugins
from curate.core.errors import BudgetError, ConfigError, PluginError
from distill.selection import Features

SELECTORS, COMPLEXITIES = plugins.names("distill.selectors"), plugins.names("distill.complexity")


def _request(num_rows: int = 60) -> tuple[Features, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    features = Features(
        rows=rng.normal(size=(num_rows, 12)).astype(np.float32),
        descriptors=rng.normal(size=(num_rows, 8)).astype(np.float32),
    )
    scores, groups = rng.random(num_rows), np.sort(rng.integers(0, 12, num_rows))
    for array in (features.rows, features.descriptors, scores, groups):
        array.setflags(write=False)
    return features, scores, groups


def test_the_folders_hold_what_the_command_offers() -> None:
    assert {"random", "strat_fl", "top"} <= set(SELECTORS)
    assert {"vit_entropy", "gradient", "histogram"} <= set(COMPLEXITIES)
    with pytest.raises(PluginError, match="strat_fl"):
        plugins.load("distill.selectors", "strat-lf")


@pytest.mark.parametrize("package", ["distill.selectors", "distill.complexity"])
def test_every_file_names_itself_and_its_source(package: str) -> None:
    for name in plugins.names(package):
        module = importlib.import_module(f"{package}.{name}")
        assert module.Plugin.name == name
        assert "Source:" in (module.__doc__ or "")
        assert dataclasses.is_dataclass(module.Plugin)
        assert module.Plugin.__dataclass_params__.frozen


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("num", [1, 2, 13, 59, 60])
def test_a_selector_gives_exactly_what_was_asked(name: str, num: int) -> None:
    features, scores, groups = _request()
    picked = plugins.load("distill.selectors", name)().select(features, scores, groups, num, np.random.default_rng(0))
    assert picked.indices.dtype == picked.strata.dtype == np.int64
    assert len(picked.indices) == len(set(picked.indices.tolist())) == num == len(picked.strata) == len(picked.gains)
    assert picked.indices.min() >= 0
    assert picked.indices.max() < 60
    assert np.isfinite(picked.gains).all()
    again = plugins.load("distill.selectors", name)().select(features, scores, groups, num, np.random.default_rng(0))
    assert again.indices.tolist() == picked.indices.tolist()


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selector_refuses_what_cannot_be_met(name: str) -> None:
    features, scores, groups = _request()
    for num in (0, 61):
        with pytest.raises(BudgetError, match="num must be"):
            plugins.load("distill.selectors", name)().select(features, scores, groups, num, np.random.default_rng(0))


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selector_survives_rows_that_are_all_the_same(name: str) -> None:
    features = Features(rows=np.ones((20, 6), np.float32), descriptors=np.ones((20, 8), np.float32))
    groups = np.zeros(20, np.int64)
    picked = plugins.load("distill.selectors", name)().select(
        features, np.ones(20), groups, 9, np.random.default_rng(0)
    )
    assert len(set(picked.indices.tolist())) == 9


@pytest.mark.parametrize(
    "values",
    [
        {"tail_cut_frac": 1.0}, {"tail_cut_frac": float("nan")}, {"miss_frac": 0.0}, {"num_strata": 0}, {"rank": 0},
        {"min_per_stratum": 0},
    ],
)  # fmt: skip
def test_strat_fl_refuses_nonsense(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="strat_fl"):
        plugins.load("distill.selectors", "strat_fl")(**values)


def test_vit_entropy_refuses_nonsense() -> None:
    with pytest.raises(ConfigError, match="vit_entropy"):
        plugins.load("distill.complexity", "vit_entropy")(min_energy=0.0)


@pytest.mark.parametrize("name", COMPLEXITIES)
def test_a_complexity_is_pure_and_orders_plainly(name: str) -> None:
    rng = np.random.default_rng(0)
    constant, noise = np.full((64, 64, 3), 120, np.uint8), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ramp = np.repeat(np.linspace(100, 110, 64).astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    images_NHWC = np.stack([constant, ramp, noise])
    greys = images_NHWC[..., 0].reshape(3, 8, 8, 8, 8).transpose(0, 1, 3, 2, 4).reshape(3, 64, 64)
    tokens_NTD = (greys / np.float32(255)).astype(np.float32)
    images_NHWC.setflags(write=False)
    tokens_NTD.setflags(write=False)
    measure = plugins.load("distill.complexity", name)().measure
    scores = measure(images_NHWC, tokens_NTD)
    assert scores.shape == (3,)
    assert scores.dtype == np.float64
    assert scores[0] == 0
    assert 0 < scores[1] < scores[2]
    assert measure(images_NHWC, tokens_NTD).tolist() == scores.tolist()
    assert measure(images_NHWC[2:], tokens_NTD[2:]) == pytest.approx(scores[2:])
