"""What a corpus is compared with while it is built: benchmark pictures that it must not hold, and earlier corpora."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .against import PackFile, store_packs
from .core.errors import ConfigError
from .core.records import TRAIN
from .dataset import Dataset
from .dedup.copies import KnownCorpora
from .dedup.rules import Dedup
from .known import known_pictures, known_tiles, open_known


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Opened, but not read: `packs` lie in the new corpus's ledger, `earlier` where they were built."""

    packs: tuple[PackFile, ...]
    earlier: tuple[Dataset, ...]

    def known(self) -> KnownCorpora:
        """Read what earlier corpora keep."""
        return KnownCorpora(pictures=known_pictures(self.earlier), tiles=list(known_tiles(self.earlier)))

    def content(self) -> dict[str, Any]:
        """Say what it is, and not where, for the config of a corpus."""
        packs = [
            {"name": one.name, "pictures": one.num_pictures, "content_hash": one.content_hash} for one in self.packs
        ]
        return {"against": packs, "known": [dataset.content_hash for dataset in self.earlier]}


def open_world(
    against: Sequence[str], known: Sequence[Path], dedup: Dedup, out: Path, *, splits: Collection[str] = ()
) -> World:
    """Make the packs of benchmark pictures in `out` and open the earlier corpora.

    Args:
        against: folders or packs of benchmark pictures.
        known: earlier corpora.
        dedup: what pictures are compared by.
        out: the new corpus.
        splits: names of those that the new corpus holds out.

    Raises:
        ConfigError: no such folder or pack, an unreadable picture in it, or a corpus without what the rules compare.
        ManifestError: no finished corpus.
    """
    earlier = open_known(known, dedup)
    for dataset in earlier:
        missing = sorted({one.split for group in dataset.stages.values() for one in group} - {TRAIN, *splits})
        if missing:
            raise ConfigError(
                f"--known {dataset.root} holds out {missing[0]!r}: give --split {missing[0]}=SHARE% here, too, or what "
                "resembles its held-out pictures would be trained on"
            )
    return World(packs=tuple(store_packs(against, out)), earlier=tuple(earlier))
