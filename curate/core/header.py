"""What a file says of its picture before a pixel is decoded: size, mode, orientation, profile. Read here with bounds.

Pillow and the decoders see a file only after its stated size was checked here: a bomb costs its bytes on disk and no more.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from . import tiff
from .colour import ADOBE_RGB, MAX_PROFILE_BYTES, Encoding, make_encoding
from .errors import DecodeError
from .formats import check_num_pixels, identify, load_reader
from .jpeg import read_jpeg_header
from .plugged import read_plugged_header
from .records import JpegFacts

MAX_TEXT_BYTES = 1 << 20
MAX_PNG_CHUNKS = 1 << 20  # a 1 GiB file with the usual 8 KiB chunks has an eighth of them
MAX_JPEG_SCANS = 500  # libjpeg-turbo's own advice for untrusted files (TJPARAM_SCANLIMIT); encoders write about ten
_PNG_MODES = {
    (1, 0): "1", (2, 0): "L", (4, 0): "L", (8, 0): "L", (16, 0): "I;16", (8, 2): "RGB", (16, 2): "RGB;16", (1, 3): "P",
    (2, 3): "P", (4, 3): "P", (8, 3): "P", (8, 4): "LA", (16, 4): "LA;16", (8, 6): "RGBA", (16, 6): "RGBA;16",
}  # fmt: skip
_TIFF_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32809, 32946, 34925, 50000}  # what Pillow's libtiff knows
_UNREADABLE = b"?"  # stands for a profile that could not be unpacked


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of its picture.

    Attributes:
        format: one of `formats.FORMATS`.
        width: pixels, as stored.
        height: pixels, as stored.
        mode: Pillow's name of the pixel mode; `;16` after it where a channel has 16 bits (`I;16` for grey).
        alpha: the file holds transparency of some kind.
        orientation: 1..8 as EXIF has it, still to be applied.
        several: the file holds more pictures than the one we read.
        profile: the embedded ICC profile; b"" if none.
        encoding: how samples are encoded if numbers say so instead of a profile; None for sRGB.
        encoding_code: the policy code of `encoding`.
        jpeg: a JPEG's facts.
    """

    format: str
    width: int
    height: int
    mode: str
    alpha: bool = False
    orientation: int = 1
    several: bool = False
    profile: bytes = b""
    encoding: Encoding | None = None
    encoding_code: str = ""
    jpeg: JpegFacts | None = None

    @property
    def deep(self) -> bool:
        """True if a channel has 16 bits."""
        return self.mode.endswith(";16")

    @property
    def colour_mode(self) -> str:
        """Mode of the decoded colour samples: `L`, `RGB` or `CMYK`."""
        name = self.mode.removesuffix(";16")
        return "L" if name in ("1", "L", "LA", "La", "I") else "CMYK" if name == "CMYK" else "RGB"


def read_header(data: bytes, name: str = "") -> Header:
    """Read a file's header and check the size it states.

    Args:
        data: the file's bytes.
        name: its name, if its suffix should be checked against what it holds.

    Raises:
        DecodeError: with one of the reasons listed in `curate.core.images`.
    """
    format_name = identify(data, name)
    load_reader(format_name)
    if format_name in _READERS:
        return _READERS[format_name](data)
    plugged = read_plugged_header(data, format_name)
    return Header(
        format=format_name, width=plugged.width, height=plugged.height, mode=plugged.mode, alpha=plugged.alpha,
        orientation=plugged.orientation, several=plugged.several, profile=plugged.profile,
    )  # fmt: skip


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Walk a PNG's chunks up to IEND: (type, where its content starts, its length).

    Raises:
        DecodeError: `truncated` or `damaged`.
    """
    position = 8
    for _ in range(MAX_PNG_CHUNKS):
        if position + 12 > len(data):
            raise DecodeError("truncated", "PNG: the file ends without an IEND chunk")
        length, kind = struct.unpack_from(">I4s", data, position)
        if position + 12 + length > len(data):
            raise DecodeError("truncated", f"PNG: a {kind!r} chunk runs past the end of the file")
        yield kind, position + 8, length
        if kind == b"IEND":
            return
        position += 12 + length
    raise DecodeError("damaged", f"PNG: more than {MAX_PNG_CHUNKS} chunks")


def _read_jpeg(data: bytes) -> Header:
    header = read_jpeg_header(data)
    facts = header.facts
    for wrong, reason, detail in (
        (facts.lossless, "lossless-jpeg", "a lossless process, which only medical viewers read"),
        (facts.arithmetic, "arithmetic-coded", "arithmetic coding, which most programs cannot read"),
        (facts.precision_bits != 8, "twelve-bit", f"{facts.precision_bits} bits a sample; only 8 are read"),
    ):
        if wrong:
            raise DecodeError(reason, f"JPEG with {detail}")
    mode = {1: "L", 3: "RGB", 4: "CMYK"}.get(facts.num_components)
    if mode is None:
        raise DecodeError("unsupported-format", f"JPEG with {facts.num_components} components")
    check_num_pixels(header.width, header.height)
    if facts.progressive and _count_scans(data, header.scan_start) > MAX_JPEG_SCANS:
        raise DecodeError("damaged", f"a progressive JPEG of more than {MAX_JPEG_SCANS} scans: each costs a full pass")
    adobe_rgb = mode == "RGB" and not header.profile and tiff.exif_says_adobe_rgb(header.exif)
    return Header(
        format="jpeg", width=header.width, height=header.height, mode=mode, several=header.num_pictures > 1,
        orientation=tiff.exif_orientation(header.exif, header.xmp), profile=header.profile, jpeg=facts,
        encoding=ADOBE_RGB if adobe_rgb else None, encoding_code="adobe-rgb-to-srgb" if adobe_rgb else "",
    )  # fmt: skip


def _count_scans(data: bytes, start_of_scans: int) -> int:
    """Count FF DA from the first scan to the end of the picture, at even and odd positions; faster than bytes.count.

    What follows the picture (a phone's video, more pictures) does not count.
    """
    end = data.find(b"\xff\xd9", start_of_scans)
    size = (end if end >= 0 else len(data)) - start_of_scans
    total = 0
    for offset in (0, 1):
        pairs = np.frombuffer(data, "<u2", count=max(0, size - offset) // 2, offset=start_of_scans + offset)
        for start in range(0, len(pairs), 1 << 16):  # small enough to stay in the cache
            total += int(np.count_nonzero(pairs[start : start + (1 << 16)] == 0xDAFF))
    return total


def _read_png(data: bytes) -> Header:
    found: dict[bytes, bytes] = {}
    texts: list[bytes] = []
    for kind, start, length in png_chunks(data):
        if not found and (kind != b"IHDR" or length != 13):
            raise DecodeError("damaged", "PNG: the first chunk is no IHDR")
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            if length <= MAX_TEXT_BYTES and data[start : start + 4] in (b"XML:", b"Raw "):
                texts.append(kind + data[start : start + length])
        elif kind in (b"IHDR", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP", b"tRNS", b"acTL", b"eXIf"):
            if kind == b"IHDR" and not found:
                check_num_pixels(*struct.unpack_from(">II", data, start))
            found.setdefault(kind, data[start : start + length])
    width, height, bits, colour_type = struct.unpack_from(">IIBB", found[b"IHDR"])
    mode = _PNG_MODES.get((bits, colour_type))
    if mode is None:
        raise DecodeError("damaged", f"PNG: no such pixels: colour type {colour_type} with {bits} bits")
    encoding = _png_encoding(found)
    return Header(
        format="png", width=width, height=height, mode=mode, alpha=colour_type in (4, 6) or b"tRNS" in found,
        orientation=_png_orientation(found.get(b"eXIf", b""), texts), profile=_png_profile(found), encoding=encoding,
        encoding_code="gamma-to-srgb" if encoding else "",
        several=struct.unpack(">I", found.get(b"acTL", b"")[:4].rjust(4, b"\0"))[0] > 1,
    )  # fmt: skip


def _png_profile(found: dict[bytes, bytes]) -> bytes:
    if b"iCCP" not in found or found.get(b"cICP", b"")[:2] == b"\x01\x0d":
        return b""
    try:
        packed = found[b"iCCP"].split(b"\0", 1)[1][1:]
        unpacker = zlib.decompressobj()
        profile = unpacker.decompress(packed, MAX_PROFILE_BYTES)
        return profile if unpacker.eof else _UNREADABLE
    except (zlib.error, IndexError):
        return _UNREADABLE


def _png_encoding(found: dict[bytes, bytes]) -> Encoding | None:
    """Read gAMA and cHRM; a profile, sRGB or cICP chunk goes before both (PNG section 4.3)."""
    if {b"iCCP", b"sRGB", b"cICP"} & found.keys():
        return None
    gamma, primaries = found.get(b"gAMA", b""), found.get(b"cHRM", b"")
    return make_encoding(
        struct.unpack(">I", gamma)[0] / 100_000 if len(gamma) == 4 else None,
        tuple(value / 100_000 for value in struct.unpack(">8I", primaries)) if len(primaries) == 32 else None,
    )


def _png_orientation(exif: bytes, texts: list[bytes]) -> int:
    """Read the eXIf chunk, else the text chunks ImageMagick and Adobe write."""
    xmp = b""
    for text in texts:
        keyword, _, rest = text[4:].partition(b"\0")
        content = _png_text(text[:4], rest)
        if keyword == b"XML:com.adobe.xmp":
            xmp = xmp or content
        elif keyword in (b"Raw profile type exif", b"Raw profile type APP1") and not exif:
            lines = content.strip().split(b"\n", 2)  # its name, its length, its bytes in hexadecimal
            try:
                exif = bytes.fromhex(b"".join(lines[2:]).decode("ascii", "replace"))
            except ValueError:
                exif = b""
    return tiff.exif_orientation(exif, xmp)


def _png_text(kind: bytes, rest: bytes) -> bytes:
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = rest[:1] == b"\1"
        rest = rest[2:].split(b"\0", 2)[-1]
    elif packed:
        rest = rest[1:]
    try:
        return zlib.decompressobj().decompress(rest, MAX_TEXT_BYTES) if packed else rest
    except zlib.error:
        return b""


def _read_webp(data: bytes) -> Header:
    (length,) = struct.unpack_from("<I", data, 4)
    if length + 8 > len(data):
        raise DecodeError("truncated", f"WebP: {length + 8} bytes announced, {len(data)} there")
    found: dict[bytes, bytes] = {}
    num_frames, position = 0, 12
    while position + 8 <= length + 8:
        kind, size = struct.unpack_from("<4sI", data, position)
        num_frames += kind == b"ANMF"
        wanted = (
            16
            if kind in (b"VP8 ", b"VP8L", b"VP8X", b"ANMF")
            else MAX_PROFILE_BYTES
            if kind == b"ICCP"
            else MAX_TEXT_BYTES
        )
        if kind not in found:
            found[kind] = data[position + 8 : position + 8 + min(size, wanted)]
        position += 8 + size + size % 2
    sizes = [_webp_size(kind, found[kind]) for kind in (b"VP8X", b"VP8 ", b"VP8L", b"ANMF") if kind in found]
    if not sizes:
        raise DecodeError("damaged", "WebP: no picture in the file")
    for width, height, _ in sizes:
        check_num_pixels(width, height)
    alpha = sizes[0][2]
    return Header(
        format="webp", width=sizes[0][0], height=sizes[0][1], mode="RGBA" if alpha else "RGB", alpha=alpha,
        orientation=tiff.exif_orientation(found.get(b"EXIF", b""), found.get(b"XMP ", b"")), several=num_frames > 1,
        profile=found.get(b"ICCP", b""),
    )  # fmt: skip


def _webp_size(kind: bytes, content: bytes) -> tuple[int, int, bool]:
    """Return (width, height, alpha) of one chunk (RFC 9649 sections 2.5 to 2.7)."""
    content = content.ljust(16, b"\0")
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 6)
        return width & 0x3FFF, height & 0x3FFF, False
    if kind == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    start = 4 if kind == b"VP8X" else 6
    sides = [int.from_bytes(content[i : i + 3], "little") + 1 for i in (start, start + 3)]
    return sides[0], sides[1], kind == b"VP8X" and bool(content[0] & 0x10)


def _read_bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    if len(data) < 14 + size:
        raise DecodeError("truncated", "BMP: the header is cut off")
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    check_num_pixels(width, abs(height))
    plugged = read_plugged_header(data, "bmp")
    return Header(format="bmp", width=width, height=abs(height), mode=plugged.mode, alpha=plugged.alpha)


def _read_tiff(data: bytes) -> Header:
    directory = tiff.read_directory(data)
    width, height = directory.number(tiff.WIDTH, 0), directory.number(tiff.HEIGHT, 0)
    check_num_pixels(width, height)
    _check_tiff_tiles(directory, width * height)
    _check_tiff_pieces(directory, width, height)
    photometric = directory.number(tiff.PHOTOMETRIC, 0)
    if tiff.DNG_VERSION in directory.entries or photometric in (32803, 34892) or data[8:10] == b"CR":
        raise DecodeError("unsupported-format", "camera raw: develop it to TIFF or PNG first")
    compression = directory.number(tiff.COMPRESSION, 1)
    if compression not in _TIFF_COMPRESSIONS:
        raise DecodeError("unsupported-format", f"TIFF compressed by method {compression}")
    if directory.number(tiff.SUBFILE, 0) & 1:
        raise DecodeError(
            "unsupported-format", "TIFF whose first picture is a thumbnail (camera raw?): develop it first"
        )
    mode, alpha = _tiff_mode(directory, data, photometric)
    return Header(
        format="tiff", width=width, height=height, mode=mode, alpha=alpha, several=directory.next_offset != 0,
        orientation=_tiff_orientation(directory), profile=directory.content(tiff.ICC_PROFILE)[: MAX_PROFILE_BYTES + 1],
    )  # fmt: skip


def _tiff_orientation(directory: tiff.Directory) -> int:
    if tiff.ORIENTATION not in directory.entries:
        return tiff.xmp_orientation(directory.content(tiff.XMP)[:MAX_TEXT_BYTES])
    value = directory.number(tiff.ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def _tiff_mode(directory: tiff.Directory, data: bytes, photometric: int) -> tuple[str, bool]:
    bits = directory.numbers(tiff.BITS) or (1,)
    sample_format = directory.number(tiff.SAMPLE_FORMAT, 1)
    samples = directory.number(tiff.SAMPLES, 1)
    if max(bits) <= 8 and sample_format in (1, 4):
        plugged = read_plugged_header(data, "tiff")
        return plugged.mode, plugged.alpha
    kind = {1: "unsigned", 2: "signed", 3: "float", 5: "complex", 6: "complex"}.get(sample_format, "undefined")
    layout = {(0, 1): "I;16", (1, 1): "I;16", (2, 3): "RGB;16", (2, 4): "RGBA;16", (5, 4): "CMYK;16"}
    mode = layout.get((photometric, samples))
    if set(bits) != {16} or sample_format != 1 or mode is None:
        raise DecodeError(
            "unsupported-depth",
            f"TIFF with {samples} {kind} samples of {max(bits)} bits (photometric {photometric}); "
            "wanted unsigned, 8 bits or 16-bit grey, RGB, RGBA or CMYK",
        )
    if mode == "RGBA;16" and directory.number(tiff.EXTRA_SAMPLES, 0) == 0:
        mode = "RGBX;16"  # a fourth channel of no stated meaning is no alpha
    elif mode == "RGBA;16" and directory.number(tiff.EXTRA_SAMPLES, 0) == 1:
        mode = "RGBa;16"  # premultiplied
    return mode, mode.startswith(("RGBA", "RGBa"))


def _check_tiff_tiles(directory: tiff.Directory, num_pixels: int) -> None:
    tile = directory.number(tiff.TILE_WIDTH, 0) * directory.number(tiff.TILE_HEIGHT, 0)
    if tile > max(4 * num_pixels, 4096 * 4096):
        raise DecodeError("too-many-pixels", f"TIFF: a tile of {tile} pixels in a picture of {num_pixels}")
    if directory.number(tiff.SAMPLES, 1) > 8:
        raise DecodeError("unsupported-depth", f"TIFF: {directory.number(tiff.SAMPLES, 1)} samples a pixel")


def _check_tiff_pieces(directory: tiff.Directory, width: int, height: int) -> None:
    """Refuse a TIFF whose strips or tiles do not cover the picture: Pillow would fill the rest with black."""
    planes = directory.number(tiff.SAMPLES, 1) if directory.number(tiff.PLANAR, 1) == 2 else 1
    if tiff.TILE_OFFSETS in directory.entries:
        side_x, side_y = (
            max(1, directory.number(tiff.TILE_WIDTH, width)),
            max(1, directory.number(tiff.TILE_HEIGHT, height)),
        )
        wanted, tag = -(-width // side_x) * -(-height // side_y) * planes, tiff.TILE_OFFSETS
    else:
        rows = max(1, directory.number(tiff.ROWS_PER_STRIP, height))
        wanted, tag = -(-height // rows) * planes, tiff.STRIP_OFFSETS
    found = directory.entries.get(tag, (0, 0, 0))[1]
    if found < wanted:
        raise DecodeError("truncated", f"TIFF: {found} strips or tiles where the picture has {wanted}")


_READERS = {"jpeg": _read_jpeg, "png": _read_png, "webp": _read_webp, "bmp": _read_bmp, "tiff": _read_tiff}
