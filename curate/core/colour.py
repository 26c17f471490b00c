"""Other colour spaces to sRGB: embedded ICC profiles by littleCMS, PNG's gamma and primaries, CMYK without a profile.

Profiles: relative colorimetric with black-point compensation, what Adobe's programs do, so that neutral tones stay where
they are and only colours outside sRGB are clipped. Matrix profiles (all the usual wide spaces) go through their own curves and
matrix (`icc.py`), which takes 16 bits and a third of the time, once these were seen to agree with littleCMS on a 17^3 grid;
every other profile goes through littleCMS at 8 bits, 16 bits being rounded first. A profile that moves no colour of that grid
by more than one level is sRGB in all but name, and its pixels are left alone.
Gamma and primaries: linear light = (v / max)^(1 / gamma), a 3x3 matrix if the primaries are others than sRGB's (white adapted
by Bradford), clipped, then sRGB's curve. CMYK without a usable profile: R = (255 - C)(255 - K) / 255, G and B likewise.

Source: ICC.1:2010; IEC 61966-2-1; PNG 3rd edition sections 11.3.2 and C.2; Lindbloom (RGB/XYZ matrices, Bradford).
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageCms

from .icc import MatrixProfile, read_matrix_profile

MAX_PROFILE_BYTES = 16 << 20  # the largest printer profiles hold a few MB
SRGB_TOLERANCE_LEVELS = 1
GRID_SIDE = 17
AGREEMENT_LEVELS = 2  # littleCMS at 8 bits is itself up to 1.5 away from exact arithmetic
GAMMA_TOLERANCE_FRAC = 0.01  # of 1 / 2.2: writers round
BAND_PIXELS = 1 << 18  # converted at once: what is needed on the way is a few MB, whatever the picture
PRIMARIES_TOLERANCE = 0.002  # of a chromaticity coordinate
SRGB_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""White, red, green, blue: x and y of each, in the order of PNG's cHRM."""
_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
_CLASSES = ("scnr", "mntr", "prtr", "spac")
_BROKEN = (OSError, ValueError, TypeError, ImageCms.PyCMSError)
_D50 = np.array([0.9642, 1.0, 0.8249])  # XYZ of the profiles' white
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True, slots=True)
class Encoding:
    """A colour encoding stated in numbers.

    Attributes:
        gamma: the exponent from light to samples, 0.45455 for 1 / 2.2; None for sRGB's own curve.
        primaries: eight coordinates as SRGB_PRIMARIES; None for sRGB's own.
    """

    gamma: float | None = None
    primaries: tuple[float, ...] | None = None


ADOBE_RGB = Encoding(256 / 563, (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06))
"""Adobe RGB (1998), section 4.3.1: gamma 2.19921875."""


def make_encoding(gamma: float | None, primaries: tuple[float, ...] | None) -> Encoding | None:
    """Return what a PNG's gAMA and cHRM ask for, or None where that is sRGB.

    A gamma of 1 / 2.2 on sRGB's primaries counts as sRGB (PNG section 11.3.2.5).

    Args:
        gamma: gAMA's value, as a fraction; None without one, 0 or nonsense is ignored.
        primaries: cHRM's eight coordinates; None without.
    """
    if gamma is not None and not 0.05 <= gamma <= 20:
        gamma = None
    if primaries is not None and (
        max(abs(a - b) for a, b in zip(primaries, SRGB_PRIMARIES, strict=True)) <= PRIMARIES_TOLERANCE
        or not _is_invertible(primaries)
    ):
        primaries = None
    if primaries is None and (gamma is None or abs(gamma * 2.2 - 1) <= GAMMA_TOLERANCE_FRAC):
        return None
    return Encoding(gamma, primaries)


def from_encoding(samples: NDArray[np.uint8 | np.uint16], encoding: Encoding) -> NDArray[np.uint8]:
    """Convert samples of a stated encoding to sRGB.

    Args:
        samples: (H, W, 1 or 3) uint8 or uint16, RGB order.
        encoding: what the samples mean.

    Returns:
        uint8 of the same shape, rounded.
    """
    if encoding.primaries is None or samples.shape[2] == 1:  # grey lies on the white point whatever the primaries
        table = _gamma_table(samples.dtype.itemsize, encoding.gamma)
        return _by_bands(lambda band: np.asarray(table[band], dtype=np.uint8), samples, samples.shape)
    light = np.rint(_linear_table(samples.dtype.itemsize, encoding.gamma) * 65535).astype(np.uint16)
    tables, matrix = np.stack([light] * 3), _matrix_to_srgb(encoding.primaries)
    return _by_bands(lambda band: _through_matrix(band, tables, matrix), samples, samples.shape)


def from_cmyk(inks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert inks to RGB without a profile: R = (255 - C)(255 - K) / 255, rounded.

    Args:
        inks: (H, W, 4) uint8, 255 = full ink.

    Returns:
        (H, W, 3) uint8.
    """

    def convert(band: NDArray[np.uint8 | np.uint16]) -> NDArray[np.uint8]:
        light = (255 - band).astype(np.uint32)
        return ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)

    return _by_bands(convert, inks, (*inks.shape[:2], 3))


def judge_profile(profile: bytes, mode: str) -> tuple[str, str]:
    """Say what an embedded profile asks for; remembered by profile, since thousands of photographs share one.

    Args:
        profile: its bytes; b"" if there is none.
        mode: Pillow's mode of the colour samples: `L`, `RGB` or `CMYK`.

    Returns:
        (policy code, description): `icc-is-srgb`, `icc-to-srgb`, `icc-wrong-space` or `icc-unreadable`, and "" without a
        profile. The latter two leave the pixels as they are.
    """
    return _judge(profile, mode) if profile else ("", "")


def from_profile(samples: NDArray[np.uint8 | np.uint16], profile: bytes, mode: str) -> NDArray[np.uint8]:
    """Convert samples to sRGB by a profile that `judge_profile` called `icc-to-srgb`.

    Args:
        samples: (H, W, 1, 3 or 4) uint8 or uint16; the maximum = full ink for CMYK.
        profile: the ICC profile's bytes.
        mode: `L`, `RGB` or `CMYK`.

    Returns:
        (H, W, 3) uint8.
    """
    return _by_bands(lambda band: _profiled(band, profile, mode), samples, (*samples.shape[:2], 3))


def _profiled(samples: NDArray[np.uint8 | np.uint16], profile: bytes, mode: str) -> NDArray[np.uint8]:
    tables = _matrix_tables(profile) if mode == "RGB" or (mode == "L" and samples.dtype == np.uint16) else None
    if tables is not None:
        read, matrix = tables
        colours = np.broadcast_to(samples, (*samples.shape[:2], 3)) if mode == "L" else samples
        return _through_matrix(colours, read.linear_tables(256**samples.dtype.itemsize), matrix)
    eight = to_eight(samples)
    if mode == "L":
        return np.asarray(_grey_table(profile)[eight[..., 0]], dtype=np.uint8)
    return _by_littlecms(eight, profile, mode)


def to_eight(samples: NDArray[np.uint8 | np.uint16]) -> NDArray[np.uint8]:
    """Scale to 8 bits: round(v * 255 / 65535), exactly; samples of 8 bits are returned as they are."""
    if samples.dtype == np.uint8:
        return np.asarray(samples, dtype=np.uint8)
    return _by_bands(lambda band: ((band.astype(np.uint32) + 128) // 257).astype(np.uint8), samples, samples.shape)


def _by_bands(
    convert: Callable[[NDArray[np.uint8 | np.uint16]], NDArray[np.uint8]],
    samples: NDArray[np.uint8 | np.uint16],
    shape: tuple[int, ...],
) -> NDArray[np.uint8]:
    """Convert a band of rows at a time into a picture of `shape`."""
    rows = max(1, BAND_PIXELS // max(1, samples.shape[1]))
    if len(samples) <= rows:
        return convert(samples)
    converted = np.empty(shape, np.uint8)
    for y in range(0, len(samples), rows):
        converted[y : y + rows] = convert(samples[y : y + rows])
    return converted


def from_lab(picture: PillowImage.Image) -> NDArray[np.uint8]:
    """Convert a picture of mode LAB (D50) to sRGB by littleCMS: (H, W, 3) uint8."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return _apply(picture, ImageCms.buildTransform(lab, srgb, "LAB", "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC))


@functools.lru_cache(maxsize=64)
def _judge(profile: bytes, mode: str) -> tuple[str, str]:
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(opened).strip() or "unnamed"
        space, device_class = opened.profile.xcolor_space.strip(), opened.profile.device_class.strip()
        if device_class not in _CLASSES or len(profile) > MAX_PROFILE_BYTES:
            return "icc-unreadable", name
        if _SPACES.get(space) != mode:
            return "icc-wrong-space", name
        return ("icc-is-srgb" if _is_srgb(profile, mode) else "icc-to-srgb"), name
    except _BROKEN:
        return "icc-unreadable", "unreadable"


def _is_srgb(profile: bytes, mode: str) -> bool:
    if mode == "CMYK":
        return False
    if mode == "L":
        ramp = np.arange(256, dtype=np.int16)[:, None]
        return int(np.abs(_grey_table(profile) - ramp).max()) <= SRGB_TOLERANCE_LEVELS
    moved = np.abs(_by_littlecms(_grid(), profile, mode).astype(np.int16) - _grid())
    return int(moved.max()) <= SRGB_TOLERANCE_LEVELS


@functools.lru_cache(maxsize=8)
def _grey_table(profile: bytes) -> NDArray[np.uint8]:
    """Return the (256, 3) colours of a grey profile; littleCMS's optimisation would cost grey a level or two."""
    ramp = PillowImage.fromarray(np.arange(256, dtype=np.uint8)[None])
    return np.asarray(_apply(ramp, _transform(profile, "L", ImageCms.Flags.NOOPTIMIZE))[0])


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str, flags: ImageCms.Flags = ImageCms.Flags.NONE) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, flags=flags | ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )  # fmt: skip


def _apply(picture: PillowImage.Image, transform: ImageCms.ImageCmsTransform) -> NDArray[np.uint8]:
    converted = ImageCms.applyTransform(picture, transform)
    assert converted is not None, "only in-place transforms return None"
    return np.asarray(converted, dtype=np.uint8)


@functools.lru_cache(maxsize=8)
def _linear_table(num_bytes: int, gamma: float | None) -> NDArray[np.float32]:
    values = np.linspace(0.0, 1.0, 256**num_bytes)
    if gamma is None:
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    else:
        linear = values ** (1 / gamma)
    return linear.astype(np.float32)


@functools.lru_cache(maxsize=8)
def _gamma_table(num_bytes: int, gamma: float | None) -> NDArray[np.uint8]:
    linear = _linear_table(num_bytes, gamma).astype(np.float64)
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.floor(encoded * 255 + 0.5).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def _matrix_to_srgb(primaries: tuple[float, ...]) -> NDArray[np.float32]:
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(_cone(SRGB_PRIMARIES) / _cone(primaries)) @ _BRADFORD
    matrix = np.linalg.inv(_to_xyz(SRGB_PRIMARIES)) @ adapt @ _to_xyz(primaries)
    return np.asarray(matrix, dtype=np.float32)


@functools.lru_cache(maxsize=4)
def _matrix_tables(profile: bytes) -> tuple[MatrixProfile, NDArray[np.float32]] | None:
    """Return a matrix profile and its matrix to linear sRGB (None for a profile of another kind).

    None too if its colours are not littleCMS's, to AGREEMENT_LEVELS on the grid: then we misread it.
    """
    read = read_matrix_profile(profile)
    if read is None or read.to_xyz is None:
        return None if read is None else (read, np.eye(3, dtype=np.float32))
    matrix = np.asarray(np.linalg.inv(_srgb_to_xyz_d50()) @ read.to_xyz, dtype=np.float32)
    ours = _through_matrix(_grid(), read.linear_tables(256), matrix)
    away = np.abs(ours.astype(np.int16) - _by_littlecms(_grid(), profile, "RGB"))
    return (read, matrix) if int(away.max()) <= AGREEMENT_LEVELS else None


def _through_matrix(
    samples: NDArray[np.uint8 | np.uint16], tables: NDArray[np.uint16], matrix: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Look linear light up in (3, 256 or 65536) tables, multiply, clip, encode as sRGB."""
    if samples.dtype == np.uint8:
        linear = cv2.LUT(np.ascontiguousarray(samples), np.ascontiguousarray(tables.T[None]))
    else:
        linear = np.stack([table[samples[..., i]] for i, table in enumerate(tables)], axis=-1)
    steps = np.asarray(cv2.transform(linear, matrix), dtype=np.uint16)  # rounded and clipped to 0 .. 65535
    return np.take(_gamma_table(2, 1.0), steps, mode="clip")


@functools.lru_cache(maxsize=1)
def _grid() -> NDArray[np.uint8]:
    steps = np.rint(np.linspace(0, 255, GRID_SIDE)).astype(np.uint8)
    return np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(GRID_SIDE, -1, 3)


def _by_littlecms(samples: NDArray[np.uint8], profile: bytes, mode: str) -> NDArray[np.uint8]:
    return _apply(PillowImage.fromarray(np.ascontiguousarray(samples), mode), _transform(profile, mode))


def _srgb_to_xyz_d50() -> NDArray[np.float64]:
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ _D50 / _cone(SRGB_PRIMARIES)) @ _BRADFORD
    return np.asarray(adapt @ _to_xyz(SRGB_PRIMARIES))


def _to_xyz(primaries: tuple[float, ...]) -> NDArray[np.float64]:
    white, *colours = (
        np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in zip(primaries[::2], primaries[1::2], strict=True)
    )
    columns = np.stack(colours, axis=1)
    return np.asarray(columns * np.linalg.solve(columns, white))


def _cone(primaries: tuple[float, ...]) -> NDArray[np.float64]:
    x, y = primaries[:2]
    return np.asarray(_BRADFORD @ np.array([x / y, 1.0, (1 - x - y) / y]))


def _is_invertible(primaries: tuple[float, ...]) -> bool:
    if min(primaries[1::2]) <= 0 or max(primaries) > 1:
        return False
    white, red, green, blue = np.array(primaries).reshape(4, 2)
    area = np.cross(np.append(green - red, 0), np.append(blue - red, 0))[2]
    return bool(abs(area) > 1e-3 and white.min() > 0.1)
