"""How far an output is from the truth. Every number states its protocol: channels, border, rounding, window.

Arrays are (C, H, W) float, peak 1: RGB in [0, 1], or the one plane that `luma_bt601` returns. Computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ImageError, NumericsError

SSIM_WINDOW_PX = 7  # skimage's default, uniform; spec/dynet.md section 5
GAUSSIAN_WINDOW_PX, GAUSSIAN_SIGMA_PX = 11, 1.5  # Wang et al. 2004; spec/ipt.md section 9
SSIM_K1, SSIM_K2 = 0.01, 0.03  # Wang et al. 2004
BT601_OFFSET, BT601_RGB = 16.0, (65.481, 128.553, 24.966)  # levels; ITU-R BT.601 as MATLAB's rgb2ycbcr has it

Array = NDArray[np.floating]
_Plane = NDArray[np.float64]


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
    count = SSIM_WINDOW_PX**2
    return _ssim(output_CHW, target_CHW, _uniform_mean, SSIM_WINDOW_PX, count / (count - 1))


def gaussian_ssim(output_CHW: Array, target_CHW: Array) -> float:
    """Structural similarity, 11x11 Gaussian window of sigma 1.5, valid region only, mean over channels.

    Returns:
        At most 1.

    Raises:
        ImageError: shapes differ or a side is shorter than 11 px.
        NumericsError: a value is not finite.

    Source:
        Wang et al., TIP 2004 and their MATLAB code (spec/ipt.md section 9): equal to skimage's structural_similarity with
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.
    """
    return _ssim(output_CHW, target_CHW, _gaussian_mean, GAUSSIAN_WINDOW_PX, 1.0)


def luma_bt601(image_CHW: Array) -> _Plane:
    """Return the Y of YCbCr, not rounded: (3, H, W) RGB in [0, 1] to (1, H, W) in [16/255, 235/255].

    Source:
        MATLAB's rgb2ycbcr of a float picture (spec/ipt.md section 9); of a uint8 picture MATLAB rounds Y, which moves PSNR by
        0.001 to 0.01 dB.

    Example:
        >>> (luma_bt601(np.ones((3, 1, 1))) * 255).round(6).item()
        235.0
    """
    if image_CHW.ndim != 3 or image_CHW.shape[0] != 3:
        raise ImageError(f"luma_bt601 wants a (3, H, W) picture, got shape {image_CHW.shape}")
    weights = np.array(BT601_RGB)[:, None, None]
    luma_HW = (image_CHW.astype(np.float64) * weights).sum(axis=0) + BT601_OFFSET
    return np.asarray(luma_HW[None] / 255)


def _ssim(
    output_CHW: Array, target_CHW: Array, mean: Callable[[_Plane], _Plane], window_px: int, unbiased: float
) -> float:
    output, target = _checked(output_CHW, target_CHW)
    if min(output.shape[1:]) < window_px:
        raise ImageError(f"this SSIM needs sides of at least {window_px} px, got shape {output.shape}")
    return float(np.mean([_ssim_plane(x, y, mean, unbiased) for x, y in zip(output, target, strict=True)]))


def _ssim_plane(x_HW: _Plane, y_HW: _Plane, mean: Callable[[_Plane], _Plane], unbiased: float) -> float:
    mean_x, mean_y = mean(x_HW), mean(y_HW)
    squares, product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    variances = unbiased * (mean(x_HW * x_HW + y_HW * y_HW) - squares)  # of x and of y; only their sum is needed
    covariance = unbiased * (mean(x_HW * y_HW) - product)
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    similarity = (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    return float(similarity.mean())


def _uniform_mean(x_HW: _Plane) -> _Plane:
    border = SSIM_WINDOW_PX // 2
    mean = cv2.blur(np.ascontiguousarray(x_HW), (SSIM_WINDOW_PX, SSIM_WINDOW_PX))
    return np.asarray(mean[border:-border, border:-border], dtype=np.float64)


def _gaussian_mean(x_HW: _Plane) -> _Plane:
    border = GAUSSIAN_WINDOW_PX // 2
    taps = np.asarray(cv2.getGaussianKernel(GAUSSIAN_WINDOW_PX, GAUSSIAN_SIGMA_PX, cv2.CV_64F))
    mean = cv2.sepFilter2D(np.ascontiguousarray(x_HW), cv2.CV_64F, taps, taps)
    return np.asarray(mean[border:-border, border:-border], dtype=np.float64)


def _checked(output_CHW: Array, target_CHW: Array) -> tuple[_Plane, _Plane]:
    if output_CHW.shape != target_CHW.shape or output_CHW.ndim != 3:
        raise ImageError(
            f"metrics compare (C, H, W) pictures of one shape, got {output_CHW.shape} and {target_CHW.shape}"
        )
    output, target = output_CHW.astype(np.float64), target_CHW.astype(np.float64)
    if not (np.isfinite(output).all() and np.isfinite(target).all()):
        raise NumericsError("a picture holds values that are not finite; its metric would mean nothing")
    return output, target
