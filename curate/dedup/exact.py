"""Inputs with the same bytes, or with the same decoded pixels and shape; the first in input order is kept.

Pairs are the same only if their degraded versions are, too.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..core.records import ScannedImage


def find_duplicates(images: Iterable[ScannedImage]) -> dict[str, tuple[str, str]]:
    """Find exact duplicates.

    Args:
        images: in input order; those without a `sha256` (never read) or that failed to decode are left out.

    Returns:
        source of a later duplicate -> (reason, source of its keeper); reason is `same-bytes` for any decoded input
        and `same-pixels` among those that passed every gate (`reason == ""`) and whose pixels were hashed.
    """
    by_bytes: dict[str, str] = {}
    by_pixels: dict[str, str] = {}
    duplicates: dict[str, tuple[str, str]] = {}
    for image in images:
        source = image.ref.source
        if image.status == "failed" or not image.sha256:
            continue
        keeper = by_bytes.setdefault(image.identity, source)
        if keeper != source:
            duplicates[source] = ("same-bytes", keeper)
            continue
        if image.reason or not image.pixels_sha256:
            continue
        keeper = by_pixels.setdefault(image.pixels_sha256 + image.pair_sha256, source)
        if keeper != source:
            duplicates[source] = ("same-pixels", keeper)
    return duplicates
