"""build-shards against the practitioner's script on the photographs of IRDISTILL_DATA: whole commands, run in turn.

Ratios are medians over rounds of (script's time / our time) within one round. Also: bytes of `source` shards against the
bytes they came from, and the largest resident memory of any process of ours. Needs libturbojpeg (apt install libturbojpeg0).

    python benchmarks/bench_build_shards.py [ROUNDS]
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from common import DATA, summarise, write_result

BIN = Path(sys.executable).parent
WORKERS = 2
WAYS = {
    "usual, source": ("--recipe", "usual", "--patch-format", "source"),
    "usual, png": ("--recipe", "usual", "--patch-format", "png"),
    "usual, webp": ("--recipe", "usual", "--patch-format", "webp"),
    "photographs (default), source": ("--patch-format", "source"),
    "photographs (default), webp": (),
}


def run(command: list[str], out: Path) -> tuple[float, float]:
    """Run a command that writes `out`: (seconds, peak MiB of its largest process)."""
    shutil.rmtree(out, ignore_errors=True)
    peak = 0.0
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        parent = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, _peak_mib(parent))
            time.sleep(0.1)
        seconds = time.perf_counter() - start
        assert process.stderr is not None
        if process.returncode:
            sys.exit(f"{' '.join(command)}: exit {process.returncode}\n{process.stderr.read()[-2000:]}")
    return seconds, peak


def _peak_mib(parent: psutil.Process) -> float:
    peaks = [0.0]
    try:
        for process in [parent, *parent.children(recursive=True)]:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peaks += [int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")]
    except (psutil.NoSuchProcess, OSError):
        pass  # it ended between two looks
    return max(peaks)


def ours(photos: Path, out: Path, *options: str) -> list[str]:
    """Write our command line."""
    return [str(BIN / "curate"), "build-shards", str(photos), str(out), "--workers", str(WORKERS), *options]


def source_overhead(photos: Path, work: Path) -> dict[str, float]:
    """Compare the bytes of jpg shards with file bytes x tiled area / picture area, in recipe everything."""
    out = work / "everything"
    run(ours(photos, out, "--recipe", "everything", "--patch-format", "source"), out)
    images = [row for row in pq.read_table(out / "images").to_pylist() if row["extension"] == "jpg"]
    patches = pq.read_table(out / "metadata", columns=["extension"]).column("extension").to_pylist().count("jpg")
    share = sum(
        row["num_bytes"] * row["num_patches"] * 512 * 512 / (row["width"] * row["height"])
        for row in images
        if row["num_kept"]
    )
    tars = sorted((out / "shards").glob("*.tar"))
    jpg = [tar for tar in tars if b".jpg\0" in tar.read_bytes()[:100]]
    total = sum(tar.stat().st_size for tar in jpg)
    return {
        "everything, source: pictures cut without decoding": len([row for row in images if row["num_kept"]]),
        "everything, source: patches in jpg shards": patches,
        "everything, source: jpg shard bytes / source bytes of the tiled area": total / share,
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    photos, script = DATA / "photos", DATA.parent / "baseline" / "usual_pipeline.py"
    work = Path(tempfile.mkdtemp())
    baseline = [sys.executable, str(script), str(photos), str(work / "b"), "--workers", str(WORKERS)]
    seconds: dict[str, list[float]] = {name: [] for name in ("script", *WAYS)}
    peaks: dict[str, float] = {}
    for number in range(rounds):
        seconds["script"].append(run(baseline, work / "b")[0])
        for name, options in WAYS.items():
            taken, peak = run(ours(photos, work / "o", *options), work / "o")
            seconds[name].append(taken)
            peaks[name] = max(peaks.get(name, 0.0), peak)
        print(number, {name: round(values[-1], 1) for name, values in seconds.items()}, file=sys.stderr)
    values: dict[str, float | int] = {
        "script, s (median)": statistics.median(seconds["script"]), "rounds": rounds, "workers": WORKERS,
    }  # fmt: skip
    for name in WAYS:
        values[f"{name}, s (median)"] = statistics.median(seconds[name])
        ratios = [a / b for a, b in zip(seconds["script"], seconds[name], strict=True)]
        values[f"{name}, x faster"] = statistics.median(ratios)
        values[f"{name}, peak MiB of a process"] = peaks[name]
    values |= source_overhead(photos, work)
    shutil.rmtree(work)
    write_result(
        "build-shards", "build-shards against usual_pipeline.py on the 90 photographs, whole commands in turn", values,
        seconds={name: summarise(taken) for name, taken in seconds.items()} if rounds > 1 else {},
    )  # fmt: skip


if __name__ == "__main__":
    main()
