"""What single degradations promise beyond the contract: kernels by hand, laws of noise, counts of cells, the device JPEG."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from curate.core.errors import ConfigError, PluginError
from restoration.degradations import _kernels, gaussian_blur, gaussian_noise, haze, mask_cells, resize, to_levels
from restoration.degradations._blocks import jpeg_batch, quantisation_table
from restoration.degradations._filters import convolve, convolve_batch, mirrored
from restoration.degradations._noise_fields import plasma
from restoration.tasks import make_degradation, replay, task_words


def grey(level: float, side: int = 128) -> np.ndarray:
    return np.full((3, side, side), level, np.float32)


def test_line_kernel_is_matlabs():
    """fspecial('motion', 9, 0) is nine equal entries; fspecial('motion', 4, 0) has half entries at its ends."""
    np.testing.assert_allclose(_kernels.line_kernel(9, 0)[5, 1:-1], np.full(9, 1 / 9), atol=1e-12)
    four = _kernels.line_kernel(4, 0)
    np.testing.assert_allclose(four[four.shape[0] // 2], [0, 0.125, 0.25, 0.25, 0.25, 0.125, 0], atol=1e-12)
    np.testing.assert_allclose(_kernels.line_kernel(9, 90), _kernels.line_kernel(9, 0).T, atol=1e-12)
    rising = _kernels.line_kernel(15, 45)
    assert rising[5, 11] > 0.02 and rising[5, 5] < 1e-6  # anticlockwise: from bottom left to top right


@pytest.mark.parametrize("make", [
    lambda: _kernels.gaussian_kernel(21, 3.0, 1.0, 30.0, "gaussian", 1.0),
    lambda: _kernels.gaussian_kernel(7, 0.0, 0.0, 0.0, "gaussian", 1.0),
    lambda: _kernels.gaussian_kernel(21, 2.0, 2.0, 0.0, "plateau", 1.7),
    lambda: _kernels.path_kernel(20.0, 3), lambda: _kernels.disc_kernel(2.5), lambda: _kernels.sinc_kernel(13, 1.0),
    lambda: _kernels.line_kernel(11.3, 62.0),
])  # fmt: skip
def test_kernels_keep_brightness(make):
    kernel = make()
    assert kernel.shape[0] == kernel.shape[1] and kernel.shape[0] % 2 == 1 and not kernel.flags.writeable
    assert kernel.sum() == pytest.approx(1) and np.isfinite(kernel).all()


def test_generalised_gaussian_of_shape_one_is_the_gaussian():
    plain = _kernels.gaussian_kernel(21, 3.0, 1.0, 30.0, "gaussian", 1.0)
    np.testing.assert_allclose(_kernels.gaussian_kernel(21, 3.0, 1.0, 30.0, "generalised", 1.0), plain, atol=1e-15)
    x = np.arange(21) - 10
    spread = math.sqrt(float((_kernels.gaussian_kernel(21, 2.0, 2.0, 0.0, "gaussian", 1.0).sum(0) * x**2).sum()))
    assert spread == pytest.approx(2.0, abs=0.01)
    assert _kernels.disc_kernel(3.0).max() * math.pi * 9 == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (40, 31)])
@pytest.mark.parametrize("side", [1, 3, 25])
def test_convolution_on_host_and_device(size, side):
    """Both are a plain sum over the mirrored picture, also where the kernel is larger than it."""
    rng = np.random.default_rng(0)
    image, kernel = rng.random((3, *size), np.float32), rng.random((side, side))
    half = side // 2
    rows, columns = (mirrored(n, half) for n in size)
    padded = image[:, rows][:, :, columns].astype(np.float64)
    expected = sum(
        kernel[dy, dx] * padded[:, side - 1 - dy : side - 1 - dy + size[0], side - 1 - dx : side - 1 - dx + size[1]]
        for dy in range(side) for dx in range(side)
    )  # fmt: skip
    np.testing.assert_allclose(convolve(image, kernel), expected, rtol=1e-4, atol=1e-5)
    small = np.ones((1, 1))
    batch = convolve_batch(torch.from_numpy(np.stack([image, image])), [kernel, small]).numpy()
    np.testing.assert_allclose(batch[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batch[1], image, atol=1e-4)


def test_a_random_state_replays_from_its_seed():
    """The record of a published protocol: the stream is MT19937's, drawn in (H, W, 3) order."""
    image = np.random.default_rng(0).random((3, 8, 9), np.float32)
    plugin = make_degradation("noise25")
    parameters = {"sigma_levels": 25.0, "kind": "colour", "storage": "floor", "stream": "mt19937", "seed": 77}
    expected = plugin.apply(image, np.random.RandomState(77))
    np.testing.assert_array_equal(plugin.render(image, parameters), expected)
    levels = np.round(image.astype(np.float64) * 255, 3) + 25 * np.random.RandomState(77).randn(8, 9, 3).transpose(
        2, 0, 1
    )
    np.testing.assert_array_equal(np.rint(expected * 255), np.floor(np.clip(levels, 0, 255)))


@pytest.mark.parametrize(("kind", "correlation"), [(0, 0.0), (1, 1.0)])
def test_noise_of_each_kind(kind, correlation):
    shares = tuple(float(place == kind) for place in range(3))
    plugin = gaussian_noise.Plugin(kind_shares=shares, storage="none")
    noise = (plugin.apply(grey(0.5), np.random.default_rng(0)) - 0.5) * 255
    assert noise.std() == pytest.approx(25, rel=0.02) and abs(noise.mean()) < 0.5
    assert np.corrcoef(noise.reshape(3, -1))[0, 1] == pytest.approx(correlation, abs=0.03)


def test_correlated_noise_has_the_recorded_covariance():
    plugin = gaussian_noise.Plugin(kind_shares=(0.0, 0.0, 1.0), storage="none")
    parameters = plugin.draw(np.random.default_rng(5), 128, 128)
    root = np.array(parameters["mixing"])
    expected = root @ root.T * 25**2
    found = np.cov(((plugin.render(grey(0.5), parameters) - 0.5) * 255).reshape(3, -1))
    np.testing.assert_allclose(found, expected, atol=0.04 * expected.max())
    batch = plugin.render_batch(torch.from_numpy(grey(0.5))[None], [parameters])[0].numpy()
    np.testing.assert_allclose(np.cov(((batch - 0.5) * 255).reshape(3, -1)), expected, atol=0.04 * expected.max())


def test_laws_of_shot_noise_speckle_and_impulses():
    rng = np.random.default_rng(0)
    shot = replay("poisson", grey(0.4), {"peak_photons": 100.0, "scale": 1.0, "grey": False, "seed": 1})
    assert shot.std() == pytest.approx(math.sqrt(0.4 / 100), rel=0.03) and shot.mean() == pytest.approx(0.4, abs=2e-3)
    alike = replay("poisson", grey(0.4), {"peak_photons": 100.0, "scale": 2.0, "grey": True, "seed": 1})
    assert np.ptp(alike, axis=0).max() < 1e-5 and alike.std() == pytest.approx(2 * math.sqrt(0.4 / 100), rel=0.05)
    speckle = replay("speckle", grey(0.4), {"sigma_frac": 0.2, "seed": 1})
    assert speckle.std() == pytest.approx(0.08, rel=0.02)
    hit = make_degradation("impulses").apply(grey(0.5), rng)
    parameters = {"density_frac": 0.2, "salt_share": 0.25, "per_channel": False, "seed": 3}
    hit = replay("salt_and_pepper", grey(0.5), parameters)
    assert (hit[0] == 1).mean() == pytest.approx(0.05, abs=0.01) and (hit[0] == 0).mean() == pytest.approx(
        0.15, abs=0.02
    )
    np.testing.assert_array_equal(hit[0], hit[2])


def test_haze_follows_its_formula():
    parameters = haze.Plugin().draw(np.random.default_rng(1), 64, 64) | {"airlight": [0.9, 0.8, 0.7], "span_m": 0.0}
    through = math.exp(-parameters["beta"] * parameters["near_m"])
    hazy = replay("haze", grey(0.2, 64), parameters)
    np.testing.assert_allclose(hazy[1], 0.2 * through + 0.8 * (1 - through), atol=1e-5)
    field = plasma(3, 0.5, 50, 70)
    assert field.min() == 0 and field.max() == pytest.approx(1) and np.abs(np.diff(field)).max() < 0.2


def test_low_light_darkens_by_its_curve():
    parameters = {"alpha": 0.9, "beta": 0.5, "gamma": 2.0, "shot_variance": 0.0, "read_variance": 0.0, "seed": 0}
    np.testing.assert_allclose(replay("low_light", grey(0.5), parameters), 0.5 * 0.45**2, atol=1e-6)
    noisy = replay("low_light", grey(1.0), parameters | {"shot_variance": 0.002, "read_variance": 1e-4})
    assert noisy.std() == pytest.approx(math.sqrt(0.002 * 0.405 + 1e-4), rel=0.03)


def test_cells_are_counted_and_disjoint():
    """30 % masked white, 50 % degraded, 20 % left alone (spec/dynet.md 2.1)."""
    parameters = mask_cells.Plugin().draw(np.random.default_rng(0), 128, 128)
    kinds = np.array(parameters["cells"])
    assert (kinds == mask_cells.MASKED).sum() == 19 and (kinds > mask_cells.MASKED).sum() == 32
    image = np.random.default_rng(1).random((3, 128, 128), np.float32)
    damaged = replay("mask_cells", image, parameters)
    blocks = np.abs(damaged - image).reshape(3, 8, 16, 8, 16).max(axis=(0, 2, 4)).ravel()
    assert (blocks[kinds == mask_cells.CLEAN] == 0).all() and (blocks[kinds == mask_cells.JPEG] > 0).all()
    assert (damaged.reshape(3, 8, 16, 8, 16).min(axis=(0, 2, 4)).ravel() == 1).sum() == 19


@pytest.mark.parametrize("subsampling", ["420", "422", "444"])
@pytest.mark.parametrize("size", [(64, 96), (37, 51), (8, 8), (3, 2)])
def test_device_jpeg_is_nearly_the_codec(make_photo, subsampling, size):
    image = np.ascontiguousarray(make_photo(1)[: size[0], : size[1]].transpose(2, 0, 1)).astype(np.float32) / 255
    for quality in (10, 50, 92):
        codec = replay("jpeg", image, {"quality": quality, "subsampling": subsampling})
        device = jpeg_batch(torch.from_numpy(image)[None], [quality], subsampling)[0].numpy()
        assert np.abs(codec - device).mean() * 255 < 0.35, quality
        assert np.abs(codec - image).mean() > 4 * np.abs(codec - device).mean()


def test_jpeg_tables_are_libjpegs_and_gradients_pass(jpeg_bytes, make_photo):
    from io import BytesIO

    from PIL import Image

    for quality in (5, 10, 49, 50, 75, 100):
        with Image.open(BytesIO(jpeg_bytes(make_photo(0, 16, 16), quality=quality))) as picture:
            tables = picture.quantization
        for number, kind in enumerate(("luma", "chroma")):
            np.testing.assert_array_equal(np.reshape(tables[number], (8, 8)), quantisation_table(quality, kind))
    x_BCHW = torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(0)).requires_grad_()
    jpeg_batch(x_BCHW, [30], "420").sum().backward()
    assert x_BCHW.grad is not None and float(x_BCHW.grad.abs().sum()) > 1


def test_jpeg_and_webp_are_the_plain_codecs(make_photo):
    levels = make_photo(2, 40, 56)
    image = np.ascontiguousarray(levels.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
    for suffix, name, flag in (
        (".jpg", "jpeg30", cv2.IMWRITE_JPEG_QUALITY),
        (".webp", "webp30", cv2.IMWRITE_WEBP_QUALITY),
    ):
        _, data = cv2.imencode(suffix, levels[:, :, ::-1], [flag, 30])
        expected = cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1]
        found = to_levels(make_degradation(name).apply(image, np.random.default_rng(0)))
        np.testing.assert_array_equal(found, expected)


def test_resize_leaves_and_comes_back():
    image = np.random.default_rng(0).random((3, 20, 30), np.float32)
    small = replay("resize", image, {"height": 7, "width": 11, "mode": "area", "back": ""})
    assert small.shape == (3, 7, 11)
    np.testing.assert_allclose(small.mean(), image.mean(), atol=1e-3)
    same = replay("resize", image, {"height": 20, "width": 30, "mode": "bicubic", "back": "bilinear"})
    np.testing.assert_array_equal(same, image)


@pytest.mark.parametrize("task", [task for task in task_words() if task != "chain"])
def test_every_word_is_a_task(task):
    image = np.random.default_rng(0).random((3, 24, 24), np.float32)
    damaged = make_degradation(task).apply(image, np.random.default_rng(1))
    assert damaged.shape == image.shape and damaged.dtype == np.float32


def test_task_words_and_records_that_are_wrong():
    assert make_degradation("webp20-40").max_quality == 40
    assert make_degradation("rain-heavy").min_layers > make_degradation("rain").min_layers
    assert make_degradation("gaussian-blur").name == "gaussian_blur"
    with pytest.raises(PluginError, match="near names: real-esrgan"):
        make_degradation("realesrgan")
    with pytest.raises(ConfigError, match="'seed'"):
        replay("speckle", grey(0.5), {"sigma_frac": 0.1})
    with pytest.raises(PluginError, match="speckle"):
        replay("speckles", grey(0.5), {})


def test_drawn_noise_of_a_random_state_replays():
    """Where a strength or a kind is drawn, the record is enough for a RandomState as well."""
    image = np.random.default_rng(0).random((3, 8, 9), np.float32)
    for plugin in (make_degradation("noise0-50"), gaussian_noise.Plugin(kind_shares=(1.0, 1.0, 1.0))):
        parameters = plugin.draw(np.random.RandomState(5), 8, 9)
        np.testing.assert_array_equal(plugin.apply(image, np.random.RandomState(5)), plugin.render(image, parameters))
    fixed = make_degradation("noise25")
    expected = fixed.apply(image, np.random.RandomState(77))
    np.testing.assert_array_equal(fixed.render(image, fixed.published(77)), expected)


def test_resize_needs_a_filter_to_come_back_by():
    with pytest.raises(ConfigError, match="comes back by area, bilinear, bicubic"):
        resize.Plugin(mode_shares=(0.0, 0.0, 0.0, 1.0))
    away = resize.Plugin(mode_shares=(0.0, 0.0, 0.0, 1.0), back=False)
    assert away.draw(np.random.default_rng(0), 40, 40)["mode"] == "nearest"


def test_half_of_the_plateaus_lie_on_each_side_of_one():
    """spec/ipt.md 8.3: with a range of 1 to 2 half of them are exactly 1."""
    shares = (0.0, 0.0, 0.0, 0.0, 0.5, 0.5)
    for low in (1.0, 0.5):
        plugin, rng = gaussian_blur.Plugin(kind_shares=shares, min_plateau_beta=low), np.random.default_rng(0)
        betas = np.array([plugin.draw(rng, 32, 32)["beta"] for _ in range(400)])
        assert np.mean(betas <= 1) == pytest.approx(0.5, abs=0.08) and low <= betas.min() and 1.9 < betas.max() < 2
        assert (betas == 1).any() == (low == 1)
    for wrong in ({"min_plateau_beta": 1.5}, {"min_plateau_beta": 0.0}, {"max_plateau_beta": 0.5}):
        with pytest.raises(ConfigError, match="min_plateau_beta"):
            gaussian_blur.Plugin(**wrong)
