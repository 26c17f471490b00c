"""Readers that nobody here wrote read our corpora: the counts are the manifest's, the bytes those of `patch_sha256`.

Each runs in a process of its own: they leave files open and warn of each other, which pytest would report as ours.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import duckdb
import pyarrow.dataset
import pytest

from curate import BuildShardsConfig, build_shards, open_dataset, verify_corpus
from curate.recipes import load_recipe

pytestmark = pytest.mark.slow
KINDS = ("webp", "png", "source", "paired")
PATCH_PX = 64
HASH = """
import hashlib, json, pathlib, sys
def sha256(data):
    return hashlib.sha256(data).hexdigest()
"""
"""Every reader prints one JSON object: key -> member -> sha256 of its bytes (of the json: its own key)."""


@pytest.fixture(scope="module")
def sources(make_folder, tmp_path_factory) -> Path:
    """JPEG and PNG in turn; darker versions of all, under the same names, in `lq` beside them."""
    source = make_folder(tmp_path_factory.mktemp("sources") / "photos", num=20)
    for path in [p for p in source.rglob("*") if p.suffix in (".jpg", ".png")]:
        darker = source.parent / "lq" / path.relative_to(source)
        darker.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(darker), cv2.imread(str(path)) // 2)
    return source


@pytest.fixture(scope="module", params=KINDS)
def corpus(request, sources, tmp_path_factory) -> Path:
    """Three shards or more of one kind, some patches dropped."""
    kind, out = request.param, tmp_path_factory.mktemp("readers") / "c"
    if kind == "source":
        pytest.importorskip("turbojpeg", reason="PyTurboJPEG and libturbojpeg0 cut JPEGs without decoding")
    recipe = load_recipe("photographs", patch_size_px=PATCH_PX)
    recipe = type(recipe)(
        name="strict", measure=recipe.measure, gates=("sharpness",), thresholds={"sharpness": {"min_sharpness": 36.0}}
    )
    config = BuildShardsConfig(
        source=sources, out=out, recipe=recipe, patch_size_px=PATCH_PX, images_per_shard=5, workers=1,
        patch_format="webp" if kind == "paired" else kind, paired=sources.parent / "lq" if kind == "paired" else None,
    )  # fmt: skip
    result = build_shards(config)
    assert result.num_shards >= 3 and result.num_patches_kept > 50 and result.patch_reasons["blurry"] > 20
    assert set(result.num_by_extension) == (
        {"jpg", "webp"} if kind == "source" else {"png" if kind == "png" else "webp"}
    )
    return out


def expected(corpus: Path) -> dict[str, dict[str, str]]:
    """What every reader has to find: key -> member -> sha256, in the order of the shards."""
    found = {}
    for row in open_dataset(corpus).rows(["key", "extension", "patch_sha256", "pair_sha256"]).to_pylist():
        pair = row["pair_sha256"] is not None
        members = {f"{'gt.' if pair else ''}{row['extension']}": row["patch_sha256"], "json": row["key"]}
        found[row["key"]] = members | ({f"lq.{row['extension']}": row["pair_sha256"]} if pair else {})
    assert len(found) == open_dataset(corpus).num_samples
    return found


def run_reader(code: str, *arguments: object, **environment: str) -> dict[str, dict[str, str]]:
    command = [sys.executable, "-W", "ignore", "-c", HASH + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def shards_of(corpus: Path) -> list[Path]:
    return sorted((corpus / "shards").glob("*.tar"))


def test_webdataset(corpus):
    code = """
import webdataset
found = {}
for sample in webdataset.WebDataset(sys.argv[1:], shardshuffle=False, empty_check=False):
    members = {name: data for name, data in sample.items() if not name.startswith("__")}
    found[sample["__key__"]] = {n: json.loads(d)["key"] if n == "json" else sha256(d) for n, d in members.items()}
print(json.dumps(found))
"""
    found, wanted = run_reader(code, *shards_of(corpus)), expected(corpus)
    assert found == wanted
    assert list(found) == list(wanted)


def test_wids(corpus, tmp_path):
    code = """
import wids
dataset = wids.ShardListDataset(sys.argv[1], cache_dir=sys.argv[2], keep=True, transformations=[])
found = {}
for number in range(len(dataset)):
    sample = dataset[number]
    members = {name[1:]: data for name, data in sample.items() if name.startswith(".")}
    found[sample["__key__"]] = {n: json.load(d)["key"] if n == "json" else sha256(d.read()) for n, d in members.items()}
assert len(found) == len(dataset)
print(json.dumps(found))
"""
    found, wanted = run_reader(code, corpus / "index.json", tmp_path / "cache"), expected(corpus)
    assert found == wanted
    assert list(found) == list(wanted)


HUGGING_FACE = """
import datasets
found = {}
dataset = datasets.load_dataset("webdataset", data_files={"train": sys.argv[1:]}, split="train")
pictures = [name for name in dataset.column_names if name.split(".")[-1] in ("webp", "png", "jpg")]
assert all(isinstance(dataset.features[name], datasets.Image) for name in pictures), dataset.features
assert dataset[0][pictures[0]].size == (64, 64)
for name in pictures:
    dataset = dataset.cast_column(name, datasets.Image(decode=False))
for row in dataset:
    found[row["__key__"]] = {"json": row["json"]["key"]} | {name: sha256(row[name]["bytes"]) for name in pictures}
assert len(found) == len(dataset)
print(json.dumps(found))
"""


def test_hugging_face_datasets(corpus, tmp_path):
    """One `load_dataset` per file extension: a dataset of theirs has one set of columns."""
    offline = {
        "HF_HOME": str(tmp_path),
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    by_extension: dict[str, list[Path]] = {}
    for path in shards_of(corpus):
        with tarfile.open(path) as tar:
            by_extension.setdefault(tar.getnames()[0].rpartition(".")[2], []).append(path)
    found = {}
    for paths in by_extension.values():
        found |= run_reader(HUGGING_FACE, *paths, **offline)
    assert found == expected(corpus)


def test_gnu_tar(corpus, tmp_path):
    found: dict[str, dict[str, str]] = {}
    for path in shards_of(corpus):
        listed = subprocess.run(["tar", "-tf", path], capture_output=True, text=True, check=True)
        assert listed.stderr == ""
        folder = tmp_path / path.stem
        folder.mkdir()
        assert (
            subprocess.run(["tar", "-xf", path, "-C", folder], capture_output=True, text=True, check=True).stderr == ""
        )
        assert sorted(listed.stdout.split()) == sorted(p.name for p in folder.iterdir())
        for name in listed.stdout.split():
            key, _, extension = name.partition(".")
            data = (folder / name).read_bytes()
            value = json.loads(data)["key"] if extension == "json" else hashlib.sha256(data).hexdigest()
            found.setdefault(key, {})[extension] = value
    assert found == expected(corpus)


def test_pyarrow_datasets(corpus):
    funnel = open_dataset(corpus).manifest["funnel"]
    tables = {name: pyarrow.dataset.dataset(corpus / name) for name in ("metadata", "rejected", "images")}
    assert tables["metadata"].count_rows() == funnel["patches_kept"] == open_dataset(corpus).num_samples
    assert (
        tables["rejected"].count_rows()
        == sum(funnel["patch_reasons"].values())
        == funnel["patches"] - funnel["patches_kept"]
    )
    assert tables["images"].count_rows() == funnel["inputs"]


def test_duckdb(corpus):
    dataset = open_dataset(corpus)
    funnel = dataset.manifest["funnel"]
    with duckdb.connect() as db:
        kept, dropped, images = (
            f"read_parquet('{corpus}/{name}/*.parquet')" for name in ("metadata", "rejected", "images")
        )

        def rows(query: str) -> list[tuple]:
            return db.execute(query).fetchall()

        assert rows(f"SELECT count(*), count(DISTINCT key), sum(num_bytes) > 0 FROM {kept}") == [
            (dataset.num_samples,) * 2 + (True,)
        ]
        assert dict(rows(f"SELECT reason, count(*) FROM {dropped} GROUP BY reason")) == funnel["patch_reasons"]
        counts = {name: funnel[name] for name in ("kept", "rejected", "failed") if funnel[name]}
        assert dict(rows(f"SELECT status, count(*) FROM {images} GROUP BY status")) == counts
        joined = f"SELECT source, any_value(i.num_kept), count(*) FROM {kept} m JOIN {images} i USING (source) GROUP BY source"
        assert sum(num for _, _, num in rows(joined)) == dataset.num_samples
        assert all(listed == num for _, listed, num in rows(joined))


def test_a_corpus_may_be_moved(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "moved", ignore=shutil.ignore_patterns("ledger"))
    assert verify_corpus(tmp_path / "moved").differences == ()
