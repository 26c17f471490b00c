"""Cut patches out of a JPEG without decoding it: the patch holds the camera's own coefficients, a fifth of a PNG's bytes.

libjpeg-turbo's transform reads the entropy-coded data once for all patches of a picture and writes each as a baseline JPEG
without any APPn segment of the source. A patch decodes to the same pixels as the crop of the decoded picture, except its
outermost pixels where chroma is subsampled: there the decoder interpolates with neighbours it no longer sees.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .core.decode import decode_jpeg
from .core.errors import DecodeError, MissingDependencyError
from .core.records import ImageFacts

HINT = (
    "patch format source needs libturbojpeg and its Python binding: "
    "`apt install libturbojpeg0` and `pip install 'irdistill[source]'`; or choose --patch-format webp"
)


MAX_TILES = 1024
"""`cut_whole` of more is slower than decoding and cutting: libjpeg-turbo's work grows with their square."""


def can_crop(facts: ImageFacts, origins: Sequence[tuple[int, int]], size_px: int) -> bool:
    """Say whether patches of this picture can be cut in the DCT domain.

    True for an 8-bit Huffman-coded baseline or progressive JPEG whose pixels need no orientation, profile or depth
    change, if every origin and the size fall on its grid of coded units (MCU).
    """
    jpeg = facts.jpeg
    if jpeg is None or not facts.untouched or jpeg.num_components not in (1, 3):
        return False
    if jpeg.arithmetic or jpeg.lossless or jpeg.precision_bits != 8 or jpeg.subsampling == "other":
        return False
    on_grid = all(y % jpeg.mcu_height == 0 and x % jpeg.mcu_width == 0 for y, x in origins)
    return on_grid and size_px % jpeg.mcu_height == 0 and size_px % jpeg.mcu_width == 0


def crop_jpeg(data: bytes, origins: Sequence[tuple[int, int]], size_px: int) -> list[bytes]:
    """Cut square patches in one pass over the entropy-coded data.

    Args:
        data: a JPEG for which `can_crop` holds.
        origins: (y, x) of each patch, inside the picture and on its MCU grid.
        size_px: side of the patches.

    Returns:
        One JPEG per origin, in order, with the source's coefficients and tables.

    Raises:
        DecodeError: `damaged`: libjpeg warned or gave up.
        MissingDependencyError: libturbojpeg or its binding is not installed.
    """
    return _crop(data, [(x, y, size_px, size_px) for y, x in origins])


def cut_whole(data: bytes, facts: ImageFacts, size_px: int) -> tuple[NDArray[np.uint8], dict[tuple[int, int], bytes]]:
    """Cut a whole picture into tiles and decode the luma of each.

    For a progressive JPEG this is a third faster than decoding it and cutting it: its many scans are read once, and the
    tiles are baseline. Luma has no neighbours to interpolate with, so the plane equals that of the whole picture.

    Args:
        data: a JPEG for which `can_crop` holds for the grid from the origin.
        facts: its header facts.
        size_px: side of the tiles; those at the right and bottom edge are what is left.

    Returns:
        The luma plane, (H, W) uint8, and the whole patches by their origin (y, x).

    Raises:
        DecodeError: `damaged`.
    """
    plane = np.empty((facts.height, facts.width), np.uint8)
    regions = [
        (x, y, min(size_px, facts.width - x), min(size_px, facts.height - y))
        for y in range(0, facts.height, size_px)
        for x in range(0, facts.width, size_px)
    ]
    patches = {}
    for (x, y, width, height), tile in zip(regions, _crop(data, regions), strict=True):
        plane[y : y + height, x : x + width] = decode_jpeg(tile, "GRAY")[..., 0]
        if width == height == size_px:
            patches[y, x] = tile
    plane.setflags(write=False)
    return plane, patches


def _crop(data: bytes, regions: Sequence[tuple[int, int, int, int]]) -> list[bytes]:
    if not regions:
        return []
    transform = _turbojpeg()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error", UserWarning
            )  # the binding turns libjpeg's warnings, which are damage, into Python's
            patches: list[bytes] = transform.crop_multiple(data, regions, copynone=True)
    except (OSError, UserWarning) as error:
        raise DecodeError("damaged", f"libjpeg: {error}") from error
    return patches


def require_libturbojpeg() -> None:
    """Raise MissingDependencyError, with the commands that help, if patches cannot be cut losslessly here."""
    _turbojpeg()


@functools.cache
def _turbojpeg() -> Any:
    try:
        import turbojpeg

        return turbojpeg.TurboJPEG()
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingDependencyError(HINT) from error
