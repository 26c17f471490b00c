"""Between the passes: one pure function of the scan, in input order, decides keepers, splits and shards."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from .core.records import TRAIN, ScannedImage, ScoredPatch
from .decontaminate import BENCHMARK, describe_leaks, dropped, without_leaks
from .dedup.copies import Copy, KnownCorpora
from .dedup.exact import find_duplicates
from .dedup.rules import Dedup
from .near import TILE, Likeness, Tile, find_likeness, find_tiles, ranks
from .overlap import shared_patches
from .shards import patch_key
from .splits import Origin, assign_splits, unit_of

FORGOTTEN = "forgotten"
"""Reason of a picture that was removed on request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRules:
    """What decides beside the scan.

    Attributes:
        images_per_shard: length of the slices of pictures that pass every image rule; a slice has one file extension and split.
        patch_size_px: side of the patches.
        dedup: which likenesses cost a picture or patch its place.
        near: which ones are looked for: those, or hashes alone where only the splits need to know.
        splits: name -> share that is held out.
        split_by: what stays together beside near-duplicates, see `curate.splits`.
        seed: of the draws for the splits.
    """

    images_per_shard: int
    patch_size_px: int
    dedup: Dedup = field(default_factory=Dedup)
    near: Dedup = field(default_factory=Dedup)
    splits: Mapping[str, float] = field(default_factory=dict)
    split_by: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What an earlier plan for the same inputs decided; some of them have been fetched since.

    Attributes:
        shards: stay as they are; new pictures follow in new shards.
        copies: place of a picture -> why it is not kept.
        tiles: place of a picture -> number of a patch in it -> key of the patch that is kept instead.
        splits: place of a picture -> its split.
    """

    shards: Sequence[Sequence[int]] = ()
    copies: Mapping[int, Copy] = field(default_factory=dict)
    tiles: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    splits: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What pass 2 writes.

    Attributes:
        images: every input in input order; `status` is now `kept`, `rejected` or `failed`.
        shards: for each shard, the indices into `images` whose patches it holds (kept ones in the tar, dropped ones in
            the rejected table).
        earlier: what a later plan has to know of this one.
    """

    images: tuple[ScannedImage, ...]
    shards: tuple[tuple[int, ...], ...]
    earlier: Earlier = field(default_factory=Earlier)

    def counts(self) -> dict[str, int]:
        """Count inputs by status."""
        status = Counter(image.status for image in self.images)
        return {name: status[name] for name in ("kept", "rejected", "failed")}

    def reasons(self) -> dict[str, int]:
        """Count inputs that were not kept by `status: reason`, most frequent first."""
        counted = Counter(f"{image.status}: {image.reason}" for image in self.images if image.status != "kept")
        return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def make_plan(
    scanned: Sequence[ScannedImage],
    rules: PlanRules,
    *,
    earlier: Earlier | None = None,
    rounds: Mapping[int, int] = MappingProxyType({}),
    known: KnownCorpora | None = None,
    origins: Sequence[Origin] = (),
) -> Plan:
    """Decide duplicates, leaks, final status, splits and shards.

    Args:
        scanned: one record per input, in input order.
        rules: what decides beside the scan.
        earlier: what the last plan for the same inputs decided; it stays so.
        rounds: index of an input that was fetched in a later attempt -> number of that attempt, > 0: of equal pictures the one
            that came first is kept.
        known: what corpora that were built before keep; no copy of it is kept.
        origins: of each input; () if nothing is known.

    Returns:
        The plan; equal for equal arguments, whoever computed the scan.
    """
    earlier, known = earlier or Earlier(), known or KnownCorpora()
    order = [rounds.get(index, 0) for index in range(len(scanned))]
    images = [without_leaks(image, rules.patch_size_px) for image in scanned]
    in_order = (images[i] for i in sorted(range(len(images)), key=lambda i: (order[i], i)))
    duplicates = find_duplicates(in_order, known.pictures)
    for index, image in enumerate(images):
        if image.ref.source in duplicates:
            images[index] = _rejected(image, duplicates[image.ref.source])
    like = _near_pictures(images, rules, known, order, earlier)
    for index, copy in like.copies.items():
        images[index] = _rejected(images[index], copy)
    shared = shared_patches(images, like.overlaps, earlier.tiles, rules.patch_size_px)
    tiles = _named_once(
        images, _near_patches(images, rules, known, order, earlier, shared), earlier, rules.patch_size_px
    )
    for index, patches in tiles.items():
        images[index] = _without_tiles(images[index], patches)
    written = [index for index, image in enumerate(images) if image.status == "candidate"]
    images = [_settled(image) for image in images]
    if rules.splits:
        images = _in_splits(images, rules, known, order, like.linked, origins, earlier)
    shards = _shards(images, written, rules.images_per_shard, earlier.shards)
    splits = {index: image.split for index, image in enumerate(images) if image.split}
    decided = Earlier(shards=shards, copies=like.copies, tiles=tiles, splits=splits)
    return Plan(images=tuple(images), shards=tuple(shards), earlier=decided)


def _near_pictures(
    images: Sequence[ScannedImage], rules: PlanRules, known: KnownCorpora, order: Sequence[int], earlier: Earlier
) -> Likeness:
    """Find near pictures, for the splits, and what is dropped for their sake if the recipe says so.

    By index; known pictures follow the inputs, in their own order.
    """
    before = {index for members in earlier.shards for index in members}
    places = [
        index
        for index, image in enumerate(images)
        if image.fingerprint and image.status == "candidate" and any(not patch.reason for patch in image.patches)
    ]
    candidates = [images[index] for index in places]
    keep = [(len(images) + place, one) for place, one in enumerate(known.pictures) if one.fingerprint]
    rank = ranks(candidates, [order[index] for index in places]).tolist()
    found = find_likeness(candidates, [one for _, one in keep], rank, rules.near)
    every = [*places, *(place for place, _ in keep)]
    linked = [(every[one], every[other]) for one, other in found.linked]
    if not rules.dedup.of_pictures:
        return Likeness(linked=linked)
    new = {places[place]: copy for place, copy in found.copies.items() if places[place] not in before}
    copies = dict(sorted({**new, **earlier.copies}.items()))
    overlaps = [
        dataclasses.replace(one, worse=places[one.worse], better=places[one.better])
        for one in found.overlaps
        if not copies.keys() & {places[one.worse], places[one.better]}
    ]
    return Likeness(linked=linked, copies=copies, overlaps=overlaps)


def _named_once(
    images: Sequence[ScannedImage], tiles: Mapping[int, Mapping[int, str]], earlier: Earlier, size_px: int
) -> dict[int, dict[int, str]]:
    """Take nothing from a picture whose shard is written, and let nobody name a keeper that is dropped itself."""
    before = {index for members in earlier.shards for index in members}
    left = {index: earlier.tiles.get(index, {}) if index in before else patches for index, patches in tiles.items()}
    gone = {
        patch_key(
            images[index].identity, images[index].patches[number].y, images[index].patches[number].x, size_px
        ): key
        for index, patches in left.items()
        for number, key in patches.items()
        if number < len(images[index].patches)
    }

    def last(key: str) -> str:
        while key in gone:
            key = gone[key]
        return key

    return {
        index: {number: last(key) for number, key in patches.items()}
        for index, patches in sorted(left.items())
        if patches
    }


def _near_patches(
    images: Sequence[ScannedImage],
    rules: PlanRules,
    known: KnownCorpora,
    order: Sequence[int],
    earlier: Earlier,
    gone: Mapping[int, Mapping[int, str]],
) -> dict[int, dict[int, str]]:
    """Find patches that are the same tile as one of another picture, beside those that are `gone` already.

    Returns:
        index of a picture -> number of a patch in it -> key of the patch that is kept.
    """
    found: dict[int, dict[int, str]] = {index: dict(patches) for index, patches in gone.items()}
    if not rules.dedup.patches:
        return found
    before = {index for members in earlier.shards for index in members}
    owners = [index for index, image in enumerate(images) if image.status == "candidate" and not image.pair_sha256]
    rank = ranks([images[index] for index in owners], [order[index] for index in owners]).tolist()
    tiles = [Tile(key=one.key, phash=one.phash, average_hash=one.average_hash, owner=-1) for one in known.tiles]
    places = [(-1, -1)] * len(tiles)
    for _, index in sorted(zip(rank, owners, strict=True)):
        for number, patch in enumerate(images[index].patches):
            if not patch.reason and patch.phash and number not in found.get(index, {}):
                key = patch_key(images[index].identity, patch.y, patch.x, rules.patch_size_px)
                tiles.append(Tile(key=key, phash=patch.phash, average_hash=patch.average_hash, owner=index))
                places.append((index, number))
    for at, keeper in find_tiles(tiles, rules.dedup.patch_radius_bits).items():
        index, number = places[at]
        if index >= 0 and index not in before:
            found.setdefault(index, {})[number] = tiles[keeper].key
    return found


def _rejected(image: ScannedImage, copy: Copy) -> ScannedImage:
    return dataclasses.replace(
        image, status="rejected", reason=copy.reason, detail=f"of {copy.keeper}", keeper=copy.keeper, group=copy.group,
        near=copy.near, patches=(),
    )  # fmt: skip


def _without_tiles(image: ScannedImage, keepers: Mapping[int, str]) -> ScannedImage:
    patches: list[ScoredPatch] = list(image.patches)
    for number, keeper in keepers.items():
        if number < len(patches):  # a picture that was forgotten has none any more
            patches[number] = dropped(patches[number], TILE, keeper)
    return dataclasses.replace(image, patches=tuple(patches))


def _settled(image: ScannedImage) -> ScannedImage:
    """Give a candidate its final status."""
    if image.status == "candidate":
        common = Counter(patch.reason for patch in image.patches).most_common()
        if any(not patch.reason for patch in image.patches):
            image = dataclasses.replace(image, status="kept")
        elif any(patch.reason == BENCHMARK for patch in image.patches):
            image = dataclasses.replace(image, status="rejected", reason=BENCHMARK, detail=describe_leaks(image.leaks))
        else:
            detail = ", ".join(f"{reason} {count}" for reason, count in common)
            image = dataclasses.replace(image, status="rejected", reason="no-patch-kept", detail=detail)
    if image.forgotten:  # after its place in a shard is found: the shards are written and do not move
        image = dataclasses.replace(image, status="rejected", reason=FORGOTTEN, detail="")
    return image


def _in_splits(
    images: Sequence[ScannedImage],
    rules: PlanRules,
    known: KnownCorpora,
    order: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    origins: Sequence[Origin],
    earlier: Earlier,
) -> list[ScannedImage]:
    units = [
        unit_of(image.identity, origin, rules.split_by) if image.sha256 and image.status != "failed" else ""
        for image, origin in zip(images, origins or [Origin()] * len(images), strict=True)
    ]
    units += [one.identity for one in known.pictures]
    fixed = {len(images) + place: one.split or TRAIN for place, one in enumerate(known.pictures)} | dict(earlier.splits)
    splits = assign_splits(units, [*order, *[0] * len(known.pictures)], pairs, rules.splits, rules.seed, fixed)
    return [
        dataclasses.replace(image, split=earlier.splits.get(index, split))
        for index, (image, split) in enumerate(zip(images, splits, strict=False))
    ]


def _shards(
    images: Sequence[ScannedImage], written: Sequence[int], images_per_shard: int, earlier: Sequence[Sequence[int]]
) -> list[tuple[int, ...]]:
    """Cut what is written into shards of one split and extension each, in input order; earlier ones stay."""
    settled = {index for members in earlier for index in members}
    shards = [tuple(members) for members in earlier]
    alike: dict[tuple[str, str], list[int]] = {}
    for index in written:
        if index not in settled:
            alike.setdefault((images[index].split or TRAIN, images[index].extension), []).append(index)
    for _, members in sorted(alike.items()):
        shards += [tuple(members[at : at + images_per_shard]) for at in range(0, len(members), images_per_shard)]
    return shards
