"""Low-level descriptors of a patch: brightness, contrast and fine detail.

Why: ViT features are trained to ignore brightness, noise and blur, which is exactly what a restoration set must cover
(spec/tripled.md section 4.2). Order: mean R, G, B, standard deviation R, G, B, log gradient energy, log Laplacian
variance.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from curate.core.images import check_image, luma
from curate.core.records import Image

NUM_DESCRIPTORS = 8
MOST_BITS = 8.0  # of a histogram with 256 bins


def describe(image: Image) -> NDArray[np.float32]:
    """Measure the eight descriptors of a clean patch at native resolution.

    Args:
        image: (H, W, 3) uint8 RGB. Not modified.

    Returns:
        (8,) float32: means and standard deviations in [0, 1], then two logarithms >= 0 (of 1 + 8-bit levels squared).

    Source:
        spec/tripled.md section 4.2, l_i for clean-only corpora.
    """
    check_image(image, where="describe")
    mean, deviation = cv2.meanStdDev(image)
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    _, laplacian = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    detail = [log_gradient_energy(grey), float(np.log1p(laplacian.item() ** 2))]
    return np.concatenate([mean[:, 0] / 255, deviation[:, 0] / 255, detail]).astype(np.float32)


def log_gradient_energy(grey: NDArray[np.uint8]) -> float:
    """Measure edges: ln(1 + mean squared Sobel gradient).

    Args:
        grey: (H, W) uint8. Not modified.

    Returns:
        >= 0; 0.0 for a constant image.
    """
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    return float(np.log1p(np.mean(across * across + down * down, dtype=np.float64)))


def histogram_bits(image: Image) -> float:
    """Measure the Shannon entropy of the 256-bin luma histogram.

    Args:
        image: (H, W, 3) uint8 RGB. Not modified.

    Returns:
        Bits in [0, 8]; 0.0 for one brightness.
    """
    grey = luma(image)
    counts = np.bincount(grey.reshape(-1), minlength=256)
    share = counts[counts > 0] / grey.size
    return float(abs((share * np.log2(share)).sum()))
