"""Low-level descriptors of a patch: brightness, contrast and fine detail.

Why: ViT features are trained to ignore brightness, noise and blur, which is exactly what a restoration set must cover
(spec/tripled.md section 4.2). `DESCRIPTORS` and `PAIR_DESCRIPTORS` name them in order.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ImageError
from curate.core.images import check_image, luma
from curate.core.records import Image

_COLOURS = ("mean_r", "mean_g", "mean_b", "std_r", "std_g", "std_b")
_DETAIL = ("log_gradient_energy", "log_laplacian_variance")
DESCRIPTORS = (*_COLOURS, *_DETAIL)
PAIR_DESCRIPTORS = (*_COLOURS, *(f"degraded_{name}" for name in _COLOURS), *_DETAIL, "psnr_db")
MAX_PSNR_DB = 100.0  # stands for infinity; 8-bit pictures of 512x512 whose one pixel is off by one level reach 102
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


def describe_pair(clean: Image, degraded: Image) -> NDArray[np.float32]:
    """Measure the fifteen descriptors of a pair at native resolution.

    Args:
        clean: (H, W, 3) uint8 RGB. Not modified.
        degraded: the same size. Not modified.

    Returns:
        (15,) float32 in the order of `PAIR_DESCRIPTORS`; PSNR over all channels, at most `MAX_PSNR_DB`.

    Source:
        spec/tripled.md section 4.2, l_i.
    """
    own, other = describe(clean), describe(degraded)[:6]
    if clean.shape != degraded.shape:
        raise ImageError(f"describe_pair: sizes differ, {clean.shape[:2]} and {degraded.shape[:2]}")
    mean_squared = cv2.norm(clean, degraded, cv2.NORM_L2SQR) / clean.size
    psnr = MAX_PSNR_DB if mean_squared == 0 else min(MAX_PSNR_DB, 10 * np.log10(255**2 / mean_squared))
    return np.concatenate([own[:6], other, own[6:], [psnr]]).astype(np.float32)


def log_gradient_energy(grey: NDArray[np.uint8]) -> float:
    """Measure edges: ln(1 + mean squared Sobel gradient).

    Args:
        grey: (H, W) uint8. Not modified.

    Returns:
        >= 0; 0.0 for a constant image.
    """
    across, down = cv2.Sobel(grey, cv2.CV_16S, 1, 0), cv2.Sobel(grey, cv2.CV_16S, 0, 1)
    return float(np.log1p((cv2.norm(across, cv2.NORM_L2SQR) + cv2.norm(down, cv2.NORM_L2SQR)) / grey.size))


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
