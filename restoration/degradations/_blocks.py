"""Baseline JPEG in torch, for the training device: what libjpeg does to the pixels, without writing a file.

Source: ITU-T T.81 (tables of annex K, DCT of A.3.3), JFIF (colours), libjpeg for quality scaling, rounding at every stage,
chroma averaging (with its alternating bias) and "fancy" triangle upsampling. What differs from the codec is its integer
arithmetic; the difference is measured in docs/degradations.md. Gradients pass every rounding as if it were not there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ._batch import upload

LUMA_TABLE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMA_TABLE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *(99,) * 32,
)  # fmt: skip
SAMPLING = {"420": (2, 2), "422": (1, 2), "444": (1, 1)}  # chroma: rows and columns of pixels per sample
TIE = 1e-4  # a middle is a middle although float32 says a little less; the smallest step of a coefficient is 1 / 2040
TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))


def jpeg_batch(x_BCHW: Tensor, qualities: Sequence[int], subsampling: str) -> Tensor:
    """Compress and decode every picture.

    Args:
        x_BCHW: (B, 3, H, W) float32 in [0, 1], any size.
        qualities: libjpeg's scale, 1 to 100, one per picture.
        subsampling: `420`, `422` or `444`.

    Returns:
        (B, 3, H, W), multiples of 1/255.
    """
    rows, columns = SAMPLING[subsampling]
    levels = _round((x_BCHW * 255).clamp(0, 255))
    red, green, blue = levels.unbind(1)
    luma, *chroma = (_round(r * red + g * green + b * blue) for r, g, b in TO_YCC)
    tables = [np.stack([quantisation_table(quality, kind) for quality in qualities]) for kind in ("luma", "chroma")]
    luma = _through_blocks(luma - 128, upload(tables[0], x_BCHW)) + 128
    blue_diff, red_diff = (_chroma(plane, upload(tables[1], x_BCHW), rows, columns) for plane in chroma)
    rgb = (luma + 1.402 * red_diff, luma - 0.344136286 * blue_diff - 0.714136286 * red_diff, luma + 1.772 * blue_diff)
    return _round(torch.stack(rgb, dim=1)).clamp(0, 255) / 255


def quantisation_table(quality: int, kind: str) -> NDArray[np.float32]:
    """Scale a standard table as libjpeg does: (8, 8), whole numbers 1 to 255."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = (np.array(LUMA_TABLE if kind == "luma" else CHROMA_TABLE) * percent + 50) // 100
    scaled: NDArray[np.float32] = np.clip(table, 1, 255).reshape(8, 8).astype(np.float32)
    return scaled


def _round(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def _half_up(x: Tensor) -> Tensor:
    return x + (torch.floor(x + 0.5 + TIE) - x).detach()


def _chroma(plane_BHW: Tensor, table_B88: Tensor, rows: int, columns: int) -> Tensor:
    """Shrink, compress and enlarge a chroma plane."""
    height, width = plane_BHW.shape[1:]
    decoded = _through_blocks(_averaged(plane_BHW, rows, columns), table_B88)
    return _enlarged(decoded[:, : -(-height // rows), : -(-width // columns)], rows, columns)[:, :height, :width]


def _averaged(plane_BHW: Tensor, rows: int, columns: int) -> Tensor:
    """Average the pixels of a chroma sample, rounding up and down in turn along a row; the width is whole blocks."""
    if rows * columns == 1:
        return plane_BHW
    padded = _replicated(plane_BHW, -plane_BHW.shape[1] % rows, -plane_BHW.shape[2] % (8 * columns))
    mean = functional.avg_pool2d(padded[:, None], (rows, columns))[:, 0]
    bias = torch.tensor([1, 2] if rows == 2 else [0, 1], device=mean.device) / (rows * columns)
    whole = torch.floor(mean + bias.repeat(mean.shape[2] // 2) + 1e-3)
    return mean + (whole - mean).detach()


def _through_blocks(plane_BHW: Tensor, table_B88: Tensor) -> Tensor:
    """Transform 8x8 blocks, round to multiples of the table, transform back, round to levels (-128 to 127).

    Both transforms keep two bits after their first pass, and the forward one three after its second, as jfdctint.c and
    jidctint.c do: what they round away decides many coefficients that lie near the middle of a step.
    """
    batch, height, width = plane_BHW.shape
    padded = _replicated(plane_BHW, -height % 8, -width % 8)
    cosines = upload(_cosines(), plane_BHW)
    blocks = padded.view(batch, padded.shape[1] // 8, 8, padded.shape[2] // 8, 8).transpose(2, 3)
    table = table_B88[:, None, None]
    coefficients = _half_up(cosines @ _half_up(4 * (blocks @ cosines.T)) / 4) / (8 * table)
    whole = coefficients.sign() * torch.floor(coefficients.abs() + 0.5 + TIE)
    stored = (coefficients + (whole - coefficients).detach()) * table
    decoded = _half_up(_half_up(4 * (cosines.T @ stored)) @ cosines / 32).clamp(-128, 127)
    return decoded.transpose(2, 3).reshape(padded.shape)[:, :height, :width]


def _enlarged(plane_BHW: Tensor, rows: int, columns: int) -> Tensor:
    """Enlarge chroma with weights 3/4 and 1/4, as libjpeg does unless told otherwise, and round."""
    if rows * columns == 1:
        return plane_BHW
    size = (plane_BHW.shape[1] * rows, plane_BHW.shape[2] * columns)
    return _round(functional.interpolate(plane_BHW[:, None], size=size, mode="bilinear", align_corners=False)[:, 0])


def _replicated(plane_BHW: Tensor, down: int, right: int) -> Tensor:
    return functional.pad(plane_BHW[:, None], (0, right, 0, down), mode="replicate")[:, 0]


def _cosines() -> NDArray[np.float32]:
    """Give the DCT's matrix, sqrt(8) times the orthonormal one, as libjpeg scales it."""
    frequencies, places = np.arange(8)[:, None], np.arange(8)[None]
    rows = math.sqrt(2) * np.cos((2 * places + 1) * frequencies * math.pi / 16)
    rows[0] = 1
    return rows.astype(np.float32)
