"""One contract for every file of restoration/degradations."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest
import torch

from curate.core import plugins
from curate.core.config import to_plain
from curate.core.errors import ConfigError, ImageError

FOLDER = "restoration.degradations"
NAMES = plugins.names(FOLDER)
SIZES = [(1, 1), (1, 9), (5, 7)]
NAN = float("nan")
NONSENSE = {
    "gaussian_noise": [
        {"min_sigma_levels": -1.0}, {"min_sigma_levels": NAN}, {"min_sigma_levels": 50.0}, {"storage": "round"},
        {"kind_shares": (1.0, 1.0)}, {"kind_shares": (0.0, 0.0, 0.0)}, {"kind_shares": (1.0, -1.0, 0.0)},
    ],
    "poisson": [{"min_peak_photons": 0.0}, {"max_scale": NAN}, {"grey_share": 1.5}],
    "speckle": [{"min_sigma_frac": -0.1}, {"max_sigma_frac": NAN}],
    "salt_and_pepper": [{"max_density_frac": 1.1}, {"salt_share": NAN}],
    "jpeg": [{"min_quality": 0}, {"max_quality": 101}, {"min_quality": 60}, {"subsampling": "411"}],
    "webp": [{"min_quality": 0}, {"max_quality": 101}],
    "bicubic": [{"scale": 1}, {"scale": 9}, {"path": "quick"}],
    "gaussian_blur": [
        {"kind_shares": (1.0,)}, {"min_size_px": 8}, {"max_sigma_px": NAN}, {"sigma_law": "width"},
        {"min_generalised_beta": 1.5}, {"max_plateau_beta": 0.5},
    ],
    "motion_blur": [{"min_length_px": 0.0}, {"path_share": 2.0}],
    "defocus_blur": [{"min_radius_px": 0.0}, {"max_radius_px": NAN}],
    "sinc": [{"min_size_px": 8}, {"max_cutoff_frac": 1.5}, {"min_cutoff_frac": 0.0}],
    "rain": [{"min_layers": 0}, {"max_density": NAN}, {"max_weight": 2.0}, {"max_tilt_deg": 91.0}],
    "haze": [{"max_airlight": 1.1}, {"min_beta": -1.0}, {"kind_shares": (1.0, 1.0)}, {"roughness": 2.0}],
    "low_light": [{"max_alpha": 1.1}, {"min_gamma": 0.5}, {"min_shot": 0.0}, {"max_beta": NAN}],
    "snow": [{"min_density": 0.0}, {"max_opacity": 1.1}, {"min_stretch": 0.5}, {"max_tilt_deg": -1.0}],
    "mask_cells": [{"masked_share": 0.6}, {"fill": 2.0}, {"min_quality": 0}, {"kind_shares": (0.0, 0.0, 0.0)}],
    "resize": [{"min_frac": 0.0}, {"law": "area"}, {"max_frac": 0.9}, {"mode_shares": (1.0,)}, {"relative_to": "old"}],
    "chain": [{"target_scale": 0.5}, {"target_scale": NAN}],
}  # fmt: skip
EQUAL_ON_THE_DEVICE = {
    "bicubic", "gaussian_blur", "motion_blur", "defocus_blur", "sinc", "haze", "resize", "webp",
}  # fmt: skip
"""Others draw their pixels anew there, or (jpeg) compute what the codec computes: test_restoration_degradations.py."""


SPARSE = {"rain": 0.15, "snow": 0.15}  # a few hundred streaks decide the variance of a small picture


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Small pictures: threads would wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plugin(name: str):
    return plugins.load(FOLDER, name)()


def apply(name: str, image: np.ndarray, seed: int = 0) -> np.ndarray:
    return plugin(name).apply(image, np.random.default_rng(seed))


def drawn(name: str, num: int, height: int, width: int) -> list[dict]:
    rng = np.random.default_rng(11)
    return [plugin(name).draw(rng, height, width) for _ in range(num)]


@pytest.fixture(scope="module")
def image_CHW() -> np.ndarray:
    rows, columns = np.mgrid[0:37, 0:50]
    waves = [0.5 + 0.4 * np.sin(rows / 5 + channel) * np.cos(columns / 7) for channel in range(3)]
    return np.round(np.stack(waves) * 255).astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("name", NAMES)
def test_keeps_shape_type_and_range_and_does_something(name, image_CHW):
    changes = []
    for seed in range(4):
        damaged = apply(name, image_CHW, seed)
        assert damaged.shape == image_CHW.shape and damaged.dtype == np.float32 and damaged.flags.c_contiguous
        assert damaged.min() >= 0 and damaged.max() <= 1
        changes.append(np.abs(damaged - image_CHW).mean())
    assert max(changes) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_is_a_function_of_image_and_generator(name, image_CHW):
    np.testing.assert_array_equal(apply(name, image_CHW, 5), apply(name, image_CHW, 5))


@pytest.mark.parametrize("name", NAMES)
def test_what_was_drawn_replays_after_json_with_any_settings(name, image_CHW):
    """`apply` is draw, then render; the record alone is enough, whatever the plug-in's own ranges are."""
    rng = np.random.default_rng(3)
    parameters = plugin(name).draw(rng, *image_CHW.shape[1:])
    recorded = json.loads(json.dumps(parameters, allow_nan=False))
    assert recorded == parameters
    np.testing.assert_array_equal(plugin(name).render(image_CHW, recorded), apply(name, image_CHW, 3))
    assert recorded == parameters, "render wrote to its parameters"


@pytest.mark.parametrize("name", NAMES)
def test_a_strength_is_drawn_in_the_same_place_for_both_generators(name, image_CHW):
    """A RandomState serves as well: published protocols are defined by one."""
    first, second = (plugin(name).apply(image_CHW, np.random.RandomState(4)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_leaves_a_read_only_input_alone(name, image_CHW):
    image = image_CHW.copy()
    image.setflags(write=False)
    for seed in range(3):
        damaged = apply(name, image, seed)
        np.testing.assert_array_equal(image, image_CHW)
        assert not np.shares_memory(damaged, image)
    batch = torch.from_numpy(image_CHW.copy())[None]
    plugin(name).render_batch(batch, drawn(name, 1, *image.shape[1:]))
    np.testing.assert_array_equal(batch[0].numpy(), image_CHW)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_takes_any_size(name, size):
    image = np.full((3, *size), 0.25, np.float32)
    for seed in range(3):
        assert apply(name, image, seed).shape == image.shape
    batch = plugin(name).render_batch(torch.from_numpy(image)[None].repeat(3, 1, 1, 1), drawn(name, 3, *size))
    assert batch.shape == (3, *image.shape) and bool(torch.isfinite(batch).all())


@pytest.mark.parametrize("name", NAMES)
def test_accepts_a_view_and_draws_the_same(name, image_CHW):
    view = np.ascontiguousarray(image_CHW.transpose(1, 2, 0)).transpose(2, 0, 1)
    np.testing.assert_array_equal(apply(name, view), apply(name, image_CHW))


@pytest.mark.parametrize("name", NAMES)
def test_batch_keeps_type_range_and_each_picture_to_itself(name, image_CHW):
    x_BCHW = torch.from_numpy(np.stack([image_CHW, image_CHW[:, ::-1, ::-1].copy(), 1 - image_CHW]))
    parameters = drawn(name, 3, *image_CHW.shape[1:])
    damaged = plugin(name).render_batch(x_BCHW, parameters)
    assert damaged.shape == x_BCHW.shape and damaged.dtype == torch.float32
    assert float(damaged.min()) >= 0 and float(damaged.max()) <= 1
    torch.testing.assert_close(plugin(name).render_batch(x_BCHW, parameters), damaged, rtol=0, atol=0)
    alone = plugin(name).render_batch(x_BCHW[1:2], parameters[1:2])
    torch.testing.assert_close(alone, damaged[1:2], rtol=0, atol=0.02)  # an FFT of another size, a rounding step
    assert float((alone - damaged[1:2]).abs().mean()) < 1e-5
    low = plugin(name).render_batch(x_BCHW.to(torch.bfloat16), parameters)
    assert low.dtype == torch.bfloat16


@pytest.mark.parametrize("name", sorted(EQUAL_ON_THE_DEVICE))
def test_batch_equals_render(name, image_CHW):
    parameters = drawn(name, 6, *image_CHW.shape[1:])
    expected = np.stack([plugin(name).render(image_CHW, values) for values in parameters])
    damaged = plugin(name).render_batch(torch.from_numpy(image_CHW)[None].repeat(6, 1, 1, 1), parameters).numpy()
    np.testing.assert_allclose(damaged, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", sorted(set(NAMES) - EQUAL_ON_THE_DEVICE))
def test_batch_has_the_same_mean_and_variance(name):
    """Random pixels differ; what they do to a picture on average does not."""
    rows, columns = np.mgrid[0:128, 0:128] / 128
    image = np.stack([0.2 + 0.5 * rows, 0.3 + 0.3 * columns, 0.5 + 0.2 * rows * columns]).astype(np.float32)
    parameters = drawn(name, 8, 128, 128)
    expected = np.stack([plugin(name).render(image, values) for values in parameters]) - image
    damaged = plugin(name).render_batch(torch.from_numpy(image)[None].repeat(8, 1, 1, 1), parameters).numpy() - image
    assert abs(damaged.mean() - expected.mean()) < 0.004 + 0.03 * abs(expected.mean())
    assert damaged.std() == pytest.approx(expected.std(), rel=SPARSE.get(name, 0.05))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"webp"}))  # goes through the CPU, by its docstring
def test_batch_stays_on_its_device(name, monkeypatch):
    """Run on a pretended CUDA device: a tensor made anywhere else would not mix with it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    for module in [m for key, m in sys.modules.items() if key.startswith(FOLDER) and hasattr(m, "generators")]:
        monkeypatch.setattr(module, "generators", lambda parameters, like: [None] * len(parameters))  # needs a real one
    parameters = drawn(name, 2, 24, 32)
    with FakeTensorMode():
        damaged = plugin(name).render_batch(torch.rand((2, 3, 24, 32), device="cuda"), parameters)
        assert damaged.device.type == "cuda" and damaged.shape == (2, 3, 24, 32)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_batch_on_a_real_device(name, image_CHW):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA")
    parameters = drawn(name, 3, *image_CHW.shape[1:])
    x_BCHW = torch.from_numpy(image_CHW)[None].repeat(3, 1, 1, 1)
    damaged = plugin(name).render_batch(x_BCHW.cuda(), parameters)
    assert damaged.device.type == "cuda"
    if name in EQUAL_ON_THE_DEVICE:
        expected = np.stack([plugin(name).render(image_CHW, values) for values in parameters])
        np.testing.assert_allclose(damaged.cpu().numpy(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(8, 8, 3), (3, 0, 4), (1, 8, 8)])
def test_refuses_what_is_not_a_picture(name, shape):
    with pytest.raises(ImageError, match=name):
        apply(name, np.zeros(shape, np.float32))
    with pytest.raises(ImageError, match="float64"):
        apply(name, np.zeros((3, 8, 8)))
    with pytest.raises(ImageError, match=name):
        plugin(name).render_batch(torch.zeros((2, *shape)), drawn(name, 2, 8, 8))
    with pytest.raises(ImageError, match="parameters for 1"):
        plugin(name).render_batch(torch.zeros((2, 3, 8, 8)), drawn(name, 1, 8, 8))


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
