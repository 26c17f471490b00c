"""Directories of tags, as TIFF files and EXIF blocks hold them; read with bounds, so that no count in a file costs memory.

Source: TIFF 6.0 sections 2 and 8; Adobe's BigTIFF; EXIF 2.32 section 4.6.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from .errors import DecodeError

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, SAMPLES = 256, 257, 258, 259, 262, 274, 277
SUBFILE, PLANAR, TILE_WIDTH, TILE_HEIGHT, EXTRA_SAMPLES, SAMPLE_FORMAT = 254, 284, 322, 323, 338, 339
XMP, ICC_PROFILE, DNG_VERSION = 700, 34675, 50706
_EXIF, _INTEROPERABILITY = 34665, 40965
_CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_MAX_ENTRIES = 4096
STRIP_OFFSETS, ROWS_PER_STRIP, TILE_OFFSETS = 273, 278, 324
_PIECES = ((STRIP_OFFSETS, 279), (TILE_OFFSETS, 325))  # where strips or tiles start, their lengths
_KEPT_IN_PLANE = (WIDTH, HEIGHT, COMPRESSION, 266, ROWS_PER_STRIP, 317, TILE_WIDTH, TILE_HEIGHT, SAMPLE_FORMAT)
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


@dataclass(frozen=True, slots=True)
class Directory:
    """One directory; values are looked up when asked for.

    Attributes:
        data: the whole block, starting with its II or MM.
        order: struct's sign of the byte order.
        entries: tag to (type, count, position of the value).
        next_offset: where the next directory starts; 0 if this is the last.
    """

    data: bytes
    order: str
    entries: dict[int, tuple[int, int, int]]
    next_offset: int

    def numbers(self, tag: int, limit: int = 64) -> tuple[int, ...]:
        """Return a tag's whole numbers, the first `limit`; () if it is absent, no number or cut off."""
        kind, count, position = self.entries.get(tag, (0, 0, 0))
        count = min(count, limit)
        if kind not in _CODES or position + count * _SIZES[kind] > len(self.data):
            return ()
        return struct.unpack_from(f"{self.order}{count}{_CODES[kind]}", self.data, position)

    def number(self, tag: int, default: int) -> int:
        """Return a tag's first number, or `default`."""
        return next(iter(self.numbers(tag)), default)

    def content(self, tag: int) -> bytes:
        """Return a tag's bytes, as many as the block holds; b"" if it is absent."""
        kind, count, position = self.entries.get(tag, (0, 0, 0))
        return self.data[position : position + count * _SIZES.get(kind, 1)]


def read_directory(data: bytes, start: int | None = None) -> Directory:
    """Read a directory of a TIFF file or EXIF block.

    Args:
        data: the block, starting with its II or MM.
        start: where the directory starts; None: the first, where the block's head points.

    Raises:
        DecodeError: `damaged` or `truncated` if there is none.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        raise DecodeError("damaged", "header: no TIFF byte order")
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    try:
        if start is None:
            (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        count = struct.unpack_from(order + ("Q" if big else "H"), data, start)[0]
        return _read_entries(data, order, start + (8 if big else 2), count, big)
    except (struct.error, OverflowError) as error:
        raise DecodeError("truncated", "header: the TIFF directory lies outside the file") from error


def forget_orientation(data: bytes) -> bytes:
    """Return a TIFF that asks for no turn: OpenCV would make one even where it is told to change nothing."""
    directory = read_directory(data)
    kind, count, position = directory.entries.get(ORIENTATION, (0, 0, 0))
    if count != 1 or kind not in (3, 4):
        return data
    value = struct.pack(directory.order + _CODES[kind], 1)
    return data[:position] + value + data[position + len(value) :]


def extract_plane(data: bytes, index: int) -> bytes:
    """Return one colour plane of a TIFF whose planes are stored one after another, as a grey TIFF of 16 bits.

    Args:
        data: the file's bytes.
        index: 0 for the first plane.

    Raises:
        DecodeError: `damaged` or `unsupported-format` (BigTIFF).
    """
    directory = read_directory(data)
    order = directory.order
    if struct.unpack_from(order + "H", data, 2)[0] != 42:
        raise DecodeError("unsupported-format", "BigTIFF with 16-bit colour planes stored apart")
    numbers = {tag: directory.numbers(tag, 1)[:1] for tag in _KEPT_IN_PLANE if tag in directory.entries}
    numbers |= {BITS: (16,), PHOTOMETRIC: (1,), SAMPLES: (1,)}
    planes = directory.number(SAMPLES, 1)
    for tag in (tag for pair in _PIECES for tag in pair if tag in directory.entries):
        values = directory.numbers(tag, len(data))
        if not values or len(values) % planes:
            raise DecodeError("damaged", f"TIFF: {len(values)} pieces in {planes} planes")
        numbers[tag] = values[index * len(values) // planes : (index + 1) * len(values) // planes]
    return _append_directory(data, order, numbers)


def _append_directory(data: bytes, order: str, numbers: dict[int, tuple[int, ...]]) -> bytes:
    start = len(data) + len(data) % 2
    heap = start + 2 + 12 * len(numbers) + 4
    entries, values = b"", b""
    for tag, content in sorted(numbers.items()):
        packed = struct.pack(f"{order}{len(content)}I", *content)
        place = packed if len(content) == 1 else struct.pack(order + "I", heap + len(values))
        values += b"" if len(content) == 1 else packed
        entries += struct.pack(order + "HHI", tag, 4, len(content)) + place
    head = data[:4] + struct.pack(order + "I", start) + data[8:] + bytes(len(data) % 2)
    return b"".join((head, struct.pack(order + "H", len(numbers)), entries, bytes(4), values))


def exif_orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation 1..8 an EXIF block asks for, else XMP's, else 1. Unreadable blocks say nothing.

    Args:
        exif: the block; a leading `Exif` and two zero bytes are left out.
        xmp: the XMP packet.
    """
    try:
        directory = read_directory(exif.removeprefix(b"Exif\x00\x00"))
    except DecodeError:
        return xmp_orientation(xmp)
    if ORIENTATION not in directory.entries:
        return xmp_orientation(xmp)
    value = directory.number(ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def exif_says_adobe_rgb(exif: bytes) -> bool:
    """Say whether an EXIF block marks its picture as Adobe RGB, as cameras do that embed no profile.

    Source: DCF 2.0 (Exif 2.32 section 4.6.9): interoperability index `R03`, the option file.
    """
    try:
        exif = exif.removeprefix(b"Exif\x00\x00")
        camera = read_directory(exif, read_directory(exif).number(_EXIF, 0))
        return read_directory(exif, camera.number(_INTEROPERABILITY, 0)).content(1)[:3] == b"R03"
    except DecodeError:
        return False


def xmp_orientation(xmp: bytes) -> int:
    """Return the orientation 1..8 of an XMP packet, or 1."""
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1


def _read_entries(data: bytes, order: str, position: int, count: int, big: bool) -> Directory:
    if not 0 < count <= _MAX_ENTRIES:
        raise DecodeError("damaged", f"header: a TIFF directory of {count} entries")
    layout, size, room = (order + "HHQ", 20, 8) if big else (order + "HHI", 12, 4)
    entries: dict[int, tuple[int, int, int]] = {}
    for start in range(position, position + count * size, size):
        tag, kind, num = struct.unpack_from(layout, data, start)
        place = start + size - room
        if num * _SIZES.get(kind, 1) > room:
            (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, place)
        entries.setdefault(tag, (kind, num, place))  # of a tag given twice libtiff takes the first
    end = position + count * size
    following = struct.unpack_from(order + ("Q" if big else "I"), data, end)[0] if end + room <= len(data) else 0
    return Directory(data, order, entries, following)
