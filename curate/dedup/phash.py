"""Perceptual hashes of a picture or patch: 64 bits that survive recompression and resizing; equal to imagehash's, bit for bit.

Equal means: `phash(grey)` is `str(imagehash.phash(Image.fromarray(grey)))`, so a corpus can be compared with any list of hashes
that imagehash made. Most of imagehash's time is Pillow's resize; lanczos.py gives the same thumbnail in a fifth of it.

Source: Zauner 2010 and the imagehash package, `phash` (the 8x8 low frequencies of the DCT of a 32x32 thumbnail, each compared
with their median) and `average_hash` (an 8x8 thumbnail, each level compared with the mean).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..core.errors import ImageError
from .lanczos import resize_lanczos

SIDE_PX, LOW = 32, 8  # imagehash: hash_size 8, highfreq_factor 4
NUM_BITS = LOW * LOW


@dataclass(frozen=True, slots=True)
class Hashes:
    """What is known of one plane after its thumbnails were made once.

    Attributes:
        phash: 16 hex digits.
        average_hash: 16 hex digits.
        thumbnail: (32, 32) uint8, what `phash` was made from; `dihedral_of` takes it.
    """

    phash: str
    average_hash: str
    thumbnail: NDArray[np.uint8]


def phash(grey: NDArray[np.uint8]) -> str:
    """Hash one luma plane by its low frequencies.

    Args:
        grey: (H, W) uint8, any size. Not modified.

    Returns:
        16 hex digits; row by row, most significant bit first, 1 where the coefficient is above the median.

    Raises:
        ImageError: not a two-dimensional uint8 array with pixels.

    Example:
        >>> phash(np.tile(np.arange(64, dtype=np.uint8), (64, 1)))
        'aa00000000000000'
    """
    return phash_of(thumbnail_of(grey))


def average_hash(grey: NDArray[np.uint8]) -> str:
    """Hash one luma plane by where it is lighter than its mean.

    Args:
        grey: (H, W) uint8, any size. Not modified.

    Returns:
        16 hex digits; row by row, most significant bit first, 1 where the level of the 8x8 thumbnail is above the mean.

    Raises:
        ImageError: not a two-dimensional uint8 array with pixels.

    Example:
        >>> average_hash(np.repeat(np.uint8([[0, 255]]), 8, axis=1))
        '0f0f0f0f0f0f0f0f'
    """
    levels = resize_lanczos(grey, LOW, LOW)
    return _hex(levels > np.mean(levels))


def hashes_of(grey: NDArray[np.uint8]) -> Hashes:
    """Make both hashes of one plane, and keep the thumbnail for the turned ones."""
    thumbnail = thumbnail_of(grey)
    return Hashes(phash_of(thumbnail), average_hash(grey), thumbnail)


def thumbnail_of(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the (32, 32) uint8 thumbnail that `phash` looks at."""
    return resize_lanczos(grey, SIDE_PX, SIDE_PX)


def phash_of(thumbnail: NDArray[np.uint8]) -> str:
    """Hash a (32, 32) uint8 thumbnail."""
    return _hex(_bits(_low_frequencies(thumbnail)))


def dihedral_phashes(grey: NDArray[np.uint8]) -> tuple[str, ...]:
    """Hash a plane and its seven flips and rotations.

    Args:
        grey: (H, W) uint8, any size. Not modified.

    Returns:
        8 times 16 hex digits in the order of `dihedral_of`; the first is `phash(grey)`.

    Raises:
        ImageError: not a two-dimensional uint8 array with pixels.
    """
    return dihedral_of(thumbnail_of(grey))


def dihedral_of(thumbnail: NDArray[np.uint8]) -> tuple[str, ...]:
    """Hash a thumbnail and its seven flips and rotations.

    The thumbnail is turned, not the picture: Pillow rounds between its passes along rows and along columns, so a thumbnail of
    the turned picture may differ in a level here and there, and its hash from ours in a few bits (tests/oracle: at most 4).

    Args:
        thumbnail: (32, 32) uint8.

    Returns:
        8 times 16 hex digits: for each k = 0..3 the thumbnail after k quarter turns to the left (`np.rot90(t, k)`), then for
        each k = 0..3 the mirrored one (`np.rot90(np.fliplr(t), k)`): as it is, turned by 90, 180, 270 degrees to the
        left, mirrored left-right, transposed, mirrored top-bottom, transposed about the other diagonal.
    """
    mirrored = thumbnail[:, ::-1]
    turned = np.stack([np.rot90(side, k) for side in (thumbnail, mirrored) for k in range(4)])
    return tuple(_hex(_bits(block)) for block in _low_frequencies(turned))


def luma_of(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Make the grey plane that imagehash hashes of a colour picture: Pillow's `convert("L")`.

    Args:
        rgb: (H, W, 3) uint8, RGB order. Not modified.

    Returns:
        (H, W) uint8, ITU-R 601 luma in Pillow's 16-bit fixed point (OpenCV's differs by a level on some pixels).

    Raises:
        ImageError: another rank, dtype or number of channels.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ImageError(f"expected an (H, W, 3) uint8 picture with pixels, got {rgb.dtype} of shape {rgb.shape}")
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).convert("L"))


def _low_frequencies(thumbnails: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the (..., 8, 8) low frequencies of (..., 32, 32): SciPy's DCT along columns, then rows, as imagehash takes them.

    Flat pictures have frequencies of 0 and of rounding errors, and bits made from those: only the same code gives the same.
    """
    from scipy.fftpack import dct  # here: it takes 0.1 s, and only those who hash need it

    frequencies: NDArray[np.float64] = dct(dct(thumbnails, axis=-2), axis=-1)
    return frequencies[..., :LOW, :LOW]


def _bits(frequencies: NDArray[np.float64]) -> NDArray[np.bool_]:
    ordered = np.sort(frequencies, axis=None)
    middle = (ordered[NUM_BITS // 2 - 1] + ordered[NUM_BITS // 2]) / 2  # np.median in a fifth of its time
    above: NDArray[np.bool_] = frequencies > middle
    return above


def _hex(bits: NDArray[np.bool_]) -> str:
    return np.packbits(bits).tobytes().hex()
