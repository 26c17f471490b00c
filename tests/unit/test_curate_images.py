"""Decoding: right pixels, and no damage goes unnoticed."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, features

from curate.core import images
from curate.core.decode import decode_jpeg
from curate.core.errors import ConfigError, DecodeError, ImageError
from curate.core.png import encode_png


def exif_jpeg(image: np.ndarray, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=95, exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_equals_pillow(make_photo, orientation):
    data = exif_jpeg(make_photo(0, 40, 64), orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    facts = images.read_facts(data)
    assert np.array_equal(images.decode_image(data), expected)
    assert (facts.height, facts.width) == expected.shape[:2]
    assert facts.orientation == orientation
    assert ("oriented" in facts.policy) == (orientation != 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_eight_orientations_of_one_picture_are_identical(make_photo, orientation):
    upright = make_photo(1, 24, 32)
    inverse = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(images.orient(upright, inverse))).save(out, "PNG", exif=exif)
    assert np.array_equal(images.decode_image(out.getvalue()), upright)


def test_truncated_jpeg_is_truncated(make_photo, jpeg_bytes):
    data = jpeg_bytes(make_photo(0))
    with pytest.raises(DecodeError) as caught:
        images.decode_image(data[: len(data) // 2])
    assert caught.value.reason == "truncated"


def test_jpeg_with_flipped_bytes_is_damaged(make_photo, jpeg_bytes):
    data = bytearray(jpeg_bytes(make_photo(0)))
    rng = np.random.default_rng(0)
    for position in rng.integers(len(data) // 2, len(data) - 64, 200):
        data[position] ^= 0xFF
    with pytest.raises(DecodeError) as caught:
        images.decode_image(bytes(data))
    assert caught.value.reason == "damaged"


def test_png_with_a_flipped_byte_is_damaged(make_photo, png_bytes):
    data = bytearray(png_bytes(make_photo(0)))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(DecodeError) as caught:
        images.decode_image(bytes(data))
    assert caught.value.reason == "damaged"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not-an-image"),
        (b"hello, I am a text", "not-an-image"),
        (b"\xff\xd8\xff", "truncated"),
        (b"GIF89a" + b"\0" * 20, None),
    ],
)
def test_what_is_no_image_has_a_reason(data, reason):
    with pytest.raises(DecodeError) as caught:
        images.decode_image(data)
    assert reason is None or caught.value.reason == reason


def test_gif_is_an_unsupported_format(make_photo):
    out = io.BytesIO()
    Image.fromarray(make_photo(0, 20, 20)).save(out, "GIF")
    with pytest.raises(DecodeError, match="unsupported-format: GIF"):
        images.decode_image(out.getvalue())


def test_a_bomb_is_refused_from_its_header():
    out = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(out, "PNG")
    with pytest.raises(DecodeError, match="too-many-pixels"):
        images.decode_image(out.getvalue())


def test_sixteen_bits_are_scaled_with_rounding():
    values = np.arange(0, 65536, 257 * 4 + 3, dtype=np.uint16)
    deep = np.stack([values, values[::-1], values], axis=-1)[None]
    ok, buffer = cv2.imencode(".png", deep)
    assert ok
    expected = np.floor(deep[..., ::-1].astype(float) * 255 / 65535 + 0.5).astype(np.uint8)
    assert np.array_equal(images.decode_image(bytes(buffer)), expected)


def test_sixteen_bit_grey_becomes_rgb():
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    ok, buffer = cv2.imencode(".png", values)
    assert ok
    decoded = images.decode_image(bytes(buffer))
    assert np.array_equal(decoded[..., 0], np.floor(values.astype(float) * 255 / 65535 + 0.5))
    assert np.array_equal(decoded[..., 0], decoded[..., 2])
    assert images.read_facts(bytes(buffer)).policy == "16-to-8,grey-to-rgb"


def test_alpha_is_laid_on_white(make_photo):
    rgba = np.dstack([make_photo(0, 10, 10), np.full((10, 10), 128, np.uint8)])
    out = io.BytesIO()
    Image.fromarray(rgba).save(out, "PNG")
    expected = rgba[..., :3] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(images.decode_image(out.getvalue()) - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA"])
def test_other_modes_become_rgb(make_photo, mode):
    picture = (
        Image.fromarray(make_photo(0, 32, 32))
        .convert("RGB" if mode == "P" else "CMYK" if mode == "CMYK" else "L")
        .convert(mode)
    )
    out = io.BytesIO()
    picture.save(out, "TIFF" if mode == "CMYK" else "PNG")
    decoded = images.decode_image(out.getvalue())
    assert decoded.shape == (32, 32, 3)
    assert np.array_equal(decoded, np.asarray(picture.convert("RGB")))


def test_cmyk_jpeg_decodes_and_its_damage_is_heard(make_photo):
    out = io.BytesIO()
    Image.fromarray(make_photo(0, 64, 64)).convert("CMYK").save(out, "JPEG", quality=90)
    data = out.getvalue()
    assert images.decode_image(data).shape == (64, 64, 3)
    with pytest.raises(DecodeError):
        images.decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("extension", images.PATCH_EXTENSIONS)
def test_patches_are_lossless(make_photo, extension):
    patch = make_photo(3, 64, 64)
    assert np.array_equal(images.decode_patch(images.encode_image(patch, extension)), patch)


def test_encode_refuses_what_is_no_image():
    with pytest.raises(ImageError, match=r"\(H, W, 3\) uint8"):
        images.encode_image(np.zeros((4, 4), np.uint8), "png")
    with pytest.raises(ConfigError, match="webp, png"):
        images.encode_image(np.zeros((4, 4, 3), np.uint8), "jpg")


def test_decoded_images_are_read_only(make_photo, png_bytes):
    decoded = images.decode_image(png_bytes(make_photo(0, 8, 8)))
    with pytest.raises(ValueError, match="read-only"):
        decoded[0, 0, 0] = 1


def test_grey_of_a_jpeg_is_its_own_luma(make_photo, jpeg_bytes):
    data = jpeg_bytes(make_photo(0, 64, 64))
    picture = Image.open(io.BytesIO(data))
    picture.draft("L", picture.size)  # libjpeg's own luma
    grey = decode_jpeg(data, "GRAY")[..., 0]
    assert np.array_equal(grey, np.asarray(picture))


def test_thumbnails_keep_the_aspect(make_photo):
    thumbnail = images.encode_thumbnail(make_photo(0, 300, 600))
    assert Image.open(io.BytesIO(thumbnail)).size == (128, 64)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_deep_pixels_that_cannot_be_scaled_are_refused(mode):
    ramp = np.linspace(0, 60_000, 64 * 64).reshape(64, 64).astype(np.int32 if mode == "I" else np.float32)
    out = io.BytesIO()
    Image.fromarray(ramp).save(out, "TIFF")
    with pytest.raises(DecodeError, match="unsupported-depth"):
        images.decode_image(out.getvalue())


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG", "WEBP", "BMP", "MPO", "AVIF"])
def test_no_mutated_file_escapes_as_another_error(make_photo, kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    out = io.BytesIO()
    first, second = Image.fromarray(make_photo(0, 24, 24)), Image.fromarray(make_photo(1, 24, 24))
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {} if kind == "BMP" else {"exif": exif, "icc_profile": bytes(200)}
    more |= {"save_all": True, "append_images": [second]} if kind in ("TIFF", "PNG", "WEBP", "MPO") else {}
    first.save(out, kind, **more)
    whole = out.getvalue()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        data = bytearray(whole)
        for position in (*rng.integers(0, len(data), 3), *rng.integers(0, min(300, len(data)), 2)):
            data[position] = rng.integers(256)
        data[-int(rng.integers(1, min(200, len(data))))] = rng.integers(256)  # a TIFF's directories stand at the end
        try:
            images.decode_image(bytes(data[: int(rng.integers(1, len(data)))] if rng.random() < 0.2 else data))
        except DecodeError:
            refused += 1
    assert refused > 0


def test_a_jpeg_of_rgb_samples_has_a_grey_plane_too(make_photo):
    out = io.BytesIO()
    Image.fromarray(make_photo(0, 64, 64)).save(out, "JPEG", quality=95, keep_rgb=True)
    data = out.getvalue()
    facts = images.read_facts(data)
    grey = decode_jpeg(data, "GRAY")[..., 0]
    assert facts.untouched and facts.jpeg.num_components == 3
    assert np.abs(grey - images.decode_image(data) @ [0.299, 0.587, 0.114]).max() <= 1


def test_read_picture_names_the_file(tmp_path):
    (tmp_path / "a.jpg").write_text("text")
    with pytest.raises(DecodeError, match=r"not-an-image: .*a\.jpg: starts with"):
        images.read_picture(tmp_path / "a.jpg")
    with pytest.raises(DecodeError, match=r"unreadable: .*b\.jpg: No such file"):
        images.read_picture(tmp_path / "b.jpg")


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 90, 95, 100])
def test_jpeg_quality_is_read_from_its_tables(make_photo, jpeg_bytes, quality):
    facts = images.read_facts(jpeg_bytes(make_photo(1), quality=quality)).jpeg
    assert facts.quality == quality and facts.precision_bits == 8 and not facts.arithmetic


@pytest.mark.parametrize(
    ("option", "name", "mcu"), [(0, "4:4:4", (8, 8)), (1, "4:2:2", (16, 8)), (2, "4:2:0", (16, 16))]
)
def test_jpeg_sampling_and_process(make_photo, jpeg_bytes, option, name, mcu):
    facts = images.read_facts(jpeg_bytes(make_photo(1), subsampling=option, progressive=option == 1)).jpeg
    assert (facts.subsampling, (facts.mcu_width, facts.mcu_height), facts.progressive) == (name, mcu, option == 1)
    grey = images.read_facts(jpeg_bytes(make_photo(1)[..., 0])).jpeg
    assert (grey.subsampling, grey.num_components, grey.mcu_width) == ("grey", 1, 8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (5, 1), (64, 48), (512, 512)])
def test_our_png_reads_back_everywhere(make_photo, height, width):
    image = make_photo(3, max(height, 64), max(width, 64))[:height, :width]
    data = encode_png(image)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), image)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB), image)
    assert np.array_equal(images.decode_image(data), image)  # checks every chunk's checksum
    assert data == encode_png(np.asfortranarray(image))
