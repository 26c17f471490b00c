"""Parts of pictures by keypoints: found whatever the crop, turn or mirror; unlike pictures share nothing."""

import cv2
import numpy as np
import pytest

from curate.core.errors import ManifestError
from curate.dedup.partial import NUM_KEYPOINTS, describe, partial_pairs

MIN_INLIERS = 8
CHANGES = {
    "crop": lambda g: g[40:240, 60:330],
    "mirrored": lambda g: g[:, ::-1],
    "turned": lambda g: np.rot90(g),
    "small": lambda g: cv2.resize(g, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    "askew": lambda g: cv2.warpAffine(g, cv2.getRotationMatrix2D((192, 144), 25, 1.1), (384, 288)),
}


@pytest.fixture
def greys(make_photo):
    return [cv2.cvtColor(make_photo(seed, 288, 384), cv2.COLOR_RGB2GRAY) for seed in range(4)]


def pairs_of(*pictures):
    found = partial_pairs([describe(np.ascontiguousarray(picture)) for picture in pictures])
    return [(i, j, part) for i, j, part in found if part.num_inliers >= MIN_INLIERS]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(greys, change):
    ((i, j, part),) = pairs_of(*greys, CHANGES[change](greys[2]))
    assert (i, j) == (2, 4)
    assert part.mirrored == (change == "mirrored")


def test_shares_say_how_much_of_each_shows_in_the_other(greys):
    ((_, _, part),) = pairs_of(greys[0], greys[0][40:240, 60:330])
    assert part.covered == pytest.approx(200 * 270 / (288 * 384), abs=0.02) and part.covers > 0.98
    region = np.array(part.region) * (384, 288)
    assert np.abs(region - [(60, 40), (330, 40), (330, 240), (60, 240)]).max() < 4
    ((_, _, part),) = pairs_of(greys[1][:, :260], greys[1][:, 120:])
    assert part.covered == pytest.approx(140 / 260, abs=0.03) and part.covers == pytest.approx(140 / 264, abs=0.03)


def test_mirrored_regions_lie_where_they_show(greys):
    mirrored = np.ascontiguousarray(greys[0][:, ::-1][:, :200])  # the right part of the original
    ((_, _, part),) = pairs_of(greys[0], mirrored)
    xs = [x * 384 for x, _ in part.region]
    assert min(xs) == pytest.approx(184, abs=6) and max(xs) == pytest.approx(384, abs=6)
    assert part.covers > 0.97


def test_unlike_pictures_share_nothing(make_photo):
    assert pairs_of(*(cv2.cvtColor(make_photo(seed, 288, 384), cv2.COLOR_RGB2GRAY) for seed in range(10, 22))) == []


def test_descriptions_are_short_and_the_same_again(greys):
    assert describe(greys[0]) == describe(greys[0].copy())
    assert len(describe(greys[0])) <= 6 + 20 * NUM_KEYPOINTS
    flat = describe(np.zeros((64, 64), np.uint8))
    assert pairs_of(np.zeros((64, 64), np.uint8), greys[0]) == [] and partial_pairs([flat, flat]) == []


def test_a_damaged_description_is_refused(greys):
    with pytest.raises(ManifestError, match="keypoints"):
        partial_pairs([describe(greys[0])[:-1], describe(greys[1])])
