"""Bytes to samples as the file holds them: strict about damage, no colour conversion, no orientation.

JPEG by libjpeg-turbo (simplejpeg, whose warnings count as damage); 16 bits, RGB PNG and still WebP by OpenCV's libraries, which
keep all bits and need the least memory; everything else by Pillow. Of a PNG the decoders see the critical chunks and tRNS
only, after every checksum was checked.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image as PillowImage

from . import tiff
from .colour import from_lab
from .errors import DecodeError
from .header import Header, png_chunks
from .plugged import BROKEN, open_picture

Samples = NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True, slots=True)
class Raw:
    """Samples before any conversion.

    Attributes:
        colour: (H, W, 1) grey, (H, W, 3) RGB or (H, W, 4) inks (full = the type's maximum); uint8 or uint16.
        alpha: (H, W) of the same type; None if there is none.
        upright: the decoder has applied the orientation already.
    """

    colour: Samples
    alpha: Samples | None = None
    upright: bool = False


def decode_jpeg(data: bytes, colorspace: str) -> NDArray[np.uint8]:
    """Decode a JPEG strictly: (H, W, C) uint8.

    Args:
        data: the file's bytes.
        colorspace: `RGB`, `GRAY` (its own luma) or `CMYK` (as stored).

    Raises:
        DecodeError: `truncated` or `damaged` at libjpeg's first warning.
    """
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace=colorspace, strict=True), dtype=np.uint8)
    except ValueError as error:
        reason = "truncated" if "remature end" in str(error) else "damaged"
        raise DecodeError(reason, f"libjpeg: {error}") from error


def decode_raw(data: bytes, header: Header) -> Raw:
    """Decode a file to its own samples.

    Raises:
        DecodeError: `truncated`, `damaged` or `unsupported-depth`.
    """
    if header.format == "jpeg":
        if header.mode == "CMYK":
            return Raw(255 - decode_jpeg(data, "CMYK"))  # Adobe stores light, not ink, and so does everyone since
        return Raw(decode_jpeg(data, "GRAY" if header.mode == "L" else "RGB"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if header.format == "png":
                return _decode_png(data, header)
            if (
                header.format == "webp" and not header.several
            ):  # two fifths of the memory and a quarter of Pillow's time
                flag = cv2.IMREAD_UNCHANGED if header.alpha else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
                pixels = _decode_opencv(data, header, flag)
                return _split(pixels, grey=False) if header.alpha else Raw(pixels)
            if header.deep and header.mode != "CMYK;16":
                return _decode_deep_tiff(data, header)
            return _decode_pillow(data, header)
    except DecodeError:
        raise
    except (*BROKEN, cv2.error) as error:
        reason = "truncated" if "truncated" in str(error) else "damaged"
        raise DecodeError(reason, f"{header.format}: {error}") from error


def _decode_png(data: bytes, header: Header) -> Raw:
    grey_key = _grey_key(data) if header.mode in ("1", "L", "I;16") and header.alpha else None
    clean = _clean_png(data, keep_key=grey_key is None)
    if not header.deep and header.mode not in ("RGB", "RGBA"):
        raw = _decode_pillow(clean, header)
    elif header.mode == "RGB" and not header.alpha:
        raw = Raw(_decode_opencv(clean, header, cv2.IMREAD_COLOR_RGB))
    else:
        pixels = _decode_opencv(clean, header)
        raw = _split(pixels, grey=header.mode in ("I;16", "LA;16"))
    if grey_key is None:
        return raw
    bits = {"1": 1, "I;16": 16}.get(header.mode) or data[24]
    full = 65535 if header.deep else 255
    key = grey_key * full // ((1 << bits) - 1)
    return Raw(raw.colour, np.where(raw.colour[..., 0] == key, 0, full).astype(raw.colour.dtype))


def _grey_key(data: bytes) -> int | None:
    for kind, start, length in png_chunks(data):
        if kind == b"tRNS" and length >= 2:
            return int(struct.unpack_from(">H", data, start)[0])
    return None


def _clean_png(data: bytes, *, keep_key: bool) -> bytes:
    """Check every chunk's CRC-32; return the file without the chunks that say nothing of samples."""
    wanted = {b"IHDR", b"PLTE", b"IDAT", b"IEND"} | ({b"tRNS"} if keep_key else set())
    parts = [data[:8]]
    view = memoryview(data)
    for kind, start, length in png_chunks(data):
        if zlib.crc32(view[start - 4 : start + length]) != struct.unpack_from(">I", data, start + length)[0]:
            raise DecodeError("damaged", f"PNG: wrong checksum of a {kind.decode('latin-1')!r} chunk")
        if kind in wanted:
            parts.append(bytes(view[start - 8 : start + length + 4]))
    return b"".join(parts)


def _decode_opencv(data: bytes, header: Header, flag: int = cv2.IMREAD_UNCHANGED) -> Samples:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if pixels is None:
        raise DecodeError("damaged", f"{header.format}: the pixels do not decode")
    if pixels.shape[:2] != (header.height, header.width) or pixels.dtype != (np.uint16 if header.deep else np.uint8):
        raise DecodeError("damaged", f"{header.format}: pixels of another size or depth than the header says")
    return np.asarray(pixels)


def _split(pixels: Samples, *, grey: bool) -> Raw:
    """Split OpenCV's (H, W), BGR or BGRA into colour and alpha."""
    if pixels.ndim == 2:
        return Raw(pixels[..., None])
    alpha = pixels[..., 3] if pixels.shape[2] == 4 else None
    if grey:
        return Raw(pixels[..., :1], alpha)
    return Raw(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if alpha is None else cv2.COLOR_BGRA2RGB)), alpha)


def _decode_deep_tiff(data: bytes, header: Header) -> Raw:
    directory = tiff.read_directory(data)
    data = tiff.forget_orientation(data) if header.orientation != 1 else data
    if header.mode == "I;16":
        pixels = _decode_opencv(data, header)
        if pixels.ndim != 2:
            raise DecodeError("damaged", f"TIFF: {pixels.shape} samples where grey ones were announced")
        white_is_zero = directory.number(tiff.PHOTOMETRIC, 1) == 0  # OpenCV overlooks it
        return Raw((65535 - pixels if white_is_zero else pixels)[..., None])
    if directory.number(tiff.PLANAR, 1) == 2:  # OpenCV mixes planes of 16 bits up
        planes = [_decode_opencv(tiff.extract_plane(data, i), header) for i in range(directory.number(tiff.SAMPLES, 3))]
        raw = Raw(np.dstack(planes[:3]), planes[3] if len(planes) == 4 else None)
    else:
        raw = _split(_decode_opencv(data, header), grey=False)
    if header.mode == "RGBX;16":
        return Raw(raw.colour)
    if header.mode == "RGBa;16" and raw.alpha is not None:
        weight = np.maximum(raw.alpha, 1)[..., None].astype(np.float32)
        return Raw(np.clip(np.rint(raw.colour * (65535 / weight)), 0, 65535).astype(np.uint16), raw.alpha)
    return raw


def _decode_pillow(data: bytes, header: Header) -> Raw:
    with open_picture(data, header.format) as picture:
        picture.load()
        upright = header.format == "tiff"  # Pillow turns TIFF while loading, and only TIFF
        if header.alpha or "transparency" in picture.info:
            return _with_alpha(picture, upright)
        if picture.mode in ("1", "L"):
            return Raw(np.asarray(picture.convert("L"))[..., None], upright=upright)
        if picture.mode == "LAB":
            return Raw(from_lab(picture), upright=upright)
        if picture.mode.startswith(("I", "F")):
            raise DecodeError("unsupported-depth", f"{header.format} with pixels of mode {picture.mode}")
        if picture.mode == "P":  # by our own table: Pillow's RGB takes four bytes a pixel more
            table = np.zeros((256, 3), np.uint8)
            palette = np.array(picture.getpalette() or [], np.uint8).reshape(-1, 3)[:256]
            table[: len(palette)] = palette
            return Raw(table[np.asarray(picture)], upright=upright)
        return Raw(np.asarray(picture.convert("CMYK" if picture.mode == "CMYK" else "RGB")), upright=upright)


def _with_alpha(picture: PillowImage.Image, upright: bool) -> Raw:
    if picture.mode in ("LA", "La"):
        both = np.asarray(picture.convert("LA"))
        return Raw(both[..., :1], both[..., 1], upright)
    four = np.asarray(picture.convert("RGBA"))
    return Raw(four[..., :3], four[..., 3], upright)
