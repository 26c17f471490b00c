"""A stage of pass 1: which benchmark pictures show in an input. The plan decides what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..candidate import Candidate
from ..core.images import luma
from ..core.records import Leak
from ..core.stage import Context
from ..pairs import blame_pair


@dataclass(frozen=True, slots=True)
class FindLeaks:
    """Fill `leaks` of every picture that has patches, dropped ones too: `curate filter` may bring those back.

    Of a pair, both pictures are searched.

    Attributes:
        packs: (name, path) of each pack of benchmark pictures.
    """

    packs: tuple[tuple[str, str], ...]
    name: str = "leaks"

    def __call__(self, items: Iterable[Candidate], ctx: Context, /) -> Iterator[Candidate]:
        """Reject nothing."""
        for item in items:
            if item.patches:
                item.leaks = find_leaks(item.seen.grey, self.packs)
                if item.pair is not None:
                    with blame_pair():
                        item.leaks += find_leaks(luma(item.pair.decode()), self.packs)
            yield item


def find_leaks(grey: NDArray[np.uint8], packs: Sequence[tuple[str, str]]) -> tuple[Leak, ...]:
    """Find every place of one picture that shows a benchmark picture.

    Args:
        grey: (H, W) uint8 luma.
        packs: (name, path) of each pack.
    """
    from .matcher import load_matcher

    matchers = [(name, load_matcher(path)) for name, path in packs]
    keypoints = matchers[0][1].look(grey) if matchers else None  # how they are found is the same for all packs
    return tuple(
        Leak(benchmark=one.benchmark, pack=name, corners=one.region, score=one.score, num_inliers=one.num_inliers)
        for name, matcher in matchers
        for one in matcher.find(grey, keypoints)
    )
