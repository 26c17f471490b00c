"""Pictures that share a part are found from their descriptions alone."""

import cv2
import numpy as np
import pytest

from curate.core.errors import ManifestError
from curate.dedup.partial import PartialConfig, describe, partial_pairs


def make_scene(seed: int, height: int = 360, width: int = 480) -> np.ndarray:
    """Made grey picture: filtered noise at three scales, discs and rectangles."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width), 120, np.float32)
    for sigma, amount in ((1.5, 60), (5, 250), (14, 500)):
        image += amount * cv2.GaussianBlur(rng.normal(0, 1, image.shape).astype(np.float32), (0, 0), sigma)
    for _ in range(25):
        centre, level = rng.integers(0, (width, height)).tolist(), float(rng.integers(20, 230))
        cv2.circle(image, centre, int(rng.integers(4, 25)), level, -1, cv2.LINE_AA)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    return [make_scene(seed, 700, 900) for seed in range(8)]


def pairs_of(pictures) -> list[tuple[int, int]]:
    return [(pair.first, pair.second) for pair in partial_pairs([describe(p) for p in pictures])]


def test_unlike_pictures_share_nothing(scenes):
    assert pairs_of(scenes) == []


def test_two_crops_of_one_photograph(scenes):
    left, right = scenes[3][:500, :600], scenes[3][100:, 200:]
    (pair,) = partial_pairs([describe(p) for p in (scenes[0], left, scenes[1], right)])
    assert (pair.first, pair.second, pair.mirrored) == (1, 3, False)
    assert np.allclose(pair.transform, (1, 0, -200, 0, 1, -100), atol=3)
    assert pair.num_inliers >= PartialConfig().votes.min_inliers


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g[150:550, 100:800],
        lambda g: np.ascontiguousarray(g[:600, :700][:, ::-1]),
        lambda g: np.ascontiguousarray(np.rot90(g[100:, 100:])),
        lambda g: cv2.resize(g[100:, :700], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        lambda g: cv2.convertScaleAbs(g[:600], alpha=0.8, beta=10),
    ],
)
def test_changed_crops_are_found(scenes, change):
    assert pairs_of([*scenes, change(scenes[5])]) == [(5, 8)]


def test_transform_of_a_mirrored_half_size_crop(scenes):
    crop = scenes[2][100:600, 200:800][:, ::-1]
    half = cv2.resize(crop, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    (pair,) = partial_pairs([describe(scenes[2]), describe(half)])
    a, b, c, d, e, f = pair.transform
    assert pair.mirrored
    x, y = 799, 100  # of the whole; the crop's first pixel once mirrored
    assert np.allclose((a * x + b * y + c, d * x + e * y + f), (0, 0), atol=2)
    assert a == pytest.approx(-0.5, abs=0.01)


def test_same_description_and_pairs_for_any_number_of_threads(scenes):
    before = cv2.getNumThreads()
    answers = []
    try:
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            descriptions = [describe(p) for p in (*scenes, scenes[4][:500])]
            answers.append((descriptions, partial_pairs(descriptions)))
    finally:
        cv2.setNumThreads(before)
    assert answers[0] == answers[1]
    assert len(answers[0][1]) == 1


def test_descriptions_are_small_and_empty_ones_share_nothing(scenes):
    flat = np.full((300, 300), 90, np.uint8)
    assert all(len(describe(p)) <= 14 + 24 * 150 for p in scenes)
    assert partial_pairs([describe(flat), b"", describe(flat), describe(np.zeros((1, 1), np.uint8))]) == []
    assert pairs_of([scenes[0], scenes[0][:500], flat]) == [(0, 1)]
    assert partial_pairs([]) == []


def test_foreign_and_cut_descriptions_are_refused(scenes):
    whole = describe(scenes[0])
    for bad in (b"abc", b"XXXX" + whole[4:], whole[:-1]):
        with pytest.raises(ManifestError, match="description 1 "):
            partial_pairs([whole, bad])


def test_many_rows_are_searched_by_lists(scenes, monkeypatch):
    monkeypatch.setattr("curate.dedup.partial._EXACT_BELOW", 500)
    monkeypatch.setattr("curate.dedup.partial._ROWS_PER_LIST", 64)
    assert pairs_of([*scenes, scenes[5][100:, 100:], scenes[6][:, :600]]) == [(5, 8), (6, 9)]
