"""One batch of patches, from bytes to numbers: decode, cut views, encode, describe, measure. What runs in every thread.

Steps are timed where they happen; a batch's tokens are dropped when its numbers are known.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from curate import Dataset, Encoder, load_encoder, open_dataset
from curate.core.config import config_hash, to_plain
from curate.core.errors import ConfigError, ManifestError, NumericsError
from curate.core.images import decode_image, decode_patch
from curate.core.records import TRAIN, Image
from curate.shards import ShardSample

from .descriptors import describe, describe_pair
from .grouping import check_pattern
from .measure import Complexity, Look, Patches
from .views import global_view, native_crops

CACHE_VERSION = 4
STEPS = ("read", "decode", "views", "encode", "describe", "complexity")
_Args = ParamSpec("_Args")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesConfig:
    """How patches are looked at.

    Attributes:
        native_crops: also look at up to four crops at native resolution (spec/tripled.md section 4.1: m = 4, or m = 0).
        batch_patches: patches looked at together; changes results in the last bits only.
        group_pattern: regular expression that names a picture's group by its `source`, such as `^(GOPR[0-9_]+)/` for videos
            (`distill.grouping`); "": all patches of one clean picture are a group.
    """

    native_crops: bool = True
    batch_patches: int = 2  # ten views; more only take memory (benchmarks/bench_encode.py)
    group_pattern: str = ""

    def __post_init__(self) -> None:
        if not self.batch_patches >= 1:
            raise ConfigError(f"features.batch_patches must be >= 1, got {self.batch_patches}")
        check_pattern(self.group_pattern)


@dataclass(frozen=True, slots=True, kw_only=True)
class Eyes:
    """What looks at the patches.

    Attributes:
        encoder: gives rows and tokens.
        encoder_options: what it was loaded with; workers elsewhere load it again.
        complexities: measures; the first is the complexity, the others are what a selector needs besides.
        config: views and batches.
        workers: batches in work at once, each on one core; changes no result.
    """

    encoder: Encoder
    complexities: tuple[Complexity, ...]
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    config: FeaturesConfig = field(default_factory=FeaturesConfig)
    workers: int = 1

    @property
    def uses_torch(self) -> bool:
        """Whether looking computes with torch."""
        return self.encoder.uses_torch or any(one.uses_torch for one in self.complexities)

    @property
    def looks_at_all_views(self) -> bool:
        """Whether crops are cut and encoded too."""
        return self.config.native_crops and any(one.looks_at_tokens for one in self.complexities)

    def facts(self, content_hash: str) -> dict[str, object]:
        """Return everything that the numbers depend on."""
        return {
            "cache_version": CACHE_VERSION,
            "corpus": content_hash,
            "encoder": self.encoder.name,
            "encoder_settings": dict(self.encoder.settings),
            "weights_sha256": self.encoder.weights_sha256,
            "complexities": [one.name for one in self.complexities],
            "complexity_options": {one.name: to_plain(one) for one in self.complexities},
            "views": to_plain(self.config),
        }

    def cache_name(self, content_hash: str) -> str:
        """Name the feature folder."""
        return config_hash(self.facts(content_hash))[:16]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a worker in another process makes the same eyes; small and hashable.

    Attributes:
        encoder: name.
        encoder_options: pairs.
        weights_sha256: what it must find.
        settings: pairs, what its encoder must resolve to.
        complexities: plug-ins.
        config: of the views.
        corpus: folder.
        folder: where measures keep what they prepared.
    """

    encoder: str
    encoder_options: tuple[tuple[str, Any], ...]
    weights_sha256: str
    settings: tuple[tuple[str, str], ...]
    complexities: tuple[Complexity, ...]
    config: FeaturesConfig
    corpus: Path
    folder: Path

    @classmethod
    def of(cls, eyes: Eyes, corpus: Path, folder: Path) -> Recipe:
        """Write down how these eyes are made."""
        return cls(
            eyes.encoder.name, tuple(sorted(eyes.encoder_options.items())), eyes.encoder.weights_sha256,
            tuple(sorted(eyes.encoder.settings.items())), eyes.complexities, eyes.config, corpus, folder,
        )  # fmt: skip


@functools.lru_cache(maxsize=1)
def looker_of(recipe: Recipe) -> Looker:
    """Make what a recipe says, once a process.

    Raises:
        ConfigError: this process would compute something else than the one that wrote the recipe.
    """
    encoder = load_encoder(recipe.encoder, dict(recipe.encoder_options))
    found = (encoder.weights_sha256, tuple(sorted(encoder.settings.items())))
    if found != (recipe.weights_sha256, recipe.settings):
        raise ConfigError(
            f"a worker loads encoder {recipe.encoder} as {found}, the client has {(recipe.weights_sha256, recipe.settings)}: "
            "give both the same weights and name precision and device in encoder_options"
        )
    eyes = Eyes(encoder=encoder, complexities=recipe.complexities, config=recipe.config)
    return Looker.ready(eyes, open_dataset(recipe.corpus, split=TRAIN), recipe.folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What is known of a batch of n patches.

    Attributes:
        keys: names.
        rows: (n, D) float16.
        degraded_rows: (n, D) float16; (n, 0) for patches that are no pairs.
        descriptors: (n, L) float32.
        values: measure -> (n, K) float64; float32 where a measure says so.
        seconds: step -> seconds.
    """

    keys: list[str]
    rows: NDArray[np.float16]
    degraded_rows: NDArray[np.float16]
    descriptors: NDArray[np.float32]
    values: Mapping[str, NDArray[np.floating]]
    seconds: Mapping[str, float]


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STEPS, 0.0)

    def timed(self, step: str, function: Callable[_Args, _Value], *args: _Args.args, **more: _Args.kwargs) -> _Value:
        start = time.perf_counter()
        value = function(*args, **more)
        self.seconds[step] += time.perf_counter() - start
        return value


@dataclass(frozen=True, slots=True)
class Looker:
    """Eyes with every measure prepared; any thread may look."""

    eyes: Eyes
    looks: Mapping[str, Look]

    @classmethod
    def ready(cls, eyes: Eyes, corpus: Dataset, folder: Path) -> Looker:
        """Prepare the measures: the first process that does trains what is to be trained and keeps it in `folder`."""
        return cls(eyes, {one.name: one.prepare(corpus, folder) for one in eyes.complexities})

    def look(self, samples: Sequence[ShardSample]) -> Glance:
        """Look at a batch.

        Raises:
            DecodeError: a member is damaged.
            ManifestError: patches and pairs in one batch.
            NumericsError: the encoder gave something that is not finite; names the patch.
        """
        watch, eyes = _Stopwatch(), self.eyes
        keys = [sample.key for sample in samples]
        clean, degraded = watch.timed("decode", _decode, samples)
        views, owner, is_global = watch.timed("views", self._views, clean)
        encoded = watch.timed("encode", eyes.encoder.encode, views)
        pools = eyes.encoder.pools_tokens
        rows = (encoded.tokens[is_global].mean(axis=1) if pools else encoded.rows[is_global]).astype(np.float16)
        other = np.zeros((len(keys), 0), np.float16)
        if degraded is not None:
            worse = watch.timed("views", self._globals, degraded)
            told = watch.timed("encode", eyes.encoder.encode, worse)
            other = (told.tokens.mean(axis=1) if pools else told.rows).astype(np.float16)
        check_finite(keys, rows, other)
        patches = Patches(
            clean=clean, degraded=clean if degraded is None else degraded, views=views, tokens=encoded.tokens, owner=owner,
            is_global=is_global,
        )  # fmt: skip
        descriptors = watch.timed("describe", _describe, clean, degraded)
        values = {name: watch.timed("complexity", look, patches) for name, look in self.looks.items()}
        return Glance(
            keys=keys, rows=rows, degraded_rows=other, descriptors=descriptors, values=values, seconds=watch.seconds
        )

    def _views(self, images: Sequence[Image]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
        side, crops = self.eyes.encoder.input_px, self.eyes.looks_at_all_views
        groups = [[global_view(image, side), *(native_crops(image, side) if crops else ())] for image in images]
        owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        is_global = np.concatenate([np.arange(len(group)) == 0 for group in groups])
        return np.stack([view for group in groups for view in group]), owner.astype(np.int64), is_global

    def _globals(self, images: Sequence[Image]) -> NDArray[np.uint8]:
        return np.stack([global_view(image, self.eyes.encoder.input_px) for image in images])


def check_finite(keys: Sequence[str], *columns: NDArray[np.floating]) -> None:
    """Raise NumericsError with the key of the first patch that has a number which is not finite (or no float16)."""
    for column in columns:
        broken = ~np.isfinite(column.reshape(len(keys), -1)).all(axis=1)
        if broken.any():
            key = keys[int(np.argmax(broken))]
            raise NumericsError(f"the encoder gave a value that is not finite in float16 for patch {key}")


def _decode(samples: Sequence[ShardSample]) -> tuple[list[Image], list[Image] | None]:
    """Decode the clean members, and the degraded ones if they are pairs."""
    members = [
        {name.rpartition(".")[0]: (name, data) for name, data in one.members.items() if name != "json"}
        for one in samples
    ]
    paired = {"gt" in one for one in members}
    if len(paired) != 1:
        raise ManifestError(f"the shard with patch {samples[0].key} holds pairs and single patches; run curate verify")
    if paired == {False}:
        return [_pixels(*one[""]) for one in members], None
    return [_pixels(*one["gt"]) for one in members], [_pixels(*one["lq"]) for one in members]


def _pixels(name: str, data: bytes) -> Image:
    return decode_image(data) if name.endswith("jpg") else decode_patch(data)


def _describe(clean: Sequence[Image], degraded: Sequence[Image] | None) -> NDArray[np.float32]:
    if degraded is None:
        return np.stack([describe(image) for image in clean])
    return np.stack([describe_pair(good, bad) for good, bad in zip(clean, degraded, strict=True)])
