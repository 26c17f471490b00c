"""Headers Pillow reads for us, after the size a file states was read and checked without it.

AVIF and HEIC state it in `ispe` boxes (ISO/IEC 23008-12 section 6.5.3), JPEG XL in its first bits (ISO/IEC 18181-1 annex D.2).
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from .errors import DecodeError
from .formats import check_num_pixels

BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, OverflowError, MemoryError,
          RuntimeError, AttributeError, struct.error)  # fmt: skip
"""What Pillow and its plug-ins raise on damaged files."""
_PILLOW_NAMES = {
    "tiff": "TIFF",
    "bmp": "BMP",
    "avif": "AVIF",
    "heic": "HEIF",
    "jxl": "JXL",
    "webp": "WEBP",
    "png": "PNG",
}
_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PluggedHeader:
    """What Pillow says of a file; fields as in `header.Header`."""

    width: int
    height: int
    mode: str
    alpha: bool
    orientation: int
    several: bool
    profile: bytes


def open_picture(data: bytes, format_name: str) -> PillowImage.Image:
    """Open a file with the one reader of its format; Pillow's warnings are silenced.

    Raises:
        DecodeError: `damaged` or `unsupported-format`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return PillowImage.open(io.BytesIO(data), formats=(_PILLOW_NAMES[format_name],))
        except UnidentifiedImageError as error:
            raise DecodeError("damaged", f"{format_name}: the header cannot be read") from error
        except PillowImage.DecompressionBombError as error:
            raise DecodeError("too-many-pixels", f"{format_name}: {error}") from error
        except BROKEN as error:
            reason = "unsupported-format" if str(error).startswith("Unsupported") else "damaged"
            raise DecodeError(reason, f"{format_name} header: {error}") from error


def read_plugged_header(data: bytes, format_name: str) -> PluggedHeader:
    """Check the size a file states, then ask Pillow for the rest.

    Raises:
        DecodeError: `damaged`, `truncated` or `too-many-pixels`.
    """
    if format_name in ("avif", "heic"):
        for width, height in _ispe_sizes(data, 0, len(data)):
            check_num_pixels(width, height)
    elif format_name == "jxl":
        check_num_pixels(*jxl_size(data))
    with open_picture(data, format_name) as picture:
        check_num_pixels(*picture.size)
        return PluggedHeader(
            width=picture.width, height=picture.height, mode=picture.mode,
            alpha=picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info,
            # libheif and libjxl turn the picture themselves; Pillow states AVIF's turn as EXIF, and its JPEG XL plug-in
            # gives a JPEG packed without loss as it was
            orientation=_orientation(picture) if format_name == "avif" or getattr(picture, "jpeg", False) else 1,
            several=format_name in ("avif", "heic", "jxl") and getattr(picture, "n_frames", 1) > 1,
            profile=picture.info.get("icc_profile") or b"",
        )  # fmt: skip


def _orientation(picture: PillowImage.Image) -> int:
    value = picture.getexif().get(0x0112, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _ispe_sizes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    for _ in range(4096):
        if start + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1 and start + 16 <= end:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        stop = end if length == 0 else start + length
        if kind in _CONTAINERS:
            yield from _ispe_sizes(data, start + head + _CONTAINERS[kind], min(stop, end))
        elif kind == b"ispe" and start + 20 <= len(data):
            width, height = struct.unpack_from(">II", data, start + 12)
            yield width, height
        if stop <= start:
            return
        start = stop


def jxl_size(data: bytes) -> tuple[int, int]:
    """Read (width, height) of a JPEG XL file, before its own orientation.

    Raises:
        DecodeError: `damaged`, no codestream in the container.
    """
    stream = data if data[:2] == b"\xff\x0a" else _jxl_codestream(data)
    bits = int.from_bytes(stream[2:16], "little")
    used = 0

    def take(num: int) -> int:
        nonlocal used
        value = bits >> used & ((1 << num) - 1)
        used += num
        return value

    small = take(1)

    def side() -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    height = side()
    ratio = take(3)
    return (height * _RATIOS[ratio][0] // _RATIOS[ratio][1] if ratio else side()), height


def _jxl_codestream(data: bytes) -> bytes:
    position = 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        head = 8
        if length == 1 and position + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, position + 8)
            head = 16
        if kind in (b"jxlc", b"jxlp"):
            start = position + head + (4 if kind == b"jxlp" else 0)
            return data[start : start + 32]
        if length < head:
            break
        position += length
    raise DecodeError("damaged", "JPEG XL: no codestream in the container")
