"""Weights written elsewhere become a RUN; files that are bad, of another network or full of code are refused in one line."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from curate.core.config import to_plain
from curate.core.errors import ConfigError, ManifestError, PluginError, ToolkitError
from restoration import RestoreConfig, make_model, restore
from restoration.bound import bind
from restoration.checkpoint import load_run
from restoration.imports import ImportConfig, import_checkpoint
from restoration.models.dynet import DEAD_LAYERS
from restoration.weight_file import read_weights


class Evil:
    """A pickle of this creates a file when it is opened carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(7)
    model = make_model("dynet-tiny")
    torch.nn.init.normal_(model.output.weight, std=0.05)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def write(path: Path, state, how: str) -> Path:
    prefixed = {"lightning": "net.", "parallel": "module."}.get(how, "")
    state = OrderedDict((prefixed + name, value) for name, value in state.items())
    if how == "safetensors":
        save_file(dict(state), path)
    elif how == "lightning":
        torch.save({"epoch": 3, "global_step": 7, "pytorch-lightning_version": "2.0", "state_dict": state}, path)
    elif how == "basicsr":
        torch.save({"params": {n: torch.zeros_like(v) for n, v in state.items()}, "params_ema": state}, path)
    elif how == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif how == "half":
        torch.save({"model": {name: value.half() for name, value in state.items()}}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("how", ["safetensors", "plain", "parallel", "lightning", "basicsr", "legacy", "half"])
def test_every_layout_of_a_file_is_read(tmp_path, trained, how):
    dead = {name: torch.zeros(2, 3, 1, 1) for name in DEAD_LAYERS}
    file = write(tmp_path / "weights.bin", trained | dead, how)
    result = import_checkpoint(ImportConfig(file=file, out=tmp_path / "run", model="dynet-tiny"))
    assert (result.num_parameters, result.num_unused) == (132_561, 18)
    loaded = load_run(tmp_path / "run")
    assert (loaded.name, loaded.step, loaded.file) == ("dynet-tiny", 0, "step-00000000.safetensors")
    for name, value in loaded.module.state_dict().items():
        torch.testing.assert_close(value, trained[name], rtol=0, atol=2e-3 if how == "half" else 0)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "imported" and record["inputs"]["file"]["sha256"] == result.sha256
    before = result.weights.stat().st_mtime_ns
    again = import_checkpoint(ImportConfig(file=file, out=tmp_path / "run", model="dynet-tiny"))
    assert again == result and result.weights.stat().st_mtime_ns == before


def test_imported_weights_restore_at_both_depths(tmp_path, trained, make_photo, png_bytes):
    file = write(tmp_path / "weights.ckpt", trained, "lightning")
    import_checkpoint(ImportConfig(file=file, out=tmp_path / "run", model="dynet-tiny"))
    (tmp_path / "in.png").write_bytes(png_bytes(make_photo(0, 40, 50)))
    written = [
        restore(
            RestoreConfig(run=tmp_path / "run", source=tmp_path / "in.png", out=tmp_path / f"{depth}.png", depth=depth)
        )
        for depth in ("s", "l")
    ]
    assert written[0].written[0].read_bytes() != written[1].written[0].read_bytes()


def test_a_run_is_imported_from_its_own_checkpoint(tmp_path, trained):
    file = write(tmp_path / "weights.pt", trained, "plain")
    first = import_checkpoint(ImportConfig(file=file, out=tmp_path / "run", model="dynet-tiny"))
    import_checkpoint(ImportConfig(file=first.weights, out=tmp_path / "again", model="dynet-tiny"))
    assert all(torch.equal(v, trained[n]) for n, v in load_run(tmp_path / "again").module.state_dict().items())


def test_one_file_at_both_depths(tmp_path, trained):
    """What was trained deep runs shallow, and back: the depth is a setting of the network, not of its weights."""
    file, x = write(tmp_path / "weights.pt", trained, "plain"), torch.rand(1, 3, 16, 24)
    outputs = {}
    for name, reuse in (("shallow", [1, 1, 1, 2]), ("deep", [2, 2, 2, 3])):
        config = ImportConfig(file=file, out=tmp_path / name, model="dynet-tiny", network={"reuse": reuse})
        module = load_run(import_checkpoint(config).out).module
        outputs[name] = [bind(module, depth=depth)(x) for depth in ("", "s", "l")]
    assert all(map(torch.equal, outputs["shallow"][1:], outputs["deep"][1:]))
    assert torch.equal(outputs["shallow"][0], outputs["deep"][1]) and torch.equal(
        outputs["deep"][0], outputs["shallow"][2]
    )
    assert not torch.equal(*outputs["deep"][1:])


def test_other_widths_from_a_config(tmp_path, program):
    config = {**to_plain(make_model("dynet-tiny").config), "channels": [8, 12, 16, 24], "expansion": 1.5}
    file = write(tmp_path / "weights.safetensors", make_model("dynet-tiny", config).state_dict(), "safetensors")
    with pytest.raises(ManifestError, match="has shape"):
        import_checkpoint(ImportConfig(file=file, out=tmp_path / "run", model="dynet-tiny"))
    assert not (tmp_path / "run").exists()
    (tmp_path / "net.toml").write_text("channels = [8, 12, 16, 24]\nexpansion = 1.5\n")
    arguments = [
        "import-checkpoint",
        file,
        tmp_path / "run",
        "--model",
        "dynet-tiny",
        "--config",
        tmp_path / "net.toml",
    ]
    done = program("restoration", *map(str, arguments))
    assert done.returncode == 0 and "parameters" in done.stdout, done.stderr
    assert load_run(tmp_path / "run").module.config.channels == (8, 12, 16, 24)


def evil_zip(path: Path, victim: Path) -> Path:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callbacks": Evil(victim)}, path)
    return path


def evil_pickle(path: Path, victim: Path) -> Path:
    path.write_bytes(pickle.dumps(Evil(victim), protocol=2))
    return path


def evil_legacy(path: Path, victim: Path) -> Path:
    torch.save({"a": torch.zeros(1), "evil": Evil(victim)}, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("make", [evil_zip, evil_pickle, evil_legacy])
def test_a_pickle_that_would_run_code_runs_nothing(tmp_path, make):
    file = make(tmp_path / "innocent.safetensors", tmp_path / "victim")
    with pytest.raises(ManifestError, match=r"asks to run or make \S*system, .* refused, nothing was run"):
        import_checkpoint(ImportConfig(file=file, out=tmp_path / "run", model="dynet-tiny"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["innocent.safetensors"]
    with file.open("rb") as opened:  # the trap is a real one
        pickle.load(opened) if make is evil_pickle else torch.load(opened, weights_only=False)
    assert (tmp_path / "victim").exists()


def test_a_pickle_that_would_run_code_is_one_line_and_exit_code_2(tmp_path, program):
    file = evil_zip(tmp_path / "weights.pth", tmp_path / "victim")
    result = program("restoration", "import-checkpoint", str(file), str(tmp_path / "run"), "--model", "dynet-tiny")
    assert result.returncode == 2 and "refused, nothing was run" in result.stderr and "system" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and len(result.stderr) < 500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.pth"]


def bad_files(tmp_path: Path, state) -> dict[str, tuple[bytes, str]]:
    def saved(value: object) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    safe = tmp_path / "good"
    save_file(state, safe)
    whole, zipped = safe.read_bytes(), saved(state)
    safe.unlink()
    missing = {name: value for name, value in state.items() if name != "output.weight"}
    wrong = state | {"latent.attn.temperature": torch.ones(7, 1, 1)}
    loop: dict[str, object] = {}
    loop["model"] = loop
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    return {
        "text": (b"hello, I am a text file", "neither safetensors nor"),
        "empty": (b"", "neither safetensors nor"),
        "truncated": (whole[:-100], "cannot read"),
        "header": (struct.pack("<Q", 1 << 60) + whole[8:], "neither safetensors nor|cannot read"),
        "flipped header": (whole[:40] + bytes([whole[40] ^ 0x80]) + whole[41:], "cannot read"),
        "truncated zip": (zipped[: len(zipped) // 2], "damaged"),
        "another zip": (other.getvalue(), "damaged"),
        "missing": (saved(missing), "1 parameters missing, first output.weight"),
        "unknown": (
            saved(state | {"extra.weight": torch.ones(1)}),
            "1 parameters not of this network, first extra.weight",
        ),
        "shape": (saved(wrong), r"latent.attn.temperature has shape \(7, 1, 1\), this network wants \(4, 1, 1\)"),
        "nan": (
            saved(state | {"output.weight": torch.full((3, 16, 3, 3), float("nan"))}),
            "output.weight holds values",
        ),
        "new pickle": (pickle.dumps(Evil(tmp_path / "victim")), "damaged or no file of weights: Unsupported"),
        "list": (saved([1, 2, 3]), "holds no tensors by name"),
        "loop": (saved(loop), "holds no tensors by name"),
        "another model": (saved(make_model("tiny").state_dict()), "parameters missing"),
    }


def test_bad_files_are_refused_in_one_line_and_leave_nothing(tmp_path, trained):
    for name, (data, message) in bad_files(tmp_path, trained).items():
        file = tmp_path / f"{name}.pth"
        file.write_bytes(data)
        with pytest.raises(ManifestError, match=message) as caught:
            import_checkpoint(ImportConfig(file=file, out=tmp_path / "run", model="dynet-tiny"))
        assert str(file) in str(caught.value) and len(str(caught.value)) < 600, name
        assert not (tmp_path / "run").exists() and not (tmp_path / "victim").exists()


def test_damage_anywhere_in_a_pickle_is_a_refusal(tmp_path, trained):
    """Every byte of the small pickled part in turn is overwritten: each file is read or refused, nothing else happens."""
    file = tmp_path / "weights.pt"
    torch.save({"a": trained["output.weight"]}, file, _use_new_zipfile_serialization=False)
    data = file.read_bytes()
    refused = 0
    for position in range(0, min(len(data), 420), 3):
        for value in (0x00, 0x52, 0x63, 0xFF):
            file.write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
            try:
                read_weights(file)
            except ToolkitError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"file": "{tmp}"}, ConfigError, "is a folder"),
        ({"file": "{tmp}/none.pt"}, ConfigError, "does not exist"),
        ({"model": "dynet-tinny"}, PluginError, "dynet-tiny"),
        ({"model": "promptir"}, ManifestError, "does not fit promptir"),
        ({"out": "{tmp}/used"}, ConfigError, "already holds other files"),
        ({"network": {"chanels": [1, 2, 3, 4]}}, ConfigError, "did you mean 'channels'"),
    ],
)
def test_other_mistakes(tmp_path, trained, change, error, message):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("keep")
    plain = {
        "file": str(write(tmp_path / "w.pt", trained, "plain")),
        "out": "{tmp}/run",
        "model": "dynet-tiny",
    } | change
    with pytest.raises(error, match=message):
        config = {
            name: value.format(tmp=tmp_path) if isinstance(value, str) else value for name, value in plain.items()
        }
        import_checkpoint(ImportConfig(**{**config, "file": Path(config["file"]), "out": Path(config["out"])}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["used", "w.pt"]


def test_another_file_into_a_used_run_is_refused(tmp_path, trained):
    config = {"out": tmp_path / "run", "model": "dynet-tiny"}
    import_checkpoint(ImportConfig(file=write(tmp_path / "a.pt", trained, "plain"), **config))
    changed = trained | {"output.weight": trained["output.weight"] + 1}
    with pytest.raises(ConfigError, match="holds another run"):
        import_checkpoint(ImportConfig(file=write(tmp_path / "b.pt", changed, "plain"), **config))


def test_a_run_with_a_bad_checkpoint_is_one_line(tmp_path, trained):
    result = import_checkpoint(
        ImportConfig(file=write(tmp_path / "a.pt", trained, "plain"), out=tmp_path / "run", model="dynet-tiny")
    )
    data = result.weights.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    text = header["__metadata__"]

    def with_text(change: dict[str, str | None]) -> bytes:
        changed = {**header, "__metadata__": {k: v for k, v in (text | change).items() if v is not None}}
        encoded = json.dumps(changed).encode()
        return struct.pack("<Q", len(encoded)) + encoded + data[8 + length :]

    for bad, message in [
        (data[:1000], "cannot read"),
        (data[:-1], "cannot read"),
        (b"text", "cannot read"),
        (with_text({"model": "dynet-huge"}), "no model called"),
        (with_text({"model": None}), "does not say 'model'"),
        (with_text({"config": "[1]"}), "no table"),
        (with_text({"config": "{"}), "not a checkpoint of ours"),
        (with_text({"config": json.dumps({"channels": [4, 8, 8, 8]})}), "not a checkpoint of ours"),
        (with_text({"step": "many"}), "not a checkpoint of ours"),
    ]:
        result.weights.write_bytes(bad)
        with pytest.raises(ManifestError, match=message) as caught:
            load_run(tmp_path / "run")
        assert str(result.weights) in str(caught.value) and "\n" not in str(caught.value)
    result.weights.unlink()
    with pytest.raises(ManifestError, match="cannot read"):
        load_run(tmp_path / "run")
