"""Inputs with the same bytes, or with the same decoded pixels and shape; the first in input order is kept.

Pairs are the same only if their degraded versions are, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..core.records import ScannedImage
from .copies import Copy, Known

SAME_BYTES, SAME_PIXELS = "same-bytes", "same-pixels"


def find_duplicates(images: Iterable[ScannedImage], known: Sequence[Known] = ()) -> dict[str, Copy]:
    """Find exact duplicates.

    Args:
        images: in input order; those without a `sha256` (never read) or that failed to decode are left out.

        known: pictures of other corpora, which come before all of these.

    Returns:
        source of a later duplicate -> its keeper; the reason is `same-bytes` for any decoded input and `same-pixels` among
        those that passed every gate (`reason == ""`) and whose pixels were hashed.
    """
    by_bytes = {one.identity: (one.source, one.identity) for one in reversed(known)}
    by_pixels = {
        one.pixels_sha256 + one.pair_sha256: (one.source, one.identity) for one in reversed(known) if one.pixels_sha256
    }
    duplicates: dict[str, Copy] = {}
    for image in images:
        mine = image.ref.source, image.identity
        if image.status == "failed" or not image.sha256:
            continue
        keeper = by_bytes.setdefault(image.identity, mine)
        if keeper != mine:
            duplicates[mine[0]] = _copy(SAME_BYTES, *keeper)
            continue
        if image.reason or not image.pixels_sha256:
            continue
        keeper = by_pixels.setdefault(image.pixels_sha256 + image.pair_sha256, mine)
        if keeper != mine:
            duplicates[mine[0]] = _copy(SAME_PIXELS, *keeper)
    return duplicates


def _copy(reason: str, keeper: str, identity: str) -> Copy:
    return Copy(reason=reason, keeper=keeper, group=identity[:20], near="")
