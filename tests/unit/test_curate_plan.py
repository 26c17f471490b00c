"""The plan: who is kept of near pictures, what leaks cost, what a later plan may change. Fingerprints are made up."""

import dataclasses

import numpy as np
import pytest

from curate.core.records import Fingerprint, ImageFacts, InputRef, Leak, ScannedImage, ScoredPatch
from curate.decontaminate import BENCHMARK, overlaps
from curate.dedup.copies import Known, KnownCorpora, KnownTile
from curate.dedup.rules import Dedup
from curate.near import PERCEPTUAL, TILE
from curate.plan import Plan, PlanRules, make_plan

NEAR = Dedup(perceptual=True)
RULES = PlanRules(images_per_shard=2, patch_size_px=64, dedup=NEAR, near=NEAR)
FAR = 0x9E37_79B9_7F4A_7C15
THUMBNAIL = bytes((37 * i * i + 11 * i) % 256 for i in range(256))


def fingerprint(value, *, thumbnail=THUMBNAIL, detail=1.0):
    hashes = tuple(f"{value ^ (0xAAAA_5555_3333_CCCC * turn) & (2**64 - 1):016x}" for turn in range(8))
    return Fingerprint(phashes=hashes, average_hash="0" * 16, thumbnail=thumbnail.hex(), detail=detail)


def image(name, value, *, width=640, quality=None, patches=None, **more):
    facts = ImageFacts(format="png", width=width, height=480, orientation=1, mode="RGB", policy="", icc_profile="")
    if quality is not None:
        facts = dataclasses.replace(facts, format="jpeg", jpeg=_jpeg(quality))
    if patches is None:
        patches = (ScoredPatch(y=0, x=0, scores={}, sha256="1"), ScoredPatch(y=0, x=64, scores={}, sha256="2"))
    return ScannedImage(
        ref=InputRef(source=name, path=name, num_bytes=1), status="candidate", extension="png",
        sha256=(name.encode().hex() * 64)[:64], facts=facts, patches=tuple(patches), fingerprint=fingerprint(value), **more,
    )  # fmt: skip


def _jpeg(quality):
    from curate.core.records import JpegFacts

    return JpegFacts(
        progressive=False, arithmetic=False, lossless=False, precision_bits=8, num_components=3, subsampling="4:4:4",
        mcu_width=8, mcu_height=8, luma_table=(), quality=float(quality), adobe_transform=None,
    )  # fmt: skip


def kept(plan: Plan):
    return [one.ref.source for one in plan.images if one.status == "kept"]


def test_the_best_of_a_group_is_kept_and_the_others_name_it():
    images = [image("small", 0, width=320), image("large", 1), image("jpeg", 3, quality=90), image("other", 2**64 - 1)]
    plan = make_plan(images, RULES)
    assert kept(plan) == ["large", "other"]
    dropped = {one.ref.source: one for one in plan.images if one.status == "rejected"}
    assert {(one.reason, one.keeper, one.detail) for one in dropped.values()} == {(PERCEPTUAL, "large", "of large")}
    assert {one.group for one in dropped.values()} == {images[1].identity[:20]}
    assert "1 of 64 bits" in dropped["small"].near and dropped["small"].patches == ()
    assert plan.counts() == {"kept": 2, "rejected": 2, "failed": 0}


def test_quality_then_detail_then_order_decide_between_equal_sizes():
    sharp = dataclasses.replace(image("sharp", 1, quality=80), fingerprint=fingerprint(1, detail=9.0))
    assert kept(make_plan([image("a", 0, quality=80), sharp, image("b", 1, quality=70)], RULES)) == ["sharp"]
    assert kept(make_plan([image("a", 0, quality=80), image("b", 1, quality=95)], RULES)) == ["b"]
    assert kept(make_plan([image("a", 0), image("b", 1)], RULES)) == ["a"]


def test_likeness_is_not_handed_on():
    strict = Dedup(perceptual=True, radius_bits=4)
    rules = dataclasses.replace(RULES, dedup=strict, near=strict)
    chain = [image("a", 0b0, width=900), image("b", 0b1111, width=800), image("c", 0b1111_1111, width=700)]
    plan = make_plan(chain, rules)
    assert kept(plan) == ["a", "c"]
    assert plan.images[1].keeper == "a"


def test_equal_hashes_of_unlike_thumbnails_are_no_copies():
    other = dataclasses.replace(image("b", 0), fingerprint=fingerprint(0, thumbnail=bytes(range(256))))
    assert kept(make_plan([image("a", 0), other], RULES)) == ["a", "b"]


def test_a_better_copy_without_a_patch_to_give_does_not_push_out_a_good_one():
    empty = image("large", 0, width=9000, patches=[ScoredPatch(y=0, x=0, scores={}, reason="flat")])
    plan = make_plan([empty, image("small", 0)], RULES)
    assert kept(plan) == ["small"]
    assert plan.images[0].reason == "no-patch-kept"


def test_pairs_may_share_a_clean_picture():
    one, other = (image(name, 0, pair_sha256=name * 8) for name in "ab")
    assert kept(make_plan([one, other], RULES)) == ["a", "b"]


def test_a_recipe_without_rules_keeps_near_pictures_and_splits_them_together():
    images = [
        image(f"{number:02d}{copy}", number * 0x9E37_79B9_7F4A_7C15 % 2**64) for number in range(40) for copy in "ab"
    ]
    rules = PlanRules(images_per_shard=4, patch_size_px=64, near=NEAR, splits={"val": 0.3})
    plan = make_plan(images, rules)
    assert len(kept(plan)) == 80
    splits = [one.split for one in plan.images]
    assert splits[::2] == splits[1::2] and {"val", "train"} == set(splits)
    for members in plan.shards:
        assert len({plan.images[index].split for index in members}) == 1
    assert [plan.images[members[0]].split for members in plan.shards] == sorted(
        plan.images[members[0]].split for members in plan.shards
    )


def test_every_patch_that_touches_a_leak_goes_and_no_other():
    leak = Leak(
        benchmark="k.png", pack="kodak", corners=((80, 10), (110, 10), (110, 40), (80, 40)), score=0.9, num_inliers=5
    )
    assert overlaps(leak, 0, 64, 64) and not overlaps(leak, 0, 0, 64)
    plan = make_plan([image("a", 0, leaks=(leak,))], RULES)
    assert [patch.reason for patch in plan.images[0].patches] == ["", BENCHMARK]
    whole = dataclasses.replace(leak, corners=((0, 0), (640, 0), (640, 480), (0, 480)))
    plan = make_plan([image("a", 0, leaks=(whole,)), image("b", 1)], RULES)
    assert kept(plan) == ["b"]
    assert plan.images[0].reason == BENCHMARK and "kodak/k.png" in plan.images[0].detail


def _hashed(name, value, **more):
    patches = [
        ScoredPatch(y=0, x=64 * i, scores={}, phash=f"{h:016x}", average_hash=f"{h:016x}", sha256="1")
        for i, h in enumerate((value, 0xF0F0_F0F0_1234_5678))
    ]
    return image(name, 1 << (ord(name) % 60), patches=patches, **more)


def test_the_same_tile_of_two_pictures_is_kept_once():
    rules = PlanRules(images_per_shard=2, patch_size_px=64, dedup=Dedup(patches=True))
    plan = make_plan([_hashed("a", 0, width=320), _hashed("b", 0xFFFF)], rules)
    assert [[patch.reason for patch in one.patches] for one in plan.images] == [["", TILE], ["", ""]]
    assert plan.images[0].patches[1].keeper == f"{plan.images[1].identity[:20]}_00000_00064_64"
    known = KnownCorpora(tiles=[KnownTile(key="old", phash="0" * 15 + "1", average_hash="0" * 16)])
    plan = make_plan([_hashed("a", 0)], rules, known=known)
    assert [patch.keeper for patch in plan.images[0].patches] == ["old", ""]


def test_what_an_earlier_corpus_keeps_is_not_kept_again():
    one = image("a", 0)
    known = Known(
        source="x (known corpus 1)", sha256="f" * 64, pair_sha256="", pixels_sha256="", fingerprint=fingerprint(1)
    )
    plan = make_plan([one, image("b", FAR)], RULES, known=KnownCorpora(pictures=[known]))
    assert kept(plan) == ["b"]
    assert plan.images[0].keeper == "x (known corpus 1)" and plan.images[0].group == "f" * 20
    same = dataclasses.replace(known, sha256=one.sha256, fingerprint=None)
    assert (
        make_plan([one, image("b", FAR)], RULES, known=KnownCorpora(pictures=[same])).images[0].reason == "same-bytes"
    )


def test_a_later_plan_changes_nothing_that_was_written():
    first = [image("a", 0, width=320), image("b", 1, width=200), image("c", FAR)]
    before = make_plan(first, RULES)
    later = [*first, image("d", 0, width=9000)]
    after = make_plan(later, RULES, earlier=before.earlier, rounds={3: 1})
    assert after.shards == before.shards
    assert after.images[:3] == before.images
    assert after.images[3].keeper == "a"


@pytest.mark.parametrize("gone", ["a", "b"])
def test_forgetting_a_keeper_brings_nothing_back(gone):
    first = [image("a", 0), image("b", 1, width=200), image("c", FAR)]
    before = make_plan(first, RULES)
    later = [
        dataclasses.replace(one, fingerprint=None, patches=(), forgotten=True) if one.ref.source == gone else one
        for one in first
    ]
    after = make_plan(later, RULES, earlier=before.earlier)
    assert after.shards == before.shards
    assert {one.ref.source for one in after.images if one.status == "kept"} == set(kept(before)) - {gone}


def test_a_bridge_between_two_splits_moves_neither():
    splits = dataclasses.replace(RULES, dedup=Dedup(), splits={"val": 0.5})
    first = [image(name, value) for name, value in zip("abcdefgh", range(0, 8 * (1 << 56), 1 << 56), strict=True)]
    first = [
        dataclasses.replace(one, fingerprint=fingerprint(FAR * (number + 1) % 2**64))
        for number, one in enumerate(first)
    ]
    before = make_plan(first, splits)
    assert {one.split for one in before.images} == {"val", "train"}
    one, other = (next(i for i, x in enumerate(before.images) if x.split == name) for name in ("train", "val"))
    bridge = dataclasses.replace(image("z", 0), fingerprint=first[one].fingerprint)
    second = dataclasses.replace(image("y", 0), fingerprint=first[other].fingerprint)
    after = make_plan([*first, bridge, second], splits, earlier=before.earlier, rounds={8: 1, 9: 1})
    assert [x.split for x in after.images] == [*(x.split for x in before.images), "train", "val"]


def test_no_patch_names_a_keeper_that_is_dropped_itself():
    rules = PlanRules(images_per_shard=2, patch_size_px=64, dedup=Dedup(patches=True))
    pictures = [
        _hashed(name, value, width=width) for name, value, width in (("a", 1, 900), ("b", 2, 600), ("c", 4, 300))
    ]
    plan = make_plan(pictures, rules)
    kept = {f"{x.identity[:20]}_{p.y:05d}_{p.x:05d}_64" for x in plan.images for p in x.patches if not p.reason}
    named = [p.keeper for x in plan.images for p in x.patches if p.reason]
    assert len(named) == 4 and set(named) <= kept


def test_a_crowd_with_one_hash_is_quick_and_keeps_one():
    crowd = [image(f"{number:04d}", 0) for number in range(600)]
    rng = np.random.default_rng(0)
    levels = np.frombuffer(THUMBNAIL, np.uint8)
    noise = [np.clip(levels + rng.normal(0, 3, 256), 0, 255).astype(np.uint8).tobytes() for _ in crowd]
    noisy = [
        dataclasses.replace(one, fingerprint=fingerprint(0, thumbnail=thumbnail))
        for one, thumbnail in zip(crowd, noise, strict=True)
    ]
    plan = make_plan(noisy, RULES)
    assert len(kept(plan)) == 1 and {one.keeper for one in plan.images if one.keeper} == set(kept(plan))
