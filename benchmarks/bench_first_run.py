"""The four commands on real photographs, as the README shows them: what each prints, how long it takes, what it reaches.

Needs IRDISTILL_DATA and the encoder's weights. `python benchmarks/bench_first_run.py [WORK]` keeps its output in WORK.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import DATA, write_result

COMMANDS = (
    "curate build-shards photos corpus",
    "curate verify corpus",
    "distill select corpus subset --budget 2%",
    "restoration train subset run --model dynet-tiny --steps 300",
    "restoration evaluate run cbsd68 --task noise25",
    "restoration evaluate run cbsd68 --task jpeg10",
    "restoration evaluate run cbsd68 --task sr2",
    "restoration restore run noisy.png restored.png",
)


def prepare(work: Path) -> None:
    """Lay out the working folder as the transcript names it."""
    for name, target in (("photos", DATA / "photos"), ("cbsd68", DATA / "bench" / "cbsd68")):
        link = work / name
        if not link.exists():
            link.symlink_to(target.resolve(), target_is_directory=True)
    import cv2
    import numpy as np

    clean = cv2.imread(str(sorted((DATA / "bench" / "kodak24").glob("*.png"))[0]))
    noise = np.random.default_rng(0).normal(0, 25, clean.shape)
    cv2.imwrite(str(work / "noisy.png"), np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8))


def main() -> None:
    work = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    prepare(work)
    transcript, seconds = [], {}
    for command in COMMANDS:
        name, *arguments = command.split()
        start = time.perf_counter()
        done = subprocess.run(
            [str(Path(sys.executable).parent / name), *arguments], cwd=work, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{command}: exit {done.returncode}\n{done.stderr[-2000:]}")
        seconds[f"{command}, s"] = time.perf_counter() - start
        transcript.append({"command": command, "stdout": done.stdout.rstrip()})
        print(f"$ {command}\n{done.stdout.rstrip()}\n")
    scores = {f.stem: json.loads(f.read_text()) for f in sorted((work / "run" / "eval").glob("*.json"))}
    for name, score in scores.items():
        seconds[f"{name}, PSNR before, dB"] = score["mean"]["input"]["psnr_db"]
        seconds[f"{name}, PSNR after, dB"] = score["mean"]["output"]["psnr_db"]
    claim = "90 photographs of Debian's wallpaper packages, whole commands, once each"
    write_result("first-run", claim, seconds, transcript=transcript)


if __name__ == "__main__":
    main()
