"""Do the searches of near pairs scale? A million 64-bit hashes at radius 8, a million 384-d float16 features above cosine 0.95.

Each run is a process of its own that reads its input from disk, finds pairs and chooses keepers; wall seconds of the whole
process, its processor seconds, its peak resident memory (the mapped features included), at N/4 and N. One hash in 100 is a
copy with 1 to 8 bits flipped; one row of features in 10 is a copy at a cosine of 0.94 to 0.999. A sample of rows is searched by
brute force for recall. Beside them stand the seconds of the same searches by faiss, estimated from a sample of queries.

    python bench_dedup_scale.py [ROWS] [hashes|features ...]
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import RESULTS, write_result

from curate.dedup.groups import keepers, keepers_of_classes
from curate.dedup.hamming import collapse, pairs_within
from curate.dedup.semantic import NearConfig, nearest_above

ROWS, DIM, RADIUS_BITS, MIN_COSINE = 1_000_000, 384, 8, 0.95
SAMPLE, FAISS_SAMPLE, THREADS = 1000, 20_000, 2
CHUNK = 20_000


def make_hashes(path: Path, num: int) -> None:
    rng = np.random.default_rng(num)
    hashes = rng.integers(0, 2**64, num, dtype=np.uint64)
    copies = rng.choice(num, num // 100, replace=False)
    for copy in copies:
        value = int(hashes[rng.integers(num)])
        for bit in rng.choice(64, rng.integers(1, RADIUS_BITS + 1), replace=False):
            value ^= 1 << int(bit)
        hashes[copy] = value
    np.save(path, hashes)


def make_features(path: Path, num: int) -> None:
    """Write rows around 3000 centres, with 64 strong directions inside a centre and noise in all, as embeddings have them."""
    rng = np.random.default_rng(num)
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (num, DIM))
    centres, strong = rng.normal(size=(3000, DIM)), rng.normal(size=(64, DIM)) * 0.7 / 8
    for first in range(0, num, CHUNK):
        some = min(CHUNK, num - first)
        block = centres[rng.integers(0, 3000, some)] + rng.normal(size=(some, 64)) @ strong
        block += 0.7 * rng.normal(size=(some, DIM))
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        copies = np.flatnonzero(rng.random(some) < 0.1)
        source = block[rng.integers(0, some, len(copies))]
        aside = rng.normal(size=source.shape)
        aside -= (aside * source).sum(1, keepdims=True) * source
        aside /= np.linalg.norm(aside, axis=1, keepdims=True)
        cosine = rng.uniform(0.94, 0.999, (len(copies), 1))
        block[copies] = cosine * source + np.sqrt(1 - cosine**2) * aside
        rows[first : first + some] = block
    rows.flush()


def search_hashes(path: Path) -> dict[str, float]:
    hashes = np.load(path)
    start, start_cpu = time.perf_counter(), time.process_time()
    collapsed = collapse(hashes)
    pairs = pairs_within(collapsed.values, radius_bits=RADIUS_BITS)
    search, search_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    keeper, _ = keepers_of_classes(collapsed.inverse, pairs.first, pairs.second, np.arange(len(hashes)))
    result = {"search_s": search, "search_cpu_s": search_cpu, "pairs": len(pairs.first)}
    result |= {"dropped": int((keeper != np.arange(len(hashes))).sum())}
    return result | measure() | recall_hashes(collapsed.values, pairs.first, pairs.second)


def recall_hashes(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    some = np.unique(np.concatenate([first[:SAMPLE], np.random.default_rng(0).integers(0, len(values), SAMPLE)]))
    found = set(zip(first.tolist(), second.tolist(), strict=True))
    there = hit = 0
    for row in some:
        for other in np.flatnonzero(np.bitwise_count(values ^ values[row]) <= RADIUS_BITS):
            if other != row:
                there += 1
                hit += (min(row, other), max(row, other)) in found
    return {"sample_pairs": there, "recall": hit / there}


def search_features(path: Path) -> dict[str, float]:
    features = np.load(path, mmap_mode="r")
    start, start_cpu = time.perf_counter(), time.process_time()
    near = nearest_above(features, NearConfig(min_cosine=MIN_COSINE, threads=THREADS))
    search, search_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    keeper = keepers(len(features), near.first, near.second, np.arange(len(features)))
    result = {"search_s": search, "search_cpu_s": search_cpu, "pairs": len(near.first)}
    result |= {"dropped": int((keeper != np.arange(len(features))).sum())}
    return (
        result | measure() | recall_features(features, set(zip(near.first.tolist(), near.second.tolist(), strict=True)))
    )


def recall_features(features: np.ndarray, found: set[tuple[int, int]]) -> dict[str, float]:
    rows = np.sort(np.random.default_rng(0).choice(len(features), SAMPLE, replace=False))
    queries = unit(features[rows])
    there = hit = 0
    for first in range(0, len(features), CHUNK):
        one, two = np.nonzero(queries @ unit(features[first : first + CHUNK]).T >= MIN_COSINE)
        for row, other in zip(rows[one].tolist(), (two + first).tolist(), strict=True):
            if row != other:
                there += 1
                hit += (min(row, other), max(row, other)) in found
    return {"sample_pairs": there, "recall": hit / there}


def unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def faiss_hashes(path: Path) -> dict[str, float]:
    import faiss

    faiss.omp_set_num_threads(THREADS)
    codes = np.load(path).view(np.uint8).reshape(-1, 8)
    start = time.perf_counter()
    index = faiss.IndexBinaryMultiHash(64, 3, 21)
    index.nflip = 2
    index.add(codes)
    added = time.perf_counter()
    index.range_search(codes[:FAISS_SAMPLE], RADIUS_BITS + 1)
    return {"search_s": added - start + (time.perf_counter() - added) * len(codes) / FAISS_SAMPLE}


def faiss_features(path: Path) -> dict[str, float]:
    import faiss

    faiss.omp_set_num_threads(THREADS)
    features = np.load(path, mmap_mode="r")
    num_lists = round(len(features) / 1000)
    start = time.perf_counter()
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(DIM), DIM, num_lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.seed = 0
    index.train(unit(features[:: max(1, len(features) // (64 * num_lists))]))
    for first in range(0, len(features), CHUNK):
        index.add(unit(features[first : first + CHUNK]))
    index.nprobe = 4
    added = time.perf_counter()
    index.search(unit(features[:FAISS_SAMPLE]), 17)
    return {"search_s": added - start + (time.perf_counter() - added) * len(features) / FAISS_SAMPLE}


def measure() -> dict[str, float]:
    """Return what this process has used until now."""
    used = resource.getrusage(resource.RUSAGE_SELF)  # its ru_maxrss holds the parent's peak, too
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2]
    return {
        "wall_s": time.time() - float(os.environ["BENCH_START"]), "cpu_s": used.ru_utime + used.ru_stime,
        "rss_gb": int(peak.split()[0]) * 1024 / 1e9,
    }  # fmt: skip


WAYS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], dict[str, float]]]] = {
    "hashes": (make_hashes, search_hashes), "features": (make_features, search_features),
    "faiss_hashes": (make_hashes, faiss_hashes), "faiss_features": (make_features, faiss_features),
}  # fmt: skip


def run(way: str, folder: Path, num: int) -> dict[str, float]:
    path = folder / f"{way.removeprefix('faiss_')}-{num}.npy"
    if not path.exists():
        WAYS[way][0](path, num)
    environment = os.environ | {"BENCH_START": repr(time.time()), "OPENBLAS_NUM_THREADS": str(THREADS)}
    command = [sys.executable, __file__, "--worker", way, str(path)]
    out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads(out)
    print(way, num, result, file=sys.stderr)
    return result


def main() -> None:
    rows = next((int(word) for word in sys.argv[1:] if word.isdigit()), ROWS)
    ways = [word for word in sys.argv[1:] if word in WAYS] or list(WAYS)
    topic = "dedup-scale" if rows == ROWS else f"dedup-scale-{rows}"
    values: dict[str, float] = {"rows": rows}
    if len(ways) < len(WAYS):  # what is not measured now keeps its last numbers
        for path in RESULTS.glob(f"{topic}_*.json"):
            values |= json.loads(path.read_text())["values"]
    with tempfile.TemporaryDirectory() as folder:
        for way in ways:
            small, large = run(way, Path(folder), rows // 4), run(way, Path(folder), rows)
            values |= {f"{way}_quarter_{name}": round(value, 4) for name, value in small.items()}
            values |= {f"{way}_{name}": round(value, 4) for name, value in large.items()}
            for name in set(large) & {"wall_s", "cpu_s", "search_s", "search_cpu_s"}:
                values[f"{way}_{name.removesuffix('_s')}_growth"] = round(large[name] / small[name], 2)
    write_result(
        topic,
        "Near pairs of N hashes (radius 8) and of N x 384 features (cosine 0.95), fresh processes, 2 threads; faiss beside.",
        values,
        load=os.getloadavg(),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(WAYS[sys.argv[2]][1](Path(sys.argv[3]))))
    else:
        main()
