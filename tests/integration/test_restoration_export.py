"""Networks for other programs: ONNX that equals PyTorch at any size; safetensors that load as their card says."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from curate.core.errors import ConfigError, MissingDependencyError, NumericsError
from restoration.bound import bind
from restoration.checkpoint import load_run
from restoration.exporting import CHECK_SHAPES, ExportConfig, _compare, export

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("run"), "dynet-tiny", change=0.05)
    record = {
        "config": {"seed": 7, "tasks": {"noise25": 1.0}}, "config_hash": "abc", "status": "finished",
        "inputs": {"data": {"path": "/home/me/secret/corpus", "samples": 85, "content_hash": "def"}},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "eval").mkdir()
    mean = {"input": {"psnr_db": 20.17, "ssim": 0.4}, "output": {"psnr_db": 27.5, "ssim": 0.77777}}
    result = {"bench": "kodak24", "task": "noise25", "protocol": "promptir", "depth": "2,2,2,3", "mean": mean}
    for name, checkpoint in (("a", "step-00000001.safetensors"), ("old", "step-00000000.safetensors")):
        (folder / f"eval/{name}.json").write_text(json.dumps(result | {"checkpoint": checkpoint, "bench": name}))
    return folder


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def difference(session, module, size: tuple[int, ...], choice=None) -> float:
    x_BCHW = torch.rand(size)
    (output,) = session.run(None, {"input": x_BCHW.numpy()})
    with torch.inference_mode():
        return float(np.abs(output - module(x_BCHW, choice).numpy()).max())


def test_onnx_and_its_card(make_run, tmp_path, make_photo, monkeypatch):
    """The smallest network: the exporter needs 20 s for a DyNet."""
    run = make_run(tmp_path / "run", change=0.05)
    result = export(ExportConfig(run=run, out=tmp_path, format="onnx"))
    assert [check.shape for check in result.checks] == list(CHECK_SHAPES)
    assert all(0 < check.max_difference <= 1e-4 for check in result.checks)
    data = (tmp_path / "model.onnx").read_bytes()
    loaded = load_run(run)
    assert difference(runtime.InferenceSession(data), loaded.module, (2, 3, 17, 5)) <= 1e-4
    monkeypatch.chdir(tmp_path)
    Image.fromarray(make_photo(0, 31, 46)).save("in.png")
    exec(snippets((tmp_path / "README.md").read_text())[0], {})
    with Image.open("out.png") as out:
        assert out.size == (46, 31)
    with torch.no_grad():
        next(loaded.module.parameters()).add_(1e-2)
    with pytest.raises(NumericsError, match="ONNX Runtime differs"):
        _compare(data, bind(loaded.module), runtime)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dynet-tiny"])
def test_onnx_of_a_transformer_equals_pytorch_at_sizes_that_are_no_multiple_of_anything(make_run, tmp_path, name):
    run = make_run(tmp_path / "run", name, change=0.05)
    result = export(ExportConfig(run=run, out=tmp_path / "out", format="onnx", depth="l"))
    assert [check.shape for check in result.checks] == list(CHECK_SHAPES)
    session = runtime.InferenceSession(str(tmp_path / "out/model.onnx"))
    about = session.get_modelmeta().custom_metadata_map
    assert (about["model"], about["depth"], about["scale"], about["step"]) == (name, "2,2,2,3", "1", "1")
    module = load_run(run).module
    for size in ((1, 3, 8, 8), (3, 3, 33, 130)):
        assert difference(session, module, size, (2, 2, 2, 3)) <= 1e-4
        assert difference(session, module, size) > 1e-3, "the depth is part of the file"


def test_a_network_that_cannot_be_exported_is_one_line(make_run, tmp_path, monkeypatch, capfd):
    """One whose steps depend on the size, as networks that cut pictures up do."""

    def forward(self, x_BCHW, choice=None):
        return torch.cat([row * (number + 1) for number, row in enumerate(x_BCHW.split(8, dim=2))], 2)

    monkeypatch.setattr("restoration.models.tiny.Tiny.forward", forward)
    with pytest.raises(ConfigError, match=r"cannot be exported to ONNX.*--format safetensors works") as told:
        export(ExportConfig(run=make_run(tmp_path / "run"), out=tmp_path / "out", format="onnx"))
    assert "\n" not in str(told.value) and not (tmp_path / "out").exists()
    assert "".join(capfd.readouterr()) == ""


def test_safetensors_load_as_their_card_says(run, tmp_path, monkeypatch):
    export(ExportConfig(run=run, out=tmp_path, format="safetensors", licence="CC-BY-4.0"))
    card = (tmp_path / "README.md").read_text()
    row = "| a | noise25 | promptir | 2,2,2,3 | 20.17 | 27.50 | 0.4000 | 0.7778 |"
    for told in ("dynet-tiny", "license: CC-BY-4.0", "noise25", row, "seed: 7", "`l` = 2,2,2,3"):
        assert told in card, told
    assert "secret" not in card and "| old |" not in card, "no paths of this machine, no numbers of another checkpoint"
    by_name: dict[str, object] = {}
    monkeypatch.chdir(tmp_path)
    exec(snippets(card)[0], by_name)
    x_BCHW = torch.rand(1, 3, 20, 20)
    with torch.inference_mode():
        assert torch.equal(by_name["model"](x_BCHW), load_run(run).module(x_BCHW))


def test_the_card_of_imported_weights_names_their_file(make_run, tmp_path):
    run = make_run(tmp_path / "run")
    file = {"path": "/home/me/secret/net_g.pth", "bytes": 1, "sha256": "ab" * 32}
    record = {"status": "imported", "config": {"model": "tiny"}, "inputs": {"file": file}}
    (run / "run.json").write_text(json.dumps(record))
    export(ExportConfig(run=run, out=tmp_path / "out", format="safetensors"))
    card = (tmp_path / "out/README.md").read_text()
    assert "`net_g.pth`" in card and "ab" * 32 in card and "secret" not in card


@pytest.mark.parametrize("name", ["README.md", "model.safetensors"])
def test_files_of_another_origin_are_not_replaced(run, tmp_path, name):
    (tmp_path / name).write_text("# My project\n\nlibrary_name: irdistill is what I use\n")
    with pytest.raises(ConfigError, match=rf"holds {name} of another origin"):
        export(ExportConfig(run=run, out=tmp_path, format="safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == [name] and "My project" in (tmp_path / name).read_text()
    for _ in range(2):  # an export of ours is replaced
        export(ExportConfig(run=run, out=tmp_path / "out", format="safetensors"))


def test_without_the_extra_the_command_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'irdistill\[export\]'"):
        export(ExportConfig(run=run, out=tmp_path / "out"))
    result = export(ExportConfig(run=run, out=tmp_path / "out", format="safetensors"))
    assert [path.name for path in result.files] == ["model.safetensors", "README.md"] and not result.checks
    card = (tmp_path / "out/README.md").read_text()
    assert "license: unknown" in card and "onnx" not in card.lower()
    for wrong in ({"format": "pickle"}, {"out": run / "run.json"}, {"depth": "xl", "format": "safetensors"}):
        with pytest.raises(ConfigError):
            export(ExportConfig(**({"run": run, "out": tmp_path / "x"} | wrong)))
