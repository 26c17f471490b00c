"""Validation during training: a few fixed damaged crops, scored with the averaged weights, and strips to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from curate.core.artifacts import write_bytes
from curate.core.errors import ConfigError
from curate.core.images import SUFFIXES, encode_image, read_picture

from .data import centre_crop
from .degradations import Pixels, to_levels, to_pixels
from .metrics import psnr
from .store import Samples
from .tasks import make_degradation

PROTOCOL = "RGB PSNR of centre crops, clamped, not quantised"
MAX_STRIP_ROWS = 6

Restore = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Pair:
    """One picture to score."""

    task: str
    lq: Pixels
    hq: Pixels


@dataclass(frozen=True, slots=True)
class Validation:
    """What a run looks at between its steps.

    Attributes:
        pairs: fixed damaged and true crops.
        scored: False where the crops are training patches (too little data to hold any out): only looked at.
    """

    pairs: tuple[Pair, ...]
    scored: bool

    def score(self, restore: Restore) -> dict[str, float]:
        """Return the mean PSNR of the clamped outputs per task, in dB; empty if nothing was held out."""
        values: dict[str, list[float]] = {}
        for pair in self.pairs if self.scored else ():
            values.setdefault(pair.task, []).append(psnr(_restored(pair, restore), pair.hq))
        return {task: float(np.mean(task_values)) for task, task_values in values.items()}

    def write_strip(self, path: Path, restore: Restore) -> None:
        """Write a PNG with one row per pair: damaged, restored, true."""
        alike = [pair for pair in self.pairs if pair.hq.shape == self.pairs[0].hq.shape]
        rows = []
        for pair in alike[:MAX_STRIP_ROWS]:
            pictures = (pair.lq, _restored(pair, restore), pair.hq)
            rows.append(np.concatenate([to_levels(picture) for picture in pictures], axis=1))
        write_bytes(path, encode_image(np.concatenate(rows, axis=0), "png"))


def make_pairs(images: Sequence[Samples], tasks: Sequence[str], *, crop_px: int, seed: int) -> tuple[Pair, ...]:
    """Damage the middle of every image in every way; the same pairs for the same arguments."""
    pairs = []
    for number, image in enumerate(images):
        hq_CHW = to_pixels(centre_crop(image, max_px=crop_px, multiple=8))
        for kind, task in enumerate(tasks):
            rng = np.random.default_rng((seed, number, kind))
            pairs.append(Pair(task, make_degradation(task).apply(hq_CHW, rng), hq_CHW))
    return tuple(pairs)


def read_folder(folder: Path, *, max_pictures: int) -> list[Samples]:
    """Decode the first pictures of a validation folder, sorted by name.

    Raises:
        ConfigError: not a folder, or without pictures.
    """
    if not folder.is_dir():
        raise ConfigError(f"validation folder {folder} does not exist")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ConfigError(f"validation folder {folder} holds no picture")
    return [read_picture(path) for path in paths[:max_pictures]]


def _restored(pair: Pair, restore: Restore) -> Pixels:
    output = restore(torch.from_numpy(pair.lq)[None])[0].clamp(0, 1)
    return np.asarray(output.numpy(), dtype=np.float32)
