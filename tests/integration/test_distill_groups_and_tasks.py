"""Groups of a corpus of pairs or videos, tasks with budgets of their own, and which settings make another subset."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from curate import BuildShardsConfig, build_shards, open_dataset
from curate.core.artifacts import read_json
from curate.core.errors import ConfigError, ManifestError
from curate.recipes import load_recipe
from distill import FeaturesConfig, SelectConfig, cli, select, subset
from distill.calibrate import none
from distill.calibration import CalibrationRequest
from distill.comparison import CompareConfig, compare
from distill.features import Silent
from distill.grouping import groups_of
from distill.known import Parts
from distill.table import load_features

SIDE, NUM_CLEAN, NUM_HAZES = 96, 6, 3


def _build(folder: Path, out: Path, **values: object) -> Path:
    recipe = load_recipe("everything", patch_size_px=SIDE)
    plain = {"patch_size_px": SIDE, "recipe": recipe, "images_per_shard": 7, "workers": 1}
    build_shards(BuildShardsConfig(source=folder, out=out, **(plain | values)))  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module", name="hazy")
def _hazy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clean pictures of one patch each, every one under three hazes, as RESIDE names them."""
    root = tmp_path_factory.mktemp("hazy")
    for member in ("gt", "lq"):
        (root / member).mkdir()
    for number in range(NUM_CLEAN):
        rng = np.random.default_rng(number)
        coarse = rng.uniform(0, 255, (6 + 2 * number, 6 + 2 * number, 3)).astype(np.float32)
        clean = np.clip(cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), 0, 255).astype(np.uint8)
        for haze in range(NUM_HAZES):
            name = f"{number:04d}_{haze}.png"
            cv2.imwrite(str(root / "gt" / name), clean)
            cv2.imwrite(str(root / "lq" / name), (0.3 * clean + 100 + 20 * haze).astype(np.uint8))
    return _build(root / "gt", root / "corpus", paired=root / "lq")


@pytest.fixture(scope="module", name="corpus")
def _corpus(make_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("single")
    return _build(make_folder(root / "photos", num=6), root / "corpus")


def _config(corpus: Path, out: Path, **values: object) -> SelectConfig:
    plain = {"encoder": "handcrafted", "complexity": "gradient", "budget": "25%", "workers": 1}
    return SelectConfig(corpus=corpus, out=out, **(plain | values))  # type: ignore[arg-type]


def test_versions_of_one_clean_picture_are_one_group(hazy: Path, tmp_path: Path) -> None:
    dataset = open_dataset(hazy)
    assert dataset.num_samples == NUM_CLEAN * NUM_HAZES
    hashes = dataset.rows(["key", "image_sha256"]).sort_by("key").column("image_sha256").to_pylist()
    groups = groups_of(dataset)
    assert len(set(groups.tolist())) == NUM_CLEAN
    assert len(set(zip(groups.tolist(), hashes, strict=True))) == NUM_CLEAN
    out = select(_config(hazy, tmp_path / "out", budget=str(NUM_CLEAN), selector_options={"tail_cut_frac": 0.0})).out
    chosen = open_dataset(out).rows(["image_sha256"]).column("image_sha256").to_pylist()
    assert len(chosen) == len(set(chosen)) == NUM_CLEAN, "no clean picture twice while another is left"
    told = compare(CompareConfig(subsets=(out,)))
    assert (told.num_groups, told.subsets[0].num_groups) == (NUM_CLEAN, NUM_CLEAN)
    features = load_features(out / read_json(out / "manifest.json")["features"])
    assert features.groups is not None and np.array_equal(features.groups, groups)


def test_groups_of_single_patches_are_those_of_their_keys(corpus: Path) -> None:
    dataset = open_dataset(corpus)
    keys = np.sort(np.array(dataset.rows(["key"]).column("key").to_pylist()))
    assert np.array_equal(groups_of(dataset), np.unique(keys.astype("<U20"), return_inverse=True)[1])


def test_a_pattern_names_groups(hazy: Path, corpus: Path, tmp_path: Path) -> None:
    sources = open_dataset(hazy).rows(["key", "source"]).sort_by("key").column("source").to_pylist()
    groups = groups_of(open_dataset(hazy), r"_([0-9])\.png$")
    assert len(set(groups.tolist())) == NUM_HAZES
    assert len(set(zip(groups.tolist(), [source[-5] for source in sources], strict=True))) == NUM_HAZES
    assert len(set(groups_of(open_dataset(hazy), "^000[01]_").tolist())) == 2 + NUM_CLEAN - 2, (
        "others stay as they were"
    )
    named = FeaturesConfig(group_pattern=r"^sub|photo")
    out = select(_config(corpus, tmp_path / "out", features=named)).out
    assert compare(CompareConfig(subsets=(out,))).num_groups == 2
    with pytest.raises(ConfigError, match=r"group_pattern: no picture's source fits 'GOPR'"):
        select(_config(corpus, tmp_path / "none", features=FeaturesConfig(group_pattern="GOPR")))
    assert not list((tmp_path / "none").rglob("*.npz")), "refused before anything is encoded"
    for pattern, said in (("(", "no regular expression"), ("(a)(b)", "at most one")):
        with pytest.raises(ConfigError, match=said):
            FeaturesConfig(group_pattern=pattern)


def test_features_without_groups_are_refused(hazy: Path, tmp_path: Path) -> None:
    out = select(_config(hazy, tmp_path / "out")).out
    folder = out / read_json(out / "manifest.json")["features"]
    table = pq.read_table(folder / "table.parquet")
    pq.write_table(table.drop_columns(["group"]), folder / "table.parquet")
    with pytest.raises(ManifestError, match="older version") as caught:
        load_features(folder)
    assert "\n" not in str(caught.value)


def _rules(corpus: Path) -> dict[str, str]:
    sources = sorted(set(open_dataset(corpus).rows(["source"]).column("source").to_pylist()))
    return {"first": sources[0], "rest": "*"}


def test_the_order_of_tasks_is_a_setting(corpus: Path, tmp_path: Path) -> None:
    rules = _rules(corpus)
    out = select(_config(corpus, tmp_path / "out", tasks=rules)).out
    assert read_json(out / "manifest.json")["config"]["tasks"] == [list(rule) for rule in rules.items()]
    assert select(_config(corpus, out, tasks=dict(rules))).already_done
    wider = {"rest": "*.png", "first": "*"}
    select(_config(corpus, tmp_path / "other", tasks=wider))
    with pytest.raises(ConfigError, match="tasks"):
        select(_config(corpus, tmp_path / "other", tasks=dict(reversed(wider.items()))))


def test_the_device_is_a_setting_where_a_calibration_differentiates(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(**values: object) -> dict[str, object]:
        config = _config(corpus, tmp_path / "out", **values)
        return subset._settings(config, Parts.of(config))

    assert settings(calibrate="cnn", device="cpu")["device"] == "cpu"
    assert "device" not in settings(calibrate="kmm", device="cpu")
    monkeypatch.setattr(subset, "device_of", lambda name: "cuda")
    on_gpu = settings(calibrate="cnn")
    assert on_gpu["device"] == "cuda"
    (tmp_path / "out" / "ledger").mkdir(parents=True)
    ledger = {"corpus": "c", "settings": on_gpu}
    (tmp_path / "out" / "ledger" / "select.json").write_text(json.dumps(ledger))
    with pytest.raises(ConfigError, match="device = 'cuda', now 'cpu'"):
        subset.is_finished(tmp_path / "out", "c", settings(calibrate="cnn") | {"device": "cpu"})


def test_a_count_too_small_for_all_tasks_gives_an_even_floor_and_one_note(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = _rules(corpus)
    with caplog.at_level(logging.WARNING, logger="distill"):
        result = select(_config(corpus, tmp_path / "out", tasks=rules, budget="10"))
    assert dict(result.tasks) == {"first": 5, "rest": 5}
    [note] = [record.getMessage() for record in caplog.records if record.name.startswith("distill")]
    assert note == "budget 10 cannot give each of 2 tasks 16 patches; every task gets at least 5"


def test_a_calibration_is_given_tasks_progress_and_a_place_for_its_state(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[CalibrationRequest] = []
    plain = none.Plugin.calibrate

    def calibrate(self: none.Plugin, request: CalibrationRequest) -> object:
        asked.append(request)
        assert request.state is not None
        request.state.write_bytes(b"half a fit")
        return plain(self, request)

    monkeypatch.setattr(none.Plugin, "calibrate", calibrate)
    watch = Silent()
    out = select(_config(corpus, tmp_path / "out", tasks=_rules(corpus)), watch).out
    [request] = asked
    assert request.watch is watch
    assert request.state == out / "ledger" / "fit.pt"
    assert not request.state.exists(), "a finished subset keeps none"
    table = pq.read_table(out / "selection.parquet")
    features = load_features(out / read_json(out / "manifest.json")["features"])
    assert request.task_of is not None
    names = [("first", "rest")[request.task_of[row]] for row in request.chosen]
    key_of = dict(zip(features.keys[request.chosen].tolist(), names, strict=True))
    assert [key_of[key] for key in table.column("key").to_pylist()] == table.column("task").to_pylist()
    select(_config(corpus, tmp_path / "one"))
    assert asked[1].task_of is None


@pytest.mark.parametrize("calibrate", ["none", "kmm"])
def test_shards_are_not_searched_for_patches_that_nobody_reads(
    calibrate: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.reading._files_of", None)  # would be called to find a patch
    assert select(_config(corpus, tmp_path / "out", calibrate=calibrate)).calibration["mode"] == calibrate


def test_what_a_subset_covers_does_not_depend_on_what_it_is_compared_with(corpus: Path, tmp_path: Path) -> None:
    outs = [
        select(_config(corpus, tmp_path / name, selector=name, budget="30%")).out
        for name in ("random", "top", "kcenter")
    ]
    alone = compare(CompareConfig(subsets=(outs[0],), max_rows=20)).subsets[0]
    in_company = compare(CompareConfig(subsets=tuple(outs), max_rows=20)).subsets[0]
    assert alone.coverage == in_company.coverage


def test_the_bar_names_what_it_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with cli._Bar() as bar:
        bar.begin(2, 0)
        bar.step(2)
        bar.begin(5, 3, label="calibrate", unit="steps")
        bar.step(2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["encode 2/2 patches", "calibrate 5/5 steps"]
