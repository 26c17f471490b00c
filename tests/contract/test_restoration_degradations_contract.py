"""One contract for every file of restoration/degradations."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from curate.core import plugins
from curate.core.config import to_plain
from curate.core.errors import ConfigError, ImageError

FOLDER = "restoration.degradations"
NAMES = plugins.names(FOLDER)
NONSENSE = {
    "gaussian_noise": [
        {"min_sigma_levels": -1.0}, {"min_sigma_levels": float("nan")}, {"min_sigma_levels": 50.0}, {"storage": "round"},
    ],
    "jpeg": [{"min_quality": 0}, {"max_quality": 101}, {"min_quality": 60}, {"subsampling": "411"}],
    "bicubic": [{"scale": 1}, {"scale": 9}],
}  # fmt: skip


@pytest.fixture(scope="module")
def image_CHW() -> np.ndarray:
    rows, columns = np.mgrid[0:37, 0:50]
    waves = [0.5 + 0.4 * np.sin(rows / 5 + channel) * np.cos(columns / 7) for channel in range(3)]
    return np.round(np.stack(waves) * 255).astype(np.float32) / np.float32(255)


def apply(name: str, image: np.ndarray, seed: int = 0) -> np.ndarray:
    return plugins.load(FOLDER, name)().apply(image, np.random.default_rng(seed))


@pytest.mark.parametrize("name", NAMES)
def test_keeps_shape_type_and_range_and_does_something(name, image_CHW):
    damaged = apply(name, image_CHW)
    assert damaged.shape == image_CHW.shape and damaged.dtype == np.float32 and damaged.flags.c_contiguous
    assert damaged.min() >= 0 and damaged.max() <= 1
    assert np.abs(damaged - image_CHW).mean() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_is_a_function_of_image_and_generator(name, image_CHW):
    np.testing.assert_array_equal(apply(name, image_CHW, 5), apply(name, image_CHW, 5))


@pytest.mark.parametrize("name", NAMES)
def test_leaves_a_read_only_input_alone(name, image_CHW):
    image = image_CHW.copy()
    image.setflags(write=False)
    damaged = apply(name, image)
    np.testing.assert_array_equal(image, image_CHW)
    assert not np.shares_memory(damaged, image)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 1, 9), (3, 5, 7)])
def test_takes_any_size(name, shape):
    assert apply(name, np.full(shape, 0.25, np.float32)).shape == shape


@pytest.mark.parametrize("name", NAMES)
def test_accepts_a_view_and_draws_the_same(name, image_CHW):
    view = np.ascontiguousarray(image_CHW.transpose(1, 2, 0)).transpose(2, 0, 1)
    np.testing.assert_array_equal(apply(name, view), apply(name, image_CHW))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(8, 8, 3), (3, 0, 4), (1, 8, 8)])
def test_refuses_what_is_not_a_picture(name, shape):
    with pytest.raises(ImageError, match=name):
        apply(name, np.zeros(shape, np.float32))
    with pytest.raises(ImageError, match="float64"):
        apply(name, np.zeros((3, 8, 8)))


@pytest.mark.parametrize("name", NAMES)
def test_says_where_it_comes_from_and_its_name(name):
    module = importlib.import_module(f"{FOLDER}.{name}")
    assert "Source:" in module.__doc__
    assert module.Plugin.name == name
    assert all(f"{field}:" in module.Plugin.__doc__ for field in to_plain(module.Plugin()))


@pytest.mark.parametrize(
    ("name", "values"), [(name, values) for name in NAMES for values in NONSENSE.get(name, [None])]
)
def test_config_refuses_nonsense(name, values):
    assert values is not None, f"add nonsense values for {name} to this test"
    with pytest.raises(ConfigError, match=name):
        plugins.load(FOLDER, name)(**values)
