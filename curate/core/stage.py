"""The one protocol of the data side: a stage takes typed values and yields typed values, lazily and in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from .records import Rejection

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Run-wide facts; a stage may change none of them.

    Attributes:
        seed: root of every random draw.
        reject: called once for every value that a stage does not pass on.
    """

    seed: int
    reject: Callable[[Rejection], None]

    def rng(self, stage: str, key: str) -> np.random.Generator:
        """Make a generator that depends on (seed, stage, key) alone: same for any order or worker count."""
        digest = hashlib.sha256(f"{self.seed}/{stage}/{key}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:16], "big"))


class Stage(Protocol[In, Out]):
    """Typed values in, typed values out. Lazy, keeps order, opens nothing of its own, remembers nothing."""

    @property
    def name(self) -> str:
        """Short code used in rejections and logs."""
        ...

    def __call__(self, items: Iterable[In], ctx: Context, /) -> Iterator[Out]:
        """Yield one value for each input, or call `ctx.reject` for it."""
        ...


def chain(items: Iterable[Any], stages: Iterable[Stage[Any, Any]], ctx: Context) -> Iterator[Any]:
    """Feed `items` through `stages` in order; nothing runs before the result is consumed."""
    stream: Iterable[Any] = items
    for stage in stages:
        stream = stage(stream, ctx)
    return iter(stream)
