"""What does each slow score cost? One thread (run with OMP_NUM_THREADS=1); image scores per 512x512 pixels of a photograph.

Budgets (issue 3): 5 ms for blockiness, spectrum, double_compression and non_photographic, 60 ms for niqe. `brisque` is timed
where its wheel is installed, `nima` with random weights (time does not depend on their values).
"""

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
from common import DATA, summarise, time_in_turn, write_result
from threadpoolctl import threadpool_limits

from curate.core import plugins
from curate.core.images import decode_image, luma, read_facts
from curate.view import ImageView, PatchView

PATCH_SIZE_PX = 512
PHOTOS = (
    "budgie-backgrounds/tea-gardens.jpg",
    "lomiri-wallpapers-16.04/life_by_Aitzol_Berasategi.jpg",
    "pop-os-wallpapers/nasa-53884.jpg",
)
BUDGETS_MS = {"blockiness": 5, "spectrum": 5, "double_compression": 5, "non_photographic": 5, "niqe": 60}


def read_view(path: Path) -> ImageView:
    data = path.read_bytes()
    facts = read_facts(data)
    rgb = decode_image(data, facts)
    return ImageView(facts=facts, num_bytes=len(data), load_rgb=lambda: rgb, grey=luma(rgb))


def made_nima_weights(folder: Path) -> str:
    import torch
    import torchvision

    path = folder / "made.pth"
    torch.save(torchvision.models.mobilenet_v2(weights=None, num_classes=10).state_dict(), path)
    return str(path)


def slow_scores(folder: Path) -> dict[str, object]:
    names = [*BUDGETS_MS, *(["brisque"] if importlib.util.find_spec("brisque") else [])]
    found = {name: plugins.load("curate.filters", name)() for name in names}
    return found | {"nima": plugins.load("curate.filters", "nima")(checkpoint=made_nima_weights(folder))}


def rows(*, rounds: int = 7) -> dict[str, float]:
    """Return medians per 512x512 pixels for every slow score: `NAME, ms`, `NAME, ms of CPU`, `NAME, CPU / budget`.

    One thread computes, so CPU time is the cost on one core; the clock also counts what other programs took.
    """
    cv2.setNumThreads(1)
    threadpool_limits(1)
    views = [read_view(DATA / "photos" / name) for name in PHOTOS]
    patches = [PatchView(image=v, y=512, x=x, size_px=PATCH_SIZE_PX) for v in views for x in (512, 1024, 1536)]
    num_patches = {"patch": len(patches), "image": sum(v.grey.size for v in views) / PATCH_SIZE_PX**2}
    values = {}
    with tempfile.TemporaryDirectory() as folder:
        scores = slow_scores(Path(folder))
        cpu: dict[str, list[float]] = {name: [] for name in scores}
        ways = {n: _way(s, patches if s.level == "patch" else views, cpu[n]) for n, s in scores.items()}
        seconds = time_in_turn(ways, rounds=rounds)
    for name, score in scores.items():
        per_patch = 1000 / num_patches[score.level]
        values[f"{name}, ms"] = per_patch * summarise(seconds[name])["median"]
        values[f"{name}, ms of CPU"] = per_patch * summarise(cpu[name][-rounds:])["median"]
    return values | {f"{n}, CPU / budget": values[f"{n}, ms of CPU"] / ms for n, ms in BUDGETS_MS.items()}


def _way(score: object, views: list, cpu: list[float]) -> Callable[[], object]:
    def run() -> None:
        start = time.process_time()
        for view in views:
            score.measure(view)
        cpu.append(time.process_time() - start)

    return run


def main() -> None:
    write_result(
        "slow-filters",
        f"one thread, per 512x512 pixels of {len(PHOTOS)} photographs, medians of 7 rounds in turn; image scores spread over "
        "the picture's area",
        rows(),
    )


if __name__ == "__main__":
    main()
