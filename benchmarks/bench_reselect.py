"""Score once, select later: how long moving thresholds takes on a finished corpus, against building it again.

`python benchmarks/bench_reselect.py [CORPUS]`; without CORPUS one is built from the photographs first (about a minute).
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import DATA, summarise, time_in_turn, write_result

from curate import BuildShardsConfig, FilterConfig, build_shards, filter_corpus, open_dataset
from curate.reselect import decide
from curate.where import parse_where

TIGHTER = "flat_area < 0.3 and sharpness > 100"
EITHER_WAY = "flat_area < 0.52 and sharpness > 20 and (noise_sigma <= 10 or resolution >= 2160) and not aspect > 4"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out, values = Path(folder), dict[str, float]()
        corpus = Path(sys.argv[1]) if len(sys.argv) > 1 else out / "corpus"
        if len(sys.argv) == 1:
            start = time.perf_counter()
            build_shards(BuildShardsConfig(source=DATA / "photos", out=corpus))
            values["build-shards, once, s"] = time.perf_counter() - start
        program = [str(Path(sys.executable).parent / "curate"), "filter", str(corpus), str(out / "never"), "--dry-run"]
        numbers = iter(range(1000))
        ways = {
            "selection (read tables, evaluate, decide), s": lambda: decide(
                open_dataset(corpus), parse_where(EITHER_WAY)
            ),
            "filter --dry-run, whole process, s": lambda: subprocess.run(
                [*program, "--where", EITHER_WAY], capture_output=True, check=True
            ),
            "filter that narrows, shards written, s": lambda: filter_corpus(
                FilterConfig(corpus=corpus, out=out / f"narrow{next(numbers)}", where=TIGHTER)
            ),
        }
        values |= {name: summarise(seconds)["median"] for name, seconds in time_in_turn(ways).items()}
        dataset = open_dataset(corpus)
        values |= {
            "patches judged": dataset.manifest["funnel"]["patches"],
            "patches kept before": dataset.num_samples,
            "patches kept by the narrower expression": int(decide(dataset, parse_where(TIGHTER)).keep.sum()),
        }
    write_result("reselect", f"corpus of data/photos; median of 7 in turn; {EITHER_WAY!r} and {TIGHTER!r}", values)


if __name__ == "__main__":
    main()
