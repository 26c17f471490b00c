"""Shards -> a few training steps -> measured and used; stopped, killed and resumed runs equal an uninterrupted one."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import restoration
from curate import open_dataset
from curate.core.errors import ConfigError, ManifestError, NumericsError
from curate.core.images import decode_image, encode_image
from curate.shards import ShardWriter, patch_key
from restoration import EvaluateConfig, RestoreConfig, TrainConfig, evaluate, fit, restore
from restoration.bound import bind
from restoration.checkpoint import load_run
from restoration.curriculum import CurriculumConfig
from restoration.data import BatchSource
from restoration.record import LEFT_OUT
from restoration.restorer import Restorer, TilingConfig
from restoration.store import PatchStore, index_patches
from restoration.trainer import OptimiserConfig


def write_dataset(root: Path, stages: dict[str, list[np.ndarray]], kind: str) -> Path:
    """Write a corpus (stage "") or subset by hand: what curate's readers expect, nothing more."""
    listed = {}
    for name, images in stages.items():
        file = Path(name or "shards") / "patches-000000.tar"
        (root / file).parent.mkdir(parents=True)
        writer = ShardWriter(root / file)
        for image in images:
            key = patch_key(hashlib.sha256(image.tobytes()).hexdigest(), 0, 0, len(image))
            writer.add(key, {"webp": encode_image(image, "webp"), "json": b"{}"})
        digest = writer.close()
        row = {
            "file": str(file),
            "metadata": "",
            "metadata_sha256": "",
            **{n: getattr(digest, n) for n in digest.__slots__},
        }
        listed[name] = [row]
    content = {"shards": listed[""]} if kind == "corpus" else {"stages": listed}
    manifest = {
        "schema_version": 1,
        "kind": kind,
        "content_hash": hashlib.sha256(repr(listed).encode()).hexdigest(),
        **content,
    }
    (root / "manifest.json").write_text(json.dumps(manifest))
    (root / "_SUCCESS").write_text("")
    return root


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(8):
        walk = np.cumsum(np.cumsum(rng.normal(0, 1, (64, 64, 3)), axis=0), axis=1)
        pictures.append(np.clip(128 + walk / walk.std() * 50, 0, 255).astype(np.uint8))
    return pictures


@pytest.fixture(scope="module")
def subset(photos, tmp_path_factory) -> Path:
    return write_dataset(
        tmp_path_factory.mktemp("data") / "sub", {"stage1": photos[:4], "stage2": photos[4:]}, "subset"
    )


@pytest.fixture(scope="module")
def corpus(photos, tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "corpus", {"": photos}, "corpus")


def config(data: Path, out: Path, **values) -> TrainConfig:
    settings = {
        "model": "tiny",
        "steps": 12,
        "checkpoint_every_iter": 5,
        "log_every_iter": 3,
        "device": "cpu",
        "val_crop_px": 32,
    }
    return TrainConfig(data=data, out=out, **(settings | values))


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [line for line in lines if "loss" in line]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def run(subset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    result = fit(config(subset, out))
    assert (result.status, result.steps, result.num_steps) == ("finished", 12, 12)
    return out


def test_a_run_holds_what_its_contract_says(run, subset):
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished" and record["config"]["recipe"] == "curriculum" and record["seed"] == 0
    assert record["inputs"]["data"]["samples"] == 8 and len(record["inputs"]["held_out"]) == 1
    assert record["versions"]["torch"] == importlib.metadata.version("torch")
    last = json.loads((run / "checkpoints/last.json").read_text())
    with safe_open(str(run / "checkpoints" / last["weights"]), "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert {f"ema.{name}" for name in names if not name.startswith("ema.")} == {
        n for n in names if n.startswith("ema.")
    }
    assert metadata["model"] == "tiny" and metadata["step"] == "12"
    state = torch.load(run / "checkpoints" / last["state"], weights_only=True)
    assert state["step"] == 12 and state["data"] == {"seed": 0, "next_step": 12}
    assert (run / "checkpoints/best.json").is_file() and list((run / "samples").glob("*.png"))
    kept = {path.name.partition(".")[0] for path in (run / "checkpoints").glob("step-*")}
    assert kept >= {"step-00000010", "step-00000012"} and len(kept) <= 3
    assert not list(run.rglob(".tmp-*"))


def test_same_config_gives_the_same_losses_whatever_the_threads(run, subset, tmp_path):
    fit(config(subset, tmp_path / "again", num_threads=1, cache_bytes=0))
    assert losses(tmp_path / "again") == losses(run)


def test_finished_run_is_left_alone(run, subset):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert fit(config(subset, run)).status == "already-finished"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


class Killed(BaseException):
    """Stands for a power cut."""


@pytest.mark.parametrize("at", [3, 7, 11])
def test_killed_between_checkpoints_and_resumed_is_bit_identical(run, subset, tmp_path, monkeypatch, at):
    out = tmp_path / "killed"
    original = restoration.trainer.Trainer.step

    def step(self, batch, *, lr):
        if batch.step == at:
            raise Killed
        return original(self, batch, lr=lr)

    monkeypatch.setattr("restoration.trainer.Trainer.step", step)
    with pytest.raises(Killed):
        fit(config(subset, out))
    monkeypatch.undo()
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "loss')  # a line cut short
    fit(config(subset, out))
    assert losses(out) == losses(run)
    assert same_weights(out, run)


def same_weights(first: Path, second: Path) -> bool:
    first_state, second_state = (load_run(run).module.state_dict() for run in (first, second))
    return all(torch.equal(first_state[name], second_state[name]) for name in second_state)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"steps": 13}, "steps was 12, now 13"), ({"seed": 1}, "seed"), ({"peak_lr": 1e-3}, "peak_lr")],
)
def test_another_config_is_refused(run, subset, change, named):
    with pytest.raises(ConfigError, match=named):
        fit(config(subset, run, **change))


def test_other_data_and_other_folders_are_refused(run, subset, corpus, tmp_path):
    with pytest.raises(ConfigError, match=r"config|data"):
        fit(config(corpus, run, recipe="scratch"))
    with pytest.raises(ConfigError, match="already holds other files"):
        fit(config(subset, corpus))
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        fit(config(tmp_path / "nowhere", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="two stages"):
        fit(config(corpus, tmp_path / "out", recipe="curriculum"))


def test_curriculum_draws_stage_1_first(subset, photos, tmp_path):
    seen = []
    original = restoration.trainer.Trainer.step

    def step(self, batch, *, lr):
        seen.append(batch.keys)
        return original(self, batch, lr=lr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("restoration.trainer.Trainer.step", step)
        fit(config(subset, tmp_path / "run", steps=20, val_share=0.0))
    simple = {hashlib.sha256(image.tobytes()).hexdigest()[:20] for image in photos[:4]}
    shares = [np.mean([key.partition("_")[0] in simple for key in keys]) for keys in seen]
    assert set(shares[:10]) == {1.0} and 0.1 < np.mean(shares[10:]) < 0.8


def test_nan_is_named_and_the_last_checkpoint_kept(subset, tmp_path, monkeypatch):
    original = restoration.trainer.l1
    calls = iter(range(100))
    monkeypatch.setattr(
        "restoration.trainer.l1", lambda a, b: original(a, b) * (float("nan") if next(calls) == 7 else 1)
    )
    with pytest.raises(NumericsError, match=r"step 8: loss nan.*_00000_00000_64"):
        fit(config(subset, tmp_path / "run"))
    assert json.loads((tmp_path / "run/checkpoints/last.json").read_text())["step"] == 5
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"
    assert len(losses(tmp_path / "run")) == 7


def test_hours_limit_the_run(corpus, tmp_path):
    result = fit(config(corpus, tmp_path / "run", steps=0, hours=2 / 3600))
    assert result.num_steps >= 1 and result.status in ("finished", "time-limit")
    assert 1 <= result.steps <= result.num_steps  # how many fit depends on the machine: no number here


def test_one_patch_is_enough(photos, tmp_path):
    data = write_dataset(tmp_path / "one", {"": photos[:1]}, "corpus")
    result = fit(config(data, tmp_path / "run", steps=2))
    assert result.val_psnr_db == {} and not (tmp_path / "run/checkpoints/best.json").exists()


def test_small_patches_and_broken_shards_are_named(photos, corpus, tmp_path):
    with pytest.raises(ValueError, match="smaller than a training crop of 96"):
        fit(config(corpus, tmp_path / "a", crop_px=96))
    data = write_dataset(tmp_path / "cut", {"": photos}, "corpus")
    shard = data / "shards/patches-000000.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2 // 512 * 512])
    with pytest.raises(ManifestError, match=r"tar|manifest says 8"):
        fit(config(data, tmp_path / "b"))


def test_dynet_tiny_learns_to_denoise(corpus, tmp_path):
    """Thirty small steps lower the loss by a fifth."""
    fit(
        config(corpus, tmp_path / "run", model="dynet-tiny", steps=30, crop_px=32, batch_size=4, tasks={"noise25": 1.0})
    )
    values = losses(tmp_path / "run")
    assert np.mean(values[-5:]) < 0.8 * np.mean(values[:3])


def test_evaluate_reports_input_and_output(run, photos, tmp_path):
    bench = tmp_path / "bench"
    bench.mkdir()
    for number, image in enumerate(photos[:3]):
        (bench / f"{number}.png").write_bytes(encode_image(np.tile(image, (1, 2, 1))[:50], "png"))
    result = evaluate(EvaluateConfig(run=run, bench=bench, task="noise25", device="cpu"))
    assert [image.name for image in result.images] == ["0", "1", "2"]
    assert 19 < result.input["psnr_db"] < 22 and 0 < result.output["ssim"] < 1
    written = json.loads((run / "eval/bench-noise25-promptir.json").read_text())
    assert written["mean"]["output"]["psnr_db"] == result.output["psnr_db"] and written["num_images"] == 3
    assert (
        written["protocol"] == "promptir" and written["weights"] == "ema" and written["checkpoint"] == result.checkpoint
    )


def test_evaluate_pairs(run, photos, tmp_path):
    bench = tmp_path / "rain"
    for side, shift in (("input", 30), ("target", 0)):
        (bench / side).mkdir(parents=True)
        image = np.clip(photos[0].astype(int) // 2 + shift, 0, 255).astype(np.uint8)
        (bench / side / "a.png").write_bytes(encode_image(image, "png"))
    result = evaluate(EvaluateConfig(run=run, bench=bench, task="rain", device="cpu"))
    assert result.input["psnr_db"] == pytest.approx(20 * np.log10(255 / 30), abs=1e-3)
    with pytest.raises(ConfigError, match="holds pairs"):
        evaluate(EvaluateConfig(run=run, bench=bench, task="noise25"))
    with pytest.raises(ConfigError, match="holds no pairs"):
        evaluate(EvaluateConfig(run=run, bench=bench / "input", task="rain"))
    (bench / "input/b.png").write_bytes((bench / "input/a.png").read_bytes())
    with pytest.raises(ConfigError, match="no partner, first: b"):
        evaluate(EvaluateConfig(run=run, bench=bench, task="rain"))


def test_restore_any_size_upright_and_never_over_the_input(run, photos, tmp_path):
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photos[0][:40]).save(source / "turned.jpg", exif=exif)
    (source / "sub/one.png").write_bytes(encode_image(photos[1][:1, :1], "png"))
    (source / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    result = restore(RestoreConfig(run=run, source=source, out=tmp_path / "out", device="cpu"))
    assert [path.relative_to(tmp_path / "out").as_posix() for path in result.written] == ["sub/one.png", "turned.png"]
    assert [name for name, _ in result.failed] == ["broken.jpg"]
    assert decode_image((tmp_path / "out/turned.png").read_bytes()).shape == (64, 40, 3)
    picture = source / "sub/one.png"
    before = picture.read_bytes()
    for wrong in (picture, tmp_path / "a.gif", source / "sub"):
        with pytest.raises(ConfigError, match="output"):
            restore(RestoreConfig(run=run, source=picture, out=wrong, device="cpu"))
    with pytest.raises(ConfigError, match="inside the input"):
        restore(RestoreConfig(run=run, source=source, out=source / "sub", device="cpu"))
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        restore(RestoreConfig(run=run, source=source / "broken.jpg", out=tmp_path / "x.png", device="cpu"))
    with pytest.raises(ConfigError, match="one depth"):
        restore(RestoreConfig(run=run, source=picture, out=tmp_path / "x.png", depth="l", device="cpu"))
    assert picture.read_bytes() == before and not (tmp_path / "x.png").exists()


def test_tiled_restoration_equals_the_whole_picture(run, photos):
    """The test network sees 3 px around a pixel, so tiles whose margin is 8 may not differ from the whole."""
    network = bind(load_run(run).module)
    picture = np.tile(photos[0], (3, 4, 1))

    def restored(**settings):
        tiling = TilingConfig(tile_px=64, overlap_px=24, margin_px=8, **settings)
        return Restorer(network, device=torch.device("cpu"), limit_bytes=10**10, tiling=tiling).restore(picture)

    np.testing.assert_array_equal(restored(whole=False), restored())


def test_sigterm_saves_and_the_same_command_resumes(run, subset, tmp_path):
    out, script = tmp_path / "stopped", Path(sys.executable).parent / "restoration"
    toml = tmp_path / "train.toml"
    toml.write_text("checkpoint_every_iter = 100000\nlog_every_iter = 5\nval_crop_px = 32\n")
    command = [str(script), "train", str(subset), str(out), "--model", "tiny", "--steps", "4000", "--config", str(toml)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 100
    while (
        not ((out / "metrics.jsonl").is_file() and (out / "metrics.jsonl").stat().st_size)
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 130, stderr
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "interrupted" and 0 < record["step"] < 4000
    assert json.loads((out / "checkpoints/last.json").read_text())["step"] == record["step"] == len(losses(out))


def test_networks_with_heads_are_refused_before_anything_is_written(program, subset, tmp_path):
    out = tmp_path / "out"
    for name in ("ipt", "ipt-tiny"):
        with pytest.raises(ConfigError, match=f"model {name} has a head for each task"):
            config(subset, out, model=name)
    result = program("restoration", "train", subset, out, "--model", "ipt-tiny", "--steps", "1")
    assert (
        result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1 and "cannot be trained" in result.stderr
    )
    assert not out.exists()


def test_a_chain_is_read_once_and_another_content_is_refused(subset, tmp_path):
    file, out = tmp_path / "mine.toml", tmp_path / "run"
    text = '[[steps]]\ndegradation = "jpeg"\nsettings = { max_quality = %d }\n'
    file.write_text(text % 30)
    mine = config(subset, out, tasks={f"chain:{file}": 1.0, "sr2": 1.0}, steps=2, val_share=0.0)
    fit(mine)
    hashes = json.loads((out / "run.json").read_text())["config"]["chains"]
    assert list(hashes) == [f"chain:{file}"] and len(hashes[f"chain:{file}"]) == 64
    assert fit(mine).status == "already-finished"
    file.write_text("# the same\n" + text % 30)
    assert fit(mine).status == "already-finished"
    file.write_text(text % 29)
    with pytest.raises(ConfigError, match="started with another config \\(chains was"):
        fit(mine)
    source = BatchSource(
        store=PatchStore(cache_bytes=0), stages=index_patches(open_dataset(subset)), num_steps=2, batch_size=2, crop_px=32,
        max_shrink=1, tasks=mine.tasks, curriculum=CurriculumConfig(), seed=0,
    )  # fmt: skip
    before = source.batch(0)
    file.unlink()
    np.testing.assert_array_equal(source.batch(0).lq, before.lq)
    assert source.degradations[1].path == "fast" and not np.array_equal(before.lq, before.hq)


def test_config_refuses_nonsense(subset, tmp_path):
    for values in (
        {"model": "dynet-tin"}, {"recipe": "magic"}, {"steps": 0}, {"steps": -1}, {"tasks": {}}, {"tasks": {"noise25": 0.0}},
        {"tasks": {"nois": 1.0}}, {"warmup_frac": 1.5}, {"log_every_iter": 0}, {"peak_lr": float("nan")}, {"val_share": 1.0},
    ):  # fmt: skip
        with pytest.raises((ConfigError, LookupError)):
            config(subset, tmp_path / "out", **values)
    for values in ({"beta1": 1.0}, {"max_grad_norm": 0.0}, {"precision": "fp16"}, {"ema_decay": -0.1}):
        with pytest.raises(ConfigError, match="optimiser"):
            OptimiserConfig(**values)
    with pytest.raises(ConfigError, match="device"):
        fit(config(subset, tmp_path / "out", device="cuda:99"))
    assert {field.name for field in dataclasses.fields(TrainConfig)} >= set(LEFT_OUT)
