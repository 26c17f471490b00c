"""The whole feature pass with `vit_s14` beside the plain fp32 forward alone of the same model, and what bfloat16 changes.

`python benchmarks/bench_encode.py [CORPUS] [--patches N] [--rounds N] [--exact N] [--workers N] [--no-result]`. Without CORPUS
the photographs of IRDISTILL_DATA are curated first. Needs the weights (`curate fetch-weights vit_s14`) and an idle machine.

Speed, in turn in one process, on N patches spread over the corpus and written as a corpus of their own:
  pass      `measure_corpus`: read shards, decode, cut views, encode, entropies, descriptors, write and join
  baseline  timm's own model in fp32, cut at the same block (`vit_s14.forward_normalised`), on tensors of the same views that
            are already decoded and normalised; once with torch's own threads, once in as many threads of one torch thread
            each as the pass has. The faster one counts.

Equality, once on `--exact` patches (0: all): rows (mean patch token of the whole view) and complexity of the pass beside
those of the baseline with spectra in float64: smallest cosine of rows before standardisation, Spearman, share of patches
whose nearest neighbour is the same.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from common import DATA, summarise, time_in_turn, write_result
from scipy.stats import spearmanr

from curate import BuildShardsConfig, Dataset, build_shards, load_encoder, open_dataset
from curate.core.artifacts import sha256_file, write_json
from curate.core.images import decode_patch
from curate.encoders import vit_s14
from curate.encoders._loading import one_torch_thread
from curate.shards import ShardWriter
from curate.weights import find_weights, load_tensors
from distill.complexity.vit_entropy import Plugin as VitEntropy
from distill.features import Eyes, FeatureTable, measure_corpus
from distill.views import global_view, native_crops

BATCH_VIEWS = 8  # of the baseline; 4 to 16 are equally fast
CROP_WEIGHT = 0.5  # spec/tripled.md section 4.1


def sample_corpus(dataset: Dataset, num: int, out: Path) -> Dataset:
    """Write every n-th patch of a corpus as a corpus of one shard, with the same bytes."""
    wanted = set(np.linspace(0, dataset.num_samples - 1, min(num, dataset.num_samples)).astype(int).tolist())
    (out / "shards").mkdir(parents=True)
    (out / "metadata").mkdir()
    file, metadata = "shards/patches-000000.tar", "metadata/patches-000000.parquet"
    rows = dataset.rows()
    pq.write_table(rows.take(sorted(wanted)), out / metadata)
    with ShardWriter(out / file) as writer:
        for place, sample in enumerate(dataset.samples()):
            if place in wanted:
                writer.add(sample.key, sample.members)
        digest = writer.close()
    shard = {"file": file, "metadata": metadata, "metadata_sha256": sha256_file(out / metadata), **asdict(digest)}
    manifest = {"schema_version": 1, "kind": "corpus", "content_hash": digest.sha256, "shards": [shard]}
    write_json(out / "manifest.json", manifest)
    (out / "_SUCCESS").write_bytes(b"")
    return open_dataset(out)


def views_of(image: np.ndarray) -> list[np.ndarray]:
    return [global_view(image, vit_s14.INPUT_PX), *native_crops(image, vit_s14.INPUT_PX)]


def decoded_batches(dataset: Dataset) -> list[torch.Tensor]:
    views = [view for sample in dataset.samples() for view in views_of(decode_patch(sample.image()[1]))]
    return [
        vit_s14.normalised(np.stack(views[start : start + BATCH_VIEWS])) for start in range(0, len(views), BATCH_VIEWS)
    ]


def plain_forward(model: torch.nn.Module, x_BCHW: torch.Tensor) -> None:
    with torch.inference_mode():
        vit_s14.forward_normalised(model, x_BCHW)


def in_own_threads(model: torch.nn.Module, batches: list[torch.Tensor]) -> None:
    for batch in batches:
        plain_forward(model, batch)


def in_workers(model: torch.nn.Module, batches: list[torch.Tensor], workers: int) -> None:
    with one_torch_thread(), ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda batch: plain_forward(model, batch), batches))


def speed(dataset: Dataset, model: torch.nn.Module, eyes: Eyes, out: Path, rounds: int) -> dict[str, float]:
    batches = decoded_batches(dataset)
    num_views = sum(len(batch) for batch in batches)
    steps: list[dict[str, float]] = []

    def whole_pass() -> None:
        steps.append(dict(measure_corpus(dataset, eyes, out / "features").seconds))
        shutil.rmtree(out / "features")

    taken = time_in_turn(
        {
            "pass": whole_pass,
            "torch": lambda: in_own_threads(model, batches),
            "threads": lambda: in_workers(model, batches, eyes.workers),
        },
        rounds=rounds,
    )
    rates = {way: num_views / summarise(seconds)["median"] for way, seconds in taken.items()}
    best = [min(pair) for pair in zip(taken["torch"], taken["threads"], strict=True)]
    ratios = [base / ours for base, ours in zip(best, taken["pass"], strict=True)]
    last = {f"seconds: {step}": value for step, value in steps[-1].items()}
    return {
        "views": num_views, "patches": dataset.num_samples, "rounds": rounds, "workers": eyes.workers,
        "pass views/s": rates["pass"], "fp32 forward views/s, torch's own threads": rates["torch"],
        f"fp32 forward views/s, {eyes.workers} threads of one": rates["threads"],
        "ratio": float(np.median(ratios)), "ratio, slowest round": min(ratios), "ratio, fastest round": max(ratios), **last,
    }  # fmt: skip


def exact(dataset: Dataset, model: torch.nn.Module, workers: int, every: int) -> dict[str, tuple[np.ndarray, float]]:
    """Row and complexity of every n-th patch by the baseline, spectra in float64."""
    model = model.eval()

    def one(item: tuple[str, bytes]) -> tuple[str, tuple[np.ndarray, float]]:
        tokens = vit_s14.forward(model, np.stack(views_of(decode_patch(item[1]))))[:, 1:]
        entropies = spectral_entropies(tokens)
        share = CROP_WEIGHT if len(entropies) > 1 else 0.0
        crops = float(entropies[1:].mean()) if len(entropies) > 1 else 0.0
        return item[0], (tokens[0].mean(axis=0), (1 - share) * float(entropies[0]) + share * crops)

    items = [(s.key, s.image()[1]) for place, s in enumerate(dataset.samples()) if place % every == 0]
    with one_torch_thread(), ThreadPoolExecutor(workers) as pool:
        return dict(pool.map(one, items))


def spectral_entropies(tokens_NTD: np.ndarray) -> np.ndarray:
    """spec/tripled.md section 4.1, literally."""
    z = torch.from_numpy(tokens_NTD).double()
    z = z - z.mean(dim=1, keepdim=True)
    eigenvalues = torch.linalg.eigvalsh(z @ z.mT).clamp(min=0)
    p = eigenvalues / eigenvalues.sum(dim=1, keepdim=True)
    return np.asarray(-(p * (p + 1e-12).log()).sum(dim=1) / np.log(min(z.shape[1] - 1, z.shape[2])))


def agreement(table: FeatureTable, wanted: dict[str, tuple[np.ndarray, float]]) -> dict[str, float]:
    places = [place for place, key in enumerate(table.keys.tolist()) if key in wanted]
    keys = table.keys[places].tolist()
    got = table.rows[places].astype(np.float64)
    rows = np.stack([wanted[key][0] for key in keys]).astype(np.float64)
    scores = np.array([wanted[key][1] for key in keys])
    cosine = (got * rows).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(rows, axis=1)
    return {
        "compared patches": len(keys), "smallest cosine of rows": float(cosine.min()),
        "smallest cosine of centred rows": float(_centred_cosine(got, rows).min()),
        "Spearman of complexity": float(spearmanr(table.complexity[places], scores).statistic),
        "largest difference of complexity": float(np.abs(table.complexity[places] - scores).max()),
        "same nearest neighbour": float((_nearest(got) == _nearest(rows)).mean()),
    }  # fmt: skip


def _centred_cosine(got: np.ndarray, rows: np.ndarray) -> np.ndarray:
    a, b = got - rows.mean(0), rows - rows.mean(0)
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def _nearest(rows: np.ndarray) -> np.ndarray:
    unit = rows - rows.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -np.inf)
    return similar.argmax(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", nargs="?", type=Path)
    parser.add_argument("--patches", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--exact", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-result", action="store_true")
    options = parser.parse_args()
    model = vit_s14.build_model(load_tensors(find_weights("vit_s14"))[0])
    encoder = load_encoder("vit_s14")
    eyes = Eyes(encoder=encoder, complexities=(VitEntropy(),), workers=options.workers)
    with tempfile.TemporaryDirectory(prefix="bench-encode-") as folder:
        out = Path(folder)
        if options.corpus is None:
            build_shards(BuildShardsConfig(source=DATA / "photos", out=out / "corpus"))
        dataset = open_dataset(options.corpus or out / "corpus")
        values = speed(sample_corpus(dataset, options.patches, out / "sample"), model, eyes, out, options.rounds)
        table = measure_corpus(dataset, eyes, out / "all")
        every = max(1, dataset.num_samples // options.exact) if options.exact else 1
        values |= agreement(table, exact(dataset, model, options.workers, every))
    values |= {"encoder": encoder.label, **{f"encoder {key}": value for key, value in encoder.settings.items()}}
    if options.no_result:
        print(json.dumps(values, indent=1))
        return
    write_result("encode", "whole feature pass (vit_s14) / plain fp32 eager forward alone, same views, in turn", values)


if __name__ == "__main__":
    main()
