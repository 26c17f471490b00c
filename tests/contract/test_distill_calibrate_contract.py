"""One contract over every file of `distill/calibrate`."""

from __future__ import annotations

import dataclasses
import importlib
import json

import numpy as np
import pytest

from curate.core import plugins
from curate.core.config import build, to_plain
from curate.core.errors import ConfigError
from distill.calibration import CalibrationRequest

NAMES = plugins.names("distill.calibrate")


class _Encoder:
    name, input_px = "none", 8

    def mean_token(self, x_BCHW):
        raise AssertionError("a representative subset is not encoded")


def _refuse(row):
    raise AssertionError("a representative subset is not read")


def _request(*, paired: bool) -> CalibrationRequest:
    rng = np.random.default_rng(4)  # a draw like any other; one in twenty is farther than 2 deviations
    rows = rng.normal(size=(300, 20)).astype(np.float16)
    chosen = np.sort(rng.choice(300, 24, replace=False))
    for array in (rows, chosen):
        array.setflags(write=False)
    return CalibrationRequest(
        rows=rows, degraded_rows=rows[::-1] if paired else None, chosen=chosen, read=_refuse, encoder=_Encoder(), seed=2
    )


def test_the_folder_holds_what_the_command_offers() -> None:
    assert {"cnn", "kmm", "none"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_calibration_names_itself_its_source_and_its_options(name: str) -> None:
    module = importlib.import_module(f"distill.calibrate.{name}")
    assert module.Plugin.name == name
    assert isinstance(module.Plugin.differentiates, bool)
    assert "Source:" in (module.__doc__ or "")
    assert dataclasses.is_dataclass(module.Plugin)
    assert module.Plugin.__dataclass_params__.frozen
    plain = json.loads(json.dumps(to_plain(module.Plugin())))
    assert build(module.Plugin, plain, where=name) == module.Plugin()
    with pytest.raises(ConfigError, match="nonsense"):
        build(module.Plugin, {"nonsense": 1}, where=name)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_representative_subset_keeps_its_pixels_and_the_numbers_are_told(name: str, paired: bool) -> None:
    plugin = plugins.load("distill.calibrate", name)()
    got = plugin.calibrate(_request(paired=paired))
    assert got.change is None
    assert got.weights.shape == (24,)
    assert got.weights.dtype == np.float64
    assert np.isfinite(got.weights).all()
    assert got.weights.min() >= 0
    facts = json.loads(json.dumps(dict(got.facts), allow_nan=False))
    assert facts == dict(got.facts)
    assert facts["mode"] == name
    assert isinstance(facts["accepted"], bool)
    assert facts["reason"]
    numbers = facts["mmd2"]
    assert numbers["null_std"] > 0
    assert numbers["before"] == pytest.approx(sum(member["before"] for member in numbers["members"].values()))
    assert set(numbers["members"]) == ({"x", "y"} if paired else {"x"})
    again = plugin.calibrate(_request(paired=paired))
    assert again.facts == got.facts
    assert again.weights.tolist() == got.weights.tolist()
