"""What every benchmark shares: repeat in turn, take medians, write one JSON with everything needed to judge it.

File rule: `results/<topic>_<hardware>_<yyyymm>.json`. Numbers in README and docs are generated from these files.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("IRDISTILL_DATA", Path(__file__).parents[2] / "shared" / "data"))
PACKAGES = ("irdistill", "numpy", "torch", "opencv-python-headless", "Pillow", "simplejpeg", "typer")


def time_in_turn(
    ways: Mapping[str, Callable[[], object]], *, rounds: int = 7, warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:  # fmt: skip
    """Run every way once per round, one after another, so that a slow moment of the machine hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + warmup):
        for name, way in ways.items():
            start = clock()
            way()
            if number >= warmup:
                seconds[name].append(clock() - start)
    return seconds


def summarise(values: list[float]) -> dict[str, float | int]:
    """Return median, quartiles and n."""
    low, _, high = statistics.quantiles(values, n=4)
    return {"median": statistics.median(values), "p25": low, "p75": high, "n": len(values)}


def write_result(topic: str, claim: str, values: Mapping[str, Any], **more: Any) -> Path:
    """Write the JSON of one benchmark; `values` is a flat mapping of printable numbers, `claim` says what was compared."""
    now = datetime.datetime.now(datetime.UTC)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    record = {
        "topic": topic, "claim": claim, "date": now.date().isoformat(), "commit": commit, "hardware": hardware(),
        "threads": os.cpu_count(), "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}, "values": dict(values), **more,
    }  # fmt: skip
    path = RESULTS / f"{topic}_{re.sub('[^a-z0-9]+', '-', hardware().lower()).strip('-')}_{now:%Y%m}.json"
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    print(json.dumps(record["values"], indent=1))
    print(f"wrote {path}")
    return path


def hardware() -> str:
    """Name the machine shortly: cores and instruction set."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    best = next(
        (name for flag, name in (("amx_bf16", "amx"), ("avx512f", "avx512"), ("avx2", "avx2")) if flag in flags), "cpu"
    )
    return f"{os.cpu_count()}-core {platform.machine()} {best}"
