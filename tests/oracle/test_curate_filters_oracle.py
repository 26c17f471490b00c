"""Scores against plain NumPy and OpenCV, and against hand-made pictures whose answer is known."""

import cv2
import numpy as np
import pytest
from PIL import Image

from curate.core.records import ImageFacts
from curate.filters import aspect, flat_area, lsdir_vote, resolution, sharpness
from curate.filters import noise_sigma as noise_gate
from curate.view import ImageView, PatchView, cells, noise_sigma


def view_of(grey: np.ndarray) -> ImageView:
    grey = grey.astype(np.uint8)
    facts = ImageFacts(
        format="png", width=grey.shape[1], height=grey.shape[0], orientation=1, mode="RGB", policy="", icc_profile=""
    )
    return ImageView(facts=facts, num_bytes=1, grey=grey, load_rgb=lambda: np.repeat(grey[..., None], 3, axis=2))


def noisy_grey(sigma: float, side: int = 512, seed: int = 0) -> np.ndarray:
    return np.clip(np.round(128 + np.random.default_rng(seed).normal(0, sigma, (side, side))), 0, 255)


def literal_sobel_magnitude(grey):
    padded = np.pad(grey.astype(float), 1, mode="reflect")
    height, width = grey.shape
    part = {
        (dy, dx): padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy in (-1, 0, 1) for dx in (-1, 0, 1)
    }
    grad_x = part[-1, 1] + 2 * part[0, 1] + part[1, 1] - part[-1, -1] - 2 * part[0, -1] - part[1, -1]
    grad_y = part[1, -1] + 2 * part[1, 0] + part[1, 1] - part[-1, -1] - 2 * part[-1, 0] - part[-1, 1]
    return np.sqrt(grad_x**2 + grad_y**2)


def test_flat_area_equals_a_literal_count(make_photo):
    grey = cv2.cvtColor(make_photo(0, 256, 320), cv2.COLOR_RGB2GRAY)
    view, magnitude = view_of(grey), literal_sobel_magnitude(grey)
    sigma = noise_sigma(view.grey)
    flat = [
        magnitude[y : y + 64, x : x + 64].var() - 5.15 * sigma**2 < 150
        for y in range(0, 256, 64)
        for x in range(0, 320, 64)
    ]
    assert flat_area.Plugin().measure(view)["flat_area"] == pytest.approx(np.mean(flat))


def test_blur_equals_opencv(make_photo):
    grey = cv2.cvtColor(make_photo(0, 200, 200), cv2.COLOR_RGB2GRAY)
    expected = cv2.Laplacian(grey, cv2.CV_64F).var()
    assert sharpness.Plugin().measure(view_of(grey))["laplacian_variance"] == pytest.approx(expected, rel=1e-9)


def test_lsdir_equals_the_published_steps(make_photo):
    photo = make_photo(2, 1100, 1400)
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    small = np.asarray(Image.fromarray(photo).resize((350, 275), Image.Resampling.LANCZOS))
    plane = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    measured = lsdir_vote.Plugin().measure(view_of(grey))
    assert measured["lsdir_laplacian_variance"] == pytest.approx(cv2.Laplacian(plane, cv2.CV_64F).var(), rel=0.02)
    magnitude = literal_sobel_magnitude(plane)
    flat = [magnitude[y : y + 240, x : x + 240].var() < 800 for y in (0, 240) for x in (0, 240)]
    assert measured["lsdir_flat_frac"] == np.mean(flat)


@pytest.mark.parametrize("sigma", [1, 2, 5, 10, 20])
def test_noise_sigma_is_right_on_a_grey_card(sigma):
    assert noise_sigma(noisy_grey(sigma).astype(np.uint8)) == pytest.approx(sigma, rel=0.05, abs=0.13)


def test_texture_is_not_called_noise(make_photo):
    rng = np.random.default_rng(0)
    image = np.full((512, 512), 120.0)
    image[:, 128:] += rng.choice([-60, 60], (512, 384))  # three quarters are the roughest texture there is
    assert noise_sigma(image.astype(np.uint8)) < 1


@pytest.mark.parametrize("sigma", [0, 2, 5, 10, 20])
def test_noise_alone_is_flat_and_not_sharp(sigma):
    view = view_of(noisy_grey(sigma))
    assert flat_area.Plugin().measure(view)["flat_area"] > 0.5
    assert not flat_area.Plugin().judge(flat_area.Plugin().measure(view)).keep
    # what iid noise adds is subtracted, to within 10 % of it
    scores = sharpness.Plugin().measure(view)
    assert scores["sharpness"] <= 0.1 * 20 * sigma**2 + 1e-9


def test_texture_under_noise_is_kept(make_photo):
    texture = cv2.cvtColor(make_photo(0, 512, 512), cv2.COLOR_RGB2GRAY).astype(float)
    rng = np.random.default_rng(0)
    texture += cv2.resize(rng.normal(0, 60, (256, 256)), (512, 512), interpolation=cv2.INTER_NEAREST)
    texture[:, :160] = 128  # a smooth part, where the noise shows
    noisy = np.clip(texture + rng.normal(0, 5, texture.shape), 0, 255)
    assert flat_area.Plugin().measure(view_of(noisy))["flat_area"] < 0.5


def test_blurring_lowers_sharpness(make_photo):
    grey = cv2.cvtColor(make_photo(0, 256, 256), cv2.COLOR_RGB2GRAY)
    values = [
        sharpness.Plugin().measure(view_of(cv2.GaussianBlur(grey, (0, 0), s) if s else grey))["laplacian_variance"]
        for s in (0, 1, 2, 4)
    ]
    assert values == sorted(values, reverse=True)


def test_a_patch_sees_the_slice_of_the_whole(make_photo):
    image = view_of(cv2.cvtColor(make_photo(0, 256, 256), cv2.COLOR_RGB2GRAY))
    patch = PatchView(image=image, y=64, x=128, size_px=64)
    for name in ("grey", "rgb", "laplacian"):
        assert np.array_equal(getattr(patch, name), getattr(image, name)[64:128, 128:192])
    assert np.allclose(patch.sobel_magnitude, image.sobel_magnitude[64:128, 128:192], rtol=1e-6)


def test_cells_leave_ragged_borders_out():
    plane = np.arange(6 * 9).reshape(6, 9)
    cut = cells(plane, 4)
    assert cut.shape == (1, 2, 16)
    assert np.array_equal(cut[0, 1].reshape(4, 4), plane[:4, 4:8])
    assert cells(plane, 100).shape == (1, 1, 54)


def test_resolution_and_noise_gates():
    view = view_of(np.zeros((100, 450)))
    assert aspect.Plugin().judge(aspect.Plugin().measure(view)).reason == "too-long"
    assert resolution.Plugin(min_side_px=100).judge(resolution.Plugin().measure(view)).keep
    assert resolution.Plugin(min_side_px=101).judge(resolution.Plugin().measure(view)).reason == "too-small"
    assert not noise_gate.Plugin(max_sigma_levels=5).judge({"noise_sigma": 5.1}).keep
    assert not noise_gate.Plugin().judge({"noise_sigma": None}).keep
