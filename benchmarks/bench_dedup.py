"""Near-duplicates: twelve changes of 30 photographs, found by our rules and by imagededup on the same files.

python benchmarks/bench_dedup.py [--imagededup /tmp/idd/bin/python] [--work DIR]

imagededup's CNN method is left out: its weights come from a hub that this machine cannot reach.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
from common import DATA, write_result
from numpy.typing import NDArray

from curate.core.images import decode_image, luma, read_facts
from curate.dedup.rules import Dedup
from curate.fingerprint import fingerprint
from curate.near import find_pairs

NUM_PHOTOGRAPHS = 30
MAX_SIDE_PX = 2048  # of the copies' originals: the changes count, not the megapixels
SEED = 0
REAL = (  # data/README: the same photograph in two packs or sizes
    ("high-trestle-trail", "tony-webster-97532"), ("Photo by SpaceX", "spacex-81773"), ("Elephants_3840x2160", "Elephants"),
)  # fmt: skip
IMAGEDEDUP = """
import json, sys
from imagededup.methods import DHash, PHash
found = {}
for method in (PHash, DHash):
    near = method(verbose=False).find_duplicates(image_dir=sys.argv[1], max_distance_threshold=int(sys.argv[2]))
    found[method.__name__] = sorted({tuple(sorted((a, b))) for a, others in near.items() for b in others})
print(json.dumps(found))
"""

Rgb = NDArray[np.uint8]


def crop(share: float) -> Callable[[Rgb, np.random.Generator], Rgb]:
    """Cut `share` of the area away, at a random place."""

    def change(rgb: Rgb, rng: np.random.Generator) -> Rgb:
        side = np.sqrt(1 - share)
        height, width = (round(side * n) for n in rgb.shape[:2])
        y, x = (int(rng.integers(0, have - want + 1)) for have, want in zip(rgb.shape, (height, width), strict=False))
        return rgb[y : y + height, x : x + width]

    return change


def resized(scale: float) -> Callable[[Rgb, np.random.Generator], Rgb]:
    """Change the size."""
    return lambda rgb, rng: np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))


def jpeg(quality: int) -> Callable[[Rgb, np.random.Generator], Rgb]:
    """Compress again."""

    def change(rgb: Rgb, rng: np.random.Generator) -> Rgb:
        _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))

    return change


def watermark(rgb: Rgb, rng: np.random.Generator) -> Rgb:
    """Write across the middle, half transparent, and a line at the bottom."""
    height, width = rgb.shape[:2]
    marked = rgb.copy()
    for text, place, scale in (
        ("(c) SAMPLE PHOTO", (width // 10, height // 2), width / 500),
        ("www.example.org", (width // 2, height - height // 30), width / 1200),
    ):
        cv2.putText(
            marked, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), max(1, width // 250), cv2.LINE_AA
        )
    return np.asarray(cv2.addWeighted(rgb, 0.4, marked, 0.6, 0))


CHANGES: Mapping[str, Callable[[Rgb, np.random.Generator], Rgb]] = {
    "resize x0.5": resized(0.5), "resize x0.25": resized(0.25), "crop 5 %": crop(0.05), "crop 10 %": crop(0.10),
    "crop 20 %": crop(0.20), "crop 30 %": crop(0.30), "JPEG 30": jpeg(30), "JPEG 95": jpeg(95),
    "mirrored": lambda rgb, rng: np.ascontiguousarray(rgb[:, ::-1]),
    "turned by 90 degrees": lambda rgb, rng: np.ascontiguousarray(np.rot90(rgb)),
    "brightness x1.3": lambda rgb, rng: np.clip(rgb * 1.3, 0, 255).astype(np.uint8), "watermark": watermark,
}  # fmt: skip
OURS = {
    "ours, hashes": Dedup(perceptual=True),
    "ours, hashes and parts": Dedup(perceptual=True, partial=True),
}


def load(path: Path) -> Rgb:
    """Decode as curate does."""
    data = path.read_bytes()
    return decode_image(data, read_facts(data, path.name))


def make_pictures(work: Path) -> dict[str, tuple[str, str]]:
    """Write 90 originals and their changed copies as PNG; return file -> (original, change or "")."""
    rng = np.random.default_rng(SEED)
    paths = sorted(p for p in (DATA / "photos").rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    chosen = set(rng.permutation(len(paths))[:NUM_PHOTOGRAPHS].tolist())
    files = {}
    for number, path in enumerate(paths):
        rgb = load(path)
        scale = min(1.0, MAX_SIDE_PX / max(rgb.shape))
        rgb = np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)) if scale < 1 else rgb
        changes = {"": rgb} | ({name: change(rgb, rng) for name, change in CHANGES.items()} if number in chosen else {})
        for kind, (name, changed) in enumerate(changes.items()):
            file = f"{number:03d}-{kind:02d}.png"
            if not (work / file).exists():
                cv2.imwrite(str(work / file), changed[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
            files[file] = (path.name, name)
    return files


def same(one: str, other: str) -> bool:
    """Say whether two originals show one picture: the same file, or a pair that data/README names."""
    return one == other or any({one.rpartition(".")[0], other.rpartition(".")[0]} == {*pair} for pair in REAL)


def judge(pairs: set[tuple[str, str]], files: Mapping[str, tuple[str, str]]) -> dict[str, float | int]:
    """Recall and precision per change, and over all pairs."""
    values: dict[str, float | int] = {}
    for name in CHANGES:
        copies = [file for file, (_, change) in files.items() if change == name]
        found = sum((file.split("-")[0] + "-00.png", file) in pairs for file in copies)
        mine = [pair for pair in pairs if any(files[file][1] == name for file in pair)]
        right = sum(same(files[a][0], files[b][0]) for a, b in mine)
        values[f"{name}: recall"] = found / len(copies)
        values[f"{name}: precision"] = right / len(mine) if mine else 1.0
    right = sum(same(files[a][0], files[b][0]) for a, b in pairs)
    groups: dict[str, int] = {}
    for original, _ in files.values():
        groups[original] = groups.get(original, 0) + 1
    values["all pairs: precision"] = right / max(1, len(pairs))
    values["all pairs of one original: recall"] = sum(files[a][0] == files[b][0] for a, b in pairs) / sum(
        num * (num - 1) // 2 for num in groups.values()
    )
    values["wrong pairs"] = len(pairs) - right
    return values


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--imagededup", default="/tmp/idd/bin/python")
    parser.add_argument("--work", type=Path)
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    files = make_pictures(work)
    names = sorted(files)
    everything = Dedup(perceptual=True, partial=True)
    prints = [fingerprint(luma(load(work / name)), everything) for name in names]
    found: dict[str, set[tuple[str, str]]] = {
        title: {(names[pair.first], names[pair.second]) for pair in find_pairs(prints, rules)}
        for title, rules in OURS.items()
    }
    for radius in (10,):  # imagededup's default
        command = [args.imagededup, "-c", IMAGEDEDUP, str(work), str(radius)]
        answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        found |= {f"imagededup {name} {radius}": {(a, b) for a, b in pairs} for name, pairs in answer.items()}
    values = {
        f"{title}; {what}": value for title, pairs in found.items() for what, value in judge(pairs, files).items()
    }
    write_result(
        "dedup", f"{len(CHANGES)} changes of {NUM_PHOTOGRAPHS} of the 90 photographs among all of them, beside imagededup",
        {"files": len(files), **values},
    )  # fmt: skip
    for title in OURS:
        for a, b in itertools.islice(sorted(p for p in found[title] if not same(files[p[0]][0], files[p[1]][0])), 20):
            print(f"{title}: {files[a]} is no copy of {files[b]}")


if __name__ == "__main__":
    main()
