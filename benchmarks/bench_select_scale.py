"""Does `strat_fl` scale? 2 % of a million rows of 384 float16 features on disk, on two cores, and of a quarter of them.

The features are a mixture of 1,000 modes of very unequal size (the largest has 4 rows in 10, the smallest a dozen of a
million), in photographs of about 50 rows, with random complexity. Each run is a process of its own: seconds of the selection,
peak resident memory of the whole process (VmHWM). Beside them: how many of the 500 smallest modes have a chosen row,
`strat_fl` and 20 draws of `random`; at 20,000 rows how much of exact greedy's facility-location value the large-N path keeps.

    python benchmarks/bench_select_scale.py [ROWS] [RUNS]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result

from distill import Features, Selection
from distill.blocks import map_rows, one_blas_thread, use_threads
from distill.kernel import fit_kernel
from distill.selectors.random import Plugin as Random
from distill.selectors.strat_fl import Plugin as StratFl

ROWS, RUNS, SHARE, THREADS = 1_000_000, 3, 50, 2  # one row in 50 is 2 %
DIM, LATENT, MODES, SMALL_MODES, SKEW = 384, 48, 1000, 500, 1.5  # mode m has a share in proportion to 1 / m^1.5
INSIDE, NOISE = 0.35, 0.15  # spread inside a mode in the modes' own space, and in all columns
GROUP_ROWS = (20, 81)  # of a photograph, 50 on average
EXACT_ROWS, SEEDS, CHUNK = 20_000, range(20), 20_000
LIMITS = {"seconds": 300.0, "gib": 3.0, "growth": 4.6, "value": 0.98}  # issue 6
WAYS: dict[str, dict[str, Any]] = {  # of the value at 20,000 rows
    "exact": {}, "cells": {"exact_rows": 10_000}, "stochastic": {"exact_rows": 10_000, "large": "stochastic"},
}  # fmt: skip


def make(folder: Path, num: int) -> None:
    """Write rows.npy (N, 384) float16, and small.npz: descriptors, scores, groups, modes."""
    folder.mkdir()
    shape = np.random.default_rng(0)
    basis, centres = shape.normal(size=(LATENT, DIM)) / np.sqrt(LATENT), shape.normal(size=(MODES, LATENT))
    lights = shape.normal(size=(MODES, 8))
    weights = np.arange(1, MODES + 1) ** -SKEW
    rng = np.random.default_rng(num)
    modes = rng.choice(MODES, num, p=weights / weights.sum()).astype(np.int16)
    rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float16, (num, DIM))
    for first in range(0, num, CHUNK):
        here = modes[first : first + CHUNK]
        block = (centres[here] + INSIDE * rng.normal(size=(len(here), LATENT))) @ basis
        rows[first : first + CHUNK] = block + NOISE * rng.normal(size=block.shape)
    rows.flush()
    sizes = rng.integers(*GROUP_ROWS, num // GROUP_ROWS[0])
    np.savez(
        folder / "small.npz", modes=modes, scores=rng.random(num), groups=np.repeat(np.arange(len(sizes)), sizes)[:num],
        descriptors=(lights[modes] + rng.normal(size=(num, 8))).astype(np.float32),
    )  # fmt: skip


def load(folder: Path) -> tuple[Features, np.ndarray, np.ndarray, np.ndarray]:
    small = np.load(folder / "small.npz")
    features = Features(rows=np.load(folder / "rows.npy", mmap_mode="r"), descriptors=small["descriptors"])
    return features, small["scores"], small["groups"], small["modes"]


def run(folder: Path, out: Path, threads: int) -> dict[str, float]:
    """Select 2 % with the defaults in this process; say what it took."""
    features, scores, groups, _ = load(folder)
    start, start_cpu = time.perf_counter(), time.process_time()
    with use_threads(threads):
        picked = StratFl().select(features, scores, groups, len(features) // SHARE, np.random.default_rng(0))
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    np.save(out, picked.indices)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"seconds": seconds, "cpu": cpu, "gib": int(status["VmHWM"].split()[0]) / 2**20}


def measured(folder: Path, out: Path, threads: int = THREADS) -> dict[str, float]:
    command = [sys.executable, __file__, "run", str(folder), str(out), str(threads)]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(folder.name, answer, file=sys.stderr, flush=True)
    return answer


def coverage(folder: Path, chosen: np.ndarray) -> dict[str, Any]:
    """Count the smallest modes that have a chosen row; modes without a row are left out."""
    features, scores, groups, modes = load(folder)
    sizes = np.bincount(modes, minlength=MODES)
    there = np.flatnonzero(sizes)
    small = there[np.argsort(sizes[there], kind="stable")][:SMALL_MODES]

    def count(rows: np.ndarray) -> int:
        return int(np.isin(small, modes[rows]).sum())

    draws = [
        count(Random().select(features, scores, groups, len(chosen), np.random.default_rng(seed)).indices)
        for seed in SEEDS
    ]
    return {
        "strat_fl: small modes with a chosen row": count(chosen), "small modes": len(small),
        "rows of a small mode, largest": int(sizes[small].max()), "smallest": int(sizes[small].min()),
        "random, 20 seeds: mean": statistics.mean(draws), "random: least": min(draws), "random: most": max(draws),
        "photographs: strat_fl": len(np.unique(groups[chosen])), "photographs: all": len(np.unique(groups)),
    }  # fmt: skip


def values(folder: Path) -> dict[str, float]:
    """Return the mean similarity of all rows to their nearest chosen row, of each way."""
    features, scores, groups, _ = load(folder)
    num = len(features) // SHARE
    kernel = fit_kernel(features, 64)
    every = np.arange(len(features))

    def value(picked: Selection) -> float:
        with one_blas_thread():
            blocks = map_rows(lambda rows, _: kernel.between(rows, picked.indices).max(axis=1).sum(), every)
            return float(sum(blocks)) / len(every)

    found = {}
    for name, settings in WAYS.items():
        start = time.perf_counter()
        picked = StratFl(**settings).select(features, scores, groups, num, np.random.default_rng(0))
        found[name] = value(picked)
        print(name, found[name], time.perf_counter() - start, file=sys.stderr, flush=True)
    draws = [Random().select(features, scores, groups, num, np.random.default_rng(seed)) for seed in SEEDS]
    found["random, mean of 20"] = statistics.mean(value(draw) for draw in draws)
    return found


def main(num: int, runs: int) -> None:
    with tempfile.TemporaryDirectory(dir=Path.home()) as name:
        root = Path(name)
        folders = {"N/4": root / "quarter", "N": root / "whole"}
        make(folders["N/4"], num // 4)
        make(folders["N"], num)
        make(root / "exact", EXACT_ROWS)
        took = {size: [] for size in folders}
        for _ in range(runs):
            for size, folder in folders.items():
                took[size].append(measured(folder, root / f"{folder.name}.npy"))
        chosen = np.load(root / "whole.npy")
        alone = measured(folders["N/4"], root / "alone.npy", threads=1)
        equal = np.array_equal(np.load(root / "quarter.npy"), np.load(root / "alone.npy"))
        seconds = {size: statistics.median(one["seconds"] for one in ones) for size, ones in took.items()}
        kept = values(root / "exact")
        result = {
            "rows": num, "chosen": len(chosen), "seconds, N": seconds["N"], "seconds, N/4": seconds["N/4"],
            "growth from N/4 to N": seconds["N"] / seconds["N/4"], "peak GiB, N": max(one["gib"] for one in took["N"]),
            "peak GiB, N/4": max(one["gib"] for one in took["N/4"]), "seconds, N/4, 1 thread": alone["seconds"],
            "1 thread chooses the same": equal,
            **{f"value at 20,000 rows: {way}": value for way, value in kept.items()},
            "cells / exact": kept["cells"] / kept["exact"], "stochastic / exact": kept["stochastic"] / kept["exact"],
            **coverage(folders["N"], chosen),
        }  # fmt: skip
        write_result(
            "select-scale",
            "strat_fl 2 % of synthetic features (1,000 modes of very unequal size) with its defaults: seconds and peak memory "
            "of a process at N/4 and N (medians of runs in turn), facility-location value of the large-N path at 20,000 rows, "
            "small modes served",
            result, limits=LIMITS, runs=took, threads_used=THREADS,
        )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        print(json.dumps(run(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))))
    else:
        numbers = [int(text) for text in sys.argv[1:]]
        main(*(numbers + [ROWS, RUNS][len(numbers) :]))
