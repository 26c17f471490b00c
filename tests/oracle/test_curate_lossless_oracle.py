"""Patches cut in the DCT domain hold the source's own coefficients, read here by a plain Huffman decoder of our own."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from curate import lossless
from curate.core.decode import decode_jpeg
from curate.core.errors import DecodeError, MissingDependencyError
from curate.core.images import decode_image, decode_patch, read_facts
from curate.lossless import can_crop, crop_jpeg, cut_whole

try:
    lossless.require_libturbojpeg()
    HAVE = True
except MissingDependencyError:
    HAVE = False
needs_turbojpeg = pytest.mark.skipif(not HAVE, reason="libturbojpeg is not installed")


def segments(data: bytes) -> list[tuple[int, bytes]]:
    found, position = [], 2
    while data[position + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, position + 2)
        found.append((data[position + 1], data[position + 4 : position + 2 + length]))
        position += 2 + length
    (length,) = struct.unpack_from(">H", data, position + 2)
    return [*found, (0xDA, data[position + 4 : position + 2 + length]), (-1, data[position + 2 + length : -2])]


class Bits:
    def __init__(self, data: bytes) -> None:
        self.bits = "".join(f"{byte:08b}" for byte in data.replace(b"\xff\x00", b"\xff"))
        self.position = 0

    def take(self, count: int) -> int:
        value = int(self.bits[self.position : self.position + count] or "0", 2)
        self.position += count
        return value

    def signed(self, count: int) -> int:
        value = self.take(count)
        return value if not count or value >= 1 << (count - 1) else value - (1 << count) + 1

    def symbol(self, table: dict[str, int]) -> int:
        for length in range(1, 17):
            code = self.bits[self.position : self.position + length]
            if code in table:
                self.position += length
                return table[code]
        raise AssertionError("no such code")


def huffman(body: bytes) -> dict[int, dict[str, int]]:
    tables, position = {}, 0
    while position < len(body):
        counts, symbols, code, table = body[position + 1 : position + 17], position + 17, 0, {}
        for length, count in enumerate(counts, 1):
            for _ in range(count):
                table[f"{code:0{length}b}"] = body[symbols]
                code, symbols = code + 1, symbols + 1
            code <<= 1
        tables[body[position]] = table
        position = symbols
    return tables


def coefficients(data: bytes) -> tuple[list[np.ndarray], list[bytes]]:
    """Read a baseline JPEG without restart markers: per component (block rows, block columns, 64), and the DQT bodies."""
    parts = segments(data)
    tables = {k: v for marker, body in parts if marker == 0xC4 for k, v in huffman(body).items()}
    frame = next(body for marker, body in parts if marker == 0xC0)
    height, width, count = struct.unpack_from(">HHB", frame, 1)
    sampling = [(frame[7 + 3 * i] >> 4, frame[7 + 3 * i] & 15) for i in range(count)]
    scan = next(body for marker, body in parts if marker == 0xDA)
    chosen = [scan[2 + 2 * i] for i in range(count)]
    h_max, v_max = max(h for h, _ in sampling), max(v for _, v in sampling)
    rows, columns = -(-height // (8 * v_max)), -(-width // (8 * h_max))
    planes = [np.zeros((rows * v, columns * h, 64), int) for h, v in sampling]
    bits, last = Bits(parts[-1][1]), [0] * count
    for mcu in range(rows * columns):
        for component, (h, v) in enumerate(sampling):
            for block in range(h * v):
                y, x = mcu // columns * v + block // h, mcu % columns * h + block % h
                values = planes[component][y, x]
                last[component] += bits.signed(bits.symbol(tables[chosen[component] >> 4]))
                values[0], k = last[component], 1
                while k < 64:
                    run_size = bits.symbol(tables[0x10 | chosen[component] & 15])
                    if run_size == 0:
                        break
                    k += run_size >> 4
                    values[k] = bits.signed(run_size & 15) if run_size & 15 else 0
                    k += 1
    return planes, sorted(body for marker, body in parts if marker == 0xDB)


def dqt(bodies: list[bytes]) -> dict[int, bytes]:
    joined = b"".join(bodies)
    return {joined[i]: joined[i + 1 : i + 65] for i in range(0, len(joined), 65)}


@needs_turbojpeg
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_patch_holds_the_coefficients_of_its_source(make_photo, jpeg_bytes, subsampling, progressive):
    photo = make_photo(3, 96, 128)
    source = jpeg_bytes(photo, subsampling=subsampling, progressive=progressive, quality=88)
    # the same coefficients in baseline form, which our decoder reads
    whole, tables = coefficients(jpeg_bytes(photo, subsampling=subsampling, quality=88))
    for (y, x), patch in zip([(0, 0), (32, 64)], crop_jpeg(source, [(0, 0), (32, 64)], 32), strict=True):
        cut, cut_tables = coefficients(patch)
        assert dqt(cut_tables) == dqt(tables)
        for full, part in zip(whole, cut, strict=True):
            step_y, step_x = 96 // full.shape[0], 128 // full.shape[1]
            window = full[y // step_y :, x // step_x :][: part.shape[0], : part.shape[1]]
            assert np.array_equal(window, part)


@needs_turbojpeg
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_patch_decodes_to_the_crop_but_for_the_chroma_rim(make_photo, jpeg_bytes, subsampling):
    source = jpeg_bytes(make_photo(4, 200, 264), subsampling=subsampling)
    facts = read_facts(source)
    whole = decode_image(source, facts)
    grey = decode_jpeg(source, "GRAY")[..., 0]
    rim = 0 if subsampling == 0 else 1
    for (y, x), patch in zip([(64, 128), (0, 0)], crop_jpeg(source, [(64, 128), (0, 0)], 64), strict=True):
        inner = slice(rim, 64 - rim)
        assert np.array_equal(decode_patch(patch)[inner, inner], whole[y : y + 64, x : x + 64][inner, inner])
        luma = decode_jpeg(patch, "GRAY")[..., 0]
        assert np.array_equal(luma, grey[y : y + 64, x : x + 64])


@needs_turbojpeg
@pytest.mark.parametrize(("height", "width"), [(200, 264), (128, 64), (65, 129)])
def test_cutting_before_decoding_gives_the_same_luma_and_patches(make_photo, jpeg_bytes, height, width):
    source = jpeg_bytes(make_photo(5, height, width), progressive=True)
    facts = read_facts(source)
    plane, patches = cut_whole(source, facts, 64)
    assert np.array_equal(plane, decode_jpeg(source, "GRAY")[..., 0])
    origins = [(y, x) for y in range(0, height - 63, 64) for x in range(0, width - 63, 64)]
    assert patches == dict(zip(origins, crop_jpeg(source, origins, 64), strict=True))


@needs_turbojpeg
def test_no_application_segment_is_copied(make_photo, jpeg_bytes):
    exif = Image.Exif()
    exif[0x010E] = "a secret caption"
    source = jpeg_bytes(make_photo(6), exif=exif, comment=b"another secret", icc_profile=b"x" * 3000)
    (patch,) = crop_jpeg(source, [(0, 0)], 64)
    assert b"secret" in source and b"secret" not in patch and b"x" * 100 not in patch
    # libjpeg writes its own 14 bytes of JFIF; nothing else of the kind
    assert [(marker, len(body)) for marker, body in segments(patch) if 0xE0 <= marker <= 0xEF] == [(0xE0, 14)]


@needs_turbojpeg
def test_damage_is_refused_not_patched_over(make_photo, jpeg_bytes):
    source = jpeg_bytes(make_photo(7))
    with pytest.raises(DecodeError, match="damaged: libjpeg"):
        crop_jpeg(source[: len(source) // 2], [(0, 0)], 64)


def test_what_cannot_be_cut(make_photo, jpeg_bytes, png_bytes):
    photo = make_photo(8, 128, 128)
    plain = read_facts(jpeg_bytes(photo))
    assert can_crop(plain, [(0, 0), (16, 32)], 64)
    assert not can_crop(plain, [(8, 0)], 64) and not can_crop(plain, [(0, 0)], 40)  # off the 16-px grid of 4:2:0
    exif = Image.Exif()
    exif[0x0112] = 6
    assert not can_crop(read_facts(jpeg_bytes(photo, exif=exif)), [], 64)
    assert not can_crop(read_facts(png_bytes(photo)), [], 64)
    out = io.BytesIO()
    Image.fromarray(photo).convert("CMYK").save(out, "JPEG")
    assert not can_crop(read_facts(out.getvalue()), [], 64)


def test_the_missing_library_names_both_commands(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "turbojpeg", None)
    lossless._turbojpeg.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"apt install libturbojpeg0.*pip install 'irdistill\[source\]'"):
        lossless.require_libturbojpeg()
    lossless._turbojpeg.cache_clear()
