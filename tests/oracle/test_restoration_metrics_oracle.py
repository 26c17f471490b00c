"""PSNR and SSIM against scikit-image and against a loop; bicubic against a dense matrix and its invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest

from curate.core.errors import ImageError, NumericsError
from restoration.degradations.bicubic import resize_bicubic
from restoration.metrics import psnr, ssim
from restoration.protocols import PROMPTIR, protocol_by_name
from restoration.tasks import make_degradation


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    clean = np.clip(np.cumsum(rng.normal(0, 0.05, (3, 24, 31)), axis=2) + 0.5, 0, 1)
    return np.clip(clean + rng.normal(0, 0.1, clean.shape), 0, 1).astype(np.float32), clean.astype(np.float32)


def test_against_scikit_image(pair):
    reference = pytest.importorskip("skimage.metrics")
    output, target = (p.astype(np.float64) for p in pair)
    expected = reference.structural_similarity(output, target, data_range=1, channel_axis=0)
    assert ssim(*pair) == pytest.approx(expected, abs=1e-12)
    assert psnr(*pair) == pytest.approx(reference.peak_signal_noise_ratio(target, output, data_range=1), abs=1e-12)


def naive_ssim(x: np.ndarray, y: np.ndarray) -> float:
    values = []
    for c in range(x.shape[0]):
        for i in range(x.shape[1] - 6):
            for j in range(x.shape[2] - 6):
                a, b = x[c, i : i + 7, j : j + 7].ravel(), y[c, i : i + 7, j : j + 7].ravel()
                (va, cov), (_, vb) = np.cov(a, b)
                top = (2 * a.mean() * b.mean() + 1e-4) * (2 * cov + 9e-4)
                values.append(top / ((a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (va + vb + 9e-4)))
    return float(np.mean(values))


def test_against_a_loop(pair):
    assert ssim(*pair) == pytest.approx(naive_ssim(*(p.astype(np.float64) for p in pair)), abs=1e-10)


def test_equal_pictures_and_wrong_ones(pair):
    output, target = pair
    assert psnr(target, target) == math.inf and ssim(target, target) == pytest.approx(1.0)
    with pytest.raises(ImageError):
        psnr(output, target[:, 1:])
    with pytest.raises(ImageError, match="7 px"):
        ssim(output[:, :6], target[:, :6])
    with pytest.raises(NumericsError):
        psnr(np.full_like(output, np.nan), target)


def test_promptir_noise_is_the_published_stream():
    """Seed 0 once, (H, W, 3) order, clip, floor."""
    clean = np.random.default_rng(1).integers(0, 256, (16, 32, 3)).astype(np.uint8)
    np.random.seed(0)  # noqa: NPY002
    expected = [np.clip(clean + np.random.randn(*clean.shape) * 25, 0, 255).astype(np.uint8) for _ in range(2)]  # noqa: NPY002
    rng, task = PROMPTIR.generator(), make_degradation("noise25")
    image = np.ascontiguousarray(clean.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
    for truth in expected:
        noisy = task.apply(image, rng)
        np.testing.assert_array_equal(np.rint(noisy * 255).astype(np.uint8).transpose(1, 2, 0), truth)
    with pytest.raises(LookupError, match="promptir"):
        protocol_by_name("promptr")


def dense_weights(size: int, new_size: int, scale: float) -> np.ndarray:
    """MATLAB's imresize as one matrix, entry by entry."""

    def cubic(t: float) -> float:
        t = abs(t)
        if t <= 1:
            return 1.5 * t**3 - 2.5 * t**2 + 1
        return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t <= 2 else 0.0

    matrix = np.zeros((new_size, size))
    shrink = min(scale, 1.0)
    for row in range(new_size):
        centre = (row + 1) / scale + 0.5 * (1 - 1 / scale)  # 1-based, as in MATLAB
        for tap in range(math.floor(centre) - 20, math.floor(centre) + 21):
            folded = (tap - 1) % (2 * size)
            matrix[row, folded if folded < size else 2 * size - 1 - folded] += shrink * cubic(shrink * (centre - tap))
    return matrix / matrix.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("height", "width", "scale"), [(16, 22, 2), (17, 9, 2), (5, 3, 4), (1, 1, 2), (30, 31, 3)])
def test_bicubic_against_a_dense_matrix(height, width, scale):
    image = np.random.default_rng(2).random((3, height, width))
    small_size = (math.ceil(height / scale), math.ceil(width / scale))
    small = resize_bicubic(image, *small_size, scale=1 / scale)
    rows, columns = (dense_weights(n, m, 1 / scale) for n, m in zip((height, width), small_size, strict=True))
    np.testing.assert_allclose(small, rows @ image @ columns.T, atol=1e-12)
    large = resize_bicubic(small, height, width, scale=float(scale))
    rows, columns = (dense_weights(m, n, float(scale)) for n, m in zip((height, width), small_size, strict=True))
    np.testing.assert_allclose(large, rows @ small @ columns.T, atol=1e-12)


def test_bicubic_invariants():
    constant = np.full((3, 12, 14), 0.3)
    np.testing.assert_allclose(resize_bicubic(constant, 6, 7, scale=0.5), 0.3, atol=1e-12)
    ramp = np.broadcast_to(np.arange(40.0), (3, 8, 40))
    inner = resize_bicubic(ramp, 16, 80, scale=2.0)[:, :, 8:-8]
    np.testing.assert_allclose(inner[0, 0], (np.arange(80) / 2 - 0.25)[8:-8], atol=1e-12)
    image = np.random.default_rng(3).random((3, 12, 14))
    flipped = resize_bicubic(image[:, ::-1, ::-1], 6, 7, scale=0.5)
    np.testing.assert_allclose(flipped, resize_bicubic(image, 6, 7, scale=0.5)[:, ::-1, ::-1], atol=1e-12)
