"""Files that promise more than they hold: refused by their header, at the price of their bytes on disk."""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate.core import formats, images
from curate.core.errors import DecodeError

PROBE = """
import re, sys
import curate.core.images as images
from curate.core.errors import DecodeError
images.decode_image(open(sys.argv[1], "rb").read())  # imports and tables are paid for before
# not getrusage: its peak begins at what the parent held when it started this process
peak = lambda: int(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
before, answer = peak(), "ok"
try:
    data = open(sys.argv[2], "rb").read()
    facts = images.read_facts(data)
    answer = str(images.decode_image(data, facts).shape) + facts.policy
except DecodeError as error:
    answer = error.reason
print(peak() - before, answer)
"""


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def zeros(num_bytes: int) -> bytes:
    """Compress `num_bytes` zeros without ever holding them: a block flushed whole may be repeated."""
    block = 1 << 24
    packer = zlib.compressobj(9)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    once = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    num_blocks, rest = divmod(num_bytes, block)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    tail = packer.compress(bytes(rest)) + packer.flush()
    return head + once + again * (num_blocks - 1) + tail + struct.pack(">I", (num_bytes % 65521) << 16 | 1)


def png(width: int, height: int, *extra: bytes, colour_type: int = 2, num_bytes: int | None = None) -> bytes:
    size = height * (1 + width * {0: 1, 2: 3}[colour_type]) if num_bytes is None else num_bytes
    body = zeros(size) if size > 1 << 25 else zlib.compress(bytes(size))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(entries: dict[int, tuple[int, int]], tail: bytes = b"") -> bytes:
    body = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, (count, value) in sorted(entries.items()))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + body + bytes(4) + tail


def plain_tiff(width: int, height: int, **more: tuple[int, int]) -> bytes:
    """Write a grey TIFF of one deflated strip; `t322=(count, value)` adds tag 322."""
    packed = zlib.compress(bytes(1_000_000))
    entries = {256: (1, width), 257: (1, height), 258: (1, 8), 259: (1, 8), 262: (1, 1), 277: (1, 1), 278: (1, height)}
    entries |= {int(tag[1:]): value for tag, value in more.items()}
    entries |= {273: (1, 14 + 12 * (len(entries) + 2)), 279: (1, len(packed))}
    return tiff(entries, packed)


def animated(kind: str, num: int = 300) -> bytes:
    frames = [Image.new("RGB", (64, 64), (i * 97 % 256, i * 31 % 256, i % 256)) for i in range(num)]
    out = io.BytesIO()
    frames[0].save(out, kind, save_all=True, append_images=frames[1:], lossless=True)
    return out.getvalue()


def big_canvas_webp() -> bytes:
    data = bytearray(animated("WEBP", 3))
    data[24:30] = (16_383).to_bytes(3, "little") * 2  # canvas of VP8X: 16384 x 16384
    return bytes(data)


def small_canvas_big_frame_webp() -> bytes:
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(10)
    frame = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + (16_382 | 16_382 << 14).to_bytes(4, "little") + b"\0"
    return b"RIFF" + struct.pack("<I", 4 + len(canvas) + len(frame)) + b"WEBP" + canvas + frame


def big_avif() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "AVIF")
    data = bytearray(out.getvalue())
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 30_000, 30_000)
    return bytes(data)


def jpeg_header(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "JPEG")
    data = bytearray(out.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def many_scans() -> bytes:
    out = io.BytesIO()
    Image.new("L", (4096, 4096)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 2000 + data[-2:]


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "png 30000x30000": (lambda: png(30_000, 30_000), "too-many-pixels"),
    "png that ends early": (lambda: png(13_000, 13_000, colour_type=0, num_bytes=40_000_000), "truncated"),
    "png, a text of 1 GB": (lambda: png(8, 8, chunk(b"zTXt", b"k\0\0" + zeros(1 << 30))), "(8, 8, 3)"),
    "png, an XMP packet of 1 GB": (
        lambda: png(8, 8, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zeros(1 << 30))), "(8, 8, 3)"),
    "png, 200 EXIF texts of 64 MB": (
        lambda: png(8, 8, *[chunk(b"zTXt", b"Raw profile type exif\0\0" + zeros(1 << 26))] * 200), "(8, 8, 3)"),
    "png, a profile of 1 GB": (lambda: png(8, 8, chunk(b"iCCP", b"p\0\0" + zeros(1 << 30))), "(8, 8, 3)icc-unreadable"),
    "jpeg 65500x65500": (lambda: jpeg_header(65_500, 65_500), "too-many-pixels"),
    "jpeg of 2000 scans": (many_scans, "damaged"),
    "jpeg, 20 MB of nothing": (lambda: b"\xff\xd8\xff\xe0\0\4ab" + bytes(20_000_000), "damaged"),
    "webp, a canvas of 16384": (big_canvas_webp, "too-many-pixels"),
    "webp, a frame of 16383 on a canvas of 1": (small_canvas_big_frame_webp, "too-many-pixels"),
    "webp, 300 frames": (lambda: animated("WEBP"), "(64, 64, 3)first-frame"),
    "png, 300 frames": (lambda: animated("PNG"), "(64, 64, 3)first-frame"),
    "tiff 30000x30000": (lambda: plain_tiff(30_000, 30_000), "too-many-pixels"),
    "tiff, a tile of 10^10 pixels": (
        lambda: plain_tiff(64, 64, t322=(1, 100_000), t323=(1, 100_000), t324=(1, 200), t325=(1, 900)), "too-many-pixels"),
    "tiff, a profile of 4 GB": (
        lambda: plain_tiff(1000, 1000, t34675=(1 << 30, 8)), "(1000, 1000, 3)grey-to-rgb,icc-unreadable"),
    "bmp 60000x60000": (
        lambda: b"BM" + struct.pack("<IIIIiiHH", 54, 0, 54, 40, 60_000, 60_000, 1, 24) + bytes(24), "too-many-pixels"),
    "avif 30000x30000": (big_avif, "too-many-pixels"),
}  # fmt: skip


def measure(folder: Path, data: bytes) -> tuple[int, str]:
    """Return by how many MB a process of its own grew while it read and decoded `data`, and what it answered."""
    (folder / "small.png").write_bytes(png(8, 8))
    (folder / "file").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", PROBE, folder / "small.png", folder / "file"],
        capture_output=True, text=True, timeout=60, check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    grown_mb, answer = done.stdout.strip().split(" ", 1)
    return int(grown_mb), answer


linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its peak memory from Linux's /proc")


@linux
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_less_than_100_mb(tmp_path, name):
    make, expected = BOMBS[name]
    data = make()
    grown_mb, answer = measure(tmp_path, data)
    assert answer.startswith(expected)
    assert grown_mb - len(data) / 2**20 < 100


@linux
def test_the_measurement_sees_what_a_large_picture_costs(tmp_path):
    grown_mb, answer = measure(tmp_path, png(9000, 6000))
    assert answer == "(6000, 9000, 3)" and grown_mb > 9000 * 6000 * 3 / 2**20 - 10


def test_the_limits_are_checked_before_anything_is_read(tmp_path, monkeypatch):
    formats.check_num_bytes(formats.MAX_BYTES)
    with pytest.raises(DecodeError, match="too-many-bytes"):
        formats.check_num_bytes(formats.MAX_BYTES + 1)
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(formats.MAX_BYTES + 1)  # a sparse file: no bytes on disk
    monkeypatch.setattr(type(tmp_path), "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(DecodeError, match=r"too-many-bytes: .*huge\.png"):
        images.read_picture(tmp_path / "huge.png")


def test_the_pixel_limit_is_exact():
    side = formats.MAX_PIXELS // 2
    formats.check_num_pixels(side, 2)
    with pytest.raises(DecodeError, match="too-many-pixels"):
        formats.check_num_pixels(side + 1, 2)
    with pytest.raises(DecodeError, match="damaged"):
        formats.check_num_pixels(0, 2)


def test_a_large_picture_within_the_limits_is_read():
    decoded = images.decode_image(png(6000, 4000))
    assert decoded.shape == (4000, 6000, 3) and not np.any(decoded)
