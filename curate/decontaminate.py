"""What a benchmark picture that shows in an input costs: every patch that touches it, and no other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from .core.records import Leak, ScannedImage, ScoredPatch

BENCHMARK = "benchmark"
"""Reason of a patch, or of a picture all of whose good patches, show a benchmark picture."""
MARGIN_PX = 12.0
"""How far a region reaches beyond where it was found: its sides are known to about ten pixels (docs/log.md, 2026-11-25)."""


def overlaps(leak: Leak, y: int, x: int, size_px: int) -> bool:
    """Say whether a square patch touches the region of a leak, or comes nearer than `MARGIN_PX`."""
    low, high = -MARGIN_PX, size_px + MARGIN_PX
    square = np.array([[low, low], [high, low], [high, high], [low, high]], np.float32)
    region = np.array(leak.corners, np.float32) - np.array([x, y], np.float32)
    if (region.max(axis=0) <= low).any() or (region.min(axis=0) >= high).any():
        return False
    area, _ = cv2.intersectConvexConvex(square, np.asarray(cv2.convexHull(region)))
    return area > 0


def without_leaks(image: ScannedImage, size_px: int) -> ScannedImage:
    """Drop the patches that touch a benchmark picture, whatever they were dropped for before; the record of where stays."""
    if not image.leaks:
        return image
    patches = tuple(
        dropped(patch, BENCHMARK) if any(overlaps(leak, patch.y, patch.x, size_px) for leak in image.leaks) else patch
        for patch in image.patches
    )
    return dataclasses.replace(image, patches=patches)


def dropped(patch: ScoredPatch, reason: str, keeper: str = "") -> ScoredPatch:
    """Drop a patch that was encoded already."""
    return dataclasses.replace(patch, reason=reason, keeper=keeper, kept_flat=False)


def describe_leaks(leaks: Sequence[Leak]) -> str:
    """Name the benchmark pictures that show, for people."""
    best = {leak.benchmark: leak for leak in sorted(leaks, key=lambda leak: leak.score)}
    return ", ".join(f"{leak.pack}/{name} (correlation {leak.score:.2f})" for name, leak in sorted(best.items()))
