"""What the calibration does to `top` 2 % and to `random` 2 % of a corpus: before, after, null, accepted or not, seconds.

`python benchmarks/bench_calibrate.py CORPUS [--features FOLDER] [--steps 500] [--crops 256] [--keep FILE.npz]`; FOLDER is a
feature folder (OUT/features/NAME) of vit_s14; without it the whole view of every patch is encoded here and `top` is by the
entropy of its tokens. 500 steps and 256 crops of the corpus a step are the spec's; fewer are said in the result. `kmm` and the
guard on 200 random subsets stand beside it, and two witnesses that the fit does not look at: the low-level descriptors and
the handcrafted encoder.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result

from curate import Dataset, load_encoder, open_dataset
from curate.core.images import encode_deep
from curate.core.records import Image
from curate.encoders._loading import one_torch_thread
from distill import count_budget
from distill.calibrate import cnn, kmm
from distill.calibration import LEVEL, Calibrated, CalibrationRequest, Changes
from distill.descriptors import describe
from distill.fitconfig import FitConfig
from distill.reading import PatchReader
from distill.table import load_features
from distill.token_entropy import token_entropies
from distill.views import global_view
from distill.yardstick import YardstickConfig, build_yardstick

BUDGET, WORKERS, BATCH = "2%", 2, 8
GUARD_DRAWS = 200
MIN_ENERGY = 1e-8


def measure(dataset: Dataset, reader: PatchReader, keys: list[str], encoder: Any) -> tuple[np.ndarray, np.ndarray]:
    """Encode whole views: rows (N, D) float16 and the entropy of their tokens (N,)."""

    def look(places: range) -> tuple[np.ndarray, np.ndarray]:
        tokens = encoder.encode(np.stack([global_view(reader.read(p)[0], encoder.input_px) for p in places])).tokens
        return tokens.mean(axis=1), token_entropies(tokens, min_energy=MIN_ENERGY)

    with one_torch_thread(), ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(look, [range(len(keys))[at : at + BATCH] for at in range(0, len(keys), BATCH)]))
    return np.concatenate([rows for rows, _ in found]).astype(np.float16), np.concatenate(
        [scores for _, scores in found]
    )


class Line:
    """One line a twentieth of the way."""

    def begin(self, total: int, done: int, *, label: str = "", unit: str = "") -> None:
        """Note how long it is."""
        self._total, self._done, self._start = total, done, time.monotonic()

    def step(self, num: int) -> None:
        """Say so now and then."""
        self._done += num
        if self._done % max(1, self._total // 20) == 0:
            print(f"  step {self._done}/{self._total}, {time.monotonic() - self._start:.0f} s", flush=True)


def told(name: str, got: Calibrated) -> dict[str, Any]:
    numbers = got.facts["mmd2"]
    values = {
        "MMD2 before x1e3": 1000 * numbers["before"], "null mean x1e3": 1000 * numbers["null_mean"],
        "null deviation x1e3": 1000 * numbers["null_std"], "farther than chance": numbers["differs"],
        "accepted": got.facts["accepted"], "reason": got.facts["reason"],
    }  # fmt: skip
    if numbers["after"] is not None:
        values["MMD2 after x1e3"] = 1000 * numbers["after"]
    if "fit" in got.facts:
        fit = got.facts["fit"]
        values |= {f"fit: {key}": fit[key] for key in ("steps", "kept_step", "row_error_frac")}
        values["fit: before x1e3"] = 1000 * numbers["before_fit"]
    for key in ("min", "max", "effective_patches") if "weights" in got.facts else ():
        values[f"weights: {key}"] = got.facts["weights"][key]
    values |= {f"{step}, s": seconds for step, seconds in got.seconds.items()}
    return {f"{name}: {key}": round(v, 4) if isinstance(v, float) else v for key, v in values.items()}


def changes(got: Calibrated, reader: PatchReader, chosen: np.ndarray) -> dict[str, Any]:
    """Apply the change to the whole subset, as `write_stage` would."""
    assert got.change is not None
    meter, num_bytes, start = Changes(got.change), 0, time.monotonic()
    for row in chosen.tolist():
        num_bytes += len(encode_deep(meter(*reader.read(row))[0]))
    seconds = time.monotonic() - start
    return meter.facts() | {
        "KiB a patch": num_bytes / len(chosen) / 1024,
        "apply and encode a patch, s": seconds / len(chosen),
    }


def witnesses(got: Calibrated, reader: PatchReader, chosen: np.ndarray, num: int) -> dict[str, float]:
    """Ask eyes that the fit did not optimise: did the subset come nearer to its corpus for them, too?"""
    assert got.change is not None
    handcrafted = load_encoder("handcrafted")

    def see(image: Image) -> tuple[np.ndarray, np.ndarray]:
        return describe(image), handcrafted.encode(global_view(image, handcrafted.input_px)[None]).rows[0]

    before = [see(reader.read(row)[0]) for row in range(num)]
    changed = [got.change.apply(*reader.read(row))[0] for row in chosen.tolist()]
    after = [see(np.rint(deep / LEVEL).astype(np.uint8)) for deep in changed]
    found = {}
    for at, name in enumerate(("descriptors", "handcrafted")):
        rows, new = (np.stack([seen[at] for seen in each]) for each in (before, after))
        mean, deviation = rows.mean(axis=0), rows.std(axis=0) + 1e-9
        measured = build_yardstick({"x": (rows - mean) / deviation}, chosen, YardstickConfig(), 0)
        assert measured is not None
        member = measured.members["x"]
        found[f"{name} before x1e3"] = 1000 * measured.total_before
        found[f"{name} after x1e3"] = 1000 * member.distance(member.project((new - mean) / deviation))
        found[f"{name} null deviation x1e3"] = 1000 * measured.null_std
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--crops", type=int, default=256)
    parser.add_argument("--keep", type=Path, help="keep the accepted network's weights, for bench_pairs.py")
    asked = parser.parse_args()
    dataset, encoder = open_dataset(asked.corpus), load_encoder("vit_s14")
    keys = sorted(dataset.rows(["key"]).column("key").to_pylist())
    with PatchReader(dataset, np.array(keys)) as reader:
        start = time.monotonic()
        if asked.features:
            table = load_features(asked.features)
            rows, scores = table.rows, table.complexity
            assert table.keys.tolist() == keys, "these features are of another corpus"
        else:
            rows, scores = measure(dataset, reader, keys, encoder)
        values: dict[str, Any] = {
            "patches": len(keys), "chosen": (num := count_budget(BUDGET, len(keys))), "steps": asked.steps,
            "corpus crops a step": asked.crops, "encode, s": round(time.monotonic() - start, 1),
        }  # fmt: skip
        subsets = {
            "top": np.sort(np.argsort(scores, kind="stable")[-num:]),
            "random": np.sort(np.random.default_rng(0).choice(len(keys), num, replace=False)),
        }
        kept = {}
        for name, chosen in subsets.items():
            print(name, flush=True)
            request = CalibrationRequest(
                rows=rows, chosen=chosen, read=reader.read, encoder=encoder, workers=WORKERS, watch=Line()
            )
            got = cnn.Plugin(fit=FitConfig(steps_iter=asked.steps, corpus_crops=asked.crops)).calibrate(request)
            values |= told(f"cnn on {name}", got)
            if got.change is not None:
                said = changes(got, reader, chosen) | witnesses(got, reader, chosen, len(keys))
                values |= {f"cnn on {name}: {k}": round(v, 4) if isinstance(v, float) else v for k, v in said.items()}
                kept = got.change.tensors()
            if "fit" in got.facts:
                print("  history", [(step, round(1000 * value, 1)) for step, value in got.facts["fit"]["history"]])
            values |= told(f"kmm on {name}", kmm.Plugin().calibrate(request))
        rng = np.random.default_rng(1)
        draws = [np.sort(rng.choice(len(keys), num, replace=False)) for _ in range(GUARD_DRAWS)]
        differs = [build_yardstick({"x": rows}, draw, YardstickConfig(), seed) for seed, draw in enumerate(draws)]
        values[f"of {GUARD_DRAWS} random subsets the guard would fit"] = sum(
            y is not None and y.differs for y in differs
        )
    if asked.keep and kept:
        np.savez(asked.keep, **kept)
    write_result(
        "calibrate",
        "cnn and kmm calibration of top and random 2 % (vit_s14), MMD2 unbiased against the held-out half",
        values,
    )


if __name__ == "__main__":
    main()
