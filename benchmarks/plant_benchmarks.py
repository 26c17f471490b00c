"""Plant CBSD68 and Kodak pictures among the photographs, as files and pasted into them, and count what build-shards lets in.

python benchmarks/plant_benchmarks.py [--sizes 128,512] [--work DIR] [--every N]

Recipe `everything`. A planted file is removed if none of its patches that would otherwise enter does; a pasted one if no
kept patch of its photograph touches it. Clean are all patches that touch none.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from common import DATA, write_result
from numpy.typing import NDArray

from curate import BuildShardsConfig, build_shards
from curate.audit import CheckLeaksConfig, check_leaks
from curate.core.images import decode_image, read_facts
from curate.recipes import load_recipe

SEED = 0
HOST_MAX_PX = 2560  # longer side of a photograph that pictures are pasted into
PASTES_PER_HOST = 8
MIN_SIDE_PX = 128  # of a crop; of what a resize leaves
BORDER_PX = 2  # a patch that holds less than this of a paste holds nothing of it
CLEAN_PX = 32  # a patch this far from a paste is clean; nearer, it may go with it
KINDS = ("whole", "crop", "resized", "mirrored", "turned", "recompressed")

Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class Paste:
    """A benchmark picture inside a photograph: rows y.., columns x.."""

    host: str
    kind: str
    y: int
    x: int
    height: int
    width: int


def load(path: Path) -> Rgb:
    """Decode as curate does."""
    data = path.read_bytes()
    return decode_image(data, read_facts(data, path.name))


def change(rgb: Rgb, kind: str, rng: np.random.Generator) -> Rgb:
    """Make one kind of copy with random strength."""
    height, width = rgb.shape[:2]
    if kind == "crop":
        h, w = (int(rng.integers(MIN_SIDE_PX, n + 1)) for n in (height, width))
        y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        return rgb[y : y + h, x : x + w]
    if kind == "resized":
        scale = float(2 ** rng.uniform(-1, 1))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=method))
    if kind == "mirrored":
        return np.ascontiguousarray(rgb[:, ::-1])
    if kind == "turned":
        return np.ascontiguousarray(np.rot90(rgb, int(rng.integers(1, 4))))
    if kind == "recompressed":
        _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 96))])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))
    return rgb


def plant(work: Path, every: int, num_photographs: int) -> tuple[dict[str, str], list[Paste]]:
    """Write the photographs, the planted files (name -> kind) and the photographs with pastes."""
    rng = np.random.default_rng(SEED)
    photos = sorted(p for p in (DATA / "photos").rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for number, path in enumerate(photos[:num_photographs]):
        (work / f"clean-{number:03d}{path.suffix}").write_bytes(path.read_bytes())
    benchmarks = [*sorted((DATA / "bench/cbsd68").glob("*")), *sorted((DATA / "bench/kodak24").glob("*"))][::every]
    copies = [(f"{path.parent.name}-{path.stem}", kind, load(path)) for path in benchmarks for kind in KINDS]
    files = {}
    for name, kind, rgb in copies:
        files[f"file-{name}-{kind}.png"] = kind
        cv2.imwrite(str(work / f"file-{name}-{kind}.png"), change(rgb, kind, rng)[..., ::-1])
    return files, paste(work, photos, [(kind, change(rgb, kind, rng)) for _, kind, rgb in copies], rng)


def paste(work: Path, photos: list[Path], copies: list[tuple[str, Rgb]], rng: np.random.Generator) -> list[Paste]:
    """Paste copies into photographs, some in each, none over another; saved as JPEG 95."""
    pastes: list[Paste] = []
    waiting = [copies[at] for at in rng.permutation(len(copies))]
    number = 0
    while waiting:
        host = load(photos[number % len(photos)])
        scale = min(1.0, HOST_MAX_PX / max(host.shape))
        host = np.array(cv2.resize(host, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        name, taken, left = f"host-{number:03d}.jpg", np.zeros(host.shape[:2], bool), []
        for kind, rgb in waiting:
            spot = _spot(taken, rgb.shape, rng)
            if spot is None or sum(one.host == name for one in pastes) >= PASTES_PER_HOST:
                left.append((kind, rgb))
                continue
            (y, x), (h, w) = spot, rgb.shape[:2]
            host[y : y + h, x : x + w] = rgb
            taken[y : y + h, x : x + w] = True
            pastes.append(Paste(name, kind, y, x, h, w))
        cv2.imwrite(str(work / name), host[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        waiting, number = left, number + 1
    return pastes


def _spot(taken: NDArray[np.bool_], shape: tuple[int, ...], rng: np.random.Generator) -> tuple[int, int] | None:
    """Find a free place by a few tries."""
    for _ in range(20):
        y, x = (int(rng.integers(0, max(1, have - want + 1))) for have, want in zip(taken.shape, shape, strict=False))
        room = taken[y : y + shape[0], x : x + shape[1]]
        if room.shape == shape[:2] and not room.any():
            return y, x
    return None


def rows(corpus: Path) -> list[dict[str, object]]:
    """Read every patch with its reason, "" if it is kept."""
    columns = ["source", "y", "x", "size"]
    kept = [
        row | {"reason": ""}
        for path in sorted(corpus.glob("metadata/*.parquet"))
        for row in pq.read_table(path, columns=columns).to_pylist()
    ]
    dropped = [
        row
        for path in sorted(corpus.glob("rejected/*.parquet"))
        for row in pq.read_table(path, columns=[*columns, "reason"]).to_pylist()
    ]
    return [*kept, *dropped]


def touches(row: dict[str, object], one: Paste, border: int) -> bool:
    """Say whether a patch holds `border` pixels or more of a paste in both directions (negative: or comes that near)."""
    y, x, size = int(str(row["y"])), int(str(row["x"])), int(str(row["size"]))
    down = min(y + size, one.y + one.height) - max(y, one.y)
    across = min(x + size, one.x + one.width) - max(x, one.x)
    return down >= border and across >= border


def count(corpus: Path, files: dict[str, str], pastes: list[Paste], size: int, benchmarks: int) -> dict[str, object]:
    """Count what was removed by decontamination, and what clean was lost."""
    by_source: dict[str, list[dict[str, object]]] = {}
    for row in rows(corpus):
        by_source.setdefault(str(row["source"]), []).append(row)
    entering, removed = Counter[str](), Counter[str]()
    for name, kind in files.items():
        reasons = {row["reason"] for row in by_source.get(name, []) if row["reason"] in ("", "benchmark")}
        entering[f"files, {kind}"] += bool(reasons)
        removed[f"files, {kind}"] += reasons == {"benchmark"}
    missed = [name for name in files if any(row["reason"] == "" for row in by_source.get(name, []))]
    for one in pastes:
        holding = [
            row for row in by_source[one.host] if row["reason"] in ("", "benchmark") and touches(row, one, BORDER_PX)
        ]
        entering[f"pasted, {one.kind}"] += bool(holding)
        removed[f"pasted, {one.kind}"] += bool(holding) and all(row["reason"] == "benchmark" for row in holding)
        if any(row["reason"] == "" for row in holding):
            missed.append(str(one))
    clean = [row for source, listed in by_source.items() if source.startswith("clean") for row in listed]
    hosts: dict[str, list[Paste]] = {}
    for one in pastes:
        hosts.setdefault(one.host, []).append(one)
    around = [
        row
        for host, listed in hosts.items()
        for row in by_source[host]
        if not any(touches(row, one, -CLEAN_PX) for one in listed)
    ]
    values: dict[str, object] = {}
    for what in sorted(entering):
        values[f"{size} px; {what}: would enter"] = entering[what]
        values[f"{size} px; {what}: removed"] = removed[what]
    lost, lost_around = (sum(row["reason"] == "benchmark" for row in some) for some in (clean, around))
    print(f"{size} px: missed", *missed[:40], sep="\n  ")
    return values | {
        f"{size} px; clean photographs: patches": len(clean), f"{size} px; clean photographs: patches lost": lost,
        f"{size} px; beside pastes ({CLEAN_PX} px and more away): patches": len(around),
        f"{size} px; beside pastes: patches lost": lost_around,
        f"{size} px; (clean patch, benchmark) pairs": (len(clean) + len(around)) * benchmarks,
    }  # fmt: skip


def count_clean(corpus: Path) -> None:
    """Count the clean photographs of a corpus, their patches, and what was taken from them as a leak."""
    clean = [row for row in rows(corpus) if str(row["source"]).startswith("clean")]
    leaks = pq.read_table(corpus / "leaks.parquet")["source"].to_pylist()
    images = pq.read_table(corpus / "images", columns=["source"])["source"].to_pylist()
    write_result("plant-clean", "the photographs without plants in the same corpus, --against CBSD68 and Kodak", {
        "photographs": sum(name.startswith("clean") for name in images), "patches": len(clean),
        "leaks found in them": sum(name.startswith("clean") for name in leaks),
        "patches lost": sum(row["reason"] == "benchmark" for row in clean),
        "(patch, benchmark) pairs": len(clean) * 92,
    })  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="128,512")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--every", type=int, default=1, help="plant only every N-th benchmark picture")
    parser.add_argument("--photographs", type=int, default=1000, help="clean photographs beside them, at most")
    parser.add_argument("--count-clean", type=Path, help="only count what a finished run lost of its clean photographs")
    args = parser.parse_args()
    if args.count_clean:
        count_clean(args.count_clean)
        return
    work = args.work or Path(tempfile.mkdtemp())
    (work / "in").mkdir(parents=True, exist_ok=True)
    files, pastes = plant(work / "in", args.every, args.photographs)
    against = (str(DATA / "bench/cbsd68"), str(DATA / "bench/kodak24"))
    values: dict[str, object] = {
        "benchmark pictures planted": len(files) // len(KINDS),
        "files planted": len(files),
        "pictures pasted": len(pastes),
    }
    for size in map(int, args.sizes.split(",")):
        recipe = load_recipe("everything", patch_size_px=size)
        out = work / f"out-{size}"
        result = build_shards(BuildShardsConfig(
            source=work / "in", out=out, recipe=recipe, patch_size_px=size, patch_format="source", against=against,
        ))  # fmt: skip
        values |= count(out, files, pastes, size, benchmarks=92)
        values[f"{size} px; seconds of the scan"] = result.seconds["scan"]
        audit = check_leaks(CheckLeaksConfig(corpus=out, against=against))
        values[f"{size} px; check-leaks afterwards: samples, leaks"] = f"{audit.num_samples}, {len(audit.leaks)}"
        for found in audit.leaks[:10]:
            print(found)
    write_result(
        "plant", "CBSD68 and Kodak pictures planted among the photographs, recipe everything, --against both", values
    )


if __name__ == "__main__":
    main()
