"""Decontamination: how many planted copies of benchmark pictures are found, and how often a clean picture is accused.

Copies of CBSD68 and Kodak pictures are planted as files of their own and pasted inside the photographs; the pack holds every
picture of `bench/`. Thresholds were chosen on pictures of odd number (`--tune`); what is reported comes from the even ones.
A copy counts as found when a leak covers half of it at least. Pairs are (patch, benchmark picture).

Usage: python benchmarks/bench_leaks.py [--full] [--tune] [--repeats N]
"""

from __future__ import annotations

import argparse
import collections
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import DATA, write_result

from curate.core.images import luma, read_picture
from curate.leaks.matcher import Leak, Matcher, load_matcher
from curate.leaks.pack import make_pack

KINDS = (
    "whole", "jpeg", "resize", "mirror", "rotate", "whole_all",
    "crop", "crop_jpeg", "crop_mirror", "crop_rotate", "crop_resize", "crop_all",
)  # fmt: skip
MIN_CROP_PX, MAX_CROP_PX, MIN_QUALITY, MAX_QUALITY = 128, 256, 30, 95
QUICK_SIDE_PX = 1536  # photographs are reduced to this for pasting
FOUND_FRAC = 0.5
SEED = 5


def make_copy(grey: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Crop (never under 128 px after resizing either), resize x0.5 to x2, mirror and turn, as the kind says."""
    every = kind.endswith("all")
    factor = 2 ** rng.uniform(-1, 1) if every or kind.endswith("resize") else 1.0
    if kind.startswith("crop"):
        least = int(np.ceil(MIN_CROP_PX / min(factor, 1)))
        side = min(int(rng.integers(least, max(least, MAX_CROP_PX) + 1)), *grey.shape)
        y, x = (int(rng.integers(length - side + 1)) for length in grey.shape)
        grey = grey[y : y + side, x : x + side]
    if factor != 1:
        way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        grey = cv2.resize(grey, (round(grey.shape[1] * factor), round(grey.shape[0] * factor)), interpolation=way)
    if kind.endswith("mirror") or (every and rng.random() < 0.5):
        grey = grey[:, ::-1]
    if kind.endswith("rotate") or every:
        grey = np.rot90(grey, int(rng.integers(0 if every else 1, 4)))
    return np.ascontiguousarray(grey)


def recompress(grey: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """JPEG of quality 30 to 95 where the kind says so."""
    if not kind.endswith(("jpeg", "all")):
        return grey
    quality = int(rng.integers(MIN_QUALITY, MAX_QUALITY + 1))
    return cv2.imdecode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def draw(leaks: tuple[Leak, ...], shape: tuple[int, int]) -> np.ndarray:
    """Return (H, W) uint8: 1 where a leak was found."""
    drawn = np.zeros(shape, np.uint8)
    for leak in leaks:
        cv2.fillConvexPoly(drawn, np.rint(leak.region).astype(np.int32), 1)
    return drawn


def plant_files(matcher: Matcher, pictures: dict[str, np.ndarray], repeats: int) -> dict[str, Any]:
    """Count the copies found as files of their own."""
    counts: dict[str, list[float]] = collections.defaultdict(list)
    seconds, misses = [], []
    for number, (name, grey) in enumerate(pictures.items()):
        for kind in KINDS:
            rng = np.random.default_rng([SEED, number, KINDS.index(kind), 0])
            for _ in range(repeats if kind.startswith("crop") else 1):
                copy = recompress(make_copy(grey, kind, rng), kind, rng)
                start = time.process_time()
                leaks = matcher.find(copy)
                seconds.append((time.process_time() - start) / copy.size * 512 * 512)
                share = float(draw(leaks, copy.shape).mean())
                counts[kind].append(share)
                if share < FOUND_FRAC:
                    misses.append(f"{kind} {name} {copy.shape} std {copy.std():.1f} covered {share:.2f}")
    return table("file", counts) | {"file_seconds_per_512_patch": statistics.median(seconds), "_misses_file": misses}


def plant_pasted(
    matcher: Matcher, pictures: dict[str, np.ndarray], photos: list[Path], side_px: int, label: str
) -> dict[str, Any]:
    """Count the copies found inside photographs; several are pasted into each."""
    counts: dict[str, list[float]] = collections.defaultdict(list)
    spills, misses = [], []
    names = list(pictures)
    for number, path in enumerate(photos):
        rng = np.random.default_rng([SEED, number, 99])
        photo = shrink(read_grey(path), side_px).copy()
        kind = KINDS[number % len(KINDS)]
        planted: dict[tuple[int, int, int, int], str] = {}
        for _ in range(3):
            name = names[int(rng.integers(len(names)))]
            copy = make_copy(pictures[name], kind, rng)
            box = place(copy.shape, photo.shape, list(planted), rng)
            if box is not None:
                y, x, height, width = box
                photo[y : y + height, x : x + width] = copy
                planted[box] = f"{kind} {name} {copy.shape} std {copy.std():.1f} in {path.name}"
        drawn = draw(matcher.find(recompress(photo, kind, rng)), photo.shape)
        for (y, x, height, width), what in planted.items():
            share = float(drawn[y : y + height, x : x + width].mean())
            counts[kind].append(share)
            drawn[y : y + height, x : x + width] = 0
            if share < FOUND_FRAC:
                misses.append(f"{what} covered {share:.2f}")
        spills.append(int(drawn.sum()) / max(1, sum(height * width for _, _, height, width in planted)))
    return table(label, counts) | {f"{label}_spill_frac": statistics.mean(spills), f"_misses_{label}": misses}


def place(
    shape: tuple[int, ...], into: tuple[int, ...], boxes: list[tuple[int, int, int, int]], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Choose a place that touches none taken; None after 50 tries."""
    height, width = shape
    if height >= into[0] or width >= into[1]:
        return None
    for _ in range(50):
        y, x = int(rng.integers(into[0] - height)), int(rng.integers(into[1] - width))
        if all(y >= b[0] + b[2] or b[0] >= y + height or x >= b[1] + b[3] or b[1] >= x + width for b in boxes):
            return y, x, height, width
    return None


def accuse(matcher: Matcher, photos: list[Path], every_512: int, every_128: int) -> dict[str, Any]:
    """Look for leaks in clean photographs, whole and in patches."""
    values: collections.Counter[str] = collections.Counter()
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    accused = []
    for path in photos:
        grey = read_grey(path)
        jobs = [("photograph", grey)]
        for side, every in ((512, every_512), (128, every_128)):
            corners = [
                (y, x)
                for y in range(0, grey.shape[0] - side + 1, side)
                for x in range(0, grey.shape[1] - side + 1, side)
            ]
            jobs += [
                (f"patch_{side}", np.ascontiguousarray(grey[y : y + side, x : x + side])) for y, x in corners[::every]
            ]
        for what, picture in jobs:
            start = time.process_time()
            leaks = matcher.find(picture)
            unit = picture.size / 1e6 if what == "photograph" else 1
            seconds[what].append((time.process_time() - start) / unit)
            values[f"clean_{what}_pairs"] += len(matcher.pack.names)
            values[f"clean_{what}_false_alarms"] += len(leaks)
            accused += [f"{what} {path.name} {leak.benchmark} {leak.score}" for leak in leaks]
    rates = {
        f"clean_{what}_seconds" + ("_per_megapixel" if what == "photograph" else ""): statistics.mean(values)
        for what, values in seconds.items()
    }
    return dict(values) | rates | {"_accused": accused}


def table(label: str, counts: dict[str, list[float]]) -> dict[str, Any]:
    """Flatten: found of planted for each kind and for the issue's two groups."""
    values: dict[str, Any] = {}
    for kind, shares in counts.items():
        values[f"{label}_{kind}_found"] = sum(share >= FOUND_FRAC for share in shares)
        values[f"{label}_{kind}_planted"] = len(shares)
    for group, is_crop in (("wholes", False), ("crops", True)):
        shares = [share for kind in counts if kind.startswith("crop") == is_crop for share in counts[kind]]
        if shares:
            values[f"{label}_{group}_recall"] = sum(share >= FOUND_FRAC for share in shares) / len(shares)
            values[f"{label}_{group}_planted"] = len(shares)
            values[f"{label}_{group}_mean_cover"] = statistics.mean(shares)
    return values


def read_grey(path: Path) -> np.ndarray:
    return luma(read_picture(path))


def shrink(grey: np.ndarray, side_px: int) -> np.ndarray:
    factor = side_px / max(grey.shape)
    return cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else grey


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="all photographs at full size, all 512 patches")
    parser.add_argument("--tune", action="store_true", help="pictures of odd number; writes no result")
    parser.add_argument("--repeats", type=int, default=1, help="crops of each kind a picture")
    parser.add_argument("--parts", default="file,pasted,clean")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    photos = sorted(path for path in (DATA / "photos").glob("*/*") if path.suffix in (".jpg", ".png"))
    sources = [*sorted((DATA / "bench" / "cbsd68").iterdir()), *sorted((DATA / "bench" / "kodak24").iterdir())]
    pictures = {path.parent.name + "/" + path.name: read_grey(path) for path in sources[arguments.tune :: 2]}
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        pack = make_pack(DATA / "bench")
        values: dict[str, Any] = {"pack_pictures": len(pack.names), "pack_seconds": time.process_time() - start}
        pack.save(Path(folder) / "bench.pack")
        values["pack_bytes"] = (Path(folder) / "bench.pack").stat().st_size
        matcher = load_matcher(pack)
    if "file" in arguments.parts:
        values |= plant_files(matcher, pictures, arguments.repeats)
    if "pasted" in arguments.parts:
        values |= plant_pasted(matcher, pictures, photos, QUICK_SIDE_PX, "pasted")
        if arguments.full:
            values |= plant_pasted(matcher, pictures, photos[::4], 1 << 20, "pasted_full_size")
    if "clean" in arguments.parts:
        chosen = photos if arguments.full else photos[::6]
        values |= accuse(matcher, chosen, 1 if arguments.full else 4, 4 if arguments.full else 8)
    details = {name[1:]: values.pop(name) for name in list(values) if name.startswith("_")}
    if arguments.tune:
        print(*(f"{name}: {value}" for name, value in (values | details).items()), sep="\n")
    else:
        write_result(
            "leaks", "planted copies of CBSD68 and Kodak pictures found; clean ones accused", values, **details
        )


if __name__ == "__main__":
    main()
