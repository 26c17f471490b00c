"""Compress as lossy WebP and decode again, with the real codec.

Source: libwebp through OpenCV, its default method and 4:2:0 chroma; qualities as JPEG's from the web's worst to its usual.
WebP smears where JPEG blocks. Limit: the batch version runs the codec on the CPU, picture by picture: VP8's prediction from
decoded neighbours has no parallel form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from torch import Tensor

from curate.core.errors import ConfigError, ImageError

from . import Parameters, Pixels, Rng, check_pixels, render_drawn, to_levels, to_pixels
from ._batch import batch_method, on_the_host
from ._draws import integer_between

MAX_SIDE_PX = 16383  # the format's limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """WebP of a quality drawn anew for every picture.

    Attributes:
        min_quality: 1..100, lower end of the range.
        max_quality: upper end, drawn inclusively.
    """

    name: ClassVar[str] = "webp"
    min_quality: int = 10
    max_quality: int = 60

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 1 <= self.min_quality <= self.max_quality <= 100:
            raise ConfigError(
                f"webp needs 1 <= min_quality <= max_quality <= 100, got {self.min_quality} and {self.max_quality}"
            )

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw the quality."""
        return {"quality": integer_between(rng, self.min_quality, self.max_quality)}

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a compressed copy, rounded to 8 bits on the way."""
        check_pixels(image_CHW, where=self.name)
        if max(image_CHW.shape) > MAX_SIDE_PX:
            raise ImageError(f"webp: a side of {max(image_CHW.shape)} px; the format ends at {MAX_SIDE_PX}")
        bgr_HWC = np.ascontiguousarray(to_levels(image_CHW)[:, :, ::-1])
        _, data = cv2.imencode(".webp", bgr_HWC, [cv2.IMWRITE_WEBP_QUALITY, parameters["quality"]])
        decoded_HWC = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
        return to_pixels(decoded_HWC[:, :, ::-1])

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return compressed copies of a batch; goes through the CPU."""
        return on_the_host(self.render, x_BCHW, parameters)
