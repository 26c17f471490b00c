"""16-bit patches: what is written is what is read, here and by OpenCV; 8-bit patches stay what they were."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curate.core.errors import DecodeError, ImageError
from curate.core.images import decode_patch, decode_samples, encode_deep, encode_image, is_deep


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_every_value_comes_back(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 65536, (height, width, 3), dtype=np.uint16)
    image.flat[:2] = (0, 65535)
    data = encode_deep(image)
    back = decode_samples(data)
    assert back.dtype == np.uint16
    assert np.array_equal(back, image)
    assert data == encode_deep(image.copy())


def test_other_readers_see_the_same_picture() -> None:
    image = np.random.default_rng(0).integers(0, 65536, (24, 17, 3), dtype=np.uint16)
    data = encode_deep(image)
    by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(by_opencv[..., ::-1], image)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.size == (17, 24)
        by_pillow = np.asarray(opened.convert("RGB")).astype(int)
    assert np.abs(by_pillow - image // 256).max() <= 1  # eight of the sixteen bits: why we have a reader of our own


def test_views_that_are_not_contiguous_are_encoded_as_they_look() -> None:
    image = np.random.default_rng(1).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    assert np.array_equal(decode_samples(encode_deep(image[::2, ::-1])), image[::2, ::-1])


@pytest.mark.parametrize("extension", ["png", "webp"])
def test_patches_of_8_bits_stay_8_bits(extension: str) -> None:
    image = np.random.default_rng(2).integers(0, 256, (33, 21, 3), dtype=np.uint8)
    data = encode_image(image, extension)
    assert not is_deep(data)
    back = decode_samples(data)
    assert back.dtype == np.uint8
    assert np.array_equal(back, image)
    assert np.array_equal(decode_patch(data), image)


def test_damage_is_told() -> None:
    data = encode_deep(np.random.default_rng(3).integers(0, 65536, (30, 30, 3), dtype=np.uint16))
    for broken in (data[:40], b"", data[:30]):
        with pytest.raises(DecodeError, match="damaged"):
            decode_samples(broken)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3)])
def test_only_pictures_of_16_bits_are_taken(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="encode_deep"):
        encode_deep(np.zeros(shape, np.uint16))
    with pytest.raises(ImageError, match="encode_deep"):
        encode_deep(np.zeros((4, 4, 3), np.uint8))  # type: ignore[arg-type]
