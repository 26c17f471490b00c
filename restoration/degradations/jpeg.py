"""Compress as JPEG and decode again, with the real codec.

Source: libjpeg-turbo through OpenCV (accurate integer DCT, standard tables: the same bytes as Pillow's; simplejpeg encodes
with the fast, coarser DCT below quality 96); chroma 4:2:0 is what cameras and the web write, and what libjpeg, OpenCV and
Pillow do unless told otherwise. Qualities 10 to 40 are the deblocking literature's (spec/ipt.md 8.5). The batch version is
`_blocks.py`, on the device and without a codec; how far apart the two are stands in docs/degradations.md.
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
from ._batch import batch_method
from ._blocks import jpeg_batch
from ._draws import integer_between

SUBSAMPLINGS = {
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "422": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}
MAX_SIDE_PX = 65500  # libjpeg's limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """JPEG of one quality, or of a quality drawn anew for every picture.

    Attributes:
        min_quality: 1..100, lower end of the range.
        max_quality: upper end, drawn inclusively; equal to the lower end for a fixed quality.
        subsampling: of the chroma planes, `420`, `422` or `444`.
    """

    name: ClassVar[str] = "jpeg"
    min_quality: int = 10
    max_quality: int = 40
    subsampling: str = "420"

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 1 <= self.min_quality <= self.max_quality <= 100:
            raise ConfigError(
                f"jpeg needs 1 <= min_quality <= max_quality <= 100, got {self.min_quality} and {self.max_quality}"
            )
        if self.subsampling not in SUBSAMPLINGS:
            raise ConfigError(f"jpeg.subsampling must be one of {', '.join(SUBSAMPLINGS)}, got {self.subsampling!r}")

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw the quality."""
        return {"quality": integer_between(rng, self.min_quality, self.max_quality), "subsampling": self.subsampling}

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a compressed copy, rounded to 8 bits on the way."""
        check_pixels(image_CHW, where=self.name)
        if max(image_CHW.shape) > MAX_SIDE_PX:
            raise ImageError(f"jpeg: a side of {max(image_CHW.shape)} px; the format ends at {MAX_SIDE_PX}")
        settings = [
            cv2.IMWRITE_JPEG_QUALITY, parameters["quality"],
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SUBSAMPLINGS[parameters["subsampling"]],
        ]  # fmt: skip
        _, data = cv2.imencode(".jpg", np.ascontiguousarray(to_levels(image_CHW)[:, :, ::-1]), settings)
        decoded_HWC = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
        return to_pixels(decoded_HWC[:, :, ::-1])

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return compressed copies of a batch, computed on its device; gradients pass the rounding."""
        damaged = x_BCHW.clone()
        for subsampling in sorted({values["subsampling"] for values in parameters}):
            chosen = [number for number, values in enumerate(parameters) if values["subsampling"] == subsampling]
            damaged[chosen] = jpeg_batch(x_BCHW[chosen], [parameters[n]["quality"] for n in chosen], subsampling)
        return damaged
