"""What a JPEG's markers say of it, read without decoding: process, sampling, tables, quality. No pixel is touched here.

Source: ITU-T T.81 annex B (markers); IJG's jcparam.c (standard tables and their scaling by quality).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .errors import DecodeError
from .records import JpegFacts
from .tiff import read_directory

_EXIF, _XMP, _ICC, _MPF, _ADOBE = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0", b"MPF\0", b"Adobe"
_ALONE = frozenset({0x01, *range(0xD0, 0xDA)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ARITHMETIC, _PROGRESSIVE, _LOSSLESS = (
    {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF},
    {0xC2, 0xC6, 0xCA, 0xCE},
    {0xC3, 0xC7, 0xCB, 0xCF},
)
_SUBSAMPLING = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (1, 2): "4:4:0", (4, 1): "4:1:1", (4, 2): "4:1:0"}
# fmt: off
STANDARD_LUMA = np.array([  # T.81 table K.1 in zigzag order
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57,
    51, 56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120,
    92, 101, 103, 99], np.float64)
# fmt: on


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What stands before the first scan.

    Attributes:
        width: pixels, as stored.
        height: pixels, as stored.
        facts: process, sampling and tables.
        exif: the EXIF block from its II or MM on; b"" if none.
        xmp: the XMP packet; b"" if none.
        profile: the ICC profile, put together from its parts; b"" if none.
        num_pictures: pictures in the file, as its multi-picture index says; 1 without an index.
        scan_start: where the first scan's marker stands.
    """

    width: int
    height: int
    facts: JpegFacts
    exif: bytes
    xmp: bytes
    profile: bytes
    num_pictures: int
    scan_start: int


def read_jpeg_facts(data: bytes) -> JpegFacts:
    """Read the markers up to the first scan.

    Args:
        data: the file's bytes, starting with FF D8.

    Raises:
        DecodeError: `damaged` or `truncated` when the markers do not lead to a frame.
    """
    return read_jpeg_header(data).facts


def read_jpeg_header(data: bytes) -> JpegHeader:
    """Read the markers up to the first scan, with what the application segments say.

    Args:
        data: the file's bytes, starting with FF D8.

    Raises:
        DecodeError: `damaged` or `truncated` when the markers do not lead to a frame.
    """
    tables: dict[int, tuple[int, ...]] = {}
    frame: tuple[int, bytes] | None = None
    found: dict[bytes, bytes] = {}
    profile: list[bytes] = []
    scan_start = len(data)
    for marker, body, position in _segments(data):
        if marker == 0xDB:
            tables |= _quantisation_tables(body)
        elif marker in _FRAMES:
            frame = marker, body
        elif marker == 0xE2 and body.startswith(_ICC):
            profile.append(body[len(_ICC) :])
        elif marker in (0xE1, 0xE2, 0xEE):
            name = next((name for name in (_EXIF, _XMP, _MPF, _ADOBE) if body.startswith(name)), b"")
            found.setdefault(name, body[len(name) :])
        elif marker == 0xDA:
            scan_start = position
            break
    if frame is None:
        raise DecodeError("truncated" if len(data) < 4096 else "damaged", "JPEG header: no frame before the first scan")
    adobe = found[_ADOBE][6] if len(found.get(_ADOBE, b"")) >= 7 else None
    width, height, facts = _frame_facts(*frame, tables, adobe)
    return JpegHeader(
        width, height, facts, exif=found.get(_EXIF, b""), xmp=found.get(_XMP, b""),
        profile=b"".join(part[2:] for part in sorted(profile)),  # each part starts with its number
        num_pictures=_num_pictures(found[_MPF]) if _MPF in found else 1, scan_start=scan_start,
    )  # fmt: skip


def _frame_facts(
    marker: int, body: bytes, tables: dict[int, tuple[int, ...]], adobe: int | None
) -> tuple[int, int, JpegFacts]:
    if len(body) < 6:
        raise DecodeError("truncated", "JPEG header: the frame is cut off")
    precision, height, width, num_components = struct.unpack_from(">BHHB", body)
    components = [body[6 + 3 * i : 9 + 3 * i] for i in range(num_components)]
    if not components or any(len(c) < 3 or 0 in (c[1] >> 4, c[1] & 15) for c in components):
        raise DecodeError("damaged", "JPEG header: the frame's components are cut off")
    sampling = [(c[1] >> 4, c[1] & 15) for c in components]
    luma = tables.get(components[0][2], ())
    facts = JpegFacts(
        progressive=marker in _PROGRESSIVE, arithmetic=marker in _ARITHMETIC, lossless=marker in _LOSSLESS,
        precision_bits=precision, num_components=num_components, subsampling=_subsampling(sampling),
        mcu_width=8 * max(h for h, _ in sampling) if num_components > 1 else 8,
        mcu_height=8 * max(v for _, v in sampling) if num_components > 1 else 8,
        luma_table=luma, quality=estimate_quality(luma), adobe_transform=adobe,
    )  # fmt: skip
    return width, height, facts


def _num_pictures(index: bytes) -> int:
    try:
        return max(1, read_directory(index).number(0xB001, 1))
    except DecodeError:
        return 1


def estimate_quality(luma_table: tuple[int, ...]) -> float | None:
    """Estimate the IJG quality whose scaled standard table is nearest to a luma quantisation table.

    The scale s (in percent) that minimises the squared error of `clip(K.1 * s / 100, 1, 255)` is found over the 100 tables
    IJG's encoder can write; libjpeg-turbo's own tables give their quality back exactly.

    Args:
        luma_table: 64 steps in zigzag order; () if the file holds none.

    Returns:
        1.0 .. 100.0; None without a table.

    Source:
        jcparam.c, jpeg_quality_scaling: s = 5000 / q below 50, 200 - 2 q from 50.
    """
    if len(luma_table) != 64:
        return None
    error = ((_IJG_TABLES - np.asarray(luma_table, np.float64)) ** 2).sum(axis=1)
    return float(100 - np.argmin(error[::-1]))  # of equal tables the highest quality


def _ijg_tables() -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None]
    return np.clip((STANDARD_LUMA * scale + 50) // 100, 1, 255)


_IJG_TABLES = _ijg_tables()


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield each segment's marker, body and position."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:  # libjpeg skips stray bytes too, and warns when it decodes
            position = data.find(b"\xff", position)
            if position < 0:
                return
            continue
        marker = data[position + 1]
        if marker in (0xFF, 0x00):
            position += 1
            continue
        if marker in _ALONE and marker != 0xD9:
            position += 2
            continue
        if marker == 0xD9:
            return
        (length,) = struct.unpack_from(">H", data, position + 2)
        if length < 2:
            raise DecodeError("damaged", f"JPEG header: a segment of length {length}")
        yield marker, data[position + 4 : position + 2 + length], position
        position += 2 + length


def _quantisation_tables(body: bytes) -> dict[int, tuple[int, ...]]:
    tables, position = {}, 0
    while position < len(body):
        wide, number = body[position] >> 4, body[position] & 15
        size = 128 if wide else 64
        if position + 1 + size > len(body):
            break
        tables[number] = struct.unpack_from(">64H" if wide else ">64B", body, position + 1)
        position += 1 + size
    return tables


def _subsampling(sampling: list[tuple[int, int]]) -> str:
    if len(sampling) == 1:
        return "grey"
    if (
        len(sampling) >= 3
        and sampling[1] == sampling[2]
        and not (sampling[0][0] % sampling[1][0] or sampling[0][1] % sampling[1][1])
    ):
        ratio = (sampling[0][0] // sampling[1][0], sampling[0][1] // sampling[1][1])
        return _SUBSAMPLING.get(ratio, "other")
    return "other"
