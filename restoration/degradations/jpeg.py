"""Compress as JPEG and decode again, with the real codec.

Source: libjpeg-turbo through simplejpeg (accurate integer DCT, standard tables); chroma 4:2:0 is what cameras and the
web write, and what libjpeg, OpenCV and Pillow do unless told otherwise. Qualities 10 to 40 are the deblocking
literature's (spec/ipt.md 8.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import simplejpeg

from curate.core.errors import ConfigError

from . import Pixels, Rng, check_pixels, to_levels, to_pixels

SUBSAMPLINGS = ("420", "422", "444")


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

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a compressed copy of a (3, H, W) float32 image, rounded to 8 bits on the way."""
        check_pixels(image_CHW, where="jpeg")
        quality = self.min_quality
        if self.max_quality > quality:
            quality += int(rng.uniform() * (self.max_quality - quality + 1))
        data = simplejpeg.encode_jpeg(
            to_levels(image_CHW), quality=quality, colorspace="RGB", colorsubsampling=self.subsampling, fastdct=False
        )
        return to_pixels(simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False))
