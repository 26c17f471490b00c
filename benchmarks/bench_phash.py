"""Perceptual hashes: ours against the imagehash package, bits and speed.

Equality on every picture of `shared/data` (whole, RGB) and on every whole 512-px patch of it; speed on the patches of three
photographs, from the grey plane on, ours and imagehash's in turn, one thread, processor seconds. imagehash gets its patch as a
Pillow picture made from the array, as code that holds arrays must.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is imported

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import imagehash
import numpy as np
from common import DATA, summarise, time_in_turn, write_result
from PIL import Image

from curate.dedup.phash import average_hash, dihedral_phashes, luma_of, phash

SIZE = 512
ROUNDS = 9
SUFFIXES = (".jpg", ".jpeg", ".png")
TIMED = (
    "elementary-wallpapers/Snow-Capped Mountain.jpg",
    "lomiri-wallpapers-16.04/sunset_by_Aitzol_Berasategi.jpg",
    "pop-os-wallpapers/nasa-53884.jpg",
)


def patches(plane: np.ndarray) -> Iterator[np.ndarray]:
    for y in range(0, plane.shape[0] - SIZE + 1, SIZE):
        for x in range(0, plane.shape[1] - SIZE + 1, SIZE):
            yield plane[y : y + SIZE, x : x + SIZE]


def compare(path: Path, counts: Counter[str]) -> None:
    """Count pictures and patches whose two hashes are equal; imagehash is given the RGB pixels."""
    with Image.open(path) as picture:
        rgb = np.asarray(picture.convert("RGB"))
    grey = luma_of(rgb)
    for kind, planes, colours in (("pictures", [grey], [rgb]), ("patches", patches(grey), patches(rgb))):
        for plane, colour in zip(planes, colours, strict=True):
            theirs = Image.fromarray(np.ascontiguousarray(colour))
            counts[kind] += 1
            counts[f"{kind}_phash_equal"] += phash(plane) == str(imagehash.phash(theirs))
            counts[f"{kind}_average_hash_equal"] += average_hash(plane) == str(imagehash.average_hash(theirs))


def main() -> None:
    counts: Counter[str] = Counter()
    files = sorted(path for path in DATA.rglob("*") if path.suffix.lower() in SUFFIXES)
    for path in files:
        compare(path, counts)
    timed = []
    for name in TIMED:
        with Image.open(DATA / "photos" / name) as picture:
            timed += list(patches(luma_of(np.asarray(picture.convert("RGB")))))
    whole = np.ascontiguousarray(luma_of(np.asarray(Image.open(DATA / "photos" / TIMED[0]).convert("RGB"))))

    def every(way: Callable[[np.ndarray], object]) -> Callable[[], object]:
        return lambda: [way(patch) for patch in timed]

    seconds = time_in_turn(
        {
            "phash_ours": every(phash),
            "phash_imagehash": every(lambda patch: imagehash.phash(Image.fromarray(patch))),
            "average_hash_ours": every(average_hash),
            "average_hash_imagehash": every(lambda patch: imagehash.average_hash(Image.fromarray(patch))),
            "dihedral_ours": every(dihedral_phashes),
            "whole_ours": lambda: phash(whole),
            "whole_imagehash": lambda: imagehash.phash(Image.fromarray(whole)),
        },
        rounds=ROUNDS,
        clock=time.process_time,
    )
    us = {name: [value / (1 if "whole" in name else len(timed)) * 1e6 for value in values]
          for name, values in seconds.items()}  # fmt: skip
    medians = {f"{name}_us": round(statistics.median(values), 1) for name, values in us.items()}
    ratios = {
        f"{kind}_times_faster": np.divide(us[f"{kind}_imagehash"], us[f"{kind}_ours"]).tolist()
        for kind in ("phash", "average_hash", "whole")
    }
    write_result(
        "phash",
        "Pictures and 512-px patches with hashes equal to imagehash's; processor time per patch on one thread, in turn.",
        {**counts, **medians, **{name: round(statistics.median(values), 2) for name, values in ratios.items()},
         "whole_mp": round(whole.size / 1e6, 1), "patches_timed": len(timed)},
        spread={name: summarise(values) for name, values in {**us, **ratios}.items()},
        imagehash=imagehash.__version__,
        load=os.getloadavg(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
