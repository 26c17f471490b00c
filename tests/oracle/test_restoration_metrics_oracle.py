"""PSNR and SSIM against scikit-image and a loop, protocols against their definitions, bicubic against a dense matrix."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate.core.errors import ImageError, NumericsError
from restoration.bench import enlarge, shrink
from restoration.degradations import to_pixels
from restoration.degradations.bicubic import resize_bicubic
from restoration.metrics import gaussian_ssim, luma_bt601, psnr, ssim
from restoration.protocols import PROMPTIR, PROTOCOLS, RESTORMER, YCHANNEL, protocol_by_name
from restoration.tasks import make_degradation

Pair = tuple[str, np.ndarray, np.ndarray]
NUM_PAIRS = 20


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


def made_pairs() -> Iterator[Pair]:
    """Twenty pairs, from nearly equal to nothing in common, of odd sizes; (H, W, 3) uint8."""
    for number in range(NUM_PAIRS):
        rng = np.random.default_rng(number)
        height, width = 40 + 3 * number, 90 - 2 * number
        clean = np.clip(np.cumsum(rng.normal(0, 9, (height, width, 3)), axis=1) + 120, 0, 255).astype(np.uint8)
        noisy = np.clip(clean + rng.normal(0, 1 + 6 * number, clean.shape), 0, 255).astype(np.uint8)
        yield f"made {number}", noisy, clean


def real_pairs(data: Path) -> Iterator[Pair]:
    """Ten pairs of Rain100H and the ten of SOTS-indoor; read by Pillow, so by other code than ours."""
    for bench in ("rain100h25", "sots_indoor10"):
        for target in sorted((data / "bench" / bench / "target").iterdir())[: NUM_PAIRS // 2]:
            source = target.parents[1] / "input" / target.name
            yield f"{bench} {target.stem}", *(np.asarray(Image.open(path).convert("RGB")) for path in (source, target))


def reference_numbers(output: np.ndarray, target: np.ndarray) -> dict[str, dict[str, float]]:
    """Compute what each protocol reports of an 8-bit pair, with scikit-image and MATLAB's formula of Y alone."""
    measure = pytest.importorskip("skimage.metrics")
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    height, width = (side - side % 16 for side in output.shape[:2])
    top, left = (output.shape[0] - height) // 2, (output.shape[1] - width) // 2
    crops = [image[top : top + height, left : left + width] / 255 for image in (target, output)]
    wide = [image.astype(np.float64) for image in (target, output)]
    luma = [16 + 219 * (image / 255 @ [0.299, 0.587, 0.114]) for image in (target, output)]
    return {
        "promptir": {
            "psnr_db": measure.peak_signal_noise_ratio(*crops, data_range=1),
            "ssim": measure.structural_similarity(*crops, data_range=1, channel_axis=2),
        },
        "restormer": {
            "psnr_db": measure.peak_signal_noise_ratio(*wide, data_range=255),
            "ssim": measure.structural_similarity(*wide, channel_axis=2, **wang),
        },
        "ychannel": {
            "psnr_db": measure.peak_signal_noise_ratio(*luma, data_range=255),
            "ssim": measure.structural_similarity(*luma, **wang),
        },
    }


def largest_differences(pairs: Iterable[Pair]) -> dict[str, float]:
    worst: dict[str, float] = {}
    count = 0
    for _, output, target in pairs:
        count += 1
        for name, expected in reference_numbers(output, target).items():
            protocol = PROTOCOLS[name]
            box = protocol.box(*target.shape[:2], "rain")
            inside = (slice(box.top, box.top + box.height), slice(box.left, box.left + box.width))
            found = protocol.measure(protocol.judge(to_pixels(output[inside])), to_pixels(target[inside]), "rain")
            for metric, value in expected.items():
                key = f"{name} {metric}"
                worst[key] = max(worst.get(key, 0.0), abs(found[metric] - value))
    assert count == NUM_PAIRS and len(worst) == 6
    return worst


def test_every_protocol_on_twenty_made_pairs():
    assert max(largest_differences(made_pairs()).values()) < 1e-5  # float32 pictures, else 1e-12


@pytest.mark.data
@pytest.mark.slow
def test_every_protocol_on_twenty_real_pairs(data_folder, capsys):
    """Must show: <= 1e-4; the largest differences are printed."""
    worst = largest_differences(real_pairs(data_folder))
    with capsys.disabled():
        print("\nlargest differences from scikit-image on 20 real pairs:", {k: f"{v:.1e}" for k, v in worst.items()})
    assert max(worst.values()) < 1e-4


def test_gaussian_window_against_scikit_image(pair):
    reference = pytest.importorskip("skimage.metrics")
    output, target = (p.astype(np.float64) for p in pair)
    expected = reference.structural_similarity(
        output, target, data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert gaussian_ssim(*pair) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ImageError, match="11 px"):
        gaussian_ssim(output[:, :10], target[:, :10])


def test_luma_against_scikit_image_and_known_colours():
    colour = pytest.importorskip("skimage.color")
    image = np.random.default_rng(4).integers(0, 256, (9, 11, 3)).astype(np.uint8)
    ours = luma_bt601(to_pixels(image))[0] * 255
    np.testing.assert_allclose(ours, colour.rgb2ycbcr(image)[..., 0], atol=2e-5)  # to_pixels is float32
    for rgb, luma in (
        ((0, 0, 0), 16.0),
        ((1, 1, 1), 235.0),
        ((1, 0, 0), 81.481),
        ((0, 1, 0), 144.553),
        ((0, 0, 1), 40.966),
    ):
        assert luma_bt601(np.array(rgb, np.float64)[:, None, None]).item() * 255 == pytest.approx(luma, abs=1e-9)


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


def as_pixels(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)


def published_noise(clean: np.ndarray, num: int) -> list[np.ndarray]:
    """Seed 0 once, (H, W, 3) order, clip, floor: what the published code of `promptir` does."""
    np.random.seed(0)  # noqa: NPY002
    return [np.clip(clean + np.random.randn(*clean.shape) * 25, 0, 255).astype(np.uint8) for _ in range(num)]  # noqa: NPY002


def test_noise_fed_with_seed_zero_gives_the_published_pictures():
    clean = np.random.default_rng(1).integers(0, 256, (16, 32, 3)).astype(np.uint8)
    rng, task = np.random.RandomState(0), make_degradation("noise25")
    for truth in published_noise(clean, 2):
        noisy = task.apply(as_pixels(clean), rng)
        np.testing.assert_array_equal(np.rint(noisy * 255).astype(np.uint8).transpose(1, 2, 0), truth)


@pytest.mark.parametrize("name", ["promptir", "ychannel"])
def test_noise_depends_on_the_file_and_the_strength_alone(name):
    protocol = protocol_by_name(name)
    clean = np.random.default_rng(1).integers(0, 256, (16, 32, 3)).astype(np.uint8)
    stream = np.random.RandomState(zlib.crc32(b"0000.png:25"))
    truth = np.clip(clean + stream.randn(*clean.shape) * 25, 0, 255).astype(np.uint8)
    noisy = protocol.degradation("noise25").apply(as_pixels(clean), protocol.generator("0000.png", "noise25"))
    np.testing.assert_array_equal(np.rint(noisy * 255).astype(np.uint8).transpose(1, 2, 0), truth)
    assert len({protocol.seed(f, t) for f in ("0000.png", "0001.png") for t in ("noise15", "noise25")}) == 4
    with pytest.raises(LookupError, match="promptir"):
        protocol_by_name("promptr")


def test_restormer_noise_is_seed_zero_for_every_picture_and_not_clipped():
    for file in ("a.png", "b.png"):
        clean = np.random.default_rng(2).integers(0, 256, (16, 32, 3)).astype(np.uint8)
        np.random.seed(0)  # noqa: NPY002
        truth = np.float32(clean) / 255 + np.random.normal(0, 50 / 255, clean.shape)  # noqa: NPY002
        noisy = RESTORMER.degradation("noise50").apply(as_pixels(clean), RESTORMER.generator(file, "noise50"))
        np.testing.assert_allclose(noisy.transpose(1, 2, 0), truth, atol=1e-6)
        assert noisy.min() < 0 and noisy.max() > 1


def test_restormer_draws_what_is_random_anew_for_every_picture():
    for task in ("noise0-50", "real-esrgan", "jpeg10-40", "snow"):
        plugin = RESTORMER.degradation(task)
        drawn = [RESTORMER.draw(plugin, file, task, (64, 64)) for file in ("a.png", "b.png")]
        assert drawn[0] != drawn[1], task
        assert RESTORMER.seed("a.png", task) == PROMPTIR.seed("a.png", task)
    assert RESTORMER.seed("a.png", "noise15") == RESTORMER.seed("b.png", "noise15") == 0


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("noise50", "Gaussian noise of 50 levels, neither clipped nor rounded, RandomState(0) for each picture"),
        (
            "gaussian_noise",
            "Gaussian noise of 25 levels, neither clipped nor rounded, RandomState(crc32('FILE:gaussian_noise'))",
        ),
        ("noise0-50", "Gaussian noise of 0-50 levels, drawn for each picture, neither"),
        ("jpeg", "JPEG of quality 10-40, drawn for each picture, chroma 4:2:0, by libjpeg-turbo, RandomState("),
        ("jpeg10-40", "JPEG of quality 10-40, drawn for each picture, chroma 4:2:0, by libjpeg-turbo, RandomState("),
        ("jpeg10", "JPEG of quality 10, chroma 4:2:0, by libjpeg-turbo"),
        ("webp20-60", "webp20-60: webp with min_quality 20, max_quality 60, RandomState("),
        ("bicubic", "MATLAB's bicubic to 1/2, rounded to 8 bits"),
        ("sr3", "MATLAB's bicubic to 1/3, rounded to 8 bits"),
    ],
)
def test_the_damage_is_said_in_full(task, words):
    assert RESTORMER.facts(task, paired=False)["damage"].startswith(words)


def test_bicubic_is_measured_as_sr2():
    assert YCHANNEL.border_px("bicubic") == YCHANNEL.border_px("sr2") == 2
    assert YCHANNEL.box(33, 41, "bicubic") == YCHANNEL.box(33, 41, "sr2")


def test_judges_clamp_and_those_of_eight_bits_round():
    image = np.array([-0.2, 0.5004, 1.3], np.float32).reshape(3, 1, 1)
    assert PROMPTIR.judge(image).ravel().tolist() == np.float32([0, 0.5004, 1]).tolist()
    for protocol in (RESTORMER, YCHANNEL):
        assert protocol.judge(image).ravel().tolist() == (np.float32([0, 128, 255]) / np.float32(255)).tolist()


def test_super_resolution_cuts_its_border_on_luma_only():
    rng = np.random.default_rng(5)
    target = rng.random((3, 48, 48)).astype(np.float32)
    output = target.copy()
    output[:, :3] = output[:, -3:] = 0
    output[:, :, :3] = output[:, :, -3:] = 0
    assert YCHANNEL.measure(output, target, "sr3")["psnr_db"] == math.inf
    assert YCHANNEL.measure(output, target, "sr2")["psnr_db"] < 30 > RESTORMER.measure(output, target, "sr3")["psnr_db"]
    assert [YCHANNEL.border_px(task) for task in ("sr4", "rain", "jpeg10")] == [4, 0, 0]
    with pytest.raises(ImageError, match="all border"):
        YCHANNEL.measure(output[:, :8], target[:, :8], "sr4")


@pytest.mark.parametrize(
    ("protocol", "task", "size", "expected"),
    [
        ("promptir", "noise25", (321, 481), (0, 0, 320, 480)),
        ("promptir", "noise25", (330, 500), (5, 2, 320, 496)),
        ("promptir", "noise25", (9, 100), (0, 2, 9, 96)),
        ("promptir", "sr2", (321, 481), (0, 0, 320, 480)),
        ("promptir", "sr3", (100, 150), (0, 3, 96, 144)),
        ("ychannel", "sr3", (100, 151), (0, 0, 99, 150)),
        ("restormer", "noise15", (101, 67), (0, 0, 101, 67)),
    ],
)
def test_what_is_kept_of_a_picture(protocol, task, size, expected):
    box = protocol_by_name(protocol).box(*size, task)
    assert (box.top, box.left, box.height, box.width) == expected


def test_small_pictures_are_eight_bits_and_come_back_at_the_size():
    image = np.random.default_rng(6).random((3, 24, 36)).astype(np.float32)
    for scale in (2, 3, 4):
        small = shrink(image, scale)
        assert small.shape == (3, 24 // scale, 36 // scale) and enlarge(small, scale).shape == image.shape
        np.testing.assert_array_equal(np.rint(small * 255) / np.float32(255), small)
    at_size = make_degradation("sr2").apply(image, np.random.default_rng(0))
    np.testing.assert_allclose(enlarge(shrink(image, 2), 2), at_size, atol=2e-7)


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
