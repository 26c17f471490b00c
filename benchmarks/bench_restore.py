"""Large pictures with dynet-tiny: time a pixel against a plain forward, peak memory, tiles against the whole picture.

The network is trained for a minute first: fresh weights return their input and would prove nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the programs do (curate/core/console.py)

import numpy as np
import torch
from common import DATA, summarise, time_in_turn, write_result

from curate.core.images import read_picture
from restoration.bound import bind
from restoration.checkpoint import load_run
from restoration.degradations import to_levels, to_pixels
from restoration.models import channels_last
from restoration.restorer import Restorer, TilingConfig
from restoration.tasks import make_degradation

TRAINED_ON = (
    "budgie-backgrounds/casa-mila.jpg",
    "budgie-backgrounds/tea-gardens.jpg",
    "elementary-wallpapers/Mr. Lee.jpg",
)
LARGE, MEDIUM = "elementary-wallpapers/Martin Adams.jpg", "pop-os-wallpapers/samuel-zeller-337041.jpg"
LIMIT, ROUNDS = "2GB", 5
STEPS = int(os.environ.get("IRDISTILL_BENCH_STEPS", "250"))


def program(name: str, *arguments: object) -> None:
    command = [str(Path(sys.executable).parent / name), *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def train(folder: Path) -> Path:
    (folder / "photos").mkdir()
    for name in TRAINED_ON:
        (folder / "photos" / Path(name).name).symlink_to(DATA / "photos" / name)
    program("curate", "build-shards", folder / "photos", folder / "corpus", "--workers", 1)
    (folder / "t.toml").write_text("tasks = { noise25 = 1.0, jpeg20 = 1.0 }\n")
    program(
        "restoration", "train", folder / "corpus", folder / "run", "--model", "dynet-tiny", "--steps", STEPS,
        "--config", folder / "t.toml",
    )  # fmt: skip
    return folder / "run"


def noisy(height: int, width: int) -> np.ndarray:
    image = read_picture(DATA / "photos" / MEDIUM)
    image = image[400 : 400 + height, 600 : 600 + width]
    return to_levels(make_degradation("noise25").apply(to_pixels(image), np.random.default_rng(0)))


def peak_bytes(run: Path, source: Path, out: Path) -> int:
    """Run the whole command and ask the kernel for the largest resident set of it (ru_maxrss would count ours, too)."""
    code = (
        "from restoration.cli import app; app(standalone_mode=False); "
        "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1])"
    )
    command = [sys.executable, "-P", "-c", code, "restore", str(run), str(source), str(out), "--max-memory", LIMIT]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(result.stdout.split()[-1]) * 1024


def differences(network, image: np.ndarray) -> dict[str, float]:
    """Compare tiles with the whole picture, in levels of 1/255, on 16 bits so that rounding hides nothing."""
    deep = image.astype(np.uint16) * 257

    def restored(**settings) -> np.ndarray:
        tiling = TilingConfig(**settings)
        return (
            Restorer(network, device=torch.device("cpu"), limit_bytes=20 * 10**9, tiling=tiling)
            .restore(deep)
            .astype(float)
        )

    whole = restored()
    ways = {
        "shared statistics": {"whole": False},
        "shared, measured on the whole": {"whole": False, "window_px": 2048, "window_frac": 1.0},
        "each tile for itself": {"whole": False, "shared": False},
    }
    return {name: float(np.abs(restored(**way) - whole).max() / 257) for name, way in ways.items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = train(folder)
        peak = peak_bytes(run, DATA / "photos" / LARGE, folder / "large.png")
        network = bind(channels_last(load_run(run).module))
        large, one = noisy(3000, 4000), noisy(1000, 1000)
        x_BCHW = torch.from_numpy(to_pixels(one))[None].contiguous(memory_format=torch.channels_last)
        restorer = Restorer(network, device=torch.device("cpu"), limit_bytes=2 * 10**9)
        assert not restorer.plan(3000, 4000, 3).whole
        with torch.inference_mode():
            seconds = time_in_turn(
                {"tiled": lambda: restorer.restore(large), "forward": lambda: network(x_BCHW)}, rounds=ROUNDS
            )
        ratios = [tiled / 12 / forward for tiled, forward in zip(seconds["tiled"], seconds["forward"], strict=True)]
        levels = differences(network, one)
    values = {
        f"peak memory of `restore --max-memory {LIMIT}` on 24 MP, MB": round(peak / 1e6),
        "12 MP tiled, microseconds a pixel": summarise(seconds["tiled"])["median"] / 12,
        "1 MP plain forward, microseconds a pixel": summarise(seconds["forward"])["median"],
        "tiled / plain forward, time a pixel": summarise(ratios)["median"],
        **{f"1 MP, tiled - whole, largest difference in levels: {name}": value for name, value in levels.items()},
    }
    raw = {"seconds": seconds, "ratios": ratios, "training_steps": STEPS}
    claim = (
        "dynet-tiny, trained; tiles of 384 px that share the picture's statistics against a plain forward pass, in turn"
    )
    write_result("restore", claim, values, **raw)


if __name__ == "__main__":
    main()
