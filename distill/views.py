"""The views of a patch that an encoder sees: the whole patch shrunk, and crops at native resolution.

The shrunk view says what is shown; the crops keep the texture that shrinking removes (spec/tripled.md section 4.1).
"""

from __future__ import annotations

import numpy as np
from PIL import Image as PillowImage

from curate.core.images import check_image
from curate.core.records import Image

_CENTRES = (0.25, 0.75)  # of height and of width: spec/tripled.md section 4.1


def global_view(image: Image, side_px: int) -> Image:
    """Resize the whole patch to a square: bicubic with antialiasing (Pillow's BICUBIC is).

    Args:
        image: (H, W, 3) uint8 RGB. Not modified.
        side_px: side of the result.

    Returns:
        (side_px, side_px, 3) uint8.
    """
    check_image(image, where="global_view")
    return np.asarray(PillowImage.fromarray(image).resize((side_px, side_px), PillowImage.Resampling.BICUBIC))


def native_crops(image: Image, side_px: int) -> list[Image]:
    """Cut crops centred at 1/4 and 3/4 of height and width, without resizing.

    Centres move inside where a crop would stick out; equal crops are cut once (a side of exactly `side_px`).

    Args:
        image: (H, W, 3) uint8 RGB. Not modified.
        side_px: side of a crop.

    Returns:
        Views into `image`, (side_px, side_px, 3), at most 4; none when a side is shorter than `side_px`.
    """
    height, width = image.shape[:2]
    if min(height, width) < side_px:
        return []
    return [
        image[y : y + side_px, x : x + side_px] for y in _origins(height, side_px) for x in _origins(width, side_px)
    ]


def _origins(length: int, side: int) -> list[int]:
    wanted = (round(centre * length - side / 2) for centre in _CENTRES)
    return sorted({min(max(origin, 0), length - side) for origin in wanted})
