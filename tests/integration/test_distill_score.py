"""`distill score`: features of a corpus, resumed after a kill, on threads or dask, of patches and of pairs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from curate import BuildShardsConfig, build_shards, load_encoder, open_dataset
from curate.core.artifacts import read_json, sha256_file, write_json
from curate.core.errors import ConfigError, ManifestError, NumericsError
from curate.core.images import decode_patch
from curate.encoders import handcrafted
from curate.encoders._loading import Encoded
from curate.recipes import load_recipe
from distill.descriptors import MAX_PSNR_DB, PAIR_DESCRIPTORS, describe, describe_pair
from distill.features import Eyes, FeatureTable, measure_corpus
from distill.join import _write_columns
from distill.measure import Scores
from distill.scores import ScoreConfig, open_scores, score, spearman
from distill.shard_features import read_part
from distill.table import load_features

SIDE = 240  # larger than a view of 224 px: patches have crops
MEASURES = ("token_entropy_raw", "gradient", "histogram", "psnr_bicubic")


def _build(folder: Path, out: Path, **values: object) -> Path:
    config = {
        "patch_size_px": SIDE,
        "recipe": load_recipe("everything", patch_size_px=SIDE),
        "images_per_shard": 2,
        "workers": 1,
    }
    build_shards(BuildShardsConfig(source=folder, out=out, **(config | values)))  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module", name="corpus")
def _corpus(make_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    folder = make_folder(root / "photos", num=7)
    cv2.imwrite(str(folder / "one colour.png"), np.full((300, 300, 3), 90, np.uint8))
    return _build(folder, root / "corpus")


def _config(corpus: Path, out: Path, **values: object) -> ScoreConfig:
    plain = {"encoder": "handcrafted", "complexity": MEASURES, "workers": 2}
    return ScoreConfig(corpus=corpus, out=out, **(plain | values))  # type: ignore[arg-type]


def _hashes(out: Path) -> dict[str, str]:
    """Hash every file that promises to be the same in every run."""
    files = (path for path in out.rglob("*") if path.is_file() and path.relative_to(out).parts[0] != "ledger")
    return {path.relative_to(out).as_posix(): sha256_file(path) for path in files}


@pytest.fixture(scope="module", name="scored")
def _scored(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return score(_config(corpus, tmp_path_factory.mktemp("made") / "scores")).out


def test_rows_are_in_key_order_and_are_what_the_encoder_says(corpus: Path, scored: Path) -> None:
    dataset = open_dataset(corpus)
    table, manifest = open_scores(scored, dataset)
    samples = sorted(dataset.samples(), key=lambda sample: sample.key)
    assert table.keys.tolist() == [sample.key for sample in samples] != [one.key for one in dataset.samples()]
    assert isinstance(table.rows, np.memmap)
    assert table.rows.dtype == np.float16
    encoder = handcrafted.Plugin()
    image = decode_patch(samples[1].image()[1])
    view = cv2.resize(image, (encoder.input_px, encoder.input_px), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(table.rows[1], encoder.encode(np.asarray(view)[None]).rows[0])[0, 1] > 0.98
    assert table.descriptors[1] == pytest.approx(describe(image))
    assert table.degraded_rows is None
    assert table.uncertainty is None
    assert set(table.measures) == set(MEASURES)
    np.testing.assert_array_equal(table.seen_by("gradient").complexity, table.measures["gradient"])
    flat = [place for place, one in enumerate(samples) if decode_patch(one.image()[1]).std() == 0]
    assert len(flat) == 1
    for values in (table.complexity, *table.measures.values()):
        assert values[flat[0]] == 0 == values.min()
    assert manifest["encoder"]["name"] == "handcrafted"
    assert str(corpus) not in (scored / "manifest.json").read_text()


def test_every_measure_keeps_its_own_uncertainty(tmp_path: Path) -> None:
    keys = np.array([b"a" * 20, b"b" * 20])
    prior = np.array([0.25, 0.75])
    scores = {
        "vit_entropy": Scores(complexity=np.zeros(2)),
        "authors_code": Scores(complexity=np.ones(2), uncertainty=prior),
    }
    _write_columns(tmp_path / "table.parquet", keys, np.zeros((2, 8), np.float32), scores, np.arange(2))
    np.save(tmp_path / "rows.npy", np.zeros((2, 3), np.float16))
    write_json(tmp_path / "key.json", {"complexities": list(scores)})
    (tmp_path / "_SUCCESS").touch()
    table = load_features(tmp_path)
    assert table.uncertainty is None
    np.testing.assert_array_equal(table.seen_by("authors_code").uncertainty, prior)
    with pytest.raises(ManifestError, match="hold no gradient"):
        table.seen_by("gradient")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 half a zip"])
def test_a_damaged_part_is_one_line(tmp_path: Path, data: bytes) -> None:
    part = tmp_path / "part.npz"
    part.write_bytes(data)
    with pytest.raises(ManifestError, match="delete the file, it is made again"):
        read_part(part, 1)


def test_scores_can_be_read_without_us(scored: Path) -> None:
    columns = pq.read_table(scored / "scores.parquet")
    assert columns.column_names == ["key", *MEASURES, "rank", "uncertainty"]
    rank = columns.column("rank").to_numpy()
    assert ((rank > 0) & (rank < 1)).all()
    order = np.argsort(columns.column(MEASURES[0]).to_numpy())
    assert (np.diff(rank[order]) >= 0).all()
    manifest = read_json(scored / "manifest.json")
    assert set(manifest["correlations"]) == set(MEASURES[1:])
    assert manifest["scores"]["sha256"] == sha256_file(scored / "scores.parquet")


def test_the_same_bytes_with_another_number_of_workers(corpus: Path, scored: Path, tmp_path: Path) -> None:
    score(_config(corpus, tmp_path / "one", workers=1))
    assert _hashes(tmp_path / "one") == _hashes(scored)
    assert not list((scored / "features").rglob("parts"))


def test_the_same_command_finds_its_work_done_and_another_is_refused(corpus: Path, scored: Path) -> None:
    before = _hashes(scored)
    again = score(_config(corpus, scored))
    assert again.already_done
    assert "nothing to do" in again.lines()[-1]
    assert _hashes(scored) == before
    for values, said in (
        ({"encoder": "vit_s14"}, "encoder = 'handcrafted'"), ({"complexity": ("gradient",)}, "complexity = "),
        ({"complexity_options": {"token_entropy_raw": {"block_px": 8}}}, "complexity_options = "),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said) as caught:
            score(_config(corpus, scored, **values))
        assert "\n" not in str(caught.value)


KILLED = """
import sys, time
from pathlib import Path
from distill import look, scores

class Slow(look.Looker):
    def look(self, samples):
        time.sleep(float(sys.argv[3]))
        with Path(sys.argv[4]).open("a") as log:
            log.writelines(sample.key + "\\n" for sample in samples)
        return look.Looker.look(self, samples)

from distill import features
features.Looker = Slow
corpus, out = Path(sys.argv[1]), Path(sys.argv[2])
names = tuple(sys.argv[5].split(","))
scores.score(scores.ScoreConfig(corpus=corpus, out=out, encoder="handcrafted", complexity=names, workers=2))
"""


def _start(corpus: Path, out: Path, sleep_s: float, log: Path) -> subprocess.Popen[bytes]:
    repository = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", KILLED, str(corpus), str(out), str(sleep_s), str(log), ",".join(MEASURES)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": repository})


def test_a_killed_run_looks_at_no_finished_shard_again(corpus: Path, scored: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "killed", tmp_path / "log"
    running = _start(corpus, out, 0.2, log)
    while not list(out.glob("features/*/parts/patches-*.npz")):
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    parts = list(out.glob("features/*/parts/patches-*.npz"))
    finished = {key.decode() for part in parts for key in np.load(part)["keys"].tolist()}
    written = {part: part.stat().st_mtime_ns for part in parts}
    assert 0 < len(finished) < open_dataset(corpus).num_samples
    assert not (out / "_SUCCESS").exists()
    log.unlink()
    running = _start(corpus, out, 0.0, log)
    while running.poll() is None:
        for part, when in written.items():
            if part.exists():
                assert part.stat().st_mtime_ns == when
        time.sleep(0.005)
    assert running.returncode == 0
    looked_at = log.read_text().split()
    assert len(looked_at) == len(set(looked_at)) == open_dataset(corpus).num_samples - len(finished)
    assert not finished & set(looked_at)
    assert _hashes(out) == _hashes(scored)


@pytest.mark.slow
def test_dask_gives_the_same_bytes(corpus: Path, scored: Path, tmp_path: Path) -> None:
    result = score(_config(corpus, tmp_path / "dask", engine="dask"))
    assert result.seconds["encode"] > 0
    assert _hashes(tmp_path / "dask") == _hashes(scored)


@pytest.fixture(scope="module", name="pairs")
def _pairs(make_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    for name in ("gt", "lq"):
        make_folder(root / name, num=3)
    for path in (root / "lq").rglob("*.*g"):
        image = cv2.imread(str(path))
        assert image is not None
        noise = np.random.default_rng(1).normal(0, 12, image.shape)
        cv2.imwrite(str(path), np.clip(image + noise, 0, 255).astype(np.uint8))
    return _build(root / "gt", root / "corpus", paired=root / "lq")


def test_of_pairs_both_members_are_looked_at(pairs: Path, tmp_path: Path) -> None:
    dataset = open_dataset(pairs)
    table, _ = open_scores(score(_config(pairs, tmp_path / "scores")).out, dataset)
    assert table.degraded_rows is not None
    assert table.degraded_rows.shape == table.rows.shape
    assert np.abs(table.rows - table.degraded_rows).max() > 0
    assert table.descriptors.shape == (dataset.num_samples, 15)
    sample = min(dataset.samples(), key=lambda sample: sample.key)
    clean, degraded = (
        decode_patch(next(data for name, data in sample.members.items() if name.startswith(member)))
        for member in ("gt.", "lq.")
    )
    assert table.descriptors[0] == pytest.approx(describe_pair(clean, degraded))
    named = dict(zip(PAIR_DESCRIPTORS, table.descriptors[0].tolist(), strict=True))
    error = np.mean((clean.astype(float) - degraded) ** 2)
    assert named["psnr_db"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-4)
    assert named["mean_r"] == pytest.approx(clean[..., 0].mean() / 255, abs=1e-6)
    assert named["degraded_std_b"] == pytest.approx(degraded[..., 2].std() / 255, abs=1e-6)
    assert describe_pair(clean, clean)[-1] == MAX_PSNR_DB


class _Nonsense:
    """An encoder that answers with something that is not finite from the third patch on."""

    def __getattr__(self, name: str) -> object:
        return getattr(handcrafted.Plugin(), name)

    def encode(self, images: np.ndarray) -> Encoded:
        encoded = handcrafted.Plugin().encode(images)
        encoded.rows[-1, 3] = np.nan
        return encoded


def test_a_number_that_is_not_finite_names_its_patch(corpus: Path, tmp_path: Path) -> None:
    from distill.complexity.gradient import Plugin as Gradient

    dataset = open_dataset(corpus)
    second = list(dataset.samples())[1].key
    eyes = Eyes(encoder=_Nonsense(), complexities=(Gradient(),))  # type: ignore[arg-type]
    with pytest.raises(NumericsError, match=second) as caught:
        measure_corpus(dataset, eyes, tmp_path / "features")
    assert "\n" not in str(caught.value)


def test_faults_are_one_line_each(corpus: Path, scored: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    shutil.copytree(corpus, empty)
    manifest = read_json(empty / "manifest.json")
    write_json(empty / "manifest.json", manifest | {"shards": []})
    short = tmp_path / "short"
    shutil.copytree(corpus, short)
    shards = [shard | {"samples": shard["samples"] + 1} for shard in manifest["shards"]]
    write_json(short / "manifest.json", manifest | {"shards": shards})
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("mine")
    for config, kind, said in (
        (_config(empty, tmp_path / "a"), ManifestError, "holds no sample"),
        (_config(short, tmp_path / "b"), ManifestError, "samples, the manifest says"),
        (_config(corpus, other), ConfigError, "something else"),
        (_config(corpus, tmp_path / "c", encoder_options={"sha256": ""}), ConfigError, "unknown key 'sha256'"),
    ):
        with pytest.raises(kind, match=said) as caught:
            score(config)
        assert "\n" not in str(caught.value)
    for values, said in (
        ({"complexity": ()}, "at least one"), ({"complexity": ("gradient", "gradient")}, "each once"),
        ({"complexity_options": {"gradient": {}}}, "not among"), ({"workers": -1}, "workers"),
        ({"engine": "spark"}, "engine must be"), ({"out": corpus}, "another folder"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            ScoreConfig(**({"corpus": corpus, "out": tmp_path / "x"} | values))  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match="no finished scores"):
        open_scores(corpus, open_dataset(corpus))
    changed = open_dataset(short)
    write_json(short / "manifest.json", manifest | {"content_hash": "0" * 64})
    changed = open_dataset(short)
    with pytest.raises(ManifestError, match="another corpus"):
        open_scores(scored, changed)
    with pytest.raises(ManifestError, match="no finished features"):
        load_features(tmp_path)


def test_with_the_vit_a_patch_is_its_mean_token(corpus: Path, tmp_path: Path) -> None:
    from curate.core.errors import MissingDependencyError
    from distill.complexity.vit_entropy import Plugin as VitEntropy
    from distill.views import global_view

    try:
        encoder = load_encoder("vit_s14")
    except MissingDependencyError as error:
        if os.environ.get("IRDISTILL_REQUIRE_WEIGHTS"):
            raise
        pytest.skip(str(error))
    dataset = open_dataset(corpus)
    table: FeatureTable = measure_corpus(
        dataset, Eyes(encoder=encoder, complexities=(VitEntropy(),), workers=2), tmp_path / "features"
    )
    image = decode_patch(min(dataset.samples(), key=lambda sample: sample.key).image()[1])
    wanted = encoder.encode(global_view(image, encoder.input_px)[None]).tokens[0].mean(axis=0)
    cosine = float(table.rows[0] @ wanted / np.linalg.norm(table.rows[0]) / np.linalg.norm(wanted))
    assert cosine == pytest.approx(1, abs=1e-3)
    assert table.complexity.max() > 0.2
    assert {"decode", "views", "encode", "describe", "complexity", "join"} <= set(table.seconds)
    assert json.loads((tmp_path / "features" / "key.json").read_text())["weights_sha256"] == encoder.weights_sha256


def test_rank_correlation_by_hand() -> None:
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 30, 40])) == pytest.approx(1)
    assert spearman(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert spearman(np.array([1.0, 2, 2, 3]), np.array([1.0, 3, 2, 4])) == pytest.approx(0.9486832980505138)
    assert spearman(np.ones(3), np.array([1.0, 2, 3])) == 0
