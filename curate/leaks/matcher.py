"""Find benchmark pictures in a photograph or patch: keypoints, votes, then pixels."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .hypotheses import Hypothesis, Matches, VoteConfig, count_supporters, make_hypotheses, make_matches
from .index import Nearest
from .keypoints import KeypointConfig, Keypoints, find_keypoints
from .pack import Pack, load_pack
from .planes import FROM_HALF, Matrix, apply, compose, corners
from .verify import Agreement, VerifyConfig, is_leak, verify

TO_HALF: Matrix = np.array([[0.5, 0.0, -0.25], [0.0, 0.5, -0.25]])
_MAX_LEAKS = 500  # in one picture; a contact sheet of a whole benchmark has fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakConfig:
    """How leaks are found: keypoints of the photograph, votes, pixels."""

    keypoints: KeypointConfig = field(default_factory=KeypointConfig)
    votes: VoteConfig = field(default_factory=VoteConfig)
    pixels: VerifyConfig = field(default_factory=VerifyConfig)


@dataclass(frozen=True, slots=True)
class Leak:
    """A place of a photograph that shows a benchmark picture.

    Attributes:
        benchmark: name of the picture.
        region: four corners (x, y) in photograph pixels of the rectangle of the benchmark that is seen, in order around it.
        transform: (a, b, c, d, e, f): benchmark (x, y) stands at (a x + b y + c, d x + e y + f).
        score: correlation of band-passed levels over the area that agrees, up to 1.
        num_inliers: keypoints that agree on the transform.
        area_px2: textured area that agrees, in benchmark pixels.
    """

    benchmark: str
    region: tuple[tuple[float, float], ...]
    transform: tuple[float, ...]
    score: float
    num_inliers: int
    area_px2: int


class Matcher:
    """Finds the pictures of one pack. Not for several threads at once; pickle the pack's path instead."""

    def __init__(self, pack: Pack, config: LeakConfig | None = None) -> None:
        self.pack = pack
        self.config = config or LeakConfig()
        self._nearest = Nearest(pack.descriptors, pack.index)

    def find(self, grey: NDArray[np.uint8], keypoints: Keypoints | None = None) -> tuple[Leak, ...]:
        """Find every place that shows a benchmark picture.

        Args:
            grey: (H, W) uint8 luma, any size.
            keypoints: of it, if they are known already (`look`): several packs then share them.

        Returns:
            Leaks, best supported first; places that overlap are named once.
        """
        found = (self._leak(*judged[:3]) for judged in self.judge(grey, keypoints) if judged[3])
        return tuple(itertools.islice(found, _MAX_LEAKS))

    def look(self, grey: NDArray[np.uint8]) -> Keypoints:
        """Find the keypoints that `find` needs."""
        return find_keypoints(grey, self.config.keypoints)

    def judge(
        self, grey: NDArray[np.uint8], keypoints: Keypoints | None = None
    ) -> Iterator[tuple[Hypothesis, Agreement, int, bool]]:
        """Yield what agrees at all, its supporters and whether it is a leak; places inside a leak are passed over."""
        votes, pixels = self.config.votes, self.config.pixels
        known: list[NDArray[np.float32]] = []
        matches = self._match(keypoints or self.look(grey))
        for hypothesis in make_hypotheses(matches, votes):
            if any(cv2.pointPolygonTest(region, hypothesis.target, False) >= 0 for region in known):
                continue
            matrix = compose(hypothesis.matrix, FROM_HALF)
            plane, seeds = self.pack.planes[hypothesis.picture], apply(TO_HALF, np.array(hypothesis.seeds))
            agreement = verify(grey, plane, matrix, seeds, pixels)
            if agreement is None:
                continue
            num = count_supporters(matches, hypothesis.picture, compose(agreement.matrix, TO_HALF), votes)
            leaks = is_leak(agreement, num, pixels)
            if leaks:
                known.append(apply(agreement.matrix, corners(agreement.window)).astype(np.float32))
            yield hypothesis, agreement, num, leaks

    def _match(self, found: Keypoints) -> Matches:
        pack = self.pack
        rows, distances = self._nearest.search(found.descriptors)
        own = rows % max(1, len(pack.owner))
        level, contrast = np.moveaxis(np.abs(found.looks[:, None] - pack.looks[own]), 2, 0)
        votes = self.config.votes
        near = (level <= votes.max_level_gap) & (contrast <= votes.max_contrast_octaves)
        query, guess = np.nonzero(near & (distances <= votes.max_distance))
        row, own = rows[query, guess], own[query, guess]
        picture = pack.owner[own]
        return make_matches(
            found.places[query], pack.places[own], picture, row >= len(pack.owner),
            distances[query, guess],
        )  # fmt: skip

    def _leak(self, hypothesis: Hypothesis, agreement: Agreement, num_supporters: int) -> Leak:
        region = apply(agreement.matrix, corners(agreement.window))
        return Leak(
            benchmark=self.pack.names[hypothesis.picture],
            region=tuple((round(float(x), 2), round(float(y), 2)) for x, y in region),
            transform=tuple(round(float(value), 5) for value in compose(agreement.matrix, TO_HALF).ravel()),
            score=round(agreement.ncc, 4),
            num_inliers=num_supporters,
            area_px2=4 * agreement.num_textured,
        )


def load_matcher(pack: Pack | Path | str, config: LeakConfig | None = None) -> Matcher:
    """Return a matcher; those of a file are kept for the life of the process.

    Raises:
        ManifestError: the file is not a pack.
    """
    if isinstance(pack, Pack):
        return Matcher(pack, config)
    return _cached_matcher(str(pack), config or LeakConfig())


@functools.lru_cache(maxsize=64)
def _cached_matcher(path: str, config: LeakConfig) -> Matcher:
    return Matcher(load_pack(Path(path)), config)
