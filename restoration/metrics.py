"""How far an output is from the truth. Every number states its protocol: channels, border, rounding, window.

Arrays are (3, H, W) float in [0, 1], RGB.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ImageError, NumericsError

SSIM_WINDOW_PX = 7  # skimage's default, uniform; spec/dynet.md section 5
SSIM_K1, SSIM_K2 = 0.01, 0.03  # Wang et al. 2004

Array = NDArray[np.floating]


def psnr(output_CHW: Array, target_CHW: Array) -> float:
    """Peak signal-to-noise ratio over all channels and pixels, no border removed.

    Returns:
        dB for a peak of 1; `inf` for equal pictures.

    Raises:
        ImageError: shapes differ.
        NumericsError: a value is not finite.

    Source:
        spec/dynet.md section 5: equal to skimage's peak_signal_noise_ratio(data_range=1).

    Example:
        >>> round(psnr(np.zeros((3, 8, 8)), np.full((3, 8, 8), 0.1)), 3)
        20.0
    """
    output, target = _checked(output_CHW, target_CHW)
    error = float(np.mean((output - target) ** 2))
    return 10 * math.log10(1 / error) if error > 0 else math.inf


def ssim(output_CHW: Array, target_CHW: Array) -> float:
    """Structural similarity, 7x7 uniform window, sample covariance, mean over channels; a border of 3 px has no window.

    Returns:
        At most 1.

    Raises:
        ImageError: shapes differ or a side is shorter than 7 px.
        NumericsError: a value is not finite.

    Source:
        Wang et al., TIP 2004, with the defaults of skimage's structural_similarity(data_range=1, channel_axis=...), which
        spec/dynet.md section 5 prescribes; not the 11x11 Gaussian window of MATLAB.
    """
    output, target = _checked(output_CHW, target_CHW)
    if min(output.shape[1:]) < SSIM_WINDOW_PX:
        raise ImageError(f"ssim needs sides of at least {SSIM_WINDOW_PX} px, got shape {output.shape}")
    return float(np.mean([_ssim_plane(x, y) for x, y in zip(output, target, strict=True)]))


def _ssim_plane(x_HW: NDArray[np.float64], y_HW: NDArray[np.float64]) -> float:
    count = SSIM_WINDOW_PX**2
    unbiased = count / (count - 1)
    mean_x, mean_y = _window_mean(x_HW), _window_mean(y_HW)
    var_x = unbiased * (_window_mean(x_HW * x_HW) - mean_x * mean_x)
    var_y = unbiased * (_window_mean(y_HW * y_HW) - mean_y * mean_y)
    covariance = unbiased * (_window_mean(x_HW * y_HW) - mean_x * mean_y)
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float(similarity.mean())


def _window_mean(x_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    border = SSIM_WINDOW_PX // 2
    mean = cv2.blur(np.ascontiguousarray(x_HW), (SSIM_WINDOW_PX, SSIM_WINDOW_PX))
    return np.asarray(mean[border:-border, border:-border], dtype=np.float64)


def _checked(output_CHW: Array, target_CHW: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if output_CHW.shape != target_CHW.shape or output_CHW.ndim != 3:
        raise ImageError(
            f"metrics compare (C, H, W) pictures of one shape, got {output_CHW.shape} and {target_CHW.shape}"
        )
    output, target = output_CHW.astype(np.float64), target_CHW.astype(np.float64)
    if not (np.isfinite(output).all() and np.isfinite(target).all()):
        raise NumericsError("a picture holds values that are not finite; its metric would mean nothing")
    return output, target
