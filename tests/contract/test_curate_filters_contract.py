"""Every file in curate/filters keeps the promises a filter makes; a new file is picked up by itself."""

import dataclasses
import importlib
import importlib.util

import numpy as np
import pytest

from curate.core import plugins
from curate.core.errors import ConfigError
from curate.core.records import ImageFacts
from curate.view import ImageView, PatchView

NAMES = plugins.names("curate.filters")


def skip_unless_ready(name: str) -> None:
    """Skip what cannot be measured here: a score through an extra that is not installed, or with a checkpoint of the user's."""
    if name == "brisque" and importlib.util.find_spec("brisque") is None:
        pytest.skip("the wheel brisque is not installed: pip install 'irdistill[iqa]'")
    if name == "nima":
        pytest.skip("no NIMA checkpoint is shipped; tests/oracle/test_curate_iqa_oracle.py measures with a made one")


def make_view(make_photo, name: str):
    rgb = make_photo(5, 192, 256)
    grey = np.ascontiguousarray(rgb[..., 1])
    for plane in (rgb, grey):
        plane.setflags(write=False)
    facts = ImageFacts(format="png", width=256, height=192, orientation=1, mode="RGB", policy="", icc_profile="")
    image = ImageView(facts=facts, num_bytes=1000, grey=grey, load_rgb=lambda: rgb)
    return (
        image
        if plugins.load("curate.filters", name).level == "image"
        else PatchView(image=image, y=64, x=64, size_px=128)
    )


@pytest.mark.parametrize("name", NAMES)
def test_names_levels_and_source(name):
    plugin = plugins.load("curate.filters", name)
    assert plugin.name == name
    assert plugin.level in ("image", "patch")
    assert dataclasses.is_dataclass(plugin) and plugin.__dataclass_params__.frozen
    assert "Source:" in importlib.import_module(f"curate.filters.{name}").__doc__


@pytest.mark.parametrize("name", NAMES)
def test_measure_is_pure_and_fills_its_columns(make_photo, name):
    skip_unless_ready(name)
    plugin = plugins.load("curate.filters", name)()
    first, second = plugin.measure(make_view(make_photo, name)), plugin.measure(make_view(make_photo, name))
    assert dict(first) == dict(second)
    assert set(first) == set(plugin.columns)
    assert all(value is None or (isinstance(value, float) and np.isfinite(value)) for value in first.values())


@pytest.mark.parametrize("name", NAMES)
def test_judge_sees_scores_alone_and_survives_nulls(make_photo, name):
    plugin = plugins.load("curate.filters", name)()
    unknown = plugin.judge(dict.fromkeys(plugin.columns))
    assert not unknown.keep and unknown.reason
    skip_unless_ready(name)
    verdict = plugin.judge(plugin.measure(make_view(make_photo, name)))
    assert verdict.keep == (verdict.reason == "")


@pytest.mark.parametrize("name", NAMES)
def test_thresholds_refuse_nan(name):
    plugin = plugins.load("curate.filters", name)
    for field in dataclasses.fields(plugin):
        with pytest.raises(ConfigError, match=name):
            plugin(**{field.name: float("nan")})
