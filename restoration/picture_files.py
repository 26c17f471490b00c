"""Pictures as a user's files: all of their bits, their transparency and what they say about themselves.

curate's decoders give 8-bit sRGB on white, which is what networks learn from. A picture to be restored keeps more:

- 16 bits stay 16 bits; grey stays grey (the network sees it three times, its answers are averaged).
- Its own colours and profile: samples of an RGB or grey profile are restored as they are stored and the profile is passed on,
  so that no colour is clipped. Where samples mean something else than RGB or grey (CMYK, Lab) or numbers instead of a profile
  say what they mean (PNG's gAMA and cHRM, EXIF's Adobe RGB), they become 8-bit sRGB, and the result says so.
- Transparency is set aside and put back; the colours under it are restored like the others.
- EXIF (orientation applied and reset, no thumbnail), XMP (orientation reset), resolution. Of an animation the first picture.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageCms
from PIL import Image as PillowImage

from curate.core.colour import BAND_PIXELS, from_cmyk, from_encoding, from_profile, judge_profile, to_eight
from curate.core.decode import Raw, decode_raw
from curate.core.errors import DecodeError
from curate.core.header import Header, read_header
from curate.core.images import orient
from curate.core.plugged import BROKEN, open_picture

from .tiling import Samples

MAX_RESOLUTION_DPI = 1e6  # a file that says more says nonsense
_IFD0 = (
    0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F,
)  # fmt: skip
"""ImageDescription, Make, Model, Software, DateTime, Artist, Copyright, Windows' title to subject."""
_INCH_CM = 2.54
_SIZE_TAGS = (0xA002, 0xA003)  # of the stored pixels
_COLOUR_SPACE, _INTEROPERABILITY, _SRGB = 0xA001, 0xA005, 1
_XMP_ORIENTATION = re.compile(rb'(tiff:Orientation(?:="|>))[1-8]')


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a file says about its picture, ready for another file.

    Attributes:
        profile: ICC profile of the samples as they are now; b"" for none, which means sRGB.
        main: EXIF's first directory, tag -> value.
        camera: its Exif directory.
        position: its GPS directory.
        xmp: the XMP packet; b"" for none.
        dpi: horizontal and vertical resolution; None if the file states none.
    """

    profile: bytes = b""
    main: Mapping[int, Any] = field(default_factory=dict)
    camera: Mapping[int, Any] = field(default_factory=dict)
    position: Mapping[int, Any] = field(default_factory=dict)
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None

    def exif(self) -> bytes:
        """Return an EXIF block, starting with its byte order; b"" if there is nothing to say."""
        if not (self.main or self.camera or self.position):
            return b""
        exif = PillowImage.Exif()
        exif.update(as_stored(self.main))
        for tag, values in ((ExifTags.IFD.Exif, self.camera), (ExifTags.IFD.GPSInfo, self.position)):
            if values:
                exif[tag] = as_stored(values)
        try:
            return exif.tobytes().removeprefix(b"Exif\x00\x00")
        except BROKEN:  # a camera wrote a value of a type that its tag does not allow
            return b""


class _Text(str):
    """A text that is written as the bytes it was read from: Pillow reads Latin-1, and writes ASCII with question marks."""

    __slots__ = ()

    def encode(self, encoding: str = "ascii", errors: str = "strict") -> bytes:
        """Return the bytes, whatever Pillow asks for."""
        return super().encode("latin-1", "replace")


def as_stored(values: Mapping[int, Any]) -> dict[int, Any]:
    """Prepare a directory as Pillow read it for Pillow to write."""
    return {tag: _Text(value) if isinstance(value, str) else value for tag, value in values.items()}


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded file, upright.

    Attributes:
        colour: (H, W, 1) grey or (H, W, 3) RGB, uint8 or uint16.
        alpha: (H, W) of the same type; None if there is none.
        metadata: what else it said.
    """

    colour: Samples
    alpha: NDArray[np.uint8 | np.uint16] | None = None
    metadata: Metadata = field(default_factory=Metadata)


def read_head(data: bytes) -> Header:
    """Read a file's header.

    Raises:
        DecodeError: as `curate.core.images.read_facts`.
    """
    try:
        return read_header(data)
    except BROKEN as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError("damaged", f"header: {error}") from error


def picture_bytes(header: Header) -> int:
    """Count the bytes a pixel of a decoded picture, alpha included."""
    return ((1 if header.colour_mode == "L" else 3) + header.alpha) * (2 if header.deep else 1)


def decoding_bytes(header: Header) -> int:
    """Count the bytes a pixel that decoding holds at once, at most.

    Three times the file's own samples: as decoded, converted or taken apart, turned. Five times where Pillow decodes: it holds
    RGB in 4 bytes, copies it, and gives it away in two steps.
    """
    inks = header.colour_mode == "CMYK"
    samples = ((1 if header.colour_mode == "L" else 4 if inks else 3) + header.alpha) * (2 if header.deep else 1)
    own = (
        header.deep or header.format == "jpeg" or (header.format in ("png", "webp") and header.mode in ("RGB", "RGBA"))
    )
    return (3 if own else 5) * samples


def decode_picture(data: bytes, header: Header | None = None) -> Picture:
    """Decode a file with all it holds; as strict about damage as curate.

    Args:
        data: the file's bytes.
        header: what `read_head(data)` returned, if already known.

    Raises:
        DecodeError: as `curate.core.images.decode_image`.
    """
    header = header or read_head(data)
    raw = decode_raw(data, header)
    if raw.colour.shape[:2] not in ((header.height, header.width), (header.width, header.height)):
        raise DecodeError("damaged", f"decodes to {raw.colour.shape[1]}x{raw.colour.shape[0]}, not as announced")
    colour, profile, converted = _colours(raw, header)
    orientation = 1 if raw.upright else header.orientation
    colour = np.ascontiguousarray(orient(colour, orientation))  # type: ignore[arg-type]
    alpha = raw.alpha if raw.alpha is None else np.ascontiguousarray(orient(raw.alpha, orientation))  # type: ignore[arg-type]
    return Picture(colour, alpha, _metadata(data, header, profile, converted=converted))


def laid_on_white(picture: Picture) -> Samples:
    """Return the colours on white, for formats without transparency; (H, W, C) of the same type."""
    if picture.alpha is None:
        return picture.colour
    full = np.iinfo(picture.colour.dtype).max
    laid = np.empty_like(picture.colour)
    rows = max(1, BAND_PIXELS // laid.shape[1])
    for y in range(0, len(laid), rows):
        weight = picture.alpha[y : y + rows, :, None].astype(np.uint32)  # 65535^2 + 32767 still fits
        laid[y : y + rows] = (picture.colour[y : y + rows] * weight + full * (full - weight) + full // 2) // full
    return laid


def _colours(raw: Raw, header: Header) -> tuple[Samples, bytes, bool]:
    """Return grey or RGB samples, the profile that says what they are, and whether they had to be converted."""
    usable = judge_profile(header.profile, header.colour_mode)[0] in ("icc-is-srgb", "icc-to-srgb")
    if header.encoding is not None:
        profile = srgb_profile() if raw.colour.shape[2] == 3 else b""  # grey without a profile is read as sRGB's
        return from_encoding(raw.colour, header.encoding), profile, True
    if raw.colour.shape[2] == 4:
        if usable:
            return from_profile(raw.colour, header.profile, header.colour_mode), srgb_profile(), True
        return from_cmyk(to_eight(raw.colour)), srgb_profile(), True
    if header.mode == "LAB":
        return raw.colour, srgb_profile(), True
    return raw.colour, header.profile if usable else b"", False


@functools.cache
def srgb_profile() -> bytes:
    """Return a profile that says sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _metadata(data: bytes, header: Header, profile: bytes, *, converted: bool) -> Metadata:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(data, header.format) as opened:
                exif = opened.getexif()
                main = {tag: exif[tag] for tag in _IFD0 if tag in exif}
                camera = dict(exif.get_ifd(ExifTags.IFD.Exif))
                position = dict(exif.get_ifd(ExifTags.IFD.GPSInfo))
                xmp, dpi = opened.info.get("xmp", b""), opened.info.get("dpi") or _exif_resolution(exif)
    except BROKEN:  # the pixels are whole: a broken remark beside them is left out
        return Metadata(profile=profile)
    for tag in (*_SIZE_TAGS, int(ExifTags.Base.MakerNote), _INTEROPERABILITY):
        camera.pop(tag, None)  # maker notes point into the old file
    if converted and _COLOUR_SPACE in camera:
        camera[_COLOUR_SPACE] = _SRGB
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    return Metadata(
        profile=profile, main=main, camera=camera, position=position, xmp=_XMP_ORIENTATION.sub(rb"\g<1>1", xmp),
        dpi=_resolution(dpi),
    )  # fmt: skip


def _open(data: bytes, format_name: str) -> PillowImage.Image:
    if format_name == "jpeg":
        import io

        return PillowImage.open(io.BytesIO(data), formats=("JPEG", "MPO"))
    return open_picture(data, format_name)


def _exif_resolution(exif: PillowImage.Exif) -> tuple[Any, Any] | None:
    """Return what EXIF says of dots an inch, where the format itself says nothing."""
    factor = {2: 1.0, 3: _INCH_CM}.get(exif.get(ExifTags.Base.ResolutionUnit, 2))
    x, y = exif.get(ExifTags.Base.XResolution), exif.get(ExifTags.Base.YResolution)
    try:
        return None if factor is None else (float(x) * factor, float(y) * factor)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # not there, or no number
        return None


def _resolution(dpi: Any) -> tuple[float, float] | None:
    try:
        x, y = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x <= MAX_RESOLUTION_DPI and 0 < y <= MAX_RESOLUTION_DPI else None
