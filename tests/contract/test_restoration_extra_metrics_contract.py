"""One contract for every file of restoration/extra_metrics."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from curate.core import plugins
from curate.core.errors import MissingDependencyError

FOLDER = "restoration.extra_metrics"
NAMES = plugins.names(FOLDER)


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[0:130, 0:140]
    waves = [0.5 + 0.4 * np.sin(rows / 5 + channel) * np.cos(columns / 7) for channel in range(3)]
    target = np.stack(waves).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.1, target.shape).astype(np.float32)
    return np.clip(target + noise, 0, 1), target


@pytest.mark.parametrize("name", NAMES)
def test_is_a_function_of_the_pictures_and_leaves_them_alone(name, pair):
    plugin = plugins.load(FOLDER, name)()
    copies = [picture.copy() for picture in pair]
    for copy in copies:
        copy.setflags(write=False)
    try:
        value = plugin.measure(*copies)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    assert value is not None and np.isfinite(value) and plugin.measure(*copies) == value
    for copy, picture in zip(copies, pair, strict=True):
        np.testing.assert_array_equal(copy, picture)
    assert plugin.measure(copies[0][:, :4, :4], copies[1][:, :4, :4]) is None, "too small to measure"


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_is(name):
    plugin = plugins.load(FOLDER, name)()
    assert plugin.name == name and "is better" in plugin.words
    documentation = importlib.import_module(f"{FOLDER}.{name}").__doc__
    assert documentation and "Source:" in documentation
