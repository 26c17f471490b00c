"""Restored pictures to files: PNG and TIFF band by band in 8 or 16 bits, WebP without loss, JPEG where the user asks for it.

TIFF is written here because Pillow writes no 16-bit colour and OpenCV no profile. Strips are deflated after horizontal
differencing, which every TIFF reader knows.

Source: PNG specification, 3rd edition, section 11.3; TIFF 6.0 sections 2, 8, 14; Adobe's Photoshop TIFF note (deflate).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags
from PIL import Image as PillowImage
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from curate.core.artifacts import atomic_path
from curate.core.colour import from_profile, to_eight
from curate.core.console import note
from curate.core.errors import ConfigError
from curate.core.plugged import BROKEN
from curate.core.png import write_png

from .picture_files import Metadata, Picture, as_stored, laid_on_white, srgb_profile
from .tiling import Samples

JPEG_QUALITY = 95  # with full chroma: close to invisible, a fifth of the PNG
SUFFIXES: Mapping[str, str] = {
    ".png": "png", ".tif": "tiff", ".tiff": "tiff", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg", ".jpe": "jpeg",
}  # fmt: skip
FORMATS: Mapping[str, str] = {"png": ".png", "tiff": ".tiff", "webp": ".webp", "jpeg": ".jpg"}
_WEBP_MAX_PX, _JPEG_MAX_PX, _TIFF_MAX_BYTES = 16383, 65535, (1 << 32) - (1 << 20)
_JPEG_MAX_EXIF, _JPEG_MAX_XMP = 65533 - 6, 65533 - 29  # a segment's 64 KiB without its length and its name
_STRIP_BYTES = 1 << 20
_METRE_INCHES = 39.3701
_JPEG_PIXEL_BYTES = 14  # 10 in Pillow and libjpeg (VmHWM, 3 MP of noise), 3 as 8 bits
_WEBP_PIXEL_BYTES = 36  # 27 in Pillow and libwebp (VmHWM, 3 MP of noise with alpha), 8 as 8 bits with alpha
_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _UNDEFINED = 1, 2, 3, 4, 5, 7
_CODES = {
    _BYTE: ("B", 1),
    _ASCII: ("B", 1),
    _SHORT: ("H", 2),
    _LONG: ("I", 4),
    _RATIONAL: ("I", 8),
    _UNDEFINED: ("B", 1),
}


def write_picture(path: Path, picture: Picture, format_name: str) -> None:
    """Write a picture atomically: the file is whole or absent.

    Args:
        path: where to.
        picture: its colours, alpha and metadata. Of 16 bits WebP and JPEG keep 8; JPEG lays transparency on white.
        format_name: one of FORMATS.

    Raises:
        ConfigError: the picture is too large for the format.
        DiskError: the disk is full, failing or read-only.
    """
    colour = picture.colour
    num_bytes = colour.shape[2] * colour.itemsize if picture.alpha is None else 4 * colour.itemsize
    check_fits(path, format_name, colour.shape[0], colour.shape[1], num_bytes)
    if format_name == "jpeg":
        picture = replace(picture, metadata=_short_enough(path, picture.metadata))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        _WRITERS[format_name](file, picture)


def check_fits(path: Path, format_name: str, height: int, width: int, bytes_per_pixel: int) -> None:
    """Refuse a result that its format cannot hold.

    Raises:
        ConfigError: too many pixels a side or, in a TIFF, bytes.
    """
    longest = {"webp": _WEBP_MAX_PX, "jpeg": _JPEG_MAX_PX}.get(format_name, max(height, width))
    if max(height, width) > longest:
        raise ConfigError(
            f"{path}: {format_name} holds at most {longest} pixels a side, got {width}x{height}: use .png"
        )
    if format_name == "tiff" and height * width * bytes_per_pixel > _TIFF_MAX_BYTES:
        raise ConfigError(f"{path}: a TIFF holds at most 4 GiB, a picture of {width}x{height} needs more: use .png")


def writing_bytes(format_name: str) -> int:
    """Count the bytes a pixel that writing holds at once beside the picture, at most."""
    return {"jpeg": _JPEG_PIXEL_BYTES, "webp": _WEBP_PIXEL_BYTES}.get(format_name, 0)


def encode_png(picture: Picture) -> bytes:
    """Return a picture as PNG with its metadata."""
    file = io.BytesIO()
    _write_png(file, picture)
    return file.getvalue()


def _write_png(file: BinaryIO, picture: Picture) -> None:
    write_png(file, picture.colour, picture.alpha, chunks=_png_chunks(picture.metadata))


def _png_chunks(metadata: Metadata) -> Iterator[tuple[bytes, bytes]]:
    if metadata.profile:
        yield b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.profile)
    if metadata.dpi is not None:
        yield b"pHYs", struct.pack(">IIB", *(round(value * _METRE_INCHES) for value in metadata.dpi), 1)
    if exif := metadata.exif():
        yield b"eXIf", exif
    if metadata.xmp:
        yield b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp


def _write_webp(file: BinaryIO, picture: Picture) -> None:
    picture = _as_rgb(picture)
    colour = to_eight(picture.colour)
    if picture.alpha is not None:
        colour = np.concatenate([colour, to_eight(picture.alpha)[..., None]], axis=2)
    metadata = _with_resolution(picture.metadata)
    PillowImage.fromarray(colour).save(
        file, "WEBP", lossless=True, exact=True, quality=0, method=0, icc_profile=metadata.profile or None,
        exif=metadata.exif(), xmp=metadata.xmp,
    )  # fmt: skip


def _write_jpeg(file: BinaryIO, picture: Picture) -> None:
    colour, metadata = to_eight(laid_on_white(picture)), picture.metadata
    options: dict[str, object] = {"quality": JPEG_QUALITY, "subsampling": 0}
    if metadata.profile:
        options["icc_profile"] = metadata.profile
    if exif := metadata.exif():
        options["exif"] = b"Exif\x00\x00" + exif
    if metadata.xmp:
        options["xmp"] = metadata.xmp
    if metadata.dpi is not None:
        options["dpi"] = tuple(round(value) for value in metadata.dpi)
    image = PillowImage.fromarray(colour[..., 0] if colour.shape[2] == 1 else colour)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", **options)
    file.write(encoded.getbuffer())


def _short_enough(path: Path, metadata: Metadata) -> Metadata:
    """Leave out what a JPEG's segments cannot hold, with a remark."""
    if len(metadata.xmp) > _JPEG_MAX_XMP:
        note(f"{path}: XMP of {len(metadata.xmp)} bytes is left out, a JPEG holds {_JPEG_MAX_XMP}")
        metadata = replace(metadata, xmp=b"")
    if (num_bytes := len(metadata.exif())) > _JPEG_MAX_EXIF:
        note(f"{path}: EXIF of {num_bytes} bytes is left out, a JPEG holds {_JPEG_MAX_EXIF}")
        metadata = replace(metadata, main={}, camera={}, position={})
    return metadata


def _with_resolution(metadata: Metadata) -> Metadata:
    """Say the resolution in EXIF, for formats that have no other place for it."""
    if metadata.dpi is None:
        return metadata
    x, y = metadata.dpi
    return replace(metadata, main={**metadata.main, 282: x, 283: y, 296: 2})


def _write_tiff(file: BinaryIO, picture: Picture) -> None:
    if picture.alpha is not None:  # grey with alpha of 16 bits is what few readers take
        picture = _as_rgb(picture)
    colour, alpha = picture.colour, picture.alpha
    height, width, channels = colour.shape
    samples = channels + (alpha is not None)
    rows = max(1, _STRIP_BYTES // (width * samples * colour.itemsize))
    file.write(b"II*\0" + bytes(4))
    offsets, lengths = [], []
    for y in range(0, height, rows):
        strip = colour[y : y + rows]
        if alpha is not None:
            strip = np.concatenate([strip, alpha[y : y + rows, :, None]], axis=2)
        offsets.append(file.tell())
        lengths.append(file.write(zlib.compress(_differences(strip), 1)))
    file.write(bytes(file.tell() % 2))
    start, bits = file.tell(), 8 * colour.itemsize
    fields: dict[int, tuple[int, Any]] = {
        256: (_LONG, [width]), 257: (_LONG, [height]), 258: (_SHORT, [bits] * samples), 259: (_SHORT, [8]),
        262: (_SHORT, [1 if channels == 1 else 2]), 273: (_LONG, offsets), 277: (_SHORT, [samples]), 278: (_LONG, [rows]),
        279: (_LONG, lengths), 284: (_SHORT, [1]), 317: (_SHORT, [2]),
    }  # fmt: skip
    if alpha is not None:
        fields[338] = (_SHORT, [2])
    file.write(_directory(fields | _described(picture.metadata), picture.metadata, start))
    file.seek(4)
    file.write(struct.pack("<I", start))


def _described(metadata: Metadata) -> dict[int, tuple[int, Any]]:
    fields: dict[int, tuple[int, Any]] = {}
    for tag, value in metadata.main.items():
        if isinstance(value, str):
            fields[tag] = (_ASCII, value.encode("latin-1", "replace") + b"\0")
        elif isinstance(value, bytes):
            fields[tag] = (_BYTE, value)
    if metadata.dpi is not None:
        fields |= {
            tag: (_RATIONAL, [round(1000 * dpi), 1000]) for tag, dpi in zip((282, 283), metadata.dpi, strict=True)
        }
        fields[296] = (_SHORT, [2])
    if metadata.xmp:
        fields[700] = (_BYTE, metadata.xmp)
    if metadata.profile:
        fields[34675] = (_UNDEFINED, metadata.profile)
    return fields


def _directory(fields: dict[int, tuple[int, Any]], metadata: Metadata, start: int) -> bytes:
    """Write a directory that lies at `start` of the file, with what it points to behind it."""
    inner = {int(ExifTags.IFD.Exif): metadata.camera, int(ExifTags.IFD.GPSInfo): metadata.position}
    inner = {tag: values for tag, values in inner.items() if values}
    heap_start = start + 2 + 12 * (len(fields) + len(inner)) + 4
    entries, heap = {}, b""
    for tag, (kind, values) in fields.items():
        code, size = _CODES[kind]
        content = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{code}", *values)
        count = len(content) // size
        if len(content) > 4:
            content, heap = struct.pack("<I", heap_start + len(heap)), heap + content + bytes(len(content) % 2)
        entries[tag] = struct.pack("<HHI", tag, kind, count) + content.ljust(4, b"\0")
    for tag, values in inner.items():
        content = _inner_directory(tag, values, heap_start + len(heap))
        entries[tag] = struct.pack("<HHII", tag, _LONG, 1, heap_start + len(heap))
        heap += content + bytes(len(content) % 2)
    return struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4) + heap


def _inner_directory(tag: int, values: Mapping[int, Any], start: int) -> bytes:
    for wanted in (values, {}):
        directory = ImageFileDirectory_v2(ifh=b"II*\0\x08\0\0\0", group=tag)
        try:
            for key, value in as_stored(wanted).items():
                directory[key] = value
            return directory.tobytes(start)
        except BROKEN:  # a camera wrote a value of a type that its tag does not allow
            continue
    raise AssertionError("an empty directory can be written")


def _differences(strip: Samples) -> bytes:
    """Take each sample minus its left neighbour's, modulo the type (TIFF 6.0 section 14), little-endian."""
    moved = np.array(strip)
    np.subtract(strip[:, 1:], strip[:, :-1], out=moved[:, 1:])
    return np.ascontiguousarray(moved, dtype=moved.dtype.newbyteorder("<")).tobytes()


def _as_rgb(picture: Picture) -> Picture:
    """Write grey as RGB, for formats without it; a profile of grey is applied, since it says nothing of RGB."""
    if picture.colour.shape[2] == 3:
        return picture
    metadata, alpha = picture.metadata, picture.alpha
    if not metadata.profile:
        return replace(picture, colour=np.repeat(picture.colour, 3, axis=2))
    colour = from_profile(picture.colour, metadata.profile, "L")
    alpha = alpha if alpha is None else to_eight(alpha)
    return replace(picture, colour=colour, alpha=alpha, metadata=replace(metadata, profile=srgb_profile()))


_WRITERS: Mapping[str, Callable[[BinaryIO, Picture], None]] = {
    "png": _write_png, "tiff": _write_tiff, "webp": _write_webp, "jpeg": _write_jpeg,
}  # fmt: skip
