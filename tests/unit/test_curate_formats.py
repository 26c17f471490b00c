"""What a file is: its format by its bytes, its depth, its reason to be refused, and pixels of every mode."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, features

from curate.core import formats, images
from curate.core.errors import DecodeError
from curate.core.plugged import jxl_size
from curate.core.tiff import exif_orientation

KINDS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp"} | (
    {"AVIF": ".avif"} if features.check("avif") else {}
)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def reason_of(data: bytes, name: str = "") -> str:
    with pytest.raises(DecodeError) as caught:
        images.decode_image(data, images.read_facts(data, name))
    return caught.value.reason


def patched_jpeg(photo: np.ndarray, marker: int, bits: int = 8) -> bytes:
    data = bytearray(saved(Image.fromarray(photo), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, bits
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_format_is_known_by_its_bytes_and_its_name_must_agree(make_photo, kind):
    data = saved(Image.fromarray(make_photo(0, 40, 40)), kind)
    assert images.looks_like_image(data[:16])
    for name in (f"a{KINDS[kind]}", f"a{KINDS[kind].upper()}", "a", "a.bin", "", "a.jpg.bak", f"x.jpg/b{KINDS[kind]}"):
        assert images.read_facts(data, name).format == kind.lower()
    wrong = "sub/a.png" if kind == "BMP" else "sub/a.bmp"
    with pytest.raises(DecodeError, match=f"mislabelled: named .* but holds {kind}: rename it to {KINDS[kind]}"):
        images.read_facts(data, wrong)


@pytest.mark.parametrize(
    ("head", "title"),
    [(b"8BPS\0\1", "PSD"), (b"P6 2 2 255\n", "PNM"), (b"GIF89a", "GIF"), (b"\0\0\0\x0cjP  ", "JPEG 2000")],
)
def test_other_image_formats_are_named(head, title):
    with pytest.raises(DecodeError, match=f"unsupported-format: {title}"):
        images.read_facts(head + bytes(64), "a.jpg")
    assert not images.looks_like_image((head + bytes(64))[:16])


def test_a_text_that_starts_like_a_bitmap_is_no_image():
    assert not images.looks_like_image(b"BMW owners' club, the minutes of 4 May")
    assert not images.looks_like_image(b"BM")


@pytest.mark.parametrize(
    ("marker", "bits", "reason"),
    [
        (0xC9, 8, "arithmetic-coded"),
        (0xCA, 8, "arithmetic-coded"),
        (0xC1, 12, "twelve-bit"),
        (0xC3, 8, "lossless-jpeg"),
    ],
)
def test_jpegs_few_programs_read_have_their_own_reasons(make_photo, marker, bits, reason):
    assert reason_of(patched_jpeg(make_photo(0, 32, 32), marker, bits)) == reason


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_file_is_refused(make_photo, kind):
    data = saved(Image.fromarray(make_photo(0, 64, 64)), kind)
    assert reason_of(data[: len(data) // 2]) in ("truncated", "damaged")
    assert reason_of(data[:13]) in ("truncated", "damaged", "not-an-image")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "BMP"])
def test_orientation_equals_pillow_in_every_format(make_photo, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "AVIF" else {}
    data = saved(Image.fromarray(make_photo(0, 24, 40)), kind, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    facts = images.read_facts(data)
    assert (facts.height, facts.width) == expected.shape[:2]
    assert facts.orientation == orientation and ("oriented" in facts.policy) == (orientation != 1)
    assert np.array_equal(images.decode_image(data), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "deep TIFF"])
def test_eight_orientations_of_one_lossless_picture_are_identical(make_photo, kind, orientation):
    upright = make_photo(1, 24, 32)
    turned = np.ascontiguousarray(images.orient(upright, {6: 8, 8: 6}.get(orientation, orientation)))
    if kind == "deep TIFF":
        data = deep_tiff(turned.astype(np.uint16) * 257, {274: orientation})
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = saved(Image.fromarray(turned), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(images.decode_image(data), upright)


def test_orientation_in_xmp_counts_where_exif_is_silent(make_photo):
    photo = make_photo(0, 24, 40)
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for kind in ("JPEG", "WEBP"):
        facts = images.read_facts(saved(Image.fromarray(photo), kind, xmp=xmp))
        assert (facts.orientation, facts.height, facts.width) == (6, 40, 24)
    assert exif_orientation(b"Exif\0\0II*\0\xff\xff\xff\xff", xmp) == 6
    assert exif_orientation(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0", xmp) == 1  # 9 is no orientation


def deep_tiff(samples: np.ndarray, more: dict[int, int], order: str = "<", planes: bool = False) -> bytes:
    """Write an uncompressed 16-bit TIFF of (H, W) or (H, W, C) samples."""
    height, width, *channels = samples.shape
    num = channels[0] if channels else 1
    body = (samples.transpose(2, 0, 1) if planes else samples).astype(order + "u2").tobytes()
    pieces = num if planes else 1
    entries = {
        256: [width],
        257: [height],
        258: [16] * num,
        259: [1],
        262: [2 if num > 1 else 1],
        277: [num],
        278: [height],
    }
    entries |= {284: [2 if planes else 1], 279: [len(body) // pieces] * pieces, 273: [0] * pieces}
    entries |= {tag: [value] for tag, value in more.items()}
    start = 8 + 2 + 12 * len(entries) + 4
    heap = sum(4 * len(values) for values in entries.values() if len(values) > 1)
    entries[273] = [start + heap + i * len(body) // pieces for i in range(pieces)]
    table, values_part = b"", b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        place = packed if len(values) == 1 else struct.pack(order + "I", start + len(values_part))
        values_part += packed if len(values) > 1 else b""
        table += struct.pack(order + "HHI", tag, 4, len(values)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    return head + table + bytes(4) + values_part + body


def exactly(samples: np.ndarray) -> np.ndarray:
    return np.floor(samples.astype(float) * 255 / 65535 + 0.5)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("num", [1, 3, 4])
def test_sixteen_bit_tiff_is_scaled_exactly(num, planes, order):
    if num == 1 and planes:
        return
    samples = np.random.default_rng(0).integers(0, 65536, (20, 30, num), dtype=np.uint16)
    data = deep_tiff(samples[..., 0] if num == 1 else samples, {338: 2} if num == 4 else {}, order, planes)
    facts = images.read_facts(data)
    expected = np.broadcast_to(exactly(samples[..., :3]), (20, 30, 3))
    if num == 4:
        alpha = samples[..., 3:] / 65535
        expected = expected * alpha + 255 * (1 - alpha)
    assert facts.policy == "16-to-8" + {1: ",grey-to-rgb", 3: "", 4: ",alpha-on-white"}[num]
    assert np.abs(images.decode_image(data) - expected).max() <= (0.51 if num == 4 else 0)


def test_sixteen_bit_tiff_with_white_at_zero():
    ramp = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    assert np.array_equal(images.decode_image(deep_tiff(ramp, {262: 0}))[..., 0], exactly(65535 - ramp))


def test_a_tiff_whose_strips_do_not_cover_it_is_truncated():
    assert reason_of(deep_tiff(np.zeros((64, 8), np.uint16), {278: 16})) == "truncated"
    assert reason_of(deep_tiff(np.zeros((64, 8, 3), np.uint16), {278: 63}, "<", True)) == "truncated"


def test_premultiplied_and_meaningless_fourth_channels():
    rng = np.random.default_rng(0)
    colour, alpha = rng.integers(0, 65536, (20, 30, 3)), rng.integers(2000, 65536, (20, 30, 1))
    premultiplied = np.concatenate([colour * alpha // 65535, alpha], axis=2).astype(np.uint16)
    expected = premultiplied[..., :3] / 257 + 255 * (1 - alpha / 65535)
    assert np.abs(images.decode_image(deep_tiff(premultiplied, {338: 1})) - expected).max() <= 1
    meaningless = images.decode_image(deep_tiff(premultiplied, {338: 0}))
    assert np.array_equal(meaningless, exactly(premultiplied[..., :3]))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({339: 2}, "unsupported-depth"),
        ({339: 3}, "unsupported-depth"),
        ({258: 12}, "unsupported-depth"),
        ({258: 32}, "unsupported-depth"),
        ({259: 50001}, "unsupported-format"),
        ({262: 32803}, "unsupported-format"),
        ({50706: 1}, "unsupported-format"),
        ({254: 1}, "unsupported-format"),
    ],
)
def test_tiffs_that_are_not_for_viewing_have_a_reason(more, reason):
    assert reason_of(deep_tiff(np.zeros((8, 8), np.uint16), more)) == reason


def png(samples: np.ndarray, bits: int, colour_type: int, *extra: tuple[bytes, bytes]) -> bytes:
    """Write a PNG of (H, W, C) samples; several to a byte below 8 bits."""
    height, width = samples.shape[:2]
    if bits < 8:
        digits = np.unpackbits(samples[..., :1].astype(np.uint8), axis=2)[..., 8 - bits :].reshape(height, -1)
        rows = [np.packbits(row).tobytes() for row in digits]
    else:
        rows = [row.astype(f">u{bits // 8}").tobytes() for row in samples]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        *extra,
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_grey_colour_key_is_white_paper_at_every_depth(bits):
    full = (1 << bits) - 1
    values = np.random.default_rng(0).integers(0, full + 1, (16, 24, 1)).astype(np.uint16)
    key = int(values[3, 3, 0])
    expected = np.where(values == key, 255, np.floor(values * (255 / full) + 0.5))
    decoded = images.decode_image(png(values, bits, 0, (b"tRNS", struct.pack(">H", key))))
    assert np.array_equal(decoded, np.broadcast_to(expected, decoded.shape))


@pytest.mark.parametrize("bits", [8, 16])
def test_an_rgb_colour_key_is_white_paper(bits):
    values = np.random.default_rng(0).integers(0, 1 << bits, (16, 24, 3)).astype(np.uint16)
    values[4:8] = key = values[3, 3].copy()
    expected = np.where((values == key).all(axis=2)[..., None], 255, np.floor(values * (255 / ((1 << bits) - 1)) + 0.5))
    assert np.array_equal(images.decode_image(png(values, bits, 2, (b"tRNS", struct.pack(">3H", *key)))), expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour_type", [4, 6])
def test_alpha_is_laid_on_white_exactly(bits, colour_type):
    full = (1 << bits) - 1
    values = np.random.default_rng(0).integers(0, full + 1, (16, 24, 2 if colour_type == 4 else 4)).astype(np.uint16)
    alpha = values[..., -1:] / full
    expected = values[..., :-1] * (255 / full) * alpha + 255 * (1 - alpha)
    decoded = images.decode_image(png(values, bits, colour_type))
    assert np.abs(decoded - expected).max() <= 1
    values[..., -1] = full
    opaque = images.decode_image(png(values, bits, colour_type))
    assert np.array_equal(opaque, np.broadcast_to(np.floor(values[..., :-1] * (255 / full) + 0.5), opaque.shape))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_are_looked_up(bits):
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (1 << bits, 3)).astype(np.uint8)
    index = rng.integers(0, 1 << bits, (16, 24, 1))
    data = png(index, bits, 3, (b"PLTE", palette.tobytes()))
    assert images.read_facts(data).policy == "palette-to-rgb"
    assert np.array_equal(images.decode_image(data), palette[index[..., 0]])


def test_black_and_white_and_animations_state_their_policy(make_photo):
    first, second = Image.fromarray(make_photo(0, 20, 20)), Image.fromarray(make_photo(1, 20, 20))
    assert images.read_facts(saved(first.convert("1"), "PNG")).policy == "bilevel-to-rgb"
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = saved(first, kind, save_all=True, append_images=[second], **options)
        assert images.read_facts(data).policy == "first-frame"
        assert np.array_equal(images.decode_image(data), np.asarray(first))


def test_several_pictures_in_one_jpeg_leave_the_first_untouched(make_photo):
    first, second = Image.fromarray(make_photo(0, 40, 40)), Image.fromarray(make_photo(1, 40, 40))
    data = saved(first, "MPO", save_all=True, append_images=[second])
    facts = images.read_facts(data, "a.jpg")
    assert facts.policy == "first-frame" and facts.untouched
    with Image.open(io.BytesIO(data)) as picture:
        assert np.array_equal(images.decode_image(data), np.asarray(picture))


def test_lab_tiff_is_converted(make_photo):
    lab = np.dstack([np.full((8, 8), 128, np.uint8), np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)])
    data = saved(Image.fromarray(lab, "LAB"), "TIFF")
    decoded = images.decode_image(data)
    assert images.read_facts(data).policy == "lab-to-rgb"
    assert np.abs(decoded.astype(int) - 120).max() <= 2  # L* = 50.2 is sRGB level 119.4


def test_a_png_with_a_wrong_checksum_anywhere_is_damaged(make_photo):
    data = bytearray(png(make_photo(0, 16, 16), 8, 2, (b"tEXt", b"Comment\0hello")))
    data[data.index(b"hello")] ^= 1
    assert reason_of(bytes(data)) == "damaged"
    data = png(make_photo(0, 16, 16), 8, 2)
    assert reason_of(data[:-12]) == "truncated"


def test_an_untouched_jpeg_is_decoded_once(make_photo, jpeg_bytes, monkeypatch):
    calls = []
    real = images.decode_jpeg
    monkeypatch.setattr(
        images, "decode_jpeg", lambda data, colorspace: calls.append(colorspace) or real(data, colorspace)
    )
    data = jpeg_bytes(make_photo(0, 64, 64))
    facts = images.read_facts(data)
    images.decode_image(data, facts)
    assert calls == ["RGB"]


def test_missing_readers_name_the_command(monkeypatch):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    jxl = b"\xff\x0a" + bytes(64)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    monkeypatch.setitem(__import__("sys").modules, "pillow_jxl", None)
    for data, name in ((heic, "HEIC"), (jxl, "JPEG XL")):
        assert images.looks_like_image(data[:16])
        with pytest.raises(DecodeError, match=rf"needs-extra: {name}: pip install 'irdistill\[formats\]'"):
            images.read_facts(data)


def jxl_head(*fields: tuple[int, int]) -> bytes:
    """Pack (value, bits) fields behind a bare codestream's signature."""
    value = used = 0
    for field, bits in fields:
        value |= field << used
        used += bits
    return b"\xff\x0a" + value.to_bytes(16, "little")


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (jxl_head((1, 1), (7, 5), (0, 3), (11, 5)), (96, 64)),
        (jxl_head((1, 1), (7, 5), (4, 3)), (96, 64)),  # 3:2
        (jxl_head((0, 1), (1, 2), (1079, 13), (5, 3)), (1920, 1080)),  # 16:9
        (jxl_head((0, 1), (2, 2), (29_999, 18), (0, 3), (3, 2), (39_999, 30)), (40_000, 30_000)),
    ],
)
def test_the_size_of_a_jpeg_xl_is_read_without_its_decoder(head, size):
    assert jxl_size(head) == size
    boxed = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl " + b"\0\0\0\0jxlc" + head
    assert jxl_size(boxed) == size


@pytest.mark.parametrize(("kind", "module"), [("HEIF", "pillow_heif"), ("JXL", "pillow_jxl")])
def test_formats_of_the_extra(make_photo, kind, module):
    pytest.importorskip(module)
    formats.load_reader({"HEIF": "heic", "JXL": "jxl"}[kind])
    photo = make_photo(0, 64, 96)
    data = saved(
        Image.fromarray(photo), kind, **({"lossless": True} if kind == "JXL" else {"quality": 98, "chroma": 444})
    )
    facts = images.read_facts(data, "a.heic" if kind == "HEIF" else "a.jxl")
    decoded = images.decode_image(data, facts)
    assert (facts.format, decoded.shape) == ("heic" if kind == "HEIF" else "jxl", photo.shape)
    assert np.abs(decoded.astype(int) - photo).mean() <= (0 if kind == "JXL" else 4)
    with pytest.raises(DecodeError):
        images.decode_image(data[: len(data) // 2])


def test_cv2_and_our_deep_png_agree(make_photo):
    deep = make_photo(0, 32, 32).astype(np.uint16) * 257
    ok, buffer = cv2.imencode(".png", deep[..., ::-1])
    assert ok and np.array_equal(images.decode_image(bytes(buffer)), make_photo(0, 32, 32))


def test_a_phones_video_behind_the_picture_is_no_damage(make_photo, jpeg_bytes):
    data = jpeg_bytes(make_photo(0, 64, 64), progressive=True)
    expected = images.decode_image(data)
    tail = b"video" + b"\xff\xda\x00" * 2000
    assert np.array_equal(images.decode_image(data + tail), expected)
