"""Bytes to pixels and back, and the checks every pixel passes.

Outside `restoration` an image is (H, W, 3) uint8 sRGB in RGB order. What was done to reach it is in `ImageFacts.policy`:

- `oriented`: turned upright as EXIF (or XMP, or the container) asks.
- `16-to-8`: v * 255 / 65535, rounded; in one step with `gamma-to-srgb` and with `icc-to-srgb` by a matrix profile, before any
  other profile. CMYK of 16 bits is cut to its high bytes by Pillow.
- `grey-to-rgb`, `palette-to-rgb`, `bilevel-to-rgb` (black and white), `ycbcr-to-rgb`, `lab-to-rgb`: repeated, looked up or
  converted.
- `cmyk-to-rgb`: CMYK without a usable profile, R = (255 - C)(255 - K) / 255. A JPEG's inks are stored inverted, as Adobe does.
- `alpha-on-white`: laid on white, c * a + 255 * (1 - a) in sRGB's own scale; opaque pixels stay as they are. Transparent
  palette entries and colour keys are alpha too.
- `first-frame`: an animation or a file of several pictures: only the first.
- `icc-to-srgb`: converted as littleCMS does (`curate.core.colour`). `icc-is-srgb`: the profile is sRGB within one level,
  nothing to do. `icc-wrong-space`, `icc-unreadable`: a profile for other pixels or a broken one; the pixels are kept as they
  are.
- `gamma-to-srgb`: PNG's gAMA and cHRM, where they ask for something else than sRGB. `adobe-rgb-to-srgb`: EXIF says Adobe RGB
  (R03) and no profile is there.

Reasons of a DecodeError: `not-an-image`, `unsupported-format`, `needs-extra`, `mislabelled`, `too-many-bytes`,
`too-many-pixels`, `unsupported-depth`, `arithmetic-coded`, `twelve-bit`, `lossless-jpeg`, `truncated`, `damaged`, `unreadable`
(the disk). A JPEG that makes libjpeg warn is damaged, so is a PNG with a wrong checksum. AVIF, HEIC and JPEG XL of more than
8 bits are rounded by their decoders.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image as PillowImage

from .colour import from_cmyk, from_encoding, from_profile, judge_profile, to_eight
from .decode import Raw, Samples, decode_jpeg, decode_raw
from .errors import ConfigError, DecodeError, ImageError
from .formats import MAX_BYTES, MAX_PIXELS, SUFFIXES, check_num_bytes, looks_like_image
from .header import Header, read_header
from .plugged import BROKEN
from .png import encode_png
from .records import Image, ImageFacts

__all__ = [
    "MAX_BYTES", "MAX_PIXELS", "PATCH_EXTENSIONS", "SUFFIXES", "check_image", "check_num_bytes", "decode_image",
    "decode_patch", "decode_samples", "encode_deep", "encode_image", "encode_thumbnail", "looks_like_image", "luma", "orient",
    "read_facts", "read_picture",
]  # fmt: skip
PATCH_EXTENSIONS = ("webp", "png")
_PNG_DEPTH_AT = 24  # signature, length and name of IHDR, width, height
_BAND_PIXELS = 1 << 20  # converted at a time, so that temporary copies stay small
_MODE_CODES = {
    "1": "bilevel-to-rgb", "L": "grey-to-rgb", "LA": "grey-to-rgb", "La": "grey-to-rgb", "I": "grey-to-rgb",
    "P": "palette-to-rgb", "PA": "palette-to-rgb", "YCbCr": "ycbcr-to-rgb", "LAB": "lab-to-rgb", "CMYK": "cmyk-to-rgb",
}  # fmt: skip


def check_image(image: NDArray[np.generic], *, where: str) -> None:
    """Raise ImageError unless `image` is (H, W, 3) uint8 with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(f"{where}: wanted an (H, W, 3) uint8 RGB image, got shape {image.shape}, dtype {image.dtype}")


def read_facts(data: bytes, name: str = "") -> ImageFacts:
    """Read format, size, orientation and profile from the header; decodes no pixel.

    Args:
        data: the file's bytes.
        name: the file's name, if its suffix should be checked against what the file holds.

    Raises:
        DecodeError: any reason but `unreadable` and `too-many-bytes`; a file may still prove damaged when it is decoded.
    """
    header, profile_code, profile_name = _read(data, name)
    width, height = header.width, header.height
    if header.orientation >= 5:
        width, height = height, width
    return ImageFacts(
        format=header.format, width=width, height=height, orientation=header.orientation, mode=header.mode,
        policy=_policy(header, profile_code), icc_profile=profile_name, jpeg=header.jpeg,
    )  # fmt: skip


def decode_image(data: bytes, facts: ImageFacts | None = None) -> Image:
    """Decode a file to 8-bit sRGB, upright; strict about damage.

    Args:
        data: the file's bytes.
        facts: what `read_facts(data)` returned, if already known.

    Returns:
        (H, W, 3) uint8, RGB order, C-contiguous and read-only.

    Raises:
        DecodeError: as `read_facts`, or any sign of damage.
    """
    facts = facts or read_facts(data)
    if _is_plain_jpeg(facts):
        image = decode_jpeg(data, "RGB")
    else:
        header, profile_code, _ = _read(data, "")
        raw = decode_raw(data, header)
        image = _to_srgb(raw, header, convert=profile_code == "icc-to-srgb")
        image = np.ascontiguousarray(image if raw.upright else orient(image, facts.orientation))
    if image.shape[:2] != (facts.height, facts.width):
        raise DecodeError(
            "damaged", f"decodes to {image.shape[1]}x{image.shape[0]}, announced {facts.width}x{facts.height}"
        )
    check_image(image, where="decoded image")
    image.setflags(write=False)
    return image


def read_picture(path: Path) -> Image:
    """Read and decode one file; an error names it.

    Raises:
        DecodeError: as `decode_image`, or `unreadable` or `too-many-bytes`.
    """
    try:
        check_num_bytes(path.stat().st_size)
        return decode_image(path.read_bytes())
    except OSError as error:
        raise DecodeError("unreadable", f"{path}: {error.strerror}") from error
    except DecodeError as error:
        raise DecodeError(error.reason, f"{path}: {error.detail}") from error


def luma(image: Image) -> NDArray[np.uint8]:
    """Return the BT.601 luma of an (H, W, 3) uint8 picture: (H, W) uint8, read-only."""
    plane = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    plane.setflags(write=False)
    return plane


def decode_patch(data: bytes) -> Image:
    """Decode one of our own patches (8-bit WebP, PNG or JPEG).

    Returns:
        (H, W, 3) uint8, RGB order, writable.

    Raises:
        DecodeError: the bytes are damaged.
    """
    if data[:2] == b"\xff\xd8":
        return np.array(decode_jpeg(data, "RGB"))
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    if pixels is None:
        raise DecodeError("damaged", "the patch does not decode")
    return np.asarray(pixels, dtype=np.uint8)


def decode_samples(data: bytes) -> NDArray[np.uint8 | np.uint16]:
    """Decode one of our own patches and keep all of its bits: a calibrated patch is a 16-bit PNG.

    Returns:
        (H, W, 3) RGB, writable: uint16 of a 16-bit PNG, else uint8.

    Raises:
        DecodeError: the bytes are damaged.
    """
    if not is_deep(data):
        return decode_patch(data)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
    if pixels is None or pixels.dtype != np.uint16:
        raise DecodeError("damaged", "the 16-bit patch does not decode")
    return np.asarray(pixels, dtype=np.uint16)


def is_deep(data: bytes) -> bool:
    """Say whether a patch's bytes are a PNG of 16 bits, from its header."""
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[_PNG_DEPTH_AT : _PNG_DEPTH_AT + 1] == b"\x10"


def encode_deep(image: NDArray[np.uint16]) -> bytes:
    """Encode 16 bits losslessly as PNG; Pillow and OpenCV's default would keep eight of them when reading.

    Args:
        image: (H, W, 3) uint16 RGB, 65535 = white.

    Raises:
        ImageError: not such an image.
    """
    if image.dtype != np.uint16 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(f"encode_deep: wanted an (H, W, 3) uint16 image, got shape {image.shape}, dtype {image.dtype}")
    return encode_png(image)


def encode_image(image: Image, extension: str) -> bytes:
    """Encode losslessly.

    Args:
        image: (H, W, 3) uint8 RGB.
        extension: `webp` (lossless, method 0: smallest) or `png` (fastest).

    Raises:
        ConfigError: another extension.
        ImageError: not an (H, W, 3) uint8 image.
    """
    check_image(image, where="encode_image")
    if extension == "png":
        return encode_png(image)
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
    exact = (
        image.shape[0] == 4 * size[1] and image.shape[1] == 4 * size[0]
    )  # then the mean of the middle 2 x 2, 4 x faster
    small = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR if exact else cv2.INTER_AREA)
    small = small if small.ndim == 3 else np.repeat(small[..., None], 3, axis=2)
    return bytes(
        simplejpeg.encode_jpeg(np.ascontiguousarray(small), quality=quality, colorspace="RGB", colorsubsampling="420")
    )


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


def _is_plain_jpeg(facts: ImageFacts) -> bool:
    return facts.format == "jpeg" and facts.untouched


def _read(data: bytes, name: str) -> tuple[Header, str, str]:
    """Return header, policy code of the profile, description of the profile."""
    try:
        header = read_header(data, name)
        return header, *judge_profile(header.profile, header.colour_mode)
    except BROKEN as error:
        if isinstance(error, ImageError):
            raise
        raise DecodeError("damaged", f"header: {error}") from error


def _policy(header: Header, profile_code: str) -> str:
    mode_code = _MODE_CODES.get(header.mode.removesuffix(";16"), "")
    if mode_code == "cmyk-to-rgb" and profile_code == "icc-to-srgb":
        mode_code = ""
    codes = (
        "oriented" if header.orientation != 1 else "",
        "16-to-8" if header.deep else "",
        mode_code,
        "alpha-on-white" if header.alpha else "",
        "first-frame" if header.several else "",
        profile_code,
        header.encoding_code,
    )
    return ",".join(code for code in codes if code)


def _to_srgb(raw: Raw, header: Header, *, convert: bool) -> NDArray[np.uint8]:
    """Convert samples to (H, W, 3) uint8 sRGB on white, a band of rows at a time."""
    height, width = raw.colour.shape[:2]
    if (
        raw.colour.dtype == np.uint8
        and raw.colour.shape[2] == 3
        and raw.alpha is None
        and not (convert or header.encoding)
    ):
        return np.asarray(raw.colour, dtype=np.uint8)
    image = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for y in range(0, height, rows):
        band = _colour_to_srgb(raw.colour[y : y + rows], header, convert=convert)
        image[y : y + rows] = band if raw.alpha is None else _on_white(band, raw.alpha[y : y + rows])
    return image


def _colour_to_srgb(samples: Samples, header: Header, *, convert: bool) -> NDArray[np.uint8]:
    if header.encoding is not None:
        return from_encoding(samples, header.encoding)
    if convert:
        return from_profile(samples, header.profile, header.colour_mode)
    eight = to_eight(samples)
    return from_cmyk(eight) if eight.shape[2] == 4 else eight


def _on_white(rgb: NDArray[np.uint8], alpha: Samples) -> NDArray[np.uint8]:
    full = 255 if alpha.dtype == np.uint8 else 65535
    seen_through = alpha != full
    if not seen_through.any():
        return rgb
    laid = np.array(rgb)
    weight = alpha[seen_through, None].astype(np.uint32)  # often a soft edge: far fewer pixels than the picture has
    laid[seen_through] = (rgb[seen_through] * weight + 255 * (full - weight) + full // 2) // full
    return laid
