"""Bytes to pixels and back, and the checks every pixel passes.

Outside `restoration` an image is (H, W, 3) uint8 sRGB in RGB order. Policies, recorded per image in `ImageFacts.policy`:
EXIF orientation applied (`oriented`); 16 bits scaled to 8 with rounding (`16-to-8`); grey repeated (`grey-to-rgb`);
alpha laid on white (`alpha-on-white`; an opaque one changes nothing); other modes
(palette, CMYK, 1-bit) by Pillow (`MODE-to-rgb`); only the first frame of an animation (`first-frame`).
Embedded ICC profiles are recorded, not applied (`icc-kept-as-is`). A JPEG that makes libjpeg warn is damaged.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageCms, UnidentifiedImageError

from .errors import ConfigError, DecodeError, ImageError
from .jpeg import read_jpeg_facts
from .records import Image, ImageFacts

MAX_PIXELS = 178_956_970  # Pillow's own limit for decompression bombs; checked from the header
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".tif", ".tiff", ".bmp"})
FORMATS = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp", "TIFF": "tiff", "BMP": "bmp"}
_DEEP_MODES = ("I;16", "I;16B", "I", "F")
PATCH_EXTENSIONS = ("webp", "png")
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, OverflowError, MemoryError, struct.error)
"""What Pillow raises on damaged files."""
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\x00", b"MM\x00*", b"BM")


def looks_like_image(head: bytes) -> bool:
    """Say whether the first bytes of a file (>= 12 of them) are those of an image format we read."""
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def check_image(image: NDArray[np.generic], *, where: str) -> None:
    """Raise ImageError unless `image` is (H, W, 3) uint8 with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(f"{where}: wanted an (H, W, 3) uint8 RGB image, got shape {image.shape}, dtype {image.dtype}")


def read_facts(data: bytes) -> ImageFacts:
    """Read format, size, orientation and profile from the header; decodes no pixel.

    Args:
        data: the file's bytes.

    Raises:
        DecodeError: `not-an-image`, `unsupported-format`, `too-many-pixels` or `damaged` (a broken header).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read_facts(data)
    except DecodeError:
        raise
    except _BROKEN as error:
        raise DecodeError("damaged", f"header: {error}") from error


def _read_facts(data: bytes) -> ImageFacts:
    with _open(data) as picture:
        format_name = FORMATS.get(picture.format or "")
        if format_name is None:
            raise DecodeError(
                "unsupported-format", f"{picture.format} is not one of {', '.join(sorted(set(FORMATS.values())))}"
            )
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise DecodeError("too-many-pixels", f"{width}x{height} is over the limit of {MAX_PIXELS} pixels")
        orientation = _orientation(picture)
        profile = _profile_name(picture.info.get("icc_profile"))
        policy = _policy(picture, orientation, profile)
        if orientation >= 5:
            width, height = height, width
        return ImageFacts(
            format=format_name, width=width, height=height, orientation=orientation, mode=picture.mode,
            policy=policy, icc_profile=profile, jpeg=read_jpeg_facts(data) if format_name == "jpeg" else None,
        )  # fmt: skip


def decode_image(data: bytes, facts: ImageFacts | None = None) -> Image:
    """Decode a file to 8-bit sRGB, upright; strict about damage.

    Args:
        data: the file's bytes.
        facts: what `read_facts(data)` returned, if already known.

    Returns:
        (H, W, 3) uint8, RGB order, C-contiguous and read-only.

    Raises:
        DecodeError: not an image, a format we do not read, or any sign of damage (`reason` says which).
    """
    facts = facts or read_facts(data)
    raw = _decode_jpeg(data, "RGB") if _plain_jpeg(facts) else _decode_other(data, facts)
    image = np.ascontiguousarray(orient(raw, facts.orientation))
    check_image(image, where="decoded image")
    image.setflags(write=False)
    return image


def read_picture(path: Path) -> Image:
    """Read and decode one file; an error names it.

    Raises:
        DecodeError: as `decode_image`, or `unreadable`.
    """
    try:
        return decode_image(path.read_bytes())
    except OSError as error:
        raise DecodeError("unreadable", f"{path}: {error.strerror}") from error
    except DecodeError as error:
        raise DecodeError(error.reason, f"{path}: {error.detail}") from error


def decode_grey(data: bytes, facts: ImageFacts, load_rgb: Callable[[], Image]) -> NDArray[np.uint8]:
    """Return the luma plane scores are measured on.

    The JPEG's own luma for untouched JPEG sources (no rounding through RGB), BT.601 of the decoded pixels otherwise.

    Args:
        data: the file's bytes.
        facts: its header facts.
        load_rgb: gives its decoded pixels, (H, W, 3) uint8; called for anything but an untouched JPEG.

    Returns:
        (H, W) uint8, read-only.
    """
    if facts.format == "jpeg" and facts.untouched:
        plane = decode_jpeg_luma(data)
    else:
        plane = np.asarray(cv2.cvtColor(load_rgb(), cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    plane.setflags(write=False)
    return plane


def decode_jpeg_luma(data: bytes) -> NDArray[np.uint8]:
    """Decode only the luma of a JPEG that holds 8-bit grey or YCbCr: (H, W) uint8.

    Raises:
        DecodeError: `damaged`.
    """
    return _decode_jpeg(data, "GRAY")[..., 0]


def decode_patch(data: bytes) -> Image:
    """Decode one of our own patches (8-bit WebP, PNG or JPEG).

    Returns:
        (H, W, 3) uint8, RGB order, writable.

    Raises:
        DecodeError: the bytes are damaged.
    """
    if data[:2] == b"\xff\xd8":
        return np.array(_decode_jpeg(data, "RGB"))
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    if pixels is None:
        raise DecodeError("damaged", "the patch does not decode")
    return np.asarray(pixels, dtype=np.uint8)


def encode_image(image: Image, extension: str) -> bytes:
    """Encode losslessly.

    Args:
        image: (H, W, 3) uint8 RGB.
        extension: `webp` (lossless, method 0: a third smaller than PNG at the same speed) or `png`.

    Raises:
        ConfigError: another extension.
        ImageError: not an (H, W, 3) uint8 image.
    """
    check_image(image, where="encode_image")
    if extension == "png":
        ok, buffer = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if not ok:
            raise ImageError(f"OpenCV could not encode a PNG of shape {image.shape}")
        return bytes(buffer)
    if extension == "webp":
        out = io.BytesIO()
        PillowImage.fromarray(image).save(out, "WEBP", lossless=True, quality=0, method=0)
        return out.getvalue()
    raise ConfigError(f"patch format must be one of {', '.join(PATCH_EXTENSIONS)}, got {extension!r}")


def encode_thumbnail(image: Image, *, side_px: int = 128, quality: int = 85) -> bytes:
    """Make a small JPEG for galleries from an RGB or grey plane: longer side `side_px`, area-averaged."""
    height, width = image.shape[:2]
    scale = min(1.0, side_px / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    small = small if small.ndim == 3 else np.repeat(small[..., None], 3, axis=2)
    return bytes(simplejpeg.encode_jpeg(small, quality=quality, colorspace="RGB", colorsubsampling="420"))


def orient(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation to (H, W) or (H, W, C); values outside 1..8 mean 1, as viewers do.

    Source:
        EXIF 2.32 section 4.6.4 A; equal to Pillow's ImageOps.exif_transpose.
    """
    transpose, flip_rows, flip_columns = {
        2: (False, False, True), 3: (False, True, True), 4: (False, True, False), 5: (True, False, False),
        6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
    }.get(orientation, (False, False, False))  # fmt: skip
    if transpose:
        image = image.swapaxes(0, 1)
    return image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _open(data: bytes) -> PillowImage.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return PillowImage.open(io.BytesIO(data))
        except UnidentifiedImageError as error:
            raise DecodeError(*_unidentified(data)) from error
        except PillowImage.DecompressionBombError as error:
            raise DecodeError("too-many-pixels", f"over the limit of {MAX_PIXELS} pixels") from error
        except _BROKEN as error:
            raise DecodeError("damaged", f"header: {error}") from error


def _unidentified(data: bytes) -> tuple[str, str]:
    if looks_like_image(data[:16]):
        return "damaged", "the header cannot be read"
    return "not-an-image", f"starts with {data[:12]!r}" if data else "the file is empty"


def _orientation(picture: PillowImage.Image) -> int:
    try:
        value = picture.getexif().get(0x0112, 1)
    except _BROKEN:
        return 1  # an unreadable EXIF block says nothing; the pixels are still whole
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _profile_name(profile: bytes | None) -> str:
    if not profile:
        return ""
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip() or "unnamed"
    except (OSError, ImageCms.PyCMSError):
        return "unreadable"


def _policy(picture: PillowImage.Image, orientation: int, profile: str) -> str:
    codes = []
    if orientation != 1:
        codes.append("oriented")
    if picture.mode.startswith("I;16") or picture.mode == "I":
        codes.append("16-to-8")
    if picture.mode in ("L", "LA", "I;16", "I;16B", "I"):
        codes.append("grey-to-rgb")
    elif picture.mode not in ("RGB", "RGBA"):
        codes.append(f"{picture.mode.lower()}-to-rgb")
    if "A" in picture.getbands() or "transparency" in picture.info:
        codes.append("alpha-on-white")
    if getattr(picture, "n_frames", 1) > 1:
        codes.append("first-frame")
    if profile:
        codes.append("icc-kept-as-is")
    return ",".join(codes)


def _plain_jpeg(facts: ImageFacts) -> bool:
    return facts.format == "jpeg" and facts.mode in ("RGB", "L")


def _decode_jpeg(data: bytes, colorspace: str) -> NDArray[np.uint8]:
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace=colorspace, strict=True), dtype=np.uint8)
    except ValueError as error:
        raise DecodeError("damaged", f"libjpeg: {error}") from error


def _decode_other(data: bytes, facts: ImageFacts) -> NDArray[np.uint8]:
    if facts.format == "jpeg":
        _decode_jpeg(data, "CMYK")  # only to hear libjpeg's warnings, which Pillow swallows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if facts.format == "png":  # Pillow decodes some PNGs with wrong checksums; verify() reads every one
                with _open(data) as picture:
                    picture.verify()
            with _open(data) as picture:
                deep = _decode_deep(data, picture)
                return deep if deep is not None else _to_rgb(picture)
        except DecodeError:
            raise
        except _BROKEN as error:
            raise DecodeError("damaged", f"{facts.format}: {error}") from error


def _decode_deep(data: bytes, picture: PillowImage.Image) -> NDArray[np.uint8] | None:
    """Decode PNG and TIFF with 16 bits a channel (Pillow would cut RGB16 to its high byte); None if it has 8."""
    if picture.format not in ("PNG", "TIFF") or picture.mode not in ("RGB", "RGBA", "LA", *_DEEP_MODES):
        return None
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        if picture.mode in _DEEP_MODES:
            raise DecodeError("unsupported-format", f"{picture.format} with pixels of mode {picture.mode}")
        return None
    eight = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)  # round(v * 255 / 65535), exact
    if eight.ndim == 2:
        return np.repeat(eight[..., None], 3, axis=2)
    rgb = eight[..., 2::-1]
    return _on_white(rgb, eight[..., 3]) if eight.shape[2] == 4 else rgb


def _to_rgb(picture: PillowImage.Image) -> NDArray[np.uint8]:
    picture.load()
    if "A" in picture.getbands() or "transparency" in picture.info:
        rgba = np.asarray(picture.convert("RGBA"))
        return _on_white(rgba[..., :3], rgba[..., 3])
    return np.asarray(picture.convert("RGB"))


def _on_white(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if int(alpha.min()) == 255:
        return rgb
    weight = alpha[..., None].astype(np.uint32)
    return ((rgb * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)
