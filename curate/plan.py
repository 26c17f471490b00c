"""Between the passes: one pure function of the scan, in input order, decides keepers and shards."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from .core.records import ScannedImage
from .dedup.exact import find_duplicates

FORGOTTEN = "forgotten"
"""Reason of a picture that was removed on request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What pass 2 writes.

    Attributes:
        images: every input in input order; `status` is now `kept`, `rejected` or `failed`.
        shards: for each shard, the indices into `images` whose patches it holds (kept ones in the tar, dropped ones in
            the rejected table).
    """

    images: tuple[ScannedImage, ...]
    shards: tuple[tuple[int, ...], ...]

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
    *,
    images_per_shard: int,
    earlier: Sequence[Sequence[int]] = (),
    rounds: Mapping[int, int] = MappingProxyType({}),
) -> Plan:
    """Decide duplicates, final status and shards.

    Args:
        scanned: one record per input, in input order.
        images_per_shard: length of the slices of pictures that pass every image rule; a slice has one file extension.
        earlier: shards of an earlier plan for the same inputs, of which some have been fetched since: these shards stay as
            they are, and new pictures follow in new shards.
        rounds: index of an input that was fetched in a later attempt -> number of that attempt, > 0: of equal pictures the one
            that came first is kept.

    Returns:
        The plan; equal for equal arguments, whoever computed the scan.
    """
    settled = {index for members in earlier for index in members}
    in_order = sorted(range(len(scanned)), key=lambda i: (rounds.get(i, 0), i))
    duplicates = find_duplicates(scanned[i] for i in in_order)
    images, written = [], []
    for index, image in enumerate(scanned):
        if image.ref.source in duplicates:
            reason, keeper = duplicates[image.ref.source]
            image = dataclasses.replace(image, status="rejected", reason=reason, detail=f"of {keeper}", patches=())
        elif image.status == "candidate":
            written.append(index)
            if any(not patch.reason for patch in image.patches):
                image = dataclasses.replace(image, status="kept")
            else:
                common = Counter(patch.reason for patch in image.patches).most_common()
                detail = ", ".join(f"{reason} {count}" for reason, count in common)
                image = dataclasses.replace(image, status="rejected", reason="no-patch-kept", detail=detail)
        if image.forgotten:  # after its place in a shard is found: the shards are written and do not move
            image = dataclasses.replace(image, status="rejected", reason=FORGOTTEN, detail="")
        images.append(image)
    shards: list[tuple[int, ...]] = [tuple(members) for members in earlier]
    new = [index for index in written if index not in settled]
    for extension in sorted({images[index].extension for index in new}):
        members = [index for index in new if images[index].extension == extension]
        shards += [tuple(members[i : i + images_per_shard]) for i in range(0, len(members), images_per_shard)]
    return Plan(images=tuple(images), shards=tuple(shards))
