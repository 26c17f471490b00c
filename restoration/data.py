"""Training pairs (lq, hq), each a pure function of (seed, step, index): resume is exact and workers change nothing.

A draw chooses a stage (curriculum), a patch, a scale, a crop, one of the 8 flips and rotations and a task, in that order,
then damages the crop. Patches are (H, W, 3) uint8 or uint16 up to here and (3, H, W) float32 in [0, 1] from here on.

Shapes: B batch, C = 3 channels, H = W = crop_px.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from curate.core.errors import ImageError

from .curriculum import CurriculumConfig, stage_shares
from .degradations import Degradation, Pixels, to_pixels
from .degradations.bicubic import Plugin as Bicubic
from .store import PatchRef, PatchStore, Samples
from .tasks import make_degradation

Stages = tuple[tuple[PatchRef, ...], ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """One training step's input.

    Attributes:
        step: 0-based.
        keys: patch names, B of them.
        lq: damaged crops, (B, 3, H, W) float32 in [0, 1].
        hq: clean crops, the same shape.
    """

    step: int
    keys: tuple[str, ...]
    lq: Pixels
    hq: Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSource:
    """Makes any step's batch, in any order, on any thread.

    Attributes:
        store: decodes patches.
        stages: patches of each stage.
        num_steps: length of the run, for the curriculum.
        batch_size: pairs a step.
        crop_px: side of a crop.
        max_shrink: crops are cut up to this many times larger and area-averaged down; 1: never.
        tasks: task name -> share of the draws (any positive scale).
        curriculum: which stage when.
        seed: root of every draw.
        degradations: of the tasks, made once, so that a chain's file that changes while a run lasts changes nothing in it.
    """

    store: PatchStore
    stages: Stages
    num_steps: int
    batch_size: int
    crop_px: int
    max_shrink: int
    tasks: Mapping[str, float]
    curriculum: CurriculumConfig
    seed: int
    degradations: tuple[Degradation, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make the degradations."""
        object.__setattr__(self, "degradations", tuple(_for_training(task) for task in self.tasks))

    def batch(self, step: int) -> Batch:
        """Make the batch of one step.

        Raises:
            DecodeError: a patch is damaged.
            ImageError: a patch is smaller than a crop.
        """
        shares = stage_shares(step, self.num_steps, [len(stage) for stage in self.stages], self.curriculum)
        draws = [self._draw(step, index, shares) for index in range(self.batch_size)]
        keys, lq, hq = zip(*draws, strict=True)
        return Batch(step, keys, np.stack(lq), np.stack(hq))

    def _draw(self, step: int, index: int, shares: Sequence[float]) -> tuple[str, Pixels, Pixels]:
        rng = np.random.default_rng((self.seed, step, index))
        stage = self.stages[_pick(shares, rng.uniform())]
        ref = stage[int(rng.integers(len(stage)))]
        hq_CHW = to_pixels(_random_view(self.store.image(ref), self.crop_px, self.max_shrink, rng, key=ref.key))
        within_batch = (index + rng.uniform()) / self.batch_size  # stratified: every batch holds every task's share
        degradation = self.degradations[_pick(list(self.tasks.values()), within_batch)]
        return ref.key, degradation.apply(hq_CHW, rng), hq_CHW


class Prefetcher:
    """Iterates batches in step order while threads prepare the next ones; counts the seconds it kept its caller waiting."""

    def __init__(self, source: BatchSource, steps: range, *, num_threads: int) -> None:
        self._source, self._steps, self._num_threads = source, steps, num_threads
        self.stall_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="batches")
        waiting: collections.deque[Future[Batch]] = collections.deque()
        ahead = iter(self._steps)
        try:
            for step in ahead:
                waiting.append(pool.submit(self._source.batch, step))
                if len(waiting) > 2 * self._num_threads:
                    yield self._next(waiting)
            while waiting:
                yield self._next(waiting)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _next(self, waiting: collections.deque[Future[Batch]]) -> Batch:
        start = time.perf_counter()
        batch = waiting.popleft().result()
        self.stall_s += time.perf_counter() - start
        return batch


def hold_out(stages: Stages, *, share: float, max_patches: int) -> tuple[Stages, tuple[PatchRef, ...]]:
    """Split patches into training stages and a few for validation, by picture: no picture is on both sides.

    Pictures (first part of the key) are ranked by the hash of their name, so the split survives any reordering. Nothing is
    held out when fewer than two pictures or no training patch would remain in a stage that had one.

    Args:
        stages: patches of each stage.
        share: of the pictures to hold out, rounded up.
        max_patches: stop before more patches than this.

    Returns:
        (stages without the held-out pictures, held-out patches sorted by key).
    """
    patches: dict[str, list[PatchRef]] = {}
    for ref in itertools.chain.from_iterable(stages):
        patches.setdefault(picture_of(ref.key), []).append(ref)
    ranked = sorted(patches, key=lambda name: hashlib.sha256(name.encode()).digest())
    left = {ref.stage: len(stage) for stage in stages for ref in stage[:1]}
    held: dict[str, list[PatchRef]] = {}
    for name in ranked[: math.ceil(share * len(ranked))]:
        taken = collections.Counter(ref.stage for ref in patches[name])
        room = max_patches - sum(map(len, held.values()))
        if len(patches[name]) <= room and all(left[stage] > num for stage, num in taken.items()):
            held[name] = patches[name]
            left = {stage: num - taken[stage] for stage, num in left.items()}
        elif room == 0:
            break
    kept = tuple(tuple(ref for ref in stage if picture_of(ref.key) not in held) for stage in stages)
    return kept, tuple(sorted(itertools.chain.from_iterable(held.values()), key=lambda ref: ref.key))


def picture_of(key: str) -> str:
    """Name the picture a patch was cut from: the part of its key before the first `_`."""
    return key.partition("_")[0]


def centre_crop(image: Samples, *, max_px: int, multiple: int = 1) -> Samples:
    """Cut the middle: sides at most `max_px`, rounded down to a multiple; sides shorter than one multiple stay as they are."""
    height, width = (_cut_side(side, max_px, multiple) for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _cut_side(side: int, max_px: int, multiple: int) -> int:
    limited = min(side, max_px)
    return limited - limited % multiple or limited


def _random_view(image: Samples, crop_px: int, max_shrink: int, rng: np.random.Generator, *, key: str) -> Samples:
    """Cut a random square, shrink it by a random whole factor, and turn it into one of its 8 flips and rotations."""
    height, width = image.shape[:2]
    if min(height, width) < crop_px:
        raise ImageError(f"patch {key} is {width}x{height}, smaller than a training crop of {crop_px}: lower crop_px")
    shrink = 1 + int(rng.integers(min(max_shrink, min(height, width) // crop_px)))
    side = crop_px * shrink
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    crop = image[top : top + side, left : left + side]
    if shrink > 1:
        crop = np.asarray(cv2.resize(crop, (crop_px, crop_px), interpolation=cv2.INTER_AREA), dtype=image.dtype)
    dihedral = int(rng.integers(8))
    turned = np.rot90(crop, dihedral % 4)
    return turned[:, ::-1] if dihedral >= 4 else turned


def _for_training(task: str) -> Degradation:
    """Return a task's degradation on its fast path, where it has one."""
    plugin = make_degradation(task)
    return replace(plugin, path="fast") if isinstance(plugin, Bicubic) else plugin


def _pick(shares: Sequence[float], position: float) -> int:
    """Find the share in which `position` (0 to 1) falls when the shares are laid end to end."""
    cumulative = np.cumsum(shares)
    return min(int(np.searchsorted(cumulative, position * cumulative[-1], side="right")), len(shares) - 1)
