"""How soon a list of 10 million URLs gives its first 1,000 rows, and how much memory that takes: each in a fresh process.

The lists are made here: Parquet with one huge row group, the same in 20, and plain text.

    python benchmarks/bench_list_start.py [ROWS]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from common import summarise, write_result

ROUNDS = 5
PIECE = 500_000
FIRST_ROWS = """
import itertools, json, sys, time
start = time.perf_counter()
from curate.sources.urls import open_list
found = open_list(sys.argv[1])
rows = list(itertools.islice(found.rows(), 1000))
extras = next(found.extras(num=1000))
seconds = time.perf_counter() - start
assert len(rows) == extras.num_rows == 1000 and rows[999].url.endswith("/999.jpg")
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([seconds, int(peak.split()[1]) / 1024]))
"""


def piece(start: int, stop: int) -> pa.Table:
    """Make rows `start` to `stop`: URLs that do not compress to nothing, a caption, a width."""
    number = np.arange(start, stop, dtype=np.uint64)
    text = pc.cast(pa.array(number), pa.string())
    mixed = pc.cast(pa.array(number * np.uint64(0x9E3779B97F4A7C15)), pa.string())
    host = pc.cast(pa.array(number % np.uint64(5000)), pa.string())
    url = pc.binary_join_element_wise("https://cdn", host, ".example.org/", mixed, "/", text, ".jpg", "")
    caption = pc.binary_join_element_wise("picture ", text, " of ", mixed, "")
    return pa.table({"url": url, "caption": caption, "width": pa.array((number % np.uint64(4000)).astype(np.int32))})


def make_lists(folder: Path, num_rows: int) -> dict[str, Path]:
    pieces = [piece(start, min(start + PIECE, num_rows)) for start in range(0, num_rows, PIECE)]
    table = pa.concat_tables(pieces)
    paths = {name: folder / f"{name}" for name in ("one.parquet", "many.parquet", "list.txt")}
    pq.write_table(table, paths["one.parquet"], row_group_size=num_rows, compression="zstd")
    pq.write_table(table, paths["many.parquet"], row_group_size=PIECE, compression="zstd")
    with paths["list.txt"].open("w") as file:
        for part in pieces:
            file.writelines(f"{url}\n" for url in part["url"].to_pylist())
    names = {"one.parquet": "parquet, one row group", "many.parquet": "parquet, many row groups", "list.txt": "txt"}
    return {names[name]: path for name, path in paths.items()}


def main() -> None:
    num_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        lists = make_lists(Path(folder), num_rows)
        for _ in range(ROUNDS):
            for name, path in lists.items():
                command = [sys.executable, "-c", FIRST_ROWS, str(path)]
                out = subprocess.run(command, capture_output=True, check=True, text=True).stdout
                second, peak = json.loads(out)
                seconds.setdefault(name, []).append(second)
                peaks.setdefault(name, []).append(peak)
    values = {f"{name}: first 1,000 rows, s": round(summarise(seconds[name])["median"], 3) for name in lists}
    values |= {f"{name}: peak resident memory, MiB": round(summarise(peaks[name])["median"], 1) for name in lists}
    claim = (
        f"lists of {num_rows:,} URLs with a caption and a width; fresh processes with their imports, median of {ROUNDS}"
    )
    write_result("list_start", claim, values, all_seconds=seconds, all_peaks_mib=peaks)


if __name__ == "__main__":
    main()
