"""Files of pictures: what is held on the way, what a format cannot hold, texts and resolutions that survive."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from curate.core.colour import ADOBE_RGB, BAND_PIXELS, Encoding, from_cmyk, from_encoding, to_eight
from curate.core.errors import ConfigError
from restoration import picture_writers
from restoration.picture_files import Metadata, Picture, decode_picture, decoding_bytes, laid_on_white, read_head
from restoration.picture_writers import FORMATS, check_fits, write_picture, writing_bytes

HEIGHT, WIDTH = 3000, 2000  # 6 MP, 23 bands


def noise(channels: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, np.iinfo(dtype).max + 1, (HEIGHT, WIDTH, channels), dtype)


def peak_bytes_per_pixel(work) -> float:
    """Give what `work` holds at once at most; NumPy tells tracemalloc of its arrays."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / (HEIGHT * WIDTH)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparency_on_white_holds_little_and_is_exact(dtype):
    colour, alpha = noise(3, dtype), noise(1, dtype)[..., 0]
    laid = laid_on_white(Picture(colour, alpha))
    full = np.iinfo(dtype).max
    weight = alpha[:9, :, None].astype(object)  # whole numbers of any size
    expected = (colour[:9].astype(object) * weight + full * (full - weight) + full // 2) // full
    np.testing.assert_array_equal(laid[:9], expected.astype(dtype))
    size = 3 * np.dtype(dtype).itemsize
    assert peak_bytes_per_pixel(lambda: laid_on_white(Picture(colour, alpha))) < size + 4


@pytest.mark.parametrize(
    ("convert", "channels", "dtype"),
    [
        (from_cmyk, 4, np.uint8),
        (to_eight, 3, np.uint16),
        (lambda samples: from_encoding(samples, ADOBE_RGB), 3, np.uint16),
        (lambda samples: from_encoding(samples, Encoding(1.0)), 3, np.uint8),
    ],
)
def test_conversions_hold_a_band_at_a_time(convert, channels, dtype):
    samples = noise(channels, dtype)
    whole = convert(samples)
    rows = BAND_PIXELS // WIDTH
    for y in (0, rows - 1, rows, HEIGHT - 1):
        np.testing.assert_array_equal(whole[y], convert(samples[y : y + 1])[0])
    assert peak_bytes_per_pixel(lambda: convert(samples)) < 3 + 4


@pytest.mark.parametrize("mode", ["CMYK", "RGBA"])
def test_decoding_holds_what_is_budgeted(mode):
    data = io.BytesIO()
    Image.fromarray(noise(4), mode).save(data, "JPEG" if mode == "CMYK" else "PNG", quality=30)
    header = read_head(data.getvalue())
    assert peak_bytes_per_pixel(lambda: decode_picture(data.getvalue(), header)) < decoding_bytes(header)


@pytest.mark.parametrize("suffix", ["webp", "tiff"])
@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_with_a_gamma_is_written_without_a_profile_of_colour(tmp_path, suffix, mode):
    linear = PngImagePlugin.PngInfo()
    linear.add(b"gAMA", (100_000).to_bytes(4, "big"))
    data = io.BytesIO()
    Image.new(mode, (24, 24), 55 if mode == "L" else (55, 200)).save(data, "PNG", pnginfo=linear)
    picture = decode_picture(data.getvalue())
    assert picture.colour.shape == (24, 24, 1) and picture.metadata.profile == b""
    write_picture(tmp_path / f"out.{suffix}", picture, suffix)
    with Image.open(tmp_path / f"out.{suffix}") as found:
        assert abs(int(np.asarray(found.convert("RGB"))[0, 0, 1]) - 128) <= 1


def test_a_jpeg_loses_only_what_it_cannot_hold_and_says_so(tmp_path, capsys):
    picture = Picture(np.zeros((8, 8, 3), np.uint8), metadata=Metadata(main={0x010F: "Ours"}, xmp=bytes(70_000)))
    write_picture(tmp_path / "out.jpg", picture, "jpeg")
    with Image.open(tmp_path / "out.jpg") as found:
        assert found.getexif()[0x010F] == "Ours" and "xmp" not in found.info
    assert "out.jpg: XMP of 70000 bytes is left out" in capsys.readouterr().err
    picture = Picture(picture.colour, metadata=Metadata(main={0x010F: "O" * 70_000}, xmp=bytes(65_504)))
    write_picture(tmp_path / "out.jpg", picture, "jpeg")
    with Image.open(tmp_path / "out.jpg") as found:
        assert not found.getexif() and found.info["xmp"] == bytes(65_504)
    assert "EXIF of 70" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(FORMATS))
def test_texts_that_are_not_ascii_survive(tmp_path, name):
    lens, owner = "Ø 50 mm", "Zoë"  # two bytes each in UTF-8, which Pillow reads as Latin-1
    camera = {0xA434: lens.encode().decode("latin-1"), 0xA430: owner.encode().decode("latin-1")}
    picture = Picture(np.zeros((8, 8, 3), np.uint8), metadata=Metadata(camera=camera))
    path = tmp_path / f"out{FORMATS[name]}"
    write_picture(path, picture, name)
    with Image.open(path) as found:
        kept = found.getexif().get_ifd(0x8769)
    assert {tag: kept[tag].encode("latin-1").decode() for tag in camera} == {0xA434: lens, 0xA430: owner}
    assert dict(decode_picture(path.read_bytes()).metadata.camera) == camera


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_resolution_survives_in_every_format(tmp_path, name):
    picture = Picture(np.zeros((8, 8, 3), np.uint8), metadata=Metadata(dpi=(300.0, 150.0)))
    path = tmp_path / f"out{FORMATS[name]}"
    write_picture(path, picture, name)
    assert decode_picture(path.read_bytes()).metadata.dpi == pytest.approx((300, 150), abs=0.1)


def test_what_a_format_cannot_hold_is_refused(tmp_path, monkeypatch):
    path = Path("x")
    for name, longest in (("webp", 16383), ("jpeg", 65535)):
        check_fits(path, name, 1, longest, 3)
        with pytest.raises(ConfigError, match=f"x: {name} holds at most {longest} pixels a side"):
            check_fits(path, name, longest + 1, 1, 3)
    check_fits(path, "png", 10**5, 10**5, 8)
    with pytest.raises(ConfigError, match="x: a TIFF holds at most 4 GiB"):
        check_fits(path, "tiff", 40_000, 40_000, 3)
    monkeypatch.setattr(picture_writers, "_TIFF_MAX_BYTES", 8 * 8 * 4 - 1)
    with pytest.raises(ConfigError, match="4 GiB"):  # grey with alpha becomes RGB with alpha
        write_picture(tmp_path / "a.tif", Picture(np.zeros((8, 8, 1), np.uint8), np.zeros((8, 8), np.uint8)), "tiff")
    assert not list(tmp_path.iterdir())


def test_writing_jpeg_holds_what_is_budgeted(tmp_path):
    """Transparent and 16-bit; Pillow's own copy, made when these are gone, is not seen here."""
    picture = Picture(noise(3, np.uint16), noise(1, np.uint16)[..., 0])
    peak = peak_bytes_per_pixel(lambda: write_picture(tmp_path / "out.jpg", picture, "jpeg"))
    assert peak < writing_bytes("jpeg")
