"""Every degradation at its default strength on Kodak: how much damage, how long, and how near to what it imitates.

PSNR of the whole pictures, RGB (rain also Y, the field's), with seeds from (picture, task). Processor time of `render` on one
thread, 512x512 crops, and of `render_batch` on the CPU, eight pictures of 128x128. Bicubic's fast path and the device JPEG are
compared with what they stand for; rain and haze with the pairs of rain100h25 and sots_indoor10.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is imported

import statistics
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from common import DATA, time_in_turn, write_result

from curate.core.images import read_picture
from restoration.degradations import Pixels, to_pixels
from restoration.degradations.bicubic import Plugin as Bicubic
from restoration.degradations.bicubic import shrink
from restoration.degradations.jpeg import Plugin as Jpeg
from restoration.metrics import psnr
from restoration.preview import every_task
from restoration.tasks import make_degradation

SIDE, SMALL, BATCH, ROUNDS, DRAWS = 512, 128, 8, 5, 8
COVERED = 0.02  # a pixel counts as covered by rain where it changed by more (five levels)


def luma(image_CHW: Pixels) -> np.ndarray:
    """BT.601 limited range, 0..1 (spec/ipt.md 9)."""
    weights = np.array([65.481, 128.553, 24.966])
    return (16 + np.tensordot(weights, image_CHW.astype(np.float64), axes=1)[None]) / 255


def spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.fmean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def damage(task: str, pictures: list[Pixels]) -> list[tuple[Pixels, Pixels]]:
    plugin = make_degradation(task)
    seed = zlib.crc32(task.encode())
    return [(plugin.apply(clean, np.random.default_rng((n, seed))), clean) for n, clean in enumerate(pictures)]


def milliseconds(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    seconds = time_in_turn(ways, rounds=ROUNDS, clock=time.process_time)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def timed(task: str, picture: Pixels) -> tuple[float, float]:
    """Return (ms of render per 512x512 picture, ms of render_batch per 128x128 picture), over several draws."""
    plugin = make_degradation(task)
    rng = np.random.default_rng(0)
    large = np.ascontiguousarray(picture[:, :SIDE, :SIDE])
    draws = [plugin.draw(rng, SIDE, SIDE) for _ in range(DRAWS)]
    small = torch.from_numpy(np.ascontiguousarray(picture[:, :SMALL, :SMALL]))[None].repeat(BATCH, 1, 1, 1)
    batch = [plugin.draw(rng, SMALL, SMALL) for _ in range(BATCH)]
    found = milliseconds({
        "render": lambda: [plugin.render(large, values) for values in draws],
        "batch": lambda: plugin.render_batch(small, batch),
    })  # fmt: skip
    return found["render"] / DRAWS, found["batch"] / BATCH


def pair_facts(pairs: list[tuple[Pixels, Pixels]]) -> dict[str, str]:
    """Say what rain does: PSNR of Y, mean brightness added, share of pixels covered."""
    return {
        "PSNR of Y, dB": spread([psnr(luma(lq), luma(hq)) for lq, hq in pairs]),
        "brightness added, levels": spread([255 * float((lq - hq).mean()) for lq, hq in pairs], 1),
        "pixels covered, %": spread([100 * float((np.abs(lq - hq).mean(0) > COVERED).mean()) for lq, hq in pairs], 0),
    }


def read_pairs(folder: Path) -> list[tuple[Pixels, Pixels]]:
    names = sorted(path.name for path in (folder / "input").iterdir())
    return [tuple(to_pixels(read_picture(folder / kind / name)) for kind in ("input", "target")) for name in names]


def bicubic_facts(pictures: list[Pixels]) -> dict[str, str | float]:
    """Compare the fast path and the batch version with the exact one, and time the two."""
    facts: dict[str, str | float] = {}
    for scale in (2, 3, 4):
        worst, differing, total = 0.0, 0, 0
        for clean in pictures:
            exact, fast = (Bicubic().render(clean, {"scale": scale, "path": path}) for path in ("exact", "fast"))
            gaps = np.abs(exact - fast) * 255
            worst, differing, total = (
                max(worst, float(gaps.max())),
                differing + int((gaps > 0.01).sum()),
                total + gaps.size,
            )
        facts[f"sr{scale}, fast path: largest difference, levels"] = round(worst, 3)
        facts[f"sr{scale}, fast path: samples off by more than 0.01 level, per million"] = round(
            1e6 * differing / total, 1
        )
    for side in (SMALL, SIDE):
        crop = np.ascontiguousarray(pictures[0][:, :side, :side])
        found = milliseconds({
            path: lambda path=path, crop=crop: [Bicubic().render(crop, {"scale": 2, "path": path}) for _ in range(5)]
            for path in ("exact", "fast")
        })  # fmt: skip
        facts[f"sr2, {side}x{side}, exact / fast, ms"] = f"{found['exact'] / 5:.2f} / {found['fast'] / 5:.2f}"
    facts["shrink, x2, 512x512, ms"] = round(milliseconds({"s": lambda: shrink(crop, 2)})["s"], 2)
    return facts


def jpeg_facts(pictures: list[Pixels]) -> dict[str, str]:
    """Compare the device JPEG with the codec."""
    facts = {}
    for quality in (10, 40, 75, 95):
        values = {"quality": quality, "subsampling": "420"}
        gaps, shifts = [], []
        for clean in pictures:
            codec = Jpeg().render(clean, values)
            device = Jpeg().render_batch(torch.from_numpy(clean)[None], [values])[0].numpy()
            gaps.append(255 * float(np.abs(codec - device).mean()))
            shifts.append(abs(psnr(codec, clean) - psnr(device, clean)))
        facts[f"device JPEG {quality}: mean difference from the codec, levels; of PSNR, dB (worst)"] = (
            f"{statistics.fmean(gaps):.3f}; {max(shifts):.3f}"
        )
    return facts


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    kodak = [to_pixels(read_picture(path)) for path in sorted((DATA / "bench" / "kodak24").glob("*.png"))]
    values: dict[str, str | float] = {}
    rows = {}
    for task in every_task():
        decibels = [psnr(lq, hq) for lq, hq in damage(task, kodak)]
        render_ms, batch_ms = timed(task, kodak[0])
        values[task] = f"{spread(decibels)} dB; {render_ms:.1f} ms; {batch_ms:.2f} ms"
        rows[task] = {
            "psnr_db": {"mean": statistics.fmean(decibels), "min": min(decibels), "max": max(decibels)},
            "render_ms": render_ms, "batch_ms": batch_ms, "psnr_db_by_picture": decibels,
        }  # fmt: skip
        print(task, values[task])
    for task in ("rain", "rain-heavy"):
        values |= {f"{task} on Kodak: {name}": text for name, text in pair_facts(damage(task, kodak)).items()}
    rain100h = pair_facts(read_pairs(DATA / "bench" / "rain100h25"))
    values |= {f"Rain100H, 25 pairs: {name}": text for name, text in rain100h.items()}
    sots = read_pairs(DATA / "bench" / "sots_indoor10")
    values["SOTS-indoor, 10 pairs: PSNR, dB"] = spread([psnr(lq, hq) for lq, hq in sots])
    values |= bicubic_facts(kodak) | jpeg_facts(kodak[:8])
    write_result(
        "degradations",
        "Kodak, 24 pictures, default strengths: RGB PSNR as mean (least to greatest); render of a 512x512 picture; "
        "render_batch on the CPU per 128x128 picture; processor time, one thread",
        values, rows=rows, load=os.getloadavg(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
