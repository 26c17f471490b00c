"""MATLAB's bicubic against an independent NumPy float64 oracle (max 1 level), and what must never change under it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from restoration.degradations._taps import MODES, matlab_bicubic, smooth_steps, sparse_matrix, taps_of
from restoration.degradations.bicubic import Plugin, resize_bicubic, shrink

SIZES = [(48, 60), (50, 35), (37, 41), (7, 5)]


def weights(size: int, new_size: int, scale: float) -> np.ndarray:
    """Write imresize's contributions as one (new_size, size) matrix, pixel by pixel, 1-based as MATLAB counts."""

    def cubic(t: float) -> float:
        t = abs(t)
        if t <= 1:
            return 1.5 * t**3 - 2.5 * t**2 + 1
        return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t <= 2 else 0.0

    matrix, shrinking = np.zeros((new_size, size)), min(scale, 1.0)
    mirror = [*range(size), *reversed(range(size))]
    for row in range(new_size):
        centre = (row + 1) / scale + 0.5 * (1 - 1 / scale)
        reach = math.ceil(2 / shrinking) + 1
        for tap in range(math.floor(centre) - reach, math.floor(centre) + reach + 1):
            matrix[row, mirror[(tap - 1) % (2 * size)]] += cubic(shrinking * (centre - tap))
    return matrix / matrix.sum(axis=1, keepdims=True)


def oracle(image: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Shrink, round to 8 bits half away from zero, enlarge: (small levels, large levels)."""
    height, width = image.shape[1:]
    small_size = (math.ceil(height / scale), math.ceil(width / scale))
    rows, columns = (weights(n, m, 1 / scale) for n, m in zip((height, width), small_size, strict=True))
    small = np.floor(np.clip(rows @ (image.astype(np.float64) * 255) @ columns.T, 0, 255) + 0.5)
    rows, columns = (weights(m, n, float(scale)) for n, m in zip((height, width), small_size, strict=True))
    return small, np.clip(rows @ small @ columns.T, 0, 255)


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Make noise over a gradient, with a hard edge, in 8-bit values: every frequency and some clipping."""
    rng = np.random.default_rng(seed)
    levels = np.linspace(0, 255, width)[None, None] + rng.normal(0, 60, (3, height, width))
    levels[:, height // 2 :, : width // 2] = 255
    return (np.clip(np.rint(levels), 0, 255) / 255).astype(np.float32)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_within_one_level_of_the_oracle(height, width, scale):
    image = picture(height, width, scale)
    small, large = oracle(image, scale)
    exact = np.abs(shrink(image, scale) * 255 - small)
    assert exact.max() <= 1 and (exact > 0.01).mean() < 1e-3  # ties, of which rounding decides either way
    for path, limit in (("exact", 1e-3), ("fast", 1.0)):
        damaged = Plugin().render(image, {"scale": scale, "path": path})
        assert np.abs(damaged * 255 - large).max() <= limit + (exact.max() > 0.01), path
    batch = Plugin().render_batch(torch.from_numpy(image)[None], [{"scale": scale, "path": "exact"}])[0].numpy()
    assert np.abs(batch * 255 - large).max() <= 1


def test_a_batch_of_several_scales_keeps_its_order():
    images = np.stack([picture(24, 30, seed) for seed in range(4)])
    parameters = [{"scale": scale, "path": "exact"} for scale in (3, 2, 3, 4)]
    damaged = Plugin().render_batch(torch.from_numpy(images), parameters).numpy()
    for image, values, found in zip(images, parameters, damaged, strict=True):
        np.testing.assert_allclose(found, Plugin().render(image, values), atol=1 / 255)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_constants_stay(scale, level):
    image = np.full((3, 25, 31), level, np.float32) / np.float32(255)
    np.testing.assert_allclose(shrink(image, scale) * 255, level, atol=1e-4)
    for path in ("exact", "fast"):
        np.testing.assert_allclose(Plugin().render(image, {"scale": scale, "path": path}), image, atol=1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_flips_and_transposition_commute(scale):
    image = picture(12 * scale, 7 * scale, 1)
    height, width = 12, 7
    small = resize_bicubic(image, height, width, scale=1 / scale)
    for flipped in (np.s_[:, ::-1], np.s_[:, :, ::-1], np.s_[:, ::-1, ::-1]):
        np.testing.assert_allclose(
            resize_bicubic(image[flipped], height, width, scale=1 / scale), small[flipped], atol=1e-12
        )
    turned = resize_bicubic(image.transpose(0, 2, 1), width, height, scale=1 / scale)
    np.testing.assert_allclose(turned, small.transpose(0, 2, 1), atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 5, 37, 64])
@pytest.mark.parametrize("new_size", [1, 3, 19, 64, 90])
def test_rows_sum_to_one(size, new_size):
    every = [matlab_bicubic(size, new_size, new_size / size), *(taps_of(mode, size, new_size) for mode in MODES)]
    for taps in every:
        np.testing.assert_allclose(taps.weights.sum(axis=0), 1, atol=1e-12)
        np.testing.assert_allclose(sparse_matrix(taps).sum(axis=1), 1, atol=1e-12)
        assert taps.indices.min() >= 0 and taps.indices.max() < size
    np.testing.assert_allclose(smooth_steps(size + 1, new_size).weights.sum(axis=0), 1, atol=1e-12)


@pytest.mark.parametrize(
    ("mode", "flag"), [("area", "INTER_AREA"), ("bilinear", "INTER_LINEAR"), ("bicubic", "INTER_CUBIC")]
)
@pytest.mark.parametrize("size", [(20, 31), (33, 17), (60, 90)])
def test_chain_filters_are_those_of_opencv(mode, flag, size):
    """They are defined by it (spec/ipt.md 8.7); area enlarges bilinearly in ours."""
    cv2 = pytest.importorskip("cv2")
    from restoration.degradations._taps import resample

    if mode == "area" and size == (60, 90):
        size = (10, 9)
    image = picture(40, 44, 5)
    ours = resample(image, taps_of(mode, 40, size[0]), taps_of(mode, 44, size[1]))
    theirs = cv2.resize(np.ascontiguousarray(image.transpose(1, 2, 0)), size[::-1], interpolation=getattr(cv2, flag))
    np.testing.assert_allclose(ours, theirs.transpose(2, 0, 1), atol=2e-5)
