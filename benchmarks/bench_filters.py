"""Cheap scores: ours (filter the plane once, reduce per tile) against the lines people write per patch, with equal values.

Whole photographs of about 12 MP and every whole 512-px patch of them, already decoded; one thread; processor seconds, both
ways in turn. `usual` is OpenCV's and NumPy's textbook line for each score, in float64 as their tutorials write it; `lean` is
the same with int16 residuals, float32 Sobel and cv2.magnitude. Both get
one pixel around the patch, and the noise level once per picture.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is imported

import statistics
import time
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from common import DATA, summarise, write_result
from PIL import Image

from curate.core import plugins
from curate.core.images import decode_image, luma, read_facts
from curate.view import ImageView, PatchView

PHOTOS = (
    "elementary-wallpapers/Snow-Capped Mountain.jpg",
    "lomiri-wallpapers-16.04/sunset_by_Aitzol_Berasategi.jpg",
    "pop-os-wallpapers/nasa-53884.jpg",
)
TOGETHER = (
    "resolution", "aspect", "flat_area", "sharpness", "noise_sigma", "jpeg_quality", "chroma_subsampling", "bits_per_pixel",
    "exposure", "clipping", "saturation", "entropy", "border",
)  # fmt: skip
ALONE = ("gradient_saturation", "lsdir_vote")
FILTERS = {name: plugins.load("curate.filters", name)() for name in (*TOGETHER, *ALONE)}
SIZE = 512
ROUNDS = 7


@dataclass
class Photo:
    """One decoded photograph and the origins of its patches."""

    path: str

    def __post_init__(self) -> None:
        data = (DATA / "photos" / self.path).read_bytes()
        self.num_bytes = len(data)
        self.facts = read_facts(data)
        self.rgb = decode_image(data, self.facts)
        self.grey = luma(self.rgb)
        height, width = self.grey.shape
        self.origins = [(y, x) for y in range(0, height - SIZE + 1, SIZE) for x in range(0, width - SIZE + 1, SIZE)]

    def ours(self, names: tuple[str, ...]) -> list[dict[str, float | None]]:
        """Measure as `curate build-shards` does: the image's scores, then each patch's."""
        view = ImageView(facts=self.facts, num_bytes=self.num_bytes, grey=self.grey, load_rgb=lambda: self.rgb)
        scores: list[dict[str, float | None]] = [{}]
        for name in names:
            if FILTERS[name].level == "image":
                scores[0] |= FILTERS[name].measure(view)
        for y, x in self.origins:
            patch = PatchView(image=view, y=y, x=x, size_px=SIZE)
            scores.append({})
            for name in names:
                if FILTERS[name].level == "patch":
                    scores[-1] |= FILTERS[name].measure(patch)
        return scores

    def usual(self, names: tuple[str, ...], *, lean: bool = False) -> list[dict[str, float | None]]:
        """Measure with the textbook lines."""
        whole = _UsualImage(self, lean=lean)
        scores: list[dict[str, float | None]] = [{}]
        for name in names:
            if FILTERS[name].level == "image":
                value = getattr(whole, name)()
                scores[0] |= value if isinstance(value, dict) else {name: value}
        for y, x in self.origins:
            patch = _UsualPatch(whole, y, x, lean=lean)
            scores.append({})
            for name in names:
                if FILTERS[name].level == "patch":
                    scores[-1] |= getattr(patch, name)()
        return scores


class _UsualImage:
    """One line a score, on the whole picture."""

    def __init__(self, photo: Photo, *, lean: bool) -> None:
        self.photo, self.grey, self.depth = photo, photo.grey, cv2.CV_16S if lean else cv2.CV_64F

    def resolution(self) -> float:
        return min(self.grey.shape)

    def aspect(self) -> float:
        return max(self.grey.shape) / min(self.grey.shape)

    def jpeg_quality(self) -> float | None:
        return self.photo.facts.jpeg.quality

    def chroma_subsampling(self) -> float:
        return {"4:4:4": 1.0, "4:2:2": 0.5, "4:2:0": 0.25, "grey": 0.0}[self.photo.facts.jpeg.subsampling]

    def bits_per_pixel(self) -> float:
        return 8 * self.photo.num_bytes / self.grey.size

    @cached_property
    def sigma(self) -> float:
        mask = np.outer([1, -2, 1], [1, -2, 1]).astype(float)
        residual = np.abs(cv2.filter2D(self.grey, self.depth, mask))[1:-1:2, 1:-1:2]
        rows, columns = residual.shape[0] // 32, residual.shape[1] // 32
        step = -(-rows * columns // 512)
        medians = [
            np.median(residual[r * 32 : r * 32 + 32, c * 32 : c * 32 + 32])
            for r in range(0, rows, step)
            for c in range(columns)
        ]
        return float(np.quantile(medians, 0.25)) / (0.6745 * 6)

    def noise_sigma(self) -> float:
        return self.sigma

    def border(self) -> float:
        shares = []
        for plane in (self.grey, self.grey[::-1], self.grey.T, self.grey.T[::-1]):
            low, high = np.minimum.accumulate(plane.min(axis=1)), np.maximum.accumulate(plane.max(axis=1))
            shares.append(float(np.mean(high.astype(int) - low <= 8)))
        return max(shares)

    def lsdir_vote(self) -> dict[str, float]:
        size = (self.grey.shape[1] // 4, self.grey.shape[0] // 4)
        small = np.asarray(Image.fromarray(self.grey).resize(size, Image.Resampling.LANCZOS))
        magnitude = cv2.cartToPolar(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))[0]
        rows, columns = range(0, size[1], 240), range(0, size[0], 240)
        flat = np.mean([magnitude[y : y + 240, x : x + 240].var() < 800 for y in rows for x in columns])
        return {
            "lsdir_flat_frac": float(flat),
            "lsdir_laplacian_variance": float(cv2.Laplacian(small, cv2.CV_64F).var()),
        }


class _UsualPatch:
    """One line a score, on one patch."""

    def __init__(self, image: _UsualImage, y: int, x: int, *, lean: bool) -> None:
        self.image, self.lean = image, lean
        self.grey = image.grey[y : y + SIZE, x : x + SIZE]
        self.rgb = image.photo.rgb[y : y + SIZE, x : x + SIZE]
        top, left = max(y - 1, 0), max(x - 1, 0)
        self.rim = image.grey[top : y + SIZE + 1, left : x + SIZE + 1]
        self.inner = slice(y - top, y - top + SIZE), slice(x - left, x - left + SIZE)

    @cached_property
    def magnitude(self) -> np.ndarray:
        if self.lean:
            grad_x, grad_y = cv2.Sobel(self.rim, cv2.CV_32F, 1, 0), cv2.Sobel(self.rim, cv2.CV_32F, 0, 1)
            return cv2.magnitude(grad_x, grad_y)[self.inner]
        grad_x, grad_y = cv2.Sobel(self.rim, cv2.CV_64F, 1, 0), cv2.Sobel(self.rim, cv2.CV_64F, 0, 1)
        return np.sqrt(grad_x**2 + grad_y**2)[self.inner]

    def flat_area(self) -> dict[str, float]:
        cells = [self.magnitude[y : y + 64, x : x + 64].var() for y in range(0, SIZE, 64) for x in range(0, SIZE, 64)]
        return {"flat_area": float(np.mean(np.array(cells) - 5.15 * self.image.sigma**2 < 150))}

    def sharpness(self) -> dict[str, float]:
        variance = cv2.Laplacian(self.rim, cv2.CV_64F)[self.inner].var()
        return {"laplacian_variance": variance, "sharpness": max(0.0, variance - 20 * self.image.sigma**2)}

    def exposure(self) -> dict[str, float]:
        return {"exposure": self.grey.mean() / 255}

    def clipping(self) -> dict[str, float]:
        low, high = (self.grey <= 1).mean(), (self.grey >= 254).mean()
        return {"clipping": low + high, "clipping_low": low, "clipping_high": high}

    def saturation(self) -> dict[str, float]:
        small = cv2.resize(self.rgb, (SIZE // 4, SIZE // 4))
        high, low = small.max(axis=2).mean(), small.min(axis=2).mean()
        return {"saturation": (high - low) / high if high else 0.0}

    def entropy(self) -> dict[str, float]:
        share = cv2.calcHist([self.grey], [0], None, [256], [0, 256]).ravel() / self.grey.size
        return {"entropy": -float((share[share > 0] * np.log2(share[share > 0])).sum())}

    def gradient_saturation(self) -> dict[str, float]:
        clipped = (self.grey <= 1) | (self.grey >= 254)
        return {"gradient_saturation": float(self.magnitude[clipped].sum() / max(self.magnitude.sum(), 1e-9))}


def check_equal(photo: Photo) -> float:
    """Compare every value of both ways; return the largest relative difference."""
    names = (*TOGETHER, *ALONE)
    worst = 0.0
    for way in (photo.usual(names), photo.usual(names, lean=True)):
        for got, wanted in zip(photo.ours(names), way, strict=True):
            assert got.keys() == wanted.keys()
            for key, value in wanted.items():
                difference = abs(got[key] - value) / max(1.0, abs(value))
                limit = 1e-4 if key.startswith("lsdir") else 1e-5  # a few of our quarter-size pixels are one level off
                assert difference <= limit, f"{photo.path}: {key} {got[key]} {value}"
                worst = max(worst, difference)
    return worst


def measure() -> tuple[dict[str, dict[str, list[float]]], float, int]:
    """Time all scores alone and together, ours and the usual way in turn; processor seconds over all photographs."""
    photos = [Photo(path) for path in PHOTOS]
    worst = max(check_equal(photo) for photo in photos)
    groups = {"together": TOGETHER} | {name: (name,) for name in FILTERS}
    seconds: dict[str, dict[str, list[float]]] = {}
    for _ in range(ROUNDS):
        for group, names in groups.items():
            ways = {
                "ours": Photo.ours,
                "usual": Photo.usual,
                "lean": lambda photo, names: photo.usual(names, lean=True),
            }
            for way, call in ways.items():
                start = time.process_time()
                for photo in photos:
                    call(photo, names)
                seconds.setdefault(group, {}).setdefault(way, []).append(time.process_time() - start)
    return seconds, worst, sum(len(photo.origins) for photo in photos)


def main() -> None:
    cv2.setNumThreads(1)
    seconds, worst, num_patches = measure()
    values: dict[str, float] = {"largest relative difference of a value": worst}
    for group, ways in seconds.items():
        for way, times in ways.items():
            values[f"{group} {way}, ms a patch"] = 1000 * summarise(times)["median"] / num_patches
        for way in ways.keys() - {"ours"}:
            pairs = zip(ways[way], ways["ours"], strict=True)
            values[f"{group} {way} / ours, time"] = statistics.median(theirs / ours for theirs, ours in pairs)
    write_result(
        "filters",
        f"cheap scores on {num_patches} patches of {SIZE} px from {len(PHOTOS)} decoded photographs, one thread, in turn",
        values, rounds=ROUNDS, clock="processor time",
    )  # fmt: skip


if __name__ == "__main__":
    main()
