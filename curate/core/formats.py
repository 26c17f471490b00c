"""Which image formats we read, how their first bytes look, and how large a file may be. Decodes nothing.

Always read: JPEG (MPO too), PNG, WebP, TIFF, BMP, and AVIF where Pillow has it. HEIC and JPEG XL need `irdistill[formats]`.
"""

from __future__ import annotations

from pathlib import PurePath

from PIL import features

from .errors import DecodeError

MAX_PIXELS = 178_956_970  # Pillow's own limit for decompression bombs; checked from the header
MAX_BYTES = 1 << 30  # of one file; a 100-megapixel photograph of 16 bits needs 0.6 of it uncompressed
FORMATS = ("jpeg", "png", "webp", "tiff", "bmp", "avif", "heic", "jxl")
SUFFIX_FORMATS = {
    ".jpg": ("jpeg",), ".jpeg": ("jpeg",), ".jpe": ("jpeg",), ".jfif": ("jpeg",), ".mpo": ("jpeg",), ".png": ("png",),
    ".webp": ("webp",), ".tif": ("tiff",), ".tiff": ("tiff",), ".bmp": ("bmp",), ".avif": ("avif",), ".heic": ("heic",),
    ".heif": ("heic", "avif"), ".hif": ("heic", "avif"), ".jxl": ("jxl",),
}  # fmt: skip
SUFFIXES = frozenset(SUFFIX_FORMATS)
_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"II*\x00", "tiff"), (b"MM\x00*", "tiff"),
    (b"II+\x00\x08\x00\x00\x00", "tiff"), (b"MM\x00+\x00\x08\x00\x00", "tiff"),
    (b"\xff\x0a", "jxl"), (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "jxl"),
)  # fmt: skip
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_OTHERS = (  # not read; named so that the reason can say what the file is
    (b"GIF87a", "GIF"), (b"GIF89a", "GIF"), (b"8BPS", "PSD"), (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"), (b"\x00\x00\x01\x00", "ICO"), (b"\x00\x00\x02\x00", "CUR"), (b"DDS ", "DDS"),
    (b"qoif", "QOI"), (b"v/1\x01", "OpenEXR"), (b"#?RADIANCE", "Radiance HDR"), (b"SIMPLE  =", "FITS"),
    (b"\x01\xda\x00\x01", "SGI"), (b"\x01\xda\x01\x01", "SGI"), (b"\x59\xa6\x6a\x95", "Sun raster"), (b"icns", "ICNS"),
    (b"%!PS", "EPS"), (b"\xc5\xd0\xd3\xc6", "EPS"), (b"%PDF", "PDF"), (b"FUJIFILMCCD-RAW", "camera raw (RAF)"),
    (b"IIRO", "camera raw (ORF)"), (b"IIU\x00", "camera raw (RW2)"), (b"BLP1", "BLP"), (b"BLP2", "BLP"),
    *((b"P%d" % n + space, "PNM") for n in range(1, 8) for space in (b"\n", b" ", b"\r")),
    (b"Pf\n", "PFM"), (b"PF\n", "PFM"), (b"<svg", "SVG"), (b"II\xbc\x01", "JPEG XR"),
)  # fmt: skip
_EXTRAS = {"heic": ("HEIC", "pillow_heif"), "jxl": ("JPEG XL", "pillow_jxl")}


def looks_like_image(head: bytes) -> bool:
    """Say whether the first bytes of a file (>= 16 of them) are those of an image format we read or can read with an extra."""
    return find_format(head) != ""


def find_format(head: bytes) -> str:
    """Name the format by the first 16 bytes or more: one of FORMATS, or ""."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and int.from_bytes(head[14:16], "little") in _BMP_HEADERS:
        return "bmp"
    return _brand(head) if head[4:8] == b"ftyp" else ""


def identify(data: bytes, name: str = "") -> str:
    """Name the format of a whole file and check that its suffix agrees.

    Args:
        data: the file's bytes.
        name: the file's name, if it has one; a suffix that names no image format says nothing.

    Returns:
        One of FORMATS.

    Raises:
        DecodeError: `not-an-image`, `unsupported-format` or `mislabelled`.
    """
    found = find_format(data[:64])
    if not found:
        raise DecodeError(*_unidentified(data))
    suffix = PurePath(name).suffix
    wanted = SUFFIX_FORMATS.get(suffix.lower(), (found,))
    if found not in wanted:
        right = next(s for s, formats in SUFFIX_FORMATS.items() if formats[0] == found)
        raise DecodeError("mislabelled", f"named {suffix} but holds {found.upper()}: rename it to {right}")
    return found


def check_num_bytes(num: int) -> None:
    """Refuse a file by its size, before it is read.

    Raises:
        DecodeError: `too-many-bytes`.
    """
    if num > MAX_BYTES:
        raise DecodeError("too-many-bytes", f"{num} bytes is over the limit of {MAX_BYTES} bytes")


def check_num_pixels(width: int, height: int) -> None:
    """Refuse a picture by the size its header states, before it is decoded.

    Raises:
        DecodeError: `too-many-pixels`; `damaged` for a side of 0.
    """
    if width < 1 or height < 1:
        raise DecodeError("damaged", f"the header says {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise DecodeError("too-many-pixels", f"{width}x{height} is over the limit of {MAX_PIXELS} pixels")


def load_reader(format_name: str) -> None:
    """Make Pillow able to read a format that needs an extra; does nothing for the others.

    Raises:
        DecodeError: `needs-extra`, with the command that installs it.
    """
    if format_name == "avif" and not features.check("avif"):
        raise DecodeError("needs-extra", "AVIF: pip install 'Pillow>=11.3' (a build with libavif)")
    if format_name not in _EXTRAS:
        return
    title, module = _EXTRAS[format_name]
    try:
        plugin = __import__(module)
    except ImportError as error:
        raise DecodeError("needs-extra", f"{title}: pip install 'irdistill[formats]'") from error
    if format_name == "heic":
        plugin.register_heif_opener()


def _brand(head: bytes) -> str:
    brands = [head[8:12], *(head[i : i + 4] for i in range(16, min(len(head), int.from_bytes(head[:4], "big")) - 3, 4))]
    if b"avif" in brands or b"avis" in brands:
        return "avif"
    return "heic" if brands[0] in _HEIC_BRANDS or _HEIC_BRANDS & set(brands[1:]) else ""


def _unidentified(data: bytes) -> tuple[str, str]:
    if not data:
        return "not-an-image", "the file is empty"
    for magic, title in _OTHERS:
        if data.startswith(magic):
            return "unsupported-format", f"{title} is not one of {', '.join(FORMATS)}"
    return "not-an-image", f"starts with {data[:12]!r}"
