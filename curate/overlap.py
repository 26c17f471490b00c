"""Two crops of one photograph: each keeps what only it shows, and of what both show the better one keeps its patches.

The grids of two crops do not meet, so no two patches are equal and no hash finds them; the transform between the pictures does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .core.records import ScannedImage
from .shards import patch_key

MIN_COVERED_FRAC = 0.5
"""Share of a patch that must lie in the other picture: with less, most of it is shown nowhere else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """A part of one picture shows in a better one, and both are kept.

    Attributes:
        worse: place of the one that gives way.
        better: place of the other.
        corners: (x, y) of the better one's corners in the worse one, as shares of its width and height: top left, top right,
            bottom right, bottom left of the better one.
    """

    worse: int
    better: int
    corners: tuple[tuple[float, float], ...]


def shared_patches(
    images: Sequence[ScannedImage], overlaps: Sequence[Overlap], gone: Mapping[int, Mapping[int, str]], size_px: int
) -> dict[int, dict[int, str]]:
    """Find patches of the worse picture whose middle shows in a kept patch of the better one.

    Args:
        images: all pictures; places in `overlaps` are indices.
        overlaps: in the order of keeping of their worse pictures, best first.
        gone: patches that are dropped already: index of a picture -> number of a patch -> its keeper's key.
        size_px: side of a patch.

    Returns:
        `gone` and what was found.
    """
    found = {index: dict(patches) for index, patches in gone.items()}
    for overlap in overlaps:
        worse, better = images[overlap.worse], images[overlap.better]
        kept = [
            (patch.y, patch.x)
            for number, patch in enumerate(better.patches)
            if not patch.reason and number not in found.get(overlap.better, {})
        ]
        for number, (y, x) in _inside(worse, better, overlap, size_px):
            if number in found.get(overlap.worse, {}):
                continue
            holder = next((at for at in kept if at[0] <= y < at[0] + size_px and at[1] <= x < at[1] + size_px), None)
            if holder is not None:
                key = patch_key(better.identity, *holder, size_px)
                found.setdefault(overlap.worse, {})[number] = key
    return found


def _inside(
    worse: ScannedImage, better: ScannedImage, overlap: Overlap, size_px: int
) -> list[tuple[int, tuple[float, float]]]:
    """Number each kept patch of `worse` that lies in the region, with (y, x) of its middle in `better`."""
    assert worse.facts is not None and better.facts is not None, "candidates were decoded"
    region = np.array(overlap.corners, np.float32) * (worse.facts.width, worse.facts.height)
    width, height = better.facts.width, better.facts.height
    corners = np.array([[0, 0], [width, 0], [width, height]], np.float32)
    matrix = cv2.getAffineTransform(region[:3].astype(np.float32), corners)
    hull = np.asarray(cv2.convexHull(region.astype(np.float32)))
    listed = []
    for number, patch in enumerate(worse.patches):
        low, high = (patch.x, patch.y), (patch.x + size_px, patch.y + size_px)
        square = np.array([low, (high[0], low[1]), high, (low[0], high[1])], np.float32)
        area, _ = cv2.intersectConvexConvex(square, hull)
        if not patch.reason and area >= MIN_COVERED_FRAC * size_px * size_px:
            x, y = matrix[:, :2] @ square.mean(axis=0) + matrix[:, 2]
            listed.append((number, (float(y), float(x))))
    return listed
