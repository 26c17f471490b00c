"""Convolution with a kernel per picture, mirrored at the border: OpenCV on the host, an FFT on the device.

Kernels are (K, K) float64, K odd, and applied as convolutions (not correlations): a kernel is the picture of a point. The
border is mirrored without repeating the edge pixel, as in BasicSR and torch's `reflect` (spec/ipt.md 8.3), also where the
picture is smaller than the kernel. The FFT's cost does not depend on K, and unlike cuDNN's convolutions it is never TF32.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import Pixels
from ._batch import upload

Kernel = NDArray[np.float64]


def convolve(image_CHW: Pixels, kernel: Kernel) -> Pixels:
    """Convolve every channel; the size stays."""
    planes_HWC = np.ascontiguousarray(image_CHW.transpose(1, 2, 0))
    return convolve_planes(planes_HWC, kernel).reshape(planes_HWC.shape).transpose(2, 0, 1)


def convolve_planes(planes_HWC: Pixels, kernel: Kernel) -> Pixels:
    """Convolve an (H, W) or (H, W, C) array; the size stays."""
    correlated = cv2.filter2D(planes_HWC, cv2.CV_32F, kernel[::-1, ::-1], borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(correlated, dtype=np.float32)


def convolve_batch(x_BCHW: Tensor, kernels: Sequence[Kernel]) -> Tensor:
    """Convolve every picture with its own kernel; the size stays."""
    height, width = x_BCHW.shape[2:]
    half = max(kernel.shape[0] for kernel in kernels) // 2
    rows = upload(mirrored(height, half), x_BCHW)
    columns = upload(mirrored(width, half), x_BCHW)
    return convolve_inside(x_BCHW[:, :, rows][:, :, :, columns], kernels)


def convolve_inside(x_BCHW: Tensor, kernels: Sequence[Kernel]) -> Tensor:
    """Convolve without a border: the largest kernel's half is lost on each side."""
    side = max(kernel.shape[0] for kernel in kernels)
    stack = np.zeros((len(kernels), 1, side, side), np.float32)
    for place, kernel in zip(stack, kernels, strict=True):
        start = (side - kernel.shape[0]) // 2
        place[0, start : start + kernel.shape[0], start : start + kernel.shape[1]] = kernel
    size = (x_BCHW.shape[2], x_BCHW.shape[3])
    spectrum = torch.fft.rfft2(x_BCHW) * torch.fft.rfft2(upload(stack, x_BCHW), s=size)
    convolved: Tensor = torch.fft.irfft2(spectrum, s=size)[:, :, side - 1 :, side - 1 :]
    return convolved


def mirrored(size: int, margin: int) -> NDArray[np.int64]:
    """List the source index of every place of an axis widened by `margin` on both sides."""
    if size == 1:
        return np.zeros(1 + 2 * margin, np.int64)
    period = 2 * (size - 1)
    folded = np.mod(np.arange(-margin, size + margin), period)
    indices: NDArray[np.int64] = np.minimum(folded, period - folded).astype(np.int64)
    return indices
