"""Shrink and enlarge again: the detail a small picture has lost, at the full size.

Source: MATLAB's imresize as described in spec/ipt.md section 9: a = -0.5, kernel widened by the scale when shrinking
(antialias), rows renormalised, mirrored border, output size ceil(n / scale). Both ways are this filter (OpenCV's has no
antialias and another a). The small picture is rounded to 8 bits, as its file would be. `path="exact"` is float64, for
benchmarks; `path="fast"` is the same in float32, for training: a few values per hundred thousand lie so near to the middle
between two levels that they round the other way (docs/degradations.md). The batch version is float32 too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from curate.core.errors import ConfigError

from . import Parameters, Pixels, Rng, check_pixels, clipped, render_drawn
from ._batch import batch_method
from ._draws import check_name
from ._taps import Taps, matlab_bicubic, resample, resample_batch

PATHS = ("exact", "fast")
MIN_SCALE, MAX_SCALE = 2, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Bicubic down by `scale` and up to the original size.

    Attributes:
        scale: factor between the sizes.
        path: `exact` or `fast`, see above.
    """

    name: ClassVar[str] = "bicubic"
    scale: int = 2
    path: str = "exact"

    def __post_init__(self) -> None:
        """Check ranges."""
        _check_scale(self.scale)
        check_name(self.name, "path", self.path, PATHS)

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Record the scale; draws nothing."""
        return {"scale": self.scale, "path": self.path}

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a copy without fine detail."""
        check_pixels(image_CHW, where=self.name)
        _, height, width = image_CHW.shape
        scale, dtype = parameters["scale"], "float32" if parameters["path"] == "fast" else "float64"
        small = _rounded(resample(image_CHW, *_shrinking(height, width, scale), dtype))
        return clipped(resample(small, *_enlarging(height, width, scale), dtype))

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return damaged copies of a batch; pictures of one scale together."""
        damaged = x_BCHW.clone()
        height, width = x_BCHW.shape[2:]
        for scale in {values["scale"] for values in parameters}:
            chosen = [number for number, values in enumerate(parameters) if values["scale"] == scale]
            small = resample_batch(x_BCHW[chosen], *_shrinking(height, width, scale))
            stored = ((small * 255).clamp(0, 255) + 0.5).floor() / 255
            damaged[chosen] = resample_batch(stored, *_enlarging(height, width, scale)).clamp(0, 1)
        return damaged


def shrink(image_CHW: Pixels, scale: int) -> Pixels:
    """Make the benchmarks' small picture: MATLAB's imresize(image, 1 / scale), rounded to 8 bits.

    Args:
        image_CHW: (3, H, W) float32 in [0, 1]; benchmarks crop H and W to multiples of `scale` first.
        scale: 2 to 8.

    Returns:
        (3, ceil(H / scale), ceil(W / scale)) float32, every value a multiple of 1/255.

    Raises:
        ConfigError: another scale.
        ImageError: not such a picture.

    Example:
        >>> shrink(np.full((3, 9, 4), 0.5, np.float32), 2)[0, :, 0] * 255
        array([128., 128., 128., 128., 128.], dtype=float32)
    """
    check_pixels(image_CHW, where="bicubic")
    _check_scale(scale)
    _, height, width = image_CHW.shape
    return _rounded(resample(image_CHW, *_shrinking(height, width, scale), "float64")).astype(np.float32)


def resize_bicubic(image_CHW: NDArray[np.floating], height: int, width: int, *, scale: float) -> NDArray[np.float64]:
    """Resize as MATLAB's imresize does.

    Args:
        image_CHW: (C, H, W), any float type.
        height: rows of the result.
        width: columns of the result.
        scale: nominal factor; places the samples, so that odd sizes stay aligned.

    Returns:
        (C, height, width) float64, neither rounded nor clipped.
    """
    rows = matlab_bicubic(image_CHW.shape[1], height, scale)
    columns = matlab_bicubic(image_CHW.shape[2], width, scale)
    return resample(image_CHW, rows, columns, "float64").astype(np.float64, copy=False)


def _check_scale(scale: int) -> None:
    if not MIN_SCALE <= scale <= MAX_SCALE:
        raise ConfigError(f"bicubic.scale must be {MIN_SCALE} to {MAX_SCALE}, got {scale}")


def _rounded(image_CHW: NDArray[Any]) -> NDArray[Any]:
    """Round to 8 bits as MATLAB's uint8() does, half away from zero."""
    stored: NDArray[Any] = np.floor(np.clip(image_CHW * 255, 0, 255) + 0.5) / 255
    return stored


def _shrinking(height: int, width: int, scale: int) -> tuple[Taps, Taps]:
    rows, columns = (matlab_bicubic(side, math.ceil(side / scale), 1 / scale) for side in (height, width))
    return rows, columns


def _enlarging(height: int, width: int, scale: int) -> tuple[Taps, Taps]:
    rows, columns = (matlab_bicubic(math.ceil(side / scale), side, float(scale)) for side in (height, width))
    return rows, columns
