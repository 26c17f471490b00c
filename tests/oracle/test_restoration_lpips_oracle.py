"""LPIPS against its definition, with a trunk of random weights in the place where torchvision looks for AlexNet's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from restoration.extra_metrics import load_metrics
from restoration.extra_metrics import lpips as ours

TAPS = (1, 4, 7, 9, 11)  # the ReLUs of AlexNet's features


@pytest.fixture
def trunk(tmp_path, monkeypatch):
    pytest.importorskip("lpips")
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None).eval()
    ours.weights_path().parent.mkdir(parents=True)
    torch.save(network.state_dict(), ours.weights_path())
    ours._network.cache_clear()
    yield network.features
    ours._network.cache_clear()


def unit_features(features: torch.nn.Sequential, picture: np.ndarray) -> list[torch.Tensor]:
    shift, scale = (torch.tensor(v)[:, None, None] for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    x, found = ((torch.from_numpy(picture) * 2 - 1 - shift) / scale)[None], []
    for number, layer in enumerate(features):
        x = layer(x)
        if number in TAPS:
            found.append(x.clone() / (x.norm(dim=1, keepdim=True) + 1e-10))
    return found


def test_lpips_is_what_its_paper_says(trunk):
    [metric] = load_metrics(["lpips"])
    rng = np.random.default_rng(0)
    target = rng.random((3, 70, 90), dtype=np.float32)
    output = np.clip(target + rng.normal(0, 0.2, target.shape), 0, 1).astype(np.float32)
    heads = [layer.model[-1].weight for layer in ours._network().lins]
    with torch.inference_mode():
        pairs = zip(heads, unit_features(trunk, output), unit_features(trunk, target), strict=True)
        expected = sum(float(torch.conv2d((a - b) ** 2, head).mean()) for head, a, b in pairs)
    assert metric.measure(output, target) == pytest.approx(expected, rel=1e-4) and expected > 0
    assert metric.measure(target, target) == 0
