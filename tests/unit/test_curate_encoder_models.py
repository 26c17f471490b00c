"""timm and open_clip encoders, by random weights: no weights of theirs can be had without a network."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import open_clip
import timm
from curate.core.errors import ConfigError, ManifestError, MissingDependencyError
from curate.encoders._eager_vit import EagerVit
from curate.encoders._lean_vit import LeanVit, resolve_precision
from curate.encoders._loading import full_precision, load_encoder
from curate.encoders.timm import Plugin as Timm

# (name, whether our own forward takes it): plain, registers without position, LayerScale, no class token, rotary positions
TIMM_MODELS = [
    ("vit_tiny_patch16_224", True), ("vit_small_patch14_reg4_dinov2", True), ("deit3_small_patch16_224", True),
    ("vit_base_patch32_clip_224", True), ("vit_small_patch16_rope_224", False),
]  # fmt: skip


def _random_timm(name: str, path: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    size = {"img_size": 224} if "dinov2" in name else {}
    model = timm.create_model(name, pretrained=False, num_classes=7, **size).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.02)  # no bias, scale or token stays at its beginning
    save_file(model.state_dict(), path)
    return model


@pytest.mark.parametrize(("name", "lean"), TIMM_MODELS)
def test_any_vit_of_timm_gives_timm_s_own_hidden_states(
    name: str, lean: bool, tmp_path: Path, make_photo: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "dinov2" in name:
        create = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda *a, **k: create(*a, **({"img_size": 224} | k)))
    model = _random_timm(name, tmp_path / "w.safetensors")
    encoder = Timm(model=name, checkpoint=str(tmp_path / "w.safetensors"), precision="fp32", device="cpu")
    assert isinstance(encoder._loaded.vit, LeanVit if lean else EagerVit)
    images = np.stack([make_photo(seed, encoder.input_px, encoder.input_px) for seed in range(3)])
    data = timm.data.resolve_model_data_config(model)
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(data[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        wanted = model.forward_features((x - mean) / std).numpy()
    encoded = encoder.encode(images)
    prefix = model.num_prefix_tokens
    assert encoded.tokens == pytest.approx(wanted[:, prefix:], abs=2e-4)
    assert encoded.rows == pytest.approx(wanted[:, 0] if prefix else wanted.mean(1), abs=2e-4)
    assert encoder.mean_token(x).detach().numpy() == pytest.approx(wanted[:, prefix:].mean(1), abs=2e-4)
    assert "head.weight" in model.state_dict()  # the checkpoint's head was left out
    assert len(encoder.weights_sha256) == 64


def test_the_mean_token_has_a_gradient_and_its_weights_have_none(tmp_path: Path) -> None:
    _random_timm("vit_tiny_patch16_224", tmp_path / "w.safetensors")
    encoder = Timm(model="vit_tiny_patch16_224", checkpoint=str(tmp_path / "w.safetensors"), device="cpu", precision="bf16")
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mean = encoder.mean_token(x)
    assert mean.dtype == torch.float32
    [gradient] = torch.autograd.grad(mean[:, 0].sum(), x)
    step = torch.zeros_like(x)
    step[0, 1, 100:110, 50:60] = 1e-2
    change = (encoder.mean_token(x + step) - encoder.mean_token(x - step))[:, 0].sum() / 2
    assert float(change.detach()) == pytest.approx(float((gradient * step).sum()), rel=2e-2)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu", "ViT-B-16-SigLIP"])
def test_open_clip_gives_open_clip_s_own_embedding(
    name: str, tmp_path: Path, make_photo: Callable[..., np.ndarray]
) -> None:
    torch.manual_seed(1)
    model = open_clip.create_model(name, load_weights=False).eval()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "clip.safetensors")
    encoder = load_encoder(
        "open_clip",
        {"model": name, "checkpoint": str(tmp_path / "clip.safetensors"), "precision": "fp32", "device": "cpu"},
    )
    images = np.stack([make_photo(seed, 224, 224) for seed in range(2)])
    data = model.visual.preprocess_cfg
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(data[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        wanted = model.encode_image((x - mean) / std).numpy()
    encoded = encoder.encode(images)
    assert encoded.rows == pytest.approx(wanted, abs=3e-4)
    assert encoded.tokens.shape == (2, 49 if "32" in name else 196, 768)
    assert encoder.mean_token(x).detach().numpy() == pytest.approx(encoded.tokens.mean(1), abs=2e-4)
    assert encoder.name == "open_clip"


def test_bf16_stays_near_fp32(tmp_path: Path, make_photo: Callable[..., np.ndarray]) -> None:
    _random_timm("vit_tiny_patch16_224", tmp_path / "w.safetensors")
    images = np.stack([make_photo(seed, 224, 224) for seed in range(5)])
    exact, fast = (
        Timm(model="vit_tiny_patch16_224", checkpoint=str(tmp_path / "w.safetensors"), precision=p, device="cpu")
        for p in ("fp32", "bf16")
    )
    a, b = exact.encode(images).tokens.mean(1), fast.encode(images).tokens.mean(1)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() >= 0.999
    assert exact.weights_sha256 == fast.weights_sha256
    assert (exact.settings["precision"], fast.settings["precision"]) == ("fp32", "bf16")
    assert resolve_precision("auto", "cuda") == "bf16"
    assert full_precision("timm") == {"precision": "fp32"}
    assert full_precision("handcrafted") == {}


def test_checkpoints_of_torch_are_read_and_wrong_ones_refused(tmp_path: Path) -> None:
    model = _random_timm("vit_tiny_patch16_224", tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pt")
    options = {"model": "vit_tiny_patch16_224", "device": "cpu"}
    one, two = (load_encoder("timm", options | {"checkpoint": str(tmp_path / n)}) for n in ("w.pt", "w.safetensors"))
    assert one.weights_sha256 == two.weights_sha256
    right = {"checkpoint": str(tmp_path / "w.pt"), "sha256": one.weights_sha256}
    assert load_encoder("timm", options | right).weights_sha256 == one.weights_sha256
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:100])
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    wrong = [
        (options | right | {"sha256": "0" * 64}, ManifestError, "weights hash to"),
        (options | right | {"sha256": "abc"}, ConfigError, "sha256 must be 64"),
        (options | {"checkpoint": str(tmp_path / "absent.pt")}, ConfigError, "no checkpoint at"),
        (options | {"checkpoint": str(tmp_path / "cut.safetensors")}, ManifestError, "cannot read"),
        (options | {"checkpoint": str(tmp_path / "text.pt")}, ManifestError, "cannot read"),
        (options | {"checkpoint": str(tmp_path / "other.pt")}, ManifestError, "lacks cls_token"),
        (options | {"checkpoint": str(tmp_path / "none.pt")}, ManifestError, "no tensors"),
        (options | {"model": "vit_small_patch16_224", "checkpoint": str(tmp_path / "w.pt")}, ManifestError, "wants"),
        ({"model": "vit_tiny_patch16_225"}, ConfigError, "near names"),
        ({"model": "resnet18", "checkpoint": str(tmp_path / "w.pt")}, ConfigError, "no vision transformer"),
        (options | {"precision": "fp16"}, ConfigError, "precision must be one of"),
        (options | {"device": "tpu"}, ConfigError, "device must be one of"),
        (options | {"checkpont": ""}, ConfigError, "did you mean 'checkpoint'"),
    ]  # fmt: skip
    for values, kind, said in wrong:
        with pytest.raises(kind, match=said) as caught:
            load_encoder("timm", values)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["timm", "open_clip"])
def test_no_network_is_one_line_that_asks_for_a_file(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = (
        "from curate import load_encoder\nfrom curate.core.errors import MissingDependencyError\n"
        f"try: load_encoder({name!r})\nexcept MissingDependencyError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False,
        env={"PATH": "/usr/bin", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert "cannot get the weights" in done.stdout, done.stderr
    assert "give a local file: checkpoint = " in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises((ConfigError, MissingDependencyError), match=r"finds no GPU|curate fetch-weights"):
        load_encoder("vit_s14", {"device": "cuda"})


def test_the_wrong_hash_of_vit_s14_is_one_line() -> None:
    try:
        load_encoder("vit_s14")
    except MissingDependencyError as error:
        pytest.skip(str(error))
    with pytest.raises(ManifestError, match="weights hash to d2ab8a0c") as caught:
        load_encoder("vit_s14", {"sha256": "0" * 64})
    assert "\n" not in str(caught.value)
