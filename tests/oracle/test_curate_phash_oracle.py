"""Our LANCZOS resize and our perceptual hashes against the packages that they must equal bit for bit."""

from concurrent.futures import ThreadPoolExecutor

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curate.core.errors import ImageError
from curate.dedup import lanczos
from curate.dedup.lanczos import resize_lanczos
from curate.dedup.phash import average_hash, dihedral_of, dihedral_phashes, hashes_of, luma_of, phash

SIZES = st.one_of(st.integers(1, 40), st.integers(41, 700))


def pillow(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.LANCZOS))


def distance(one: str, two: str) -> int:
    return (int(one, 16) ^ int(two, 16)).bit_count()


@settings(deadline=None, max_examples=300)
@given(SIZES, SIZES, SIZES, SIZES, st.sampled_from(["noise", "two levels", "few levels"]), st.integers(0, 2**32 - 1))
def test_resize_equals_pillow(height, width, new_height, new_width, kind, seed):
    rng = np.random.default_rng(seed)
    grey = rng.integers(0, 256, (height, width), dtype=np.uint8)
    if kind != "noise":  # sums at the middle between two levels, and beyond both ends
        grey = (grey // 128 * 255) if kind == "two levels" else grey // 86 * 2
    grey.flags.writeable = False
    assert np.array_equal(resize_lanczos(grey, new_height, new_width), pillow(grey, new_height, new_width))


@pytest.mark.parametrize(
    ("height", "width", "new_height", "new_width"),
    [
        (1, 1, 1, 1), (1, 1, 32, 32), (1, 5000, 32, 32), (5000, 1, 32, 32), (2000, 3, 32, 32), (3, 2000, 32, 32),
        (512, 512, 32, 32), (512, 512, 8, 8), (513, 511, 32, 32), (31, 33, 32, 32), (32, 32, 32, 32), (32, 64, 32, 32),
        (1300, 700, 32, 32), (40, 13, 4, 900), (20000, 30, 7, 25), (30, 20000, 25, 7), (700, 900, 700, 3),
    ],
)  # fmt: skip
def test_resize_equals_pillow_at_odd_sizes(height, width, new_height, new_width):
    rng = np.random.default_rng(height * 7 + width)
    for grey in (
        rng.integers(0, 256, (height, width), dtype=np.uint8),
        np.full((height, width), 255, np.uint8),
        np.asarray(np.add.outer(np.arange(height), np.arange(width)) % 2 * 255, np.uint8),
    ):
        assert np.array_equal(resize_lanczos(grey, new_height, new_width), pillow(grey, new_height, new_width))


def test_resize_of_a_large_plane_in_chunks_and_of_windows():
    rng = np.random.default_rng(3)
    large = rng.integers(0, 256, (1500, 2100), dtype=np.uint8)
    assert large.size > 4 * lanczos.CHUNK_PIXELS
    assert np.array_equal(resize_lanczos(large, 32, 32), pillow(large, 32, 32))
    assert np.array_equal(resize_lanczos(large, 1400, 300), pillow(large, 1400, 300))
    for window in (large[100:612, 7:519], large[::2, ::3], large[::-1, ::-1].T):
        assert np.array_equal(resize_lanczos(window, 32, 32), pillow(np.ascontiguousarray(window), 32, 32))


def test_threads_do_not_share_memory():
    rng = np.random.default_rng(4)
    planes = rng.integers(0, 256, (60, 200, 200), dtype=np.uint8)
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(phash, planes))
    assert hashes == [str(imagehash.phash(Image.fromarray(plane))) for plane in planes]


def test_sums_in_the_middle_between_levels_are_rounded_as_pillow_rounds():
    rng = np.random.default_rng(0)
    plan = lanczos._plan(512, 32, np.dtype(np.float32))
    rows = rng.integers(0, 256, (400, 512), dtype=np.uint8)
    sums = np.full((400, 32), 0.5, np.float32)  # every output in doubt
    assert np.array_equal(np.clip(lanczos._round(rows.astype(np.float32), sums, plan), 0, 255), pillow(rows, 400, 32))


@pytest.mark.parametrize("seed", range(8))
def test_hashes_equal_imagehash(make_photo, seed):
    rng = np.random.default_rng(seed)
    height, width = (512, 512) if seed < 2 else rng.integers(1, 900, 2)
    rgb = make_photo(seed, int(height), int(width))
    picture, grey = Image.fromarray(rgb), luma_of(rgb)
    assert np.array_equal(grey, np.asarray(picture.convert("L")))
    assert phash(grey) == str(imagehash.phash(picture))
    assert average_hash(grey) == str(imagehash.average_hash(picture))
    both = hashes_of(grey)
    assert (both.phash, both.average_hash) == (phash(grey), average_hash(grey))
    assert dihedral_of(both.thumbnail)[0] == both.phash and both.thumbnail.shape == (32, 32)


@pytest.mark.data
def test_hashes_of_real_pictures_equal_imagehash(data_folder):
    paths = sorted((data_folder / "bench").rglob("*.png"))[::9]  # bench_phash takes them all
    assert len(paths) > 5
    for path in paths:
        with Image.open(path) as picture:
            rgb = picture.convert("RGB")
        grey = luma_of(np.asarray(rgb))
        assert phash(grey) == str(imagehash.phash(rgb)) and average_hash(grey) == str(imagehash.average_hash(rgb))


def degenerate() -> dict[str, np.ndarray]:
    ramp = np.arange(256, dtype=np.uint8)
    spot = np.zeros((64, 64), np.uint8)
    spot[31, 31] = 255
    return {
        **{f"flat {level}": np.full((100, 77), level, np.uint8) for level in (0, 1, 77, 127, 128, 254, 255)},
        "one pixel": np.full((1, 1), 200, np.uint8), "ramp": np.tile(ramp, (256, 1)),
        "ramp down": np.tile(ramp[:, None], (1, 256)), "spot": spot,
        "checks": np.asarray(np.add.outer(np.arange(512), np.arange(512)) % 2 * 255, np.uint8),
        "stripes": np.asarray(np.tile(np.arange(512) % 32 // 16 * 255, (512, 1)), np.uint8),
        "halves": np.repeat(np.uint8([[10, 20]]), 256, axis=1).repeat(512, axis=0), "line": ramp[None],
    }  # fmt: skip


@pytest.mark.parametrize("name", degenerate())
def test_hashes_of_degenerate_pictures_equal_imagehash(name):
    grey = degenerate()[name]
    assert phash(grey) == str(imagehash.phash(Image.fromarray(grey)))
    assert average_hash(grey) == str(imagehash.average_hash(Image.fromarray(grey)))


@pytest.mark.parametrize("seed", range(6))
def test_dihedral_hashes_are_those_of_the_turned_thumbnail_and_near_those_of_the_turned_picture(make_photo, seed):
    grey = luma_of(make_photo(seed, 300 + 31 * seed, 420))
    hashes = dihedral_phashes(grey)
    thumbnail = Image.fromarray(resize_lanczos(grey, 32, 32))
    assert hashes[0] == phash(grey) and len(set(hashes)) == 8
    transpose = Image.Transpose
    turns = [
        None, transpose.ROTATE_90, transpose.ROTATE_180, transpose.ROTATE_270, transpose.FLIP_LEFT_RIGHT,
        transpose.TRANSPOSE, transpose.FLIP_TOP_BOTTOM, transpose.TRANSVERSE,
    ]  # fmt: skip
    for found, turn in zip(hashes, turns, strict=True):
        small, whole = (
            picture if turn is None else picture.transpose(turn) for picture in (thumbnail, Image.fromarray(grey))
        )
        assert found == str(imagehash.phash(small))
        assert distance(found, str(imagehash.phash(whole))) <= 4


def test_what_is_no_plane_is_refused():
    for wrong in (np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ImageError, match="plane"):
            resize_lanczos(wrong, 2, 2)
    with pytest.raises(ImageError, match="sides"):
        resize_lanczos(np.zeros((4, 4), np.uint8), 0, 2)
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ImageError, match="picture"):
            luma_of(wrong)
