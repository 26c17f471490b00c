"""Write a PNG fast: one filter for every row, deflated by ISA-L.

OpenCV tries to be small and takes 10 ms a 512 x 512 patch; the Up filter and ISA-L at level 1 take 3 ms and give fewer bytes
(257 against 322 KiB on nine photographs, docs/log.md). Any PNG reader reads it.

Source: PNG specification (3rd edition), sections 5 (chunks) and 9 (filters).
"""

from __future__ import annotations

import struct

import numpy as np
from isal import isal_zlib

from .records import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB, _UP, _LEVEL = 2, 2, 1


def encode_png(image: Image) -> bytes:
    """Encode an (H, W, 3) uint8 RGB picture losslessly; same pixels and ISA-L version, same bytes."""
    height, width = image.shape[:2]
    rows = image.reshape(height, 3 * width)
    filtered = np.empty((height, 3 * width + 1), np.uint8)
    filtered[:, 0] = _UP  # each byte minus the one above it, modulo 256; above the first row stand zeros
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, _RGB, 0, 0, 0)
    data = isal_zlib.compress(filtered.data, _LEVEL)
    return b"".join([_SIGNATURE, *_chunk(b"IHDR", header), *_chunk(b"IDAT", data), *_chunk(b"IEND", b"")])


def _chunk(kind: bytes, data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    checksum = isal_zlib.crc32(data, isal_zlib.crc32(kind))
    return struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)
