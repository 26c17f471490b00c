"""Stages whose pixels were changed: 16-bit PNG, rows that name the new bytes, and what training reads of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curate import Dataset, open_dataset
from curate.core.artifacts import sha256_file, write_json
from curate.core.errors import ManifestError
from curate.core.images import decode_samples, encode_image
from curate.core.records import ShardInfo
from curate.shards import ShardWriter, patch_key, read_shard
from distill.calibration import Changes
from distill.field import FieldChange, build_network
from distill.stage_shards import write_stage
from restoration.data import BatchSource
from restoration.degradations import to_pixels
from restoration.store import PatchStore, index_patches
from restoration.train import TrainConfig, fit

SIDE_PX = 64
Photo = Callable[..., np.ndarray]
COLUMNS = (
    ("key", pa.string()), ("extension", pa.string()), ("num_bytes", pa.int64()), ("patch_sha256", pa.string()),
    ("pair_num_bytes", pa.int64()), ("pair_sha256", pa.string()), ("sharpness", pa.float64()),
)  # fmt: skip


def _sha(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()


def _make_corpus(root: Path, photo: Photo, *, paired: bool) -> Dataset:
    """Write three shards of four patches; the extensions of neighbours differ by shard."""
    shards = []
    for number, extension in enumerate(("webp", "png", "webp")):
        samples, rows = [], []
        for place in range(4):
            seed = 10 * number + place
            key = patch_key(hashlib.sha256(str(seed).encode()).hexdigest(), 0, 0, SIDE_PX)
            clean = photo(seed, SIDE_PX, SIDE_PX)
            data = encode_image(clean, extension)
            pair = encode_image(255 - clean, extension) if paired else None
            members = {f"gt.{extension}": data, f"lq.{extension}": pair} if pair else {extension: data}
            samples.append((key, members | {"json": json.dumps({"key": key}).encode()}))
            rows.append((key, extension, len(data), _sha(data), len(pair) if pair else None, _sha(pair), 5.0 + seed))
        file, metadata = f"shards/patches-{number:06d}.tar", f"metadata/patches-{number:06d}.parquet"
        for folder in ("shards", "metadata"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        table = {name: pa.array([row[at] for row in rows], kind) for at, (name, kind) in enumerate(COLUMNS)}
        pq.write_table(pa.table(table), root / metadata)
        with ShardWriter(root / file) as writer:
            for key, members in samples:
                writer.add(key, members)
            digest = writer.close()
        info = ShardInfo(
            file=file, metadata=metadata, metadata_sha256=sha256_file(root / metadata), **asdict(digest)
        )  # fmt: skip
        shards.append(asdict(info))
    write_json(
        root / "manifest.json", {"schema_version": 1, "kind": "corpus", "content_hash": "made", "shards": shards}
    )
    (root / "_SUCCESS").write_bytes(b"")
    return open_dataset(root)


@pytest.fixture(name="single")
def _single(tmp_path: Path, make_photo: Photo) -> Dataset:
    return _make_corpus(tmp_path / "single", make_photo, paired=False)


@pytest.fixture(name="paired")
def _paired(tmp_path: Path, make_photo: Photo) -> Dataset:
    return _make_corpus(tmp_path / "paired", make_photo, paired=True)


def _change() -> FieldChange:
    network = build_network(np.random.default_rng(0))
    with torch.no_grad():
        network[-1].weight.copy_(torch.from_numpy(np.random.default_rng(1).normal(0, 2, (3, 32, 3, 3))))
    return FieldChange(network=network.eval().requires_grad_(False), kind="additive", eps=8 / 255, side_px=32)


def _keys(dataset: Dataset) -> list[str]:
    return [key for number, key in enumerate(dataset.rows().column("key").to_pylist()) if number % 4 != 2]


def _files(out: Path) -> dict[str, str]:
    return {path.relative_to(out).as_posix(): sha256_file(path) for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", ["single", "paired"])
def test_changed_patches_are_16_bit_pngs_and_the_rows_name_them(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    dataset: Dataset = request.getfixturevalue(kind)
    originals = {sample.key: sample for sample in dataset.samples()}
    change, keys, out = _change(), _keys(dataset), tmp_path / "out"
    meter = Changes(change)
    shards = write_stage(dataset, keys, out, "stage1", 5, transform=meter, workers=2)
    assert [shard.samples for shard in shards] == [5, 4]  # one extension now, so shards are full
    samples = [sample for shard in shards for sample in read_shard(out / shard.file)]
    assert [sample.key for sample in samples] == keys
    rows = pa.concat_tables([pq.read_table(out / shard.metadata) for shard in shards])
    before = dataset.rows().filter(pa.array([key in keys for key in dataset.rows().column("key").to_pylist()]))
    assert rows.schema == before.schema
    assert rows.column("sharpness").to_pylist() == before.column("sharpness").to_pylist()
    for sample, row in zip(samples, rows.to_pylist(), strict=True):
        assert sample.members["json"] == originals[sample.key].members["json"]
        names = ["gt.png", "lq.png", "json"] if kind == "paired" else ["png", "json"]
        assert list(sample.members) == names
        old = [decode_samples(data) for name, data in originals[sample.key].members.items() if name != "json"]
        new = [decode_samples(data) for name, data in sample.members.items() if name != "json"]
        wanted = change.apply(old[0], old[1] if kind == "paired" else None)
        for got, right in zip(new, wanted, strict=False):
            assert got.dtype == np.uint16
            assert np.array_equal(got, right)
        data, pair = sample.members[names[0]], sample.members.get("lq.png")
        assert (row["extension"], row["num_bytes"], row["patch_sha256"]) == ("png", len(data), _sha(data))
        assert (row["pair_num_bytes"], row["pair_sha256"]) == (len(pair) if pair else None, _sha(pair))
    for shard in shards:
        assert sha256_file(out / shard.file) == shard.sha256
        assert sha256_file(out / shard.metadata) == shard.metadata_sha256
    assert meter.facts()["patches"] == len(keys)
    assert 7 < meter.facts()["largest_change_levels"] <= 8


def test_threads_change_no_byte(single: Dataset, tmp_path: Path) -> None:
    for workers in (1, 3):
        write_stage(
            single, _keys(single), tmp_path / str(workers), "stage2", 4, transform=_change().apply, workers=workers
        )
    assert _files(tmp_path / "1") == _files(tmp_path / "3") != {}


@pytest.mark.parametrize("kind", ["single", "paired"])
def test_without_a_transform_bytes_are_copied(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    dataset: Dataset = request.getfixturevalue(kind)
    originals = {sample.key: dict(sample.members) for sample in dataset.samples()}
    shards = write_stage(dataset, _keys(dataset), tmp_path / "out", "stage1", 5)
    assert [shard.samples for shard in shards] == [3, 3, 3]  # one extension a shard
    for shard in shards:
        for sample in read_shard(tmp_path / "out" / shard.file):
            assert dict(sample.members) == originals[sample.key]
            assert list(sample.members) == list(originals[sample.key])
    rows = pa.concat_tables([pq.read_table(tmp_path / "out" / shard.metadata) for shard in shards])
    kept = dataset.rows().filter(pa.array([key in _keys(dataset) for key in dataset.rows().column("key").to_pylist()]))
    assert rows.equals(kept)


def test_tables_and_shards_that_disagree_are_refused(single: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="name 12 of the 13 chosen"):
        write_stage(single, [*single.rows().column("key").to_pylist(), "missing"], tmp_path / "out", "stage1", 5)
    path = single.root / "metadata/patches-000001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take([1, 0, 2, 3]), path)
    for transform in (None, _change().apply):
        with pytest.raises(ManifestError, match="differently"):
            write_stage(single, _keys(single), tmp_path / "out", "stage1", 5, transform=transform)


def _subset(root: Path, dataset: Dataset) -> Dataset:
    keys = _keys(dataset)
    stages = {
        stage: [asdict(shard) for shard in write_stage(dataset, names, root, stage, 5, transform=_change().apply)]
        for stage, names in (("stage1", keys[:5]), ("stage2", keys[5:]))
    }
    write_json(root / "manifest.json", {
        "schema_version": 1, "kind": "subset", "content_hash": "made", "stages": stages, "depth": 16, "curriculum": {},
    })  # fmt: skip
    (root / "_SUCCESS").write_bytes(b"")
    return open_dataset(root)


def test_training_reads_all_sixteen_bits(single: Dataset, tmp_path: Path) -> None:
    subset = _subset(tmp_path / "subset", single)
    written = {sample.key: decode_samples(sample.members["png"]) for sample in subset.samples()}
    store = PatchStore(cache_bytes=1 << 24)
    refs = [ref for stage in index_patches(subset) for ref in stage]
    assert len(refs) == 9
    for ref in refs:
        patch = store.image(ref)
        assert patch.dtype == np.uint16
        assert np.array_equal(patch, written[ref.key])
        assert np.array_equal(store.image(ref), patch)  # from the cache
        pixels = to_pixels(patch)
        assert np.array_equal(np.rint(pixels.astype(np.float64) * 65535).transpose(1, 2, 0), patch)
    assert any((patch % 257).any() for patch in written.values())  # there is something that 8 bits could not hold


def test_a_batch_of_a_calibrated_subset_holds_its_values(single: Dataset, tmp_path: Path) -> None:
    from restoration.curriculum import CurriculumConfig

    subset = _subset(tmp_path / "subset", single)
    written = {sample.key: decode_samples(sample.members["png"]) for sample in subset.samples()}
    source = BatchSource(
        store=PatchStore(cache_bytes=0), stages=index_patches(subset), num_steps=10, batch_size=4, crop_px=SIDE_PX,
        max_shrink=1, tasks={"noise25": 1.0}, curriculum=CurriculumConfig(), seed=0,
    )  # fmt: skip
    batch = source.batch(0)
    for key, hq_CHW in zip(batch.keys, batch.hq, strict=True):
        values = np.rint(hq_CHW.astype(np.float64) * 65535).astype(np.uint16)
        assert np.array_equal(np.sort(values, axis=None), np.sort(written[key], axis=None))  # flipped or turned


def test_eight_and_sixteen_bits_of_one_picture_give_the_same_floats() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image.flat[:256] = np.arange(256)
    assert np.array_equal(to_pixels(image), to_pixels(image.astype(np.uint16) * 257))


def test_a_network_trains_on_a_calibrated_subset(single: Dataset, tmp_path: Path) -> None:
    subset = _subset(tmp_path / "subset", single)
    result = fit(
        TrainConfig(
            data=subset.root, out=tmp_path / "run", model="tiny", steps=2, batch_size=2, crop_px=32, tasks={"noise25": 1.0},
            val_tasks=("noise25",), val_crop_px=32, max_shrink=2,
        )
    )  # fmt: skip
    assert (result.status, result.steps) == ("finished", 2)
    assert np.isfinite(result.loss)


def test_pairs_are_still_refused_by_training_by_name(paired: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"gt\.png belongs to a pair"):
        index_patches(_subset(tmp_path / "subset", paired))
