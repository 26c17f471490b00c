"""Write a PNG fast: one filter for every row, deflated by ISA-L.

OpenCV tries to be small and takes 10 ms a 512 x 512 patch; the Up filter and ISA-L at level 1 take 3 ms and give fewer bytes
(257 against 322 KiB on nine photographs, docs/log.md). Any PNG reader reads it.

Source: PNG specification (3rd edition), sections 5 (chunks) and 9 (filters).
"""

from __future__ import annotations

import struct

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB, _UP, _LEVEL = 2, 2, 1


def encode_png(image: NDArray[np.uint8 | np.uint16]) -> bytes:
    """Encode an (H, W, 3) RGB picture of 8 or 16 bits losslessly; same pixels and ISA-L version, same bytes."""
    height, width = image.shape[:2]
    depth_bytes = image.dtype.itemsize
    big_endian = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder(">"))
    rows = big_endian.view(np.uint8).reshape(height, 3 * depth_bytes * width)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = _UP  # each byte minus the one above it, modulo 256; above the first row stand zeros
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8 * depth_bytes, _RGB, 0, 0, 0)
    data = isal_zlib.compress(filtered.data, _LEVEL)
    return b"".join([_SIGNATURE, *_chunk(b"IHDR", header), *_chunk(b"IDAT", data), *_chunk(b"IEND", b"")])


def _chunk(kind: bytes, data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    checksum = isal_zlib.crc32(data, isal_zlib.crc32(kind))
    return struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)
