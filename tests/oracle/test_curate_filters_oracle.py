"""Scores against plain NumPy and OpenCV, and against hand-made pictures whose answer is known."""

import cv2
import numpy as np
import pytest
from PIL import Image

from curate.core import plugins
from curate.core.images import read_facts
from curate.core.records import ImageFacts
from curate.filters import aspect, flat_area, lsdir_vote, resolution, sharpness
from curate.filters import noise_sigma as noise_gate
from curate.shrink import lanczos_shrink
from curate.view import ImageView, PatchView, cells, noise_sigma

GREY_SCORES = (
    "flat_area",
    "sharpness",
    "exposure",
    "clipping",
    "entropy",
    "gradient_saturation",
    "noise_sigma",
    "border",
)


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


@pytest.mark.parametrize(("height", "width"), [(400, 600), (401, 603), (4, 7), (5, 4), (90, 1000)])
def test_lanczos_is_pillows_to_one_level(make_photo, height, width):
    plane = np.clip(make_photo(2, 1000, 1000)[:height, :width, 0].astype(int) * 2 - 128, 0, 255).astype(np.uint8)
    size = (max(1, width // 4), max(1, height // 4))
    pillow = np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS)).astype(int)
    difference = np.abs(lanczos_shrink(plane, size[1], size[0]) - pillow)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


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


def score(name: str, view: ImageView | PatchView) -> float | None:
    return plugins.load("curate.filters", name)().measure(view)[name]


def colour_view(rgb: np.ndarray, data: bytes = b"") -> ImageView:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    facts = read_facts(data) if data else view_of(grey).facts
    return ImageView(facts=facts, num_bytes=len(data), grey=grey, load_rgb=lambda: rgb)


@pytest.fixture
def photo_view(make_photo) -> ImageView:
    rgb = np.clip(make_photo(3, 452, 612).astype(float) * 1.6 - 60, 0, 255).astype(
        np.uint8
    )  # contrast: clips both ends
    return colour_view(rgb)


PLACES = [(0, 0, 256), (8, 24, 256), (192, 344, 256), (5, 3, 256), (64, 64, 100), (440, 600, 8)]


@pytest.mark.parametrize("place", PLACES)
def test_gradient_variance_of_cells_is_that_of_the_pixels_wherever_the_patch_lies(photo_view, place):
    y, x, size = place
    cell = min(64, size)
    region = literal_sobel_magnitude(photo_view.grey)[y : y + size, x : x + size]
    expected = [
        [region[r : r + cell, c : c + cell].var() for c in range(0, size - cell + 1, cell)]
        for r in range(0, size - cell + 1, cell)
    ]
    patch = PatchView(image=photo_view, y=y, x=x, size_px=size)
    assert np.allclose(patch.gradient_cell_variance(64), expected, rtol=1e-4)


@pytest.mark.parametrize("width", [8, 9, 31, 40, 131])
def test_gradient_sums_of_narrow_pictures(make_photo, width):
    grey = cv2.cvtColor(make_photo(1, 77, width), cv2.COLOR_RGB2GRAY)
    magnitude = literal_sobel_magnitude(grey)[:72, : width // 8 * 8].reshape(9, 8, width // 8, 8)
    sums = view_of(grey).gradient_blocks
    assert np.allclose(sums.total, magnitude.sum(axis=(1, 3)), rtol=1e-4, atol=1e-2)
    assert np.allclose(sums.square, (magnitude**2).sum(axis=(1, 3)), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("place", PLACES)
def test_patch_scores_equal_plain_numpy(photo_view, place):
    y, x, size = place
    patch = PatchView(image=photo_view, y=y, x=x, size_px=size)
    grey = photo_view.grey[y : y + size, x : x + size].astype(float)
    padded = np.pad(photo_view.grey.astype(float), 1, mode="reflect")
    whole = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * padded[1:-1, 1:-1]
    variance = whole[y : y + size, x : x + size].var()
    share = np.array([(grey == level).mean() for level in range(256)])
    share = share[share > 0]
    clipped = (grey <= 1) | (grey >= 254)
    magnitude = literal_sobel_magnitude(photo_view.grey)[y : y + size, x : x + size]
    expected = {
        "sharpness": max(0.0, variance - 20 * noise_sigma(photo_view.grey) ** 2),
        "exposure": grey.mean() / 255,
        "clipping": clipped.mean(),
        "entropy": -(share * np.log2(share)).sum(),
        "gradient_saturation": magnitude[clipped].sum() / magnitude.sum(),
    }
    for name, value in expected.items():
        assert score(name, patch) == pytest.approx(value, rel=1e-5), name
    both = plugins.load("curate.filters", "clipping")().measure(patch)
    assert (both["clipping_low"], both["clipping_high"]) == ((grey <= 1).mean(), (grey >= 254).mean())
    assert sharpness.Plugin().measure(patch)["laplacian_variance"] == pytest.approx(variance, rel=1e-9)


def test_the_largest_laplacian_there_is_does_not_overflow():
    board = np.indices((512, 512)).sum(axis=0) % 2 * 255
    assert sharpness.Plugin().measure(view_of(board))["laplacian_variance"] == 1020**2


@pytest.mark.parametrize("place", [(0, 0, 256), (196, 356, 256), (5, 3, 255), (0, 0, 4)])
def test_saturation_equals_plain_numpy(photo_view, place):
    y, x, size = place
    region = photo_view.rgb[y : y + size, x : x + size].astype(int)[: size // 4 * 4, : size // 4 * 4]
    middle = region.reshape(size // 4, 4, size // 4, 4, 3)[:, 1:3, :, 1:3].sum(axis=(1, 3))
    small = (middle + 2) // 4
    high, low = small.max(axis=-1).mean(), small.min(axis=-1).mean()
    measured = score("saturation", PatchView(image=photo_view, y=y, x=x, size_px=size))
    assert measured == pytest.approx((high - low) / high, rel=1e-9)


def test_saturation_of_grey_black_tiny_and_pure_colours():
    assert score("saturation", view_of(noisy_grey(20, 64))) == 0.0
    assert score("saturation", view_of(np.zeros((64, 64)))) == 0.0
    assert score("saturation", colour_view(np.full((3, 3, 3), (200, 100, 0), np.uint8))) == 1.0
    washed = np.full((64, 64, 3), 100.0)
    values = []
    for strength in (0, 10, 50, 100):
        washed[..., 2] = 100 - strength
        values.append(score("saturation", colour_view(washed.astype(np.uint8))))
    assert values == [0.0, 0.1, 0.5, 1.0]


@pytest.mark.parametrize("edge", range(4))
@pytest.mark.parametrize("width", [0, 1, 30, 120])
def test_border_is_the_share_of_the_side_under_the_bar(make_photo, edge, width):
    grey = np.rot90(cv2.cvtColor(make_photo(4, 240, 240), cv2.COLOR_RGB2GRAY), edge).copy()
    grey[:width] = 12 + np.arange(240) % 7  # a bar with a little JPEG ripple
    assert score("border", view_of(np.rot90(grey, -edge))) == width / 240


def test_border_of_a_uniform_picture_and_of_a_gradient():
    assert score("border", view_of(np.full((60, 90), 7))) == 1.0
    ramp = np.repeat(
        np.arange(200)[:, None], 90, axis=1
    )  # every row is uniform, but they differ: only 9 rows span 8 levels
    assert score("border", view_of(ramp)) == 9 / 200


def test_facts_of_the_file(make_photo, jpeg_bytes, png_bytes):
    rgb = make_photo(0, 160, 240)
    for quality in (30, 50, 75, 90, 100):
        assert score("jpeg_quality", colour_view(rgb, jpeg_bytes(rgb, quality=quality))) == quality
    shares = [score("chroma_subsampling", colour_view(rgb, jpeg_bytes(rgb, subsampling=s))) for s in (0, 1, 2)]
    assert shares == [1.0, 0.5, 0.25]
    assert score("chroma_subsampling", colour_view(rgb, jpeg_bytes(rgb[..., 0]))) == 0.0
    for name in ("jpeg_quality", "chroma_subsampling"):
        assert score(name, colour_view(rgb, png_bytes(rgb))) is None
    data = png_bytes(rgb)
    assert score("bits_per_pixel", colour_view(rgb, data)) == 8 * len(data) / (160 * 240)
    rates = [score("bits_per_pixel", colour_view(rgb, jpeg_bytes(rgb, quality=q))) for q in (20, 50, 80, 95)]
    assert rates == sorted(rates)


def test_series_move_the_scores_the_right_way(make_photo):
    grey = cv2.cvtColor(make_photo(0, 256, 256), cv2.COLOR_RGB2GRAY)
    rng = np.random.default_rng(0)

    def series(name, pictures):
        return [score(name, view_of(np.clip(p, 0, 255))) for p in pictures]

    blurred = [grey, *(cv2.GaussianBlur(grey, (0, 0), s) for s in (1, 2, 4, 8))]
    noise = rng.normal(0, 1, grey.shape)
    noisy = [np.full(grey.shape, 128) + s * noise for s in (0, 2, 5, 10, 20)]
    brighter = [grey.astype(float) * gain for gain in (1, 1.3, 1.6, 2, 3)]
    enlarged = [
        cv2.resize(grey[: 256 // k, : 256 // k], (256, 256), interpolation=cv2.INTER_CUBIC) for k in (1, 2, 4, 8)
    ]
    for pictures in (blurred, enlarged):
        assert series("sharpness", pictures) == sorted(series("sharpness", pictures), reverse=True)
        assert series("flat_area", pictures) == sorted(series("flat_area", pictures))
        assert series("flat_area", pictures)[0] < series("flat_area", pictures)[-1]
    for name in ("noise_sigma", "entropy"):
        assert series(name, noisy) == sorted(series(name, noisy))
        assert len(set(series(name, noisy))) == 5
    for name in ("exposure", "clipping", "gradient_saturation"):
        assert series(name, brighter) == sorted(series(name, brighter))
        assert series(name, brighter)[0] < series(name, brighter)[-1]


def test_noise_of_a_large_picture_is_measured_on_some_rows_of_cells():
    grey = noisy_grey(6, 3000)[:, :2500]  # 46 x 39 cells, of which every fourth row
    assert noise_sigma(grey.astype(np.uint8)) == pytest.approx(6, rel=0.05)
    grey[: 3000 * 3 // 5] = 90  # most of it without noise: a quarter of all cells decides
    assert noise_sigma(grey.astype(np.uint8)) == 0


def test_colours_are_decoded_only_when_asked_for_and_once(photo_view):
    calls = []

    def load_rgb():
        calls.append(1)
        return photo_view.rgb

    view = ImageView(facts=photo_view.facts, num_bytes=1, grey=photo_view.grey, load_rgb=load_rgb)
    patches = [PatchView(image=view, y=y, x=0, size_px=128) for y in (0, 128, 130)]
    for name in (
        *GREY_SCORES,
        "resolution",
        "aspect",
        "bits_per_pixel",
        "jpeg_quality",
        "chroma_subsampling",
        "lsdir_vote",
    ):
        for part in (view, *patches):
            plugins.load("curate.filters", name)().measure(part)
    assert calls == []
    for part in (view, *patches):
        score("saturation", part)
        assert part.rgb.shape[2] == 3
    assert calls == [1]


@pytest.mark.parametrize(
    ("name", "scores", "reason"),
    [
        ("jpeg_quality", {"jpeg_quality": 74.0}, "low-quality"),
        ("chroma_subsampling", {"chroma_subsampling": 0.0}, "little-chroma"),
        ("bits_per_pixel", {"bits_per_pixel": 0.9}, "over-compressed"),
        ("exposure", {"exposure": 0.03}, "dark"),
        ("exposure", {"exposure": 0.97}, "bright"),
        ("clipping", {"clipping": 0.26, "clipping_low": 0.26, "clipping_high": 0.0}, "clipped"),
        ("saturation", {"saturation": 0.01}, "greyscale"),
        ("entropy", {"entropy": 2.9}, "low-information"),
        ("border", {"border": 0.03}, "border"),
        ("gradient_saturation", {"gradient_saturation": 0.3}, "clipped-edges"),
    ],
)
def test_gates_drop_beyond_their_thresholds_alone(name, scores, reason):
    plugin = plugins.load("curate.filters", name)()
    assert plugin.judge(scores).reason == reason
    middle = {"exposure": 0.5, "clipping": 0.0, "border": 0.0, "gradient_saturation": 0.0}.get(name, 100.0)
    assert plugin.judge(dict.fromkeys(scores, middle)).keep
