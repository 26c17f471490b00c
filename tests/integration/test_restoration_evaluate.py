"""A bench through a network: numbers, files, the sheet, and what is refused."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
import types
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from curate.core.errors import (
    ConfigError,
    DecodeError,
    ImageError,
    MissingDependencyError,
    NumericsError,
    PluginError,
)
from curate.core.images import encode_deep
from restoration import EvaluateConfig, evaluate, evaluation
from restoration.bench import list_bench, prepare, read_samples
from restoration.bound import Bound
from restoration.checkpoint import LoadedModel, save_checkpoint
from restoration.extra_metrics import load_metrics
from restoration.extra_metrics.lpips import weights_path
from restoration.models import make_model
from restoration.protocols import PROMPTIR, PROTOCOLS, protocol_by_name
from restoration.scoreboard import EvaluateResult
from restoration.sheet import CROP_PX, PANEL_PX, worst_square
from restoration.tasks import replay


def write_run(root: Path, name: str = "tiny") -> Path:
    """Save a network that changes its input a little, as training would."""
    torch.manual_seed(0)
    module = make_model(name)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    save_checkpoint(
        root,
        7,
        name=name,
        model=module,
        ema={k: v.clone() for k, v in module.state_dict().items()},
        state={},
        val_db=1.0,
    )
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def bench(tmp_path: Path, make_photo: Callable[..., np.ndarray]) -> Path:
    folder = tmp_path / "bench"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(make_photo(number, 70, 101)).save(folder / f"{number}.png")
    (folder / "._0.png").write_bytes(b"what a Mac leaves behind")
    (folder / "read me.txt").write_text("no picture")
    return folder


@pytest.fixture
def pairs(tmp_path: Path, make_photo: Callable[..., np.ndarray]) -> Path:
    folder = tmp_path / "pairs"
    for side in ("input", "target"):
        (folder / side).mkdir(parents=True)
    for number in range(3):
        target = make_photo(number, 66, 90)
        rainy = np.clip(target + np.random.default_rng(number).normal(0, 10 + 20 * number, target.shape), 0, 255)
        Image.fromarray(target).save(folder / "target" / f"{number}.png")
        Image.fromarray(rainy.astype(np.uint8)).save(folder / "input" / f"{number}.png")
    return folder


def measure(run: Path, bench: Path, task: str, **options: object) -> EvaluateResult:
    return evaluate(EvaluateConfig(run=run, bench=bench, task=task, device="cpu", **options))  # type: ignore[arg-type]


def numbers(result: EvaluateResult) -> list[tuple[str, dict[str, float], dict[str, float]]]:
    return [(image.name, dict(image.input), dict(image.output)) for image in result.images]


def test_the_identity_row_of_pairs_equals_scikit_image(run, pairs):
    reference = pytest.importorskip("skimage.metrics")
    result = measure(run, pairs, "rain", protocol="restormer")
    for image in result.images:
        given, truth = (np.asarray(Image.open(pairs / side / image.file)) for side in ("input", "target"))
        assert image.input["psnr_db"] == pytest.approx(reference.peak_signal_noise_ratio(truth, given), abs=1e-4)
        expected = reference.structural_similarity(
            truth, given, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        assert image.input["ssim"] == pytest.approx(expected, abs=1e-4)
        assert image.output["psnr_db"] != image.input["psnr_db"] and image.seed is None
    assert result.input["psnr_db"] == pytest.approx(np.mean([i.input["psnr_db"] for i in result.images]))
    assert "input/" in result.facts["damage"]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["rain100h25", "sots_indoor10"])
def test_the_identity_row_of_real_pairs_equals_scikit_image(run, data_folder, name):
    """Must show: under `promptir`, by scikit-image and Pillow alone."""
    reference = pytest.importorskip("skimage.metrics")
    bench = data_folder / "bench" / name
    result = measure(run, bench, "rain" if "rain" in name else "haze")
    for image in result.images:
        given, truth = (
            np.asarray(Image.open(bench / side / image.file).convert("RGB")) for side in ("input", "target")
        )
        (height, width), (kept_height, kept_width) = truth.shape[:2], (s - s % 16 for s in truth.shape[:2])
        top, left = (height - kept_height) // 2, (width - kept_width) // 2
        given, truth = (p[top : top + kept_height, left : left + kept_width] / 255 for p in (given, truth))
        assert image.input["psnr_db"] == pytest.approx(
            reference.peak_signal_noise_ratio(truth, given, data_range=1), abs=1e-4
        )
        expected = reference.structural_similarity(truth, given, channel_axis=2, data_range=1)
        assert image.input["ssim"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize("task", ["noise25", "jpeg10", "sr3"])
def test_every_output_states_the_protocol(run, bench, protocol, task):
    result = measure(run, bench, task, protocol=protocol)
    plain = json.loads(result.file.read_text())
    metadata = {k.decode(): v.decode() for k, v in pq.read_schema(result.rows).metadata.items()}
    table = result.table.read_text()
    for topic in ("crop", "damage", "clipping", "rounding", "colour", "border", "psnr_db", "ssim"):
        words = protocol_by_name(protocol).facts(task, paired=False)[topic]
        assert plain["facts"][topic] == words == metadata[f"fact.{topic}"] and f"- {topic}: {words}" in table
    assert metadata["protocol"] == plain["protocol"] == protocol and f"protocol {protocol}" in table
    assert plain["mean"]["input"] == result.input and plain["num_images"] == 4 and plain["weights"] == "ema"
    assert result.facts["border"] == ("3 px removed" if protocol == "ychannel" and task == "sr3" else "0 px removed")
    if task == "noise25" and protocol == "promptir":
        assert "RandomState(crc32('FILE:25')) for each picture, sorted by name" in table


def test_the_rows_hold_every_picture(run, bench):
    result = measure(run, bench, "noise25", metrics=("niqe",))
    rows = pq.read_table(result.rows).to_pylist()
    assert [row["name"] for row in rows] == ["0", "1", "2", "3"]
    for row, image in zip(rows, result.images, strict=True):
        assert row["psnr_db_input"] == image.input["psnr_db"] and row["ssim_output"] == image.output["ssim"]
        assert (row["height"], row["width"], row["file"]) == (64, 96, f"{image.name}.png")
        assert row["seed"] == PROMPTIR.seed(row["file"], "noise25") and row["seconds"] > 0
        assert row["niqe_input"] is None, "64 px are too few"
    assert len({row["psnr_db_input"] for row in rows}) == 4, "no two pictures get the same noise"
    assert "niqe could not measure 4 of 4 pictures" in result.table.read_text()
    assert json.loads(result.file.read_text())["num_measured"]["niqe"] == 0


def test_numbers_do_not_depend_on_threads_or_on_other_pictures(run, bench):
    one = measure(run, bench, "noise50", num_threads=1)
    written = one.file.read_bytes(), one.sheet.read_bytes()
    assert numbers(measure(run, bench, "noise50", num_threads=5)) == numbers(one)
    assert (one.file.read_bytes(), one.sheet.read_bytes()) == written
    (bench / "0.png").unlink()
    assert numbers(measure(run, bench, "noise50")) == numbers(one)[1:]


def test_a_range_of_strengths_is_drawn_anew_for_each_picture(run, bench):
    result = measure(run, bench, "noise5-50")
    assert "noise of 5-50 levels" in result.facts["damage"] and result.file.name == "bench-noise5-50-promptir.json"
    assert [image.seed for image in result.images] == [zlib.crc32(f"{n}.png:5-50".encode()) for n in range(4)]
    assert np.ptp([image.input["psnr_db"] for image in result.images]) > 1


def test_the_sheet_shows_the_worst_first(run, pairs, monkeypatch):
    seen: list[str] = []
    draw = evaluation.draw_sheet
    monkeypatch.setattr(
        evaluation, "draw_sheet", lambda head, shown: seen.extend(e.title for e in shown) or draw(head, shown)
    )
    result = measure(run, pairs, "rain", num_worst=2)
    order = sorted(result.images, key=lambda image: image.output["psnr_db"])
    assert [title.split()[0] for title in seen] == [image.name for image in order[:2]] == ["2", "1"]
    assert f"{order[0].input['psnr_db']:.2f} to {order[0].output['psnr_db']:.2f}" in seen[0]
    sheet = np.asarray(Image.open(io.BytesIO(result.sheet.read_bytes())))
    assert sheet.shape[1] > 4 * PANEL_PX and sheet.shape[0] > 2 * PANEL_PX and sheet.std() > 20


def test_the_square_with_the_largest_error_is_found():
    target = np.zeros((3, 700, 900), np.float32)
    output = target.copy()
    output[:, 500:520, 640:660] = 0.5
    top, left, height, width = worst_square(output, target)
    assert (height, width) == (CROP_PX, CROP_PX)
    assert top <= 500 and top + height >= 520 and left <= 640 and left + width >= 660
    assert worst_square(output[:, :40, :50], target[:, :40, :50]) == (0, 0, 40, 50)


def test_depth_and_checkpoint_are_in_the_names(tmp_path, bench):
    run = write_run(tmp_path / "run", "dynet-tiny")
    (bench / "3.png").unlink()
    shallow, deep = (measure(run, bench, "noise25", depth=depth) for depth in ("s", "l"))
    best = measure(run, bench, "noise25", depth="2,2,2,3", checkpoint="best")
    names = [result.file.name for result in (shallow, deep, best)]
    assert names == [f"bench-noise25-promptir-{end}.json" for end in ("s", "l", "2-2-2-3-best")]
    assert shallow.input == deep.input and shallow.output != deep.output and shallow.depth != deep.depth
    assert deep.output == best.output


class Enlarger(nn.Module):
    """Repeats pixels; a stand-in for networks with a head for each scale."""

    def __init__(self, **tasks: int) -> None:
        super().__init__()
        self.tasks, self.depths, self.reuse = tasks, {}, ()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x_BCHW: torch.Tensor, choice: str) -> torch.Tensor:
        self.seen.append(tuple(x_BCHW.shape[2:]))
        return x_BCHW.repeat_interleave(self.tasks[choice], 2).repeat_interleave(self.tasks[choice], 3)


def test_networks_that_enlarge_get_the_small_picture(run, bench, monkeypatch):
    fixed = measure(run, bench, "sr2", protocol="ychannel")
    module = Enlarger(sr2=2, rain=1, jpeg10=2)
    monkeypatch.setattr(evaluation, "load_run", lambda run, which: LoadedModel("enlarger", module, 1, "made"))
    result = measure(run, bench, "sr2", protocol="ychannel")
    assert set(module.seen) == {(35, 50)} and result.images[0].height == 70
    assert result.input == fixed.input and 0 < result.output["psnr_db"] < result.input["psnr_db"]
    with pytest.raises(ConfigError, match="heads for sr2, rain, jpeg10; got 'sr3'"):
        measure(run, bench, "sr3")
    with pytest.raises(ConfigError, match="enlarges by 2, task jpeg10 by 1"):
        measure(run, bench, "jpeg10")


def test_a_head_of_another_name(run, bench, monkeypatch):
    """A network trained for one noise is measured on another: what it undoes and which head it uses are two things."""

    def heads(**tasks: int) -> None:
        loaded = LoadedModel("heads", Enlarger(**tasks), 1, "made")
        monkeypatch.setattr(evaluation, "load_run", lambda run, which: loaded)

    with pytest.raises(ConfigError, match="tiny has no heads, got --head noise30"):
        measure(run, bench, "noise25", head="noise30")
    heads(denoise=1)
    only = measure(run, bench, "noise25")
    assert only.facts["head"] == "denoise" and only.file.name == "bench-noise25-promptir.json"
    heads(noise30=1, noise50=1)
    named = measure(run, bench, "noise25", head="noise30")
    assert named.facts["head"] == "noise30" and named.file.name == "bench-noise25-promptir-noise30.json"
    assert "- head: noise30" in named.table.read_text() and named.output == only.output
    assert measure(run, bench, "noise50").facts["head"] == "noise50"
    for head, got in (("", "noise25"), ("noise15", "noise15")):
        with pytest.raises(ConfigError, match=f"heads for noise30, noise50; got '{got}': name one of them with --head"):
            measure(run, bench, "noise25", head=head)


def test_one_side_of_two_pair_benches_is_two_results(run, pairs, tmp_path):
    (tmp_path / "more").mkdir()
    other = pairs.rename(tmp_path / "more" / "others")
    shutil.copytree(other, pairs)
    files = [measure(run, folder / "target", "jpeg10").file.name for folder in (pairs, other)]
    assert files == ["pairs-target-jpeg10-promptir.json", "others-target-jpeg10-promptir.json"]


@pytest.mark.parametrize("protocol", ["promptir", "restormer"])
@pytest.mark.parametrize("task", ["noise25", "noise5-50", "jpeg10-40", "sr2", "real-esrgan", "snow"])
def test_every_row_holds_what_makes_its_picture_again(bench, protocol, task):
    chosen = protocol_by_name(protocol)
    cases = list_bench(bench, task)
    for case in cases[:2]:
        prepared = prepare(case, task, chosen)
        drawn = json.loads(prepared.damage)
        again = replay(drawn["degradation"], prepared.target, drawn["parameters"])
        np.testing.assert_allclose(again, prepared.input, atol=2e-7)


def test_the_rows_hold_the_damage(run, bench, pairs):
    result = measure(run, bench, "noise5-50", protocol="restormer")
    drawn = [json.loads(row["damage"])["parameters"] for row in pq.read_table(result.rows).to_pylist()]
    assert len({values["sigma_levels"] for values in drawn}) == 4, "one strength for the whole bench"
    assert "RandomState(crc32('FILE:5-50'))" in result.facts["damage"] and result.facts["device"].startswith("cpu")
    assert [row["damage"] for row in pq.read_table(measure(run, pairs, "rain").rows).to_pylist()] == [None] * 3


def test_a_chain_is_named_by_its_content(run, bench, tmp_path):
    file, words = tmp_path / "mine.toml", []
    for quality in (20, 20, 60):
        file.write_text(
            f'[[steps]]\ndegradation = "jpeg"\nsettings = {{ min_quality = {quality}, max_quality = 90 }}\n'
        )
        words.append(measure(run, bench, f"chain:{file}").facts["damage"])
    assert words[0] == words[1] != words[2] and "sha256 of its settings " in words[0]


def test_super_resolution_on_given_pairs_equals_making_them(run, bench, tmp_path):
    folder = tmp_path / "small"
    for side in ("input", "target"):
        (folder / side).mkdir(parents=True)
    for case in list_bench(bench, "sr3"):
        small = prepare(case, "sr3", protocol_by_name("ychannel")).small
        assert small is not None
        Image.fromarray(np.rint(small * 255).astype(np.uint8).transpose(1, 2, 0)).save(
            folder / "input" / case.target.name
        )
        (folder / "target" / case.target.name).write_bytes(case.target.read_bytes())
    made, given = (measure(run, where, "sr3", protocol="ychannel") for where in (bench, folder))
    assert given.input == pytest.approx(made.input, abs=1e-6) and given.output == pytest.approx(made.output, abs=1e-6)
    with pytest.raises(ConfigError, match=r"pair 0 of .*: input is 33x23, target 101x70; sr2 wants an input of 50x35"):
        measure(run, folder, "sr2")


def test_sixteen_bits_are_kept_and_policies_recorded(run, tmp_path, make_photo):
    deep = make_photo(1, 64, 80).astype(np.uint16) * 257 + np.random.default_rng(0).integers(
        0, 120, (64, 80, 3)
    ).astype("u2")
    grey, alpha = make_photo(2, 64, 80)[..., 0], np.dstack([make_photo(3, 64, 80), np.full((64, 80), 128, np.uint8)])
    folder = tmp_path / "pairs"
    (folder / "input").mkdir(parents=True)
    (folder / "target").mkdir()
    (folder / "target/deep.png").write_bytes(encode_deep(deep))
    Image.fromarray((deep >> 8).astype(np.uint8)).save(folder / "input/deep.png")
    for name, image in (("grey", grey), ("alpha", alpha)):
        for side in ("input", "target"):
            Image.fromarray(image).save(folder / side / f"{name}.png")
    cv2.imwrite(str(folder / "target/grey16.tif"), grey.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "input/grey16.png"), grey)
    result = measure(run, folder, "rain")
    found = {image.name: image for image in result.images}
    expected = 10 * math.log10(1 / np.mean((deep / 65535 - (deep >> 8) / 255) ** 2))
    assert found["deep"].input["psnr_db"] == pytest.approx(expected, abs=1e-4)
    assert found["deep"].target_policy == "16-kept" and found["deep"].input_policy == ""
    assert found["grey"].input_policy == "grey-to-rgb" and found["alpha"].target_policy == "alpha-on-white"
    assert found["grey16"].target_policy == "16-kept,grey-to-rgb"
    assert (
        found["grey16"].input["psnr_db"] == math.inf
        and json.loads(result.file.read_text())["mean"]["input"]["psnr_db"] is None
    )
    assert "equal the target: infinite PSNR" in result.table.read_text()
    np.testing.assert_array_equal(read_samples(folder / "target/deep.png")[0], deep)


def test_benches_that_cannot_be_measured(run, bench, pairs):
    for task, place, words in (
        ("noise25", bench / "nowhere", "is not a folder"),
        ("noise25", pairs, "holds pairs, task 'noise25' makes its own"),
        ("rain", bench, "needs the folders input/ and target/ in it"),
        ("noise25", bench.parent, "holds no picture; it holds the folders bench, pairs"),
    ):
        with pytest.raises(ConfigError, match=words):
            measure(run, place, task)
    Image.new("RGB", (90, 60)).save(pairs / "input/1.png")
    with pytest.raises(ConfigError, match=r"pair 1 of .*pairs: input is 90x60, target 90x66"):
        measure(run, pairs, "rain")
    (pairs / "input/1.png").unlink()
    with pytest.raises(ConfigError, match="1 pictures have no partner, first: 1 is not in input/"):
        measure(run, pairs, "rain")
    Image.new("RGB", (90, 60)).save(bench / "0.jpg")
    with pytest.raises(ConfigError, match=r"0\.jpg and 0\.png"):
        measure(run, bench, "noise25")
    (bench / "0.jpg").unlink()
    (bench / "2.png").write_bytes((bench / "2.png").read_bytes()[:400])
    with pytest.raises(DecodeError, match=r"bench/2\.png"):
        measure(run, bench, "noise25")
    Image.new("RGB", (90, 5)).save(bench / "2.png")
    with pytest.raises(ImageError, match="picture 2: this SSIM needs sides of at least 7 px"):
        measure(run, bench, "noise25")
    with pytest.raises(ConfigError, match="num_worst"):
        EvaluateConfig(run=run, bench=bench, task="rain", num_worst=0)


def test_outputs_that_are_not_finite_and_pictures_that_do_not_fit_are_named():
    def network(error: Exception | None) -> Bound:
        def forward(x_BCHW: torch.Tensor, choice: None) -> torch.Tensor:
            if error:
                raise error
            return x_BCHW / 0

        return Bound(forward)  # type: ignore[arg-type]

    picture, cpu = np.ones((3, 8, 9), np.float32), torch.device("cpu")
    with pytest.raises(NumericsError, match="picture a is not finite"):
        evaluation.run_whole(network(None), picture, cpu, "a")
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ):
        with pytest.raises(ConfigError, match=r"picture a \(9x8\) does not fit"):
            evaluation.run_whole(network(error), picture, cpu, "a")
    with pytest.raises(RuntimeError, match="sizes"):
        evaluation.run_whole(network(RuntimeError("sizes")), picture, cpu, "a")


def test_extra_metrics_are_measured_of_input_and_output(run, tmp_path, make_photo):
    folder = tmp_path / "large"
    folder.mkdir()
    Image.fromarray(make_photo(5, 200, 210)).save(folder / "a.png")
    result = measure(run, folder, "noise25", metrics=("niqe",))
    assert list(result.input) == ["psnr_db", "ssim", "niqe"] and result.input["niqe"] > 0 != result.gain("niqe")
    assert "lower is better" in result.facts["niqe"] and f"{result.output['niqe']:.4f}" in result.table.read_text()
    with pytest.raises(PluginError, match="niqe"):
        measure(run, folder, "noise25", metrics=("nique",))
    with pytest.raises(ConfigError, match="twice"):
        measure(run, folder, "noise25", metrics=("niqe", "niqe"))


def test_a_metric_without_its_package_or_weights_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'irdistill\[lpips\]'"):
        load_metrics(["lpips"])
    monkeypatch.setitem(sys.modules, "lpips", types.ModuleType("lpips"))
    sys.modules["lpips"].LPIPS = nn.Identity  # type: ignore[attr-defined]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert weights_path().is_relative_to(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"alexnet-owt-7be5be79\.pth: curl "):
        load_metrics(["lpips"])


def test_the_command_prints_one_table_for_two_depths(program, tmp_path, bench):
    run = write_run(tmp_path / "run", "dynet-tiny")
    for number in (1, 2, 3):
        (bench / f"{number}.png").unlink()
    result = program("restoration", "evaluate", run, bench, "--task", "noise25", "--depth", "s", "--depth", "l")
    assert result.returncode == 0, result.stderr
    rows = [line.split("|")[1].strip() for line in result.stdout.splitlines() if line.startswith("|")]
    assert rows == [
        "row",
        "-" * len(rows[1]),
        "identity",
        "dynet-tiny at 1,1,1,2",
        "gain",
        "dynet-tiny at 2,2,2,3",
        "gain",
    ]
    assert "protocol promptir" in result.stdout and "- rounding: none" in result.stdout
    assert result.stdout.count("written: ") == 2 and len(list((run / "eval").iterdir())) == 8
