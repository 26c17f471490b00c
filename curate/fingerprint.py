"""A stage of pass 1: what is kept of each picture so that later batches can be compared with it without opening it again."""

from __future__ import annotations

import base64
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .candidate import Candidate
from .core.records import Fingerprint, Image
from .core.stage import Context
from .dedup.phash import dihedral_of, hashes_of
from .dedup.rules import Dedup

THUMBNAIL_PX = 16
NOISE_GRAINS_PX, NOISE_PICTURES = (1, 4, 16, 48), 2
"""Sigmas of the blur, and how often each is drawn, of the pictures that show nothing."""
DETAIL_PX = 384
"""Longer side of what detail and keypoints are measured on: copies of different sizes are compared at one scale."""


@dataclass(frozen=True, slots=True)
class TakeFingerprint:
    """Fill `fingerprint` of every picture that could be kept."""

    dedup: Dedup
    name: str = "fingerprint"

    def __call__(self, items: Iterable[Candidate], ctx: Context, /) -> Iterator[Candidate]:
        """Reject nothing; a picture without a patch that passed is left out."""
        for item in items:
            if any(not patch.reason for patch in item.patches):
                item.fingerprint = fingerprint(item.seen.grey, self.dedup)
                if self.dedup.semantic:
                    row = embed(item.seen.rgb, self.dedup.semantic)
                    item.fingerprint = dataclasses.replace(item.fingerprint, embedding=row)
            yield item


def fingerprint(grey: NDArray[np.uint8], dedup: Dedup) -> Fingerprint:
    """Describe one picture.

    Args:
        grey: (H, W) uint8 luma.
        dedup: says whether keypoints are wanted.
    """
    reduced = _reduced(grey)
    keypoints = ""
    if dedup.partial:
        from .dedup.partial import describe

        keypoints = base64.b64encode(describe(reduced)).decode()
    hashes = hashes_of(grey)
    return Fingerprint(
        phashes=dihedral_of(hashes.thumbnail), average_hash=hashes.average_hash,
        thumbnail=_shrunk(reduced, THUMBNAIL_PX, THUMBNAIL_PX).tobytes().hex(), detail=_detail(reduced),
        keypoints=keypoints,
    )  # fmt: skip


def embed(rgb: Image, encoder: str) -> str:
    """Encode one picture: a unit row of float16, little endian, as base64.

    What the encoder says of pictures of nothing is taken away first: rows of a ViT share most of their length whatever they
    show (unlike photographs have a median cosine of 0.967 with `vit_s14`; docs/log.md, 2026-11-25).

    Raises:
        PluginError: no encoder of that name.
        MissingDependencyError: its weights are not there.
    """
    from .encoders._loading import one_torch_thread

    model = _model(encoder)
    with one_torch_thread(model.uses_torch):
        size = (model.input_px, model.input_px)
        row = model.encode(np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)[None]).rows[0]
        row = row.astype(np.float64) - _nothing(encoder)
    unit = row / max(float(np.linalg.norm(row)), np.finfo(np.float32).tiny)
    return base64.b64encode(unit.astype("<f2").tobytes()).decode()


@functools.lru_cache(maxsize=1)
def _nothing(encoder: str) -> NDArray[np.float64]:
    """Mean row of made pictures: blurred colour noise of several grains, the same for ever."""
    model, rng = _model(encoder), np.random.default_rng(0)
    pictures = []
    for grain in NOISE_GRAINS_PX * NOISE_PICTURES:
        noise = rng.normal(0, 1, (model.input_px, model.input_px, 3)).astype(np.float32)
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), grain))
        pictures.append(np.clip(128 + 50 * noise / noise.std(), 0, 255).astype(np.uint8))
    rows = [model.encode(picture[None]).rows[0] for picture in pictures]
    return np.asarray(np.mean(rows, axis=0, dtype=np.float64), np.float64)


@functools.lru_cache(maxsize=1)
def _model(name: str):  # type: ignore[no-untyped-def]
    from .encoders._loading import full_precision, load_encoder

    return load_encoder(
        name, full_precision(name)
    )  # rows of float32: bytes of a corpus must not depend on the machine's kind


def _reduced(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = grey.shape
    share = DETAIL_PX / max(height, width)
    if share >= 1:
        return grey
    return _shrunk(grey, max(1, round(height * share)), max(1, round(width * share)))


def _shrunk(grey: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _detail(grey: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian, from integers, so that it does not depend on the order of a sum."""
    laplacian = np.asarray(cv2.Laplacian(grey, cv2.CV_16S), np.int64)
    num, total, squares = laplacian.size, int(laplacian.sum()), int((laplacian * laplacian).sum())
    return (num * squares - total * total) / (num * num)
