"""Which pictures are held out: a split is drawn for a whole group of pictures that belong together, never for one of them.

Together stay all patches of a picture, all its near-duplicates (also those that are dropped), and all pictures of one author
or host. The draw depends on what a group holds and not on how many others there are: adding pictures moves no group, but for
one that the new pictures join. Such a group may move from `train` to a split that is held out, never the other way: it takes
the smallest of its members' draws, and held-out splits lie at the small end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

from .core.config import percent
from .core.errors import ConfigError
from .core.records import TRAIN

NAME_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789_-"
BY = ("author", "host")
"""What a recipe's `split_by` may name."""


class Origin(NamedTuple):
    """Who made a picture and where it came from; "" if unknown."""

    author: str = ""
    url: str = ""


def parse_splits(texts: Iterable[str]) -> dict[str, float]:
    """Read `val=1%`, `test=5%`.

    Returns:
        Name -> share, in the order given.

    Raises:
        ConfigError: not NAME=SHARE%, a name twice or `train`, or shares of 100 % and more together.
    """
    splits: dict[str, float] = {}
    for text in texts:
        name, equals, share = text.partition("=")
        if not equals or not name or name.strip(NAME_CHARACTERS) or name == TRAIN or name in splits:
            raise ConfigError(
                f"--split must be NAME=SHARE%, such as val=1%, each name once and not {TRAIN}, got {text!r}"
            )
        splits[name] = percent(share, name=f"--split {name}")
    if sum(splits.values()) >= 1:
        raise ConfigError(f"--split must leave something for {TRAIN}, got {100 * sum(splits.values()):g}% held out")
    return splits


def draw(seed: int, unit: str) -> float:
    """Draw a number in 0..1 that depends on the seed and the unit alone."""
    digest = hashlib.sha256(f"{seed}/split/{unit}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def unit_of(identity: str, origin: Origin, by: Sequence[str]) -> str:
    """Name what a picture is drawn with: its author, else its host, else itself."""
    if "author" in by and origin.author.strip():
        return f"author {origin.author.strip().casefold()}"
    host = urlsplit(origin.url).hostname if origin.url.startswith(("http://", "https://")) else None
    return f"host {host}" if "host" in by and host else identity


def assign_splits(
    units: Sequence[str],
    rounds: Sequence[int],
    pairs: Iterable[tuple[int, int]],
    splits: Mapping[str, float],
    seed: int,
    fixed: Mapping[int, str] = MappingProxyType({}),
) -> list[str]:
    """Give every picture its split.

    Args:
        units: of each picture, what it is drawn with (`unit_of`); "" if it is in no split, for it was never read.
        rounds: of each picture, the attempt in which it came: what came first decides for a group, so that shards that are
            written stay as they are.
        pairs: pictures that are nearly the same.
        splits: name -> share.
        seed: of the corpus.
        fixed: pictures whose split is known, of an earlier corpus; who is near them goes where they are.

    Returns:
        Name of each one's split; "" where the unit is.
    """
    parent = list(range(len(units)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    first: dict[str, int] = {}
    together = [(first.setdefault(unit, index), index) for index, unit in enumerate(units) if unit]
    for one, other in (*together, *pairs):
        parent[root(one)] = root(other)
    least: dict[int, tuple[int, float]] = {}
    for index, unit in enumerate(units):
        if unit:
            group, mine = root(index), (rounds[index], draw(seed, unit))
            least[group] = min(least.get(group, mine), mine)
    names = {group: _name(value, splits) for group, (_, value) in least.items()}
    names |= {root(index): split for index, split in sorted(fixed.items()) if split == TRAIN}
    names |= {root(index): split for index, split in sorted(fixed.items()) if split != TRAIN}
    return [names[root(index)] if unit else "" for index, unit in enumerate(units)]


def _name(value: float, splits: Mapping[str, float]) -> str:
    limit = 0.0
    for name, share in splits.items():
        limit += share
        if value < limit:
            return name
    return TRAIN
