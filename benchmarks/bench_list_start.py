"""How soon a list of 10 million URLs gives its first 1,000 rows, and how much memory that takes: each in a fresh process.

The lists are made here: Parquet with one huge row group, the same in 20, and plain text. Then whole commands: from the start
of `curate download` on such a Parquet list to its first request at a loopback server, and its memory after ten seconds of work.

    python benchmarks/bench_list_start.py [ROWS]
"""

import http.server
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from common import summarise, write_result

ROUNDS = 5
WORK_S = 10
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


class Nothing(http.server.BaseHTTPRequestHandler):
    """Says 404 to everything, and notes when it was asked first."""

    protocol_version = "HTTP/1.1"
    first_s = 0.0

    def do_GET(self) -> None:
        """Answer."""
        Nothing.first_s = Nothing.first_s or time.monotonic()
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class Server(http.server.ThreadingHTTPServer):
    """Takes it calmly that a killed client resets its connections."""

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


def loopback_list(path: Path, num_rows: int, place: str) -> None:
    """Write a Parquet list of URLs that all lie at one loopback server."""
    with pq.ParquetWriter(path, piece(0, 1).schema, compression="zstd") as writer:
        for start in range(0, num_rows, PIECE):
            table = piece(start, min(start + PIECE, num_rows))
            url = pc.replace_substring_regex(table["url"], "^https://[^/]*", f"http://{place}")
            writer.write_table(table.set_column(0, "url", url))


def start_command(path: Path, out: Path, place: str) -> tuple[float, float, int]:
    """Run `curate download` for ten seconds: seconds to its first request, peak MiB, exit code after Ctrl-C."""
    Nothing.first_s = 0.0
    program = str(Path(sys.executable).with_name("curate"))
    begin = time.monotonic()
    with subprocess.Popen(
        [program, "download", str(path), str(out), "--allow-private", place], stderr=subprocess.DEVNULL
    ) as process:
        time.sleep(WORK_S)
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return Nothing.first_s - begin, int(peak.split()[1]) / 1024, code


def whole_commands(folder: Path, num_rows: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Time ROUNDS fresh commands on one list."""
    server = Server(("127.0.0.1", 0), Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"127.0.0.1:{server.server_address[1]}"
    path = folder / "loopback.parquet"
    loopback_list(path, num_rows, place)
    runs = [start_command(path, folder / f"out-{number}", place) for number in range(ROUNDS)]
    server.shutdown()
    if {code for _, _, code in runs} != {130}:
        sys.exit(f"wanted exit code 130 after Ctrl-C, got {runs}")
    lists = {"seconds": [run[0] for run in runs], "peaks_mib": [run[1] for run in runs]}
    values = {
        "curate download: start to first request, s": round(summarise(lists["seconds"])["median"], 2),
        f"curate download: peak resident memory in {WORK_S} s, MiB": round(summarise(lists["peaks_mib"])["median"], 1),
    }
    return values, lists


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
        command_values, command_lists = whole_commands(Path(folder), num_rows)
    values = {f"{name}: first 1,000 rows, s": round(summarise(seconds[name])["median"], 3) for name in lists}
    values |= {f"{name}: peak resident memory, MiB": round(summarise(peaks[name])["median"], 1) for name in lists}
    claim = (
        f"lists of {num_rows:,} URLs with a caption and a width; fresh processes with their imports, median of {ROUNDS}"
    )
    values |= command_values
    write_result("list-start", claim, values, all_seconds=seconds, all_peaks_mib=peaks, commands=command_lists)


if __name__ == "__main__":
    main()
