"""What a decision about duplicates consists of: who is known to be kept, and why another one is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.records import Fingerprint, identity_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A picture of a corpus that was built before: it is kept whatever comes.

    Attributes:
        source: its name there, and which corpus that is.
        sha256: of its file.
        pair_sha256: of its degraded version; "" if it is no pair.
        pixels_sha256: of its pixels; "" if unknown.
        fingerprint: None if that corpus has none.
        split: "" if that corpus has none.
    """

    source: str
    sha256: str
    pair_sha256: str
    pixels_sha256: str
    fingerprint: Fingerprint | None
    split: str = ""

    @property
    def identity(self) -> str:
        """Hash that its patches' keys begin with."""
        return identity_of(self.sha256, self.pair_sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTile:
    """A patch of a corpus that was built before; hashes as 16 hex digits."""

    key: str
    phash: str
    average_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCorpora:
    """Everything that corpora built before keep."""

    pictures: Sequence[Known] = ()
    tiles: Sequence[KnownTile] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Why a picture is not kept: `keeper` is the source of the one that is, `group` the first 20 digits of its identity."""

    reason: str
    keeper: str
    group: str
    near: str
