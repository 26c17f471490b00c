"""NIQE, BRISQUE and NIMA: features against literal transcriptions, order of damaged pictures, clear errors."""

import math
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from curate.core.errors import ConfigError, MissingDependencyError
from curate.core.records import ImageFacts
from curate.filters import brisque, nima, niqe
from curate.filters._niqe_features import block_features, distance, halve
from curate.view import ImageView


def plain_view(rgb: np.ndarray) -> ImageView:
    facts = ImageFacts(
        format="png", width=rgb.shape[1], height=rgb.shape[0], orientation=1, mode="RGB", policy="", icc_profile=""
    )
    return ImageView(facts=facts, num_bytes=1, load_rgb=lambda: rgb, grey=cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))


def detailed(seed: int, side: int = 384) -> np.ndarray:
    """Make a grey picture whose spectrum falls as 1/f and whose contrast varies from place to place; (side, side) uint8."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) + 1 / side
    texture = np.fft.irfft2(np.fft.rfft2(rng.normal(0, 1, (side, side))) / frequency)
    contrast = cv2.GaussianBlur(rng.exponential(1, (side, side)), (0, 0), 12) ** 2
    return np.clip(120 + 25 * texture / texture.std() * contrast, 0, 255).astype(np.uint8)


def literal_features(grey: np.ndarray) -> np.ndarray:
    """Compute the 36 features of each block as the paper writes them, one block and one map at a time."""
    shapes = np.arange(200, 10001) / 1000
    table = np.array([math.gamma(2 / a) ** 2 / (math.gamma(1 / a) * math.gamma(3 / a)) for a in shapes])

    def fit(values):
        left, right = (math.sqrt((v**2).mean()) for v in (values[values < 0], values[values > 0]))
        ratio, moment = left / right, np.abs(values).mean() ** 2 / (values**2).mean()
        wanted = moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
        shape = float(shapes[np.argmin((table - wanted) ** 2)])
        scale = math.sqrt(math.gamma(1 / shape) / math.gamma(3 / shape))
        return shape, left * scale, right * scale

    def normalise(plane):
        offset = np.arange(-3, 4)
        kernel = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * (7 / 6) ** 2))
        kernel /= kernel.sum()
        padded = np.pad(plane, 3, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7))
        mean = (windows * kernel).sum(axis=(2, 3))
        deviation = np.sqrt(np.abs((windows**2 * kernel).sum(axis=(2, 3)) - mean**2))
        return (plane - mean) / (deviation + 1)

    def one_block(block):
        shape, left, right = fit(block)
        found = [shape, (left + right) / 2]
        neighbours = (
            (block[:, :-1], block[:, 1:]), (block[:-1], block[1:]),
            (block[:-1, :-1], block[1:, 1:]), (block[:-1, 1:], block[1:, :-1]),
        )  # fmt: skip
        for here, there in neighbours:
            shape, left, right = fit(here * there)
            found += [shape, (right - left) * math.gamma(2 / shape) / math.gamma(1 / shape), left, right]
        return found

    plane = grey.astype(np.float64)
    full, half = normalise(plane), normalise(halve(plane.astype(np.float32)).astype(np.float64))
    return np.array(
        [
            one_block(full[y : y + 96, x : x + 96]) + one_block(half[y // 2 : y // 2 + 48, x // 2 : x // 2 + 48])
            for y in range(0, grey.shape[0], 96)
            for x in range(0, grey.shape[1], 96)
        ]
    )


def test_niqe_features_equal_a_literal_transcription():
    grey = detailed(0, 192)
    features, sharpness = block_features(grey)
    assert features.shape == (4, 36) and sharpness.shape == (4,)
    expected = literal_features(grey)
    shapes = [k for k in range(36) if k % 18 == 0 or (k % 18 - 2) % 4 == 0]
    assert np.abs(features - expected)[:, shapes].max() <= 0.0021  # two steps of the table: float32 against float64
    np.testing.assert_allclose(features, expected, rtol=2e-3, atol=2e-4)


def test_halving_is_the_bicubic_one():
    plane = detailed(1, 192).astype(np.float32)
    expected = np.asarray(Image.fromarray(plane).resize((96, 96), Image.Resampling.BICUBIC))
    assert np.abs(halve(plane) - expected)[2:-2, 2:-2].max() < 1e-3


def test_distance_is_the_published_formula():
    rng = np.random.default_rng(0)
    features, natural = rng.normal(1, 1, (50, 36)), rng.normal(0, 2, (200, 36))
    mean, covariance = natural.mean(axis=0), np.cov(natural.T)
    away = features.mean(axis=0) - mean
    expected = np.sqrt(away @ np.linalg.solve((covariance + np.cov(features.T)) / 2, away))
    assert distance(features, mean, covariance) == pytest.approx(expected, rel=1e-9)


def test_the_shipped_model_is_one():
    model = niqe.load_model()
    assert np.array_equal(model.covariance, model.covariance.T)
    assert np.linalg.eigvalsh(model.covariance).min() > 0


@pytest.mark.parametrize("seed", range(2))
def test_niqe_rises_with_damage(seed):
    grey, rng = detailed(seed), np.random.default_rng(seed)
    noise = rng.normal(0, 1, grey.shape)
    blurred = [cv2.GaussianBlur(grey, (0, 0), s) for s in (1, 2, 4)]
    noisy = [np.clip(grey + s * noise, 0, 255).astype(np.uint8) for s in (5, 15, 40)]
    blocky = [cv2.imdecode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, q])[1], 0) for q in (60, 20, 5)]
    for series in (blurred, noisy, blocky):
        values = [niqe.niqe(plane) for plane in (grey, *series)]
        assert values == sorted(values), values


def test_niqe_of_flat_and_small_planes():
    assert np.isfinite(niqe.niqe(np.full((200, 200), 9, np.uint8)))
    assert np.isfinite(niqe.niqe(detailed(0, 96)))  # one block: no covariance of its own
    assert niqe.niqe(np.zeros((95, 400), np.uint8)) is None
    assert niqe.Plugin().judge({"niqe": None}).reason == "too-small"


@pytest.mark.data
def test_niqe_of_real_pictures(data_folder):
    files = sorted((data_folder / "bench" / "kodak24").glob("*.png"))
    if not files:
        pytest.skip("no Kodak pictures")
    grey = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]
    sound = np.median([niqe.niqe(plane) for plane in grey])
    assert 2 < sound < 5  # published values of the suite lie around 3
    for sigma in (1, 3):
        assert np.median([niqe.niqe(cv2.GaussianBlur(plane, (0, 0), sigma)) for plane in grey]) > 1.5 * sound


def test_brisque_says_how_to_get_its_wheel(monkeypatch):
    brisque._wheel.cache_clear()
    monkeypatch.setitem(sys.modules, "brisque", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'irdistill\[iqa\]'"):
        brisque.Plugin().measure(plain_view(np.zeros((64, 64, 3), np.uint8)))


@pytest.mark.filterwarnings("ignore")  # the wheel's own
def test_brisque_rises_with_damage():
    pytest.importorskip("brisque", exc_type=ImportError)
    brisque._wheel.cache_clear()
    grey, noise = detailed(0), np.random.default_rng(0).normal(0, 1, (384, 384))
    noisy = [np.clip(grey + s * noise, 0, 255).astype(np.uint8) for s in (15, 40)]
    blurred = [cv2.GaussianBlur(grey, (0, 0), s) for s in (2, 4)]
    for series in (noisy, blurred):
        values = [brisque.Plugin().measure(plain_view(np.dstack([p] * 3)))["brisque"] for p in (grey, *series)]
        assert values == sorted(values), values
    assert brisque.Plugin().measure(plain_view(np.full((64, 64, 3), 9, np.uint8)))["brisque"] is None


@pytest.mark.filterwarnings("ignore")
def test_brisque_equals_the_wheels_own_score_where_that_runs():
    wheel = pytest.importorskip("brisque", exc_type=ImportError)
    rgb = np.dstack([detailed(0, 128), detailed(1, 128), detailed(2, 128)])
    try:
        expected = wheel.BRISQUE(url=False).score(rgb)
    except TypeError:
        pytest.skip("the wheel's score() does not run with this NumPy")
    assert brisque._score(rgb) == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def made_weights(tmp_path_factory):
    """Save random weights of torchvision's MobileNetV2 with 10 outputs; returns (path, network)."""
    import torch
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2(weights=None, num_classes=10).eval()
    path = tmp_path_factory.mktemp("nima") / "made.pth"
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in network.state_dict().items()}}, path)
    return path, network


def test_nima_is_the_mean_of_ten_ratings(made_weights):
    import torch

    path, network = made_weights
    rgb = np.dstack([detailed(0, 256), detailed(1, 256), detailed(2, 256)])
    measured = nima.Plugin(checkpoint=str(path)).measure(plain_view(rgb))["nima"]
    small = cv2.resize(rgb, (224, 224), interpolation=cv2.INTER_AREA) / 255.0
    batch = ((small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)[None]
    with torch.inference_mode():
        share = np.exp(network(torch.from_numpy(batch).float())[0].double().numpy())
    assert measured == pytest.approx(float((share / share.sum()) @ np.arange(1, 11)), abs=1e-4)
    assert 1 <= measured <= 10


def test_nima_of_a_certain_network(made_weights, tmp_path):
    import safetensors.torch

    _, network = made_weights
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tensors["classifier.1.weight"].zero_()
    tensors["classifier.1.bias"].fill_(-50)
    tensors["classifier.1.bias"][6] = 50
    safetensors.torch.save_file(tensors, str(tmp_path / "seven.safetensors"))
    plugin = nima.Plugin(checkpoint=str(tmp_path / "seven.safetensors"), min_nima=6.9)
    scores = plugin.measure(plain_view(np.dstack([detailed(0, 96)] * 3)))
    assert scores["nima"] == pytest.approx(7.0, abs=1e-6)
    assert plugin.judge(scores).keep and plugin.judge({"nima": 6.8}).reason == "low-rating"


def test_nima_refuses_bad_checkpoints(made_weights, tmp_path):
    import torch
    import torchvision

    view = plain_view(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"needs a checkpoint.*thresholds\.nima"):
        nima.Plugin().measure(view)
    with pytest.raises(ConfigError, match="is not a file"):
        nima.Plugin(checkpoint=str(tmp_path / "none.pth")).measure(view)
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ConfigError, match="cannot be read"):
        nima.Plugin(checkpoint=str(tmp_path / "text.pth")).measure(view)
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(ConfigError, match="cannot be read"):
        nima.Plugin(checkpoint=str(tmp_path / "text.safetensors")).measure(view)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="not a state dict"):
        nima.Plugin(checkpoint=str(tmp_path / "list.pth")).measure(view)
    torch.save(torchvision.models.mobilenet_v2(weights=None, num_classes=1000).state_dict(), tmp_path / "imagenet.pth")
    with pytest.raises(ConfigError, match="does not fit mobilenet_v2 with 10 outputs"):
        nima.Plugin(checkpoint=str(tmp_path / "imagenet.pth")).measure(view)
    with pytest.raises(ConfigError, match="does not fit resnet50"):
        nima.Plugin(checkpoint=str(made_weights[0]), backbone="resnet50").measure(view)
