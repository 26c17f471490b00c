"""The worst pictures of an evaluation on one sheet: where each errs most, as input, output and target, enlarged.

Limit: names are drawn with Pillow's built-in typeface, which has Latin letters only.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from curate.core.images import encode_image
from curate.core.records import Image

from .degradations import Pixels, to_levels

CROP_PX = 144  # side of the square that is shown
PANEL_PX = 2 * CROP_PX  # what it is enlarged to, by a whole factor and without smoothing
_STEP_PX = 8  # places tried for it
_GAP_PX, _MARGIN_PX, _LINE_PX, _FONT_PX, _LETTER_PX = 8, 16, 20, 14, 7
_PAPER, _INK, _GREY, _FRAME = (255, 255, 255), (20, 20, 20), (110, 110, 110), (230, 40, 30)
COLUMNS = ("whole target", "input", "output", "target")


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One picture to show.

    Attributes:
        title: name and numbers.
        panels: whole target (reduced, with a frame), input, output, target: (H, W, 3) uint8, at most PANEL_PX a side.
    """

    title: str
    panels: tuple[Image, Image, Image, Image]


def make_exhibit(title: str, input_CHW: Pixels, output_CHW: Pixels, target_CHW: Pixels) -> Exhibit:
    """Cut out the square where the output's squared error is largest.

    Args:
        title: name and numbers.
        input_CHW: (3, H, W) in [0, 1].
        output_CHW: the same size.
        target_CHW: the same size.
    """
    top, left, height, width = worst_square(output_CHW, target_CHW)
    crops = [to_levels(p[:, top : top + height, left : left + width]) for p in (input_CHW, output_CHW, target_CHW)]
    factor = max(1, PANEL_PX // max(height, width))
    panels = [np.repeat(np.repeat(crop, factor, axis=0), factor, axis=1) for crop in crops]
    return Exhibit(title, (_overview(to_levels(target_CHW), top, left, height, width), *panels))  # type: ignore[arg-type]


def worst_square(output_CHW: Pixels, target_CHW: Pixels) -> tuple[int, int, int, int]:
    """Find (top, left, height, width) of the CROP_PX square with the largest squared error; the first of equals."""
    error_HW = np.square(output_CHW.astype(np.float64) - target_CHW).mean(axis=0)
    height, width = error_HW.shape
    rows, columns = min(CROP_PX, height), min(CROP_PX, width)
    total = np.pad(error_HW.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    tops, lefts = _places(height, rows), _places(width, columns)
    sums = (
        total[np.ix_(tops + rows, lefts + columns)] - total[np.ix_(tops, lefts + columns)]
        - total[np.ix_(tops + rows, lefts)] + total[np.ix_(tops, lefts)]
    )  # fmt: skip
    row, column = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(tops[row]), int(lefts[column]), rows, columns


def draw_sheet(heading: Sequence[str], exhibits: Sequence[Exhibit]) -> bytes:
    """Draw the sheet.

    Args:
        heading: lines at the top; the first is set darker.
        exhibits: rows, from top to bottom; at least one.

    Returns:
        A PNG file's bytes.
    """
    width = 2 * _MARGIN_PX + len(COLUMNS) * PANEL_PX + (len(COLUMNS) - 1) * _GAP_PX
    font: Any = ImageFont.load_default(size=_FONT_PX)
    lines = [
        part for line in heading for part in textwrap.wrap(line, width=(width - 2 * _MARGIN_PX) // _LETTER_PX) or [""]
    ]
    heights = [_LINE_PX + max(panel.shape[0] for panel in e.panels) + 2 * _GAP_PX for e in exhibits]
    sheet = PillowImage.new(
        "RGB", (width, 2 * _MARGIN_PX + (len(lines) + 2) * _LINE_PX + _GAP_PX + sum(heights)), _PAPER
    )
    pen = ImageDraw.Draw(sheet)
    y = _MARGIN_PX
    for number, line in enumerate(lines):
        pen.text((_MARGIN_PX, y), line, fill=_INK if number == 0 else _GREY, font=font)
        y += _LINE_PX
    y += _LINE_PX
    for column, words in enumerate(COLUMNS):
        pen.text((_MARGIN_PX + column * (PANEL_PX + _GAP_PX), y), words, fill=_GREY, font=font)
    y += _LINE_PX + _GAP_PX
    for exhibit, height in zip(exhibits, heights, strict=True):
        pen.text((_MARGIN_PX, y), exhibit.title, fill=_INK, font=font)
        for column, panel in enumerate(exhibit.panels):
            sheet.paste(PillowImage.fromarray(panel), (_MARGIN_PX + column * (PANEL_PX + _GAP_PX), y + _LINE_PX))
        y += height
    return encode_image(np.asarray(sheet), "png")


def _places(size: int, window: int) -> NDArray[np.intp]:
    return np.unique(np.append(np.arange(0, size - window + 1, _STEP_PX), size - window))


def _overview(image: Image, top: int, left: int, height: int, width: int) -> Image:
    """Reduce a picture to PANEL_PX and frame the square that is shown."""
    scale = min(1.0, PANEL_PX / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    corners = [round(value * scale) for value in (left, top, left + width - 1, top + height - 1)]
    cv2.rectangle(
        small, (corners[0], corners[1]), (min(corners[2], size[0] - 1), min(corners[3], size[1] - 1)), _FRAME, 2
    )
    return np.asarray(small, dtype=np.uint8)
