"""Everything a selector needs to know of a corpus, measured once per shard and cached.

Tokens are large and are not kept: the complexity of each view is measured while they are in memory. A shard's file is
written when the whole shard is done, so a killed run encodes no finished shard again. Batches never cross shards, so a
resumed run sees the same batches and gives the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from curate import Dataset, Encoder, read_shard
from curate.core.artifacts import atomic_path, write_json
from curate.core.config import config_hash, to_plain
from curate.core.errors import ConfigError, ManifestError, NumericsError
from curate.core.images import decode_patch
from curate.core.records import Image, ShardInfo
from curate.encoders._loading import one_torch_thread

from .descriptors import NUM_DESCRIPTORS, describe
from .views import global_view, native_crops

CACHE_VERSION = 1
_FIELDS = ("keys", "rows", "descriptors", "global_scores", "crop_scores")


class Complexity(Protocol):
    """Scores views while their tokens are in memory; a plug-in of `distill.complexity`."""

    @property
    def name(self) -> str:
        """The file's name."""
        ...

    @property
    def uses_torch(self) -> bool:
        """Whether `measure` computes with torch."""
        ...

    def measure(self, images_NHWC: NDArray[np.uint8], tokens_NTD: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score N views, higher = more complex, 0 for one colour."""
        ...


class Watch(Protocol):
    """Told how far encoding is; the command line draws a bar from it."""

    def begin(self, total: int, done: int) -> None:
        """Of `total` patches, `done` come from the cache."""
        ...

    def step(self, num: int) -> None:
        """`num` more patches are encoded."""
        ...


class Silent:
    """The `Watch` that says nothing."""

    def begin(self, total: int, done: int) -> None:
        """Ignore."""

    def step(self, num: int) -> None:
        """Ignore."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesConfig:
    """How patches are looked at.

    Attributes:
        native_crops: also encode up to four crops at native resolution (spec/tripled.md section 4.1: m = 4, or m = 0).
        crop_weight_frac: share of the crops in a patch's complexity [spec 4.1: 0.5].
        batch_views: views encoded at once; changes results in the last bits only.
    """

    native_crops: bool = True
    crop_weight_frac: float = 0.5
    batch_views: int = 8  # 4 to 16 are equally fast on two cores

    def __post_init__(self) -> None:
        if not 0 <= self.crop_weight_frac <= 1:
            raise ConfigError(f"features.crop_weight_frac must lie in [0, 1], got {self.crop_weight_frac}")
        if not self.batch_views >= 1:
            raise ConfigError(f"features.batch_views must be >= 1, got {self.batch_views}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureTable:
    """One row per patch, in corpus order.

    Attributes:
        keys: (N,) str.
        rows: (N, D) float32, the encoder's row of the global view.
        descriptors: (N, 8) float32.
        complexity: (N,) float64.
    """

    keys: NDArray[np.str_]
    rows: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    complexity: NDArray[np.float64]


class _View(NamedTuple):
    owner: int
    is_global: bool
    pixels: Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Eyes:
    """What looks at the patches, and with how many threads; the number of threads changes no result.

    Attributes:
        encoder: gives rows and tokens.
        complexity: scores each view.
        config: views and batches.
        workers: batches in work at once, each on one core.
    """

    encoder: Encoder
    complexity: Complexity
    config: FeaturesConfig
    workers: int

    def look(self, images_NHWC: NDArray[np.uint8]) -> tuple[NDArray[np.float32], list[float]]:
        """Return rows and complexities of a batch of views; their tokens are dropped."""
        encoded = self.encoder.encode(images_NHWC)
        scores = np.round(
            self.complexity.measure(images_NHWC, encoded.tokens), 9
        )  # the rest is rounding of the machine
        return encoded.rows, scores.tolist()

    def cache_facts(self, content_hash: str) -> dict[str, object]:
        """Return everything that the numbers depend on."""
        return {
            "cache_version": CACHE_VERSION,
            "corpus": content_hash,
            "encoder": self.encoder.name,
            "weights_sha256": self.encoder.weights_sha256,
            "complexity": self.complexity.name,
            "complexity_config": to_plain(self.complexity),
            "native_crops": self.config.native_crops,
            "batch_views": self.config.batch_views,
        }

    def cache_name(self, content_hash: str) -> str:
        """Name the cache folder."""
        return config_hash(self.cache_facts(content_hash))[:16]


def measure_corpus(dataset: Dataset, eyes: Eyes, cache: Path, watch: Watch) -> FeatureTable:
    """Encode every patch of a corpus, or read what an earlier run encoded.

    Args:
        dataset: the corpus.
        eyes: what looks at it.
        cache: folder for one file per shard; made if missing.
        watch: told about progress.

    Raises:
        ManifestError: a shard does not hold what the manifest says.
        NumericsError: a row or score is not finite.
    """
    write_json(cache / "key.json", eyes.cache_facts(dataset.content_hash))
    shards = [shard for group in dataset.stages.values() for shard in group if shard.samples]
    done = sum(shard.samples for shard in shards if _cache_file(cache, shard).is_file())
    watch.begin(dataset.num_samples, done)
    parts = []
    with (
        one_torch_thread(eyes.encoder.uses_torch or eyes.complexity.uses_torch),
        ThreadPoolExecutor(eyes.workers) as pool,
    ):
        for shard in shards:
            path = _cache_file(cache, shard)
            if not path.is_file():
                _write(path, _measure_shard(dataset.root, shard, eyes, pool, watch))
            parts.append(_read(path, shard))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in _FIELDS}
    return _finish(joined, eyes.config)


def _cache_file(cache: Path, shard: ShardInfo) -> Path:
    return cache / f"{Path(shard.file).stem}.npz"


def _measure_shard(
    root: Path, shard: ShardInfo, eyes: Eyes, pool: ThreadPoolExecutor, watch: Watch
) -> dict[str, NDArray[np.generic]]:
    keys: list[str] = []
    descriptors: list[NDArray[np.float32]] = []
    rows: list[NDArray[np.float32]] = []
    scores: list[tuple[int, bool, float]] = []

    def views() -> Iterator[_View]:
        for sample in read_shard(root / shard.file):
            image = decode_patch(sample.image()[1])
            owner = len(keys)
            keys.append(sample.key)
            descriptors.append(describe(image))
            yield _View(owner, True, global_view(image, eyes.encoder.input_px))
            for crop in native_crops(image, eyes.encoder.input_px) if eyes.config.native_crops else ():
                yield _View(owner, False, crop)

    for batch, (batch_rows, batch_scores) in _looked_at(_batches(views(), eyes.config.batch_views), eyes, pool):
        rows += [row for view, row in zip(batch, batch_rows, strict=True) if view.is_global]
        scores += [(view.owner, view.is_global, score) for view, score in zip(batch, batch_scores, strict=True)]
        watch.step(sum(view.is_global for view in batch))
    if len(keys) != shard.samples:
        raise ManifestError(f"{root / shard.file} holds {len(keys)} samples, the manifest says {shard.samples}")
    global_scores = [score for _, is_global, score in scores if is_global]
    return {
        "keys": np.array(keys, dtype="S80"),
        "rows": np.stack(rows).astype(np.float32),
        "descriptors": np.stack(descriptors),
        "global_scores": np.array(global_scores, dtype=np.float64),
        "crop_scores": _crop_means(scores, len(keys)),
    }


def _looked_at(
    batches: Iterable[list[_View]], eyes: Eyes, pool: ThreadPoolExecutor
) -> Iterator[tuple[list[_View], tuple[NDArray[np.float32], list[float]]]]:
    """Look at batches in several threads and yield the results in order; few batches are in memory at once."""
    waiting: deque[tuple[list[_View], Future[tuple[NDArray[np.float32], list[float]]]]] = deque()
    for batch in batches:
        waiting.append((batch, pool.submit(eyes.look, np.stack([view.pixels for view in batch]))))
        if len(waiting) > eyes.workers + 1:
            first, future = waiting.popleft()
            yield first, future.result()
    for rest, future in waiting:
        yield rest, future.result()


def _batches(views: Iterator[_View], size: int) -> Iterator[list[_View]]:
    batch: list[_View] = []
    for view in views:
        batch.append(view)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _crop_means(scores: list[tuple[int, bool, float]], num: int) -> NDArray[np.float64]:
    """Mean score of each patch's crops; NaN for a patch without crops."""
    crops: list[list[float]] = [[] for _ in range(num)]
    for owner, is_global, score in scores:
        if not is_global:
            crops[owner].append(score)
    return np.array([sum(values) / len(values) if values else np.nan for values in crops], dtype=np.float64)


def _write(path: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _read(path: Path, shard: ShardInfo) -> dict[str, NDArray[np.generic]]:
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in _FIELDS}
    if len(arrays["keys"]) != shard.samples or arrays["descriptors"].shape[1] != NUM_DESCRIPTORS:
        raise ManifestError(f"{path} does not fit shard {shard.file}; delete the file, it is made again")
    return arrays


def _finish(arrays: dict[str, NDArray[np.generic]], config: FeaturesConfig) -> FeatureTable:
    whole, crops = arrays["global_scores"].astype(np.float64), arrays["crop_scores"].astype(np.float64)
    share = np.where(np.isnan(crops), 0.0, config.crop_weight_frac)
    complexity = (1 - share) * whole + share * np.nan_to_num(crops)
    rows = arrays["rows"].astype(np.float32, copy=False)
    keys = arrays["keys"].astype(np.str_)
    broken = ~(np.isfinite(rows).all(axis=1) & np.isfinite(complexity))
    if broken.any():
        raise NumericsError(f"the encoder gave a value that is not finite for patch {keys[np.argmax(broken)]}")
    return FeatureTable(
        keys=keys, rows=rows, descriptors=arrays["descriptors"].astype(np.float32, copy=False), complexity=complexity
    )
