"""One picture on its way through the stages of pass 1."""

from __future__ import annotations

from dataclasses import dataclass, field

from .core.records import Fingerprint, ImageFacts, InputRef, Leak, Score, ScoredPatch
from .pairs import Pair
from .view import ImageView


@dataclass(slots=True, kw_only=True)
class Candidate:
    """Each stage fills what it learns.

    `blobs` holds the bytes of every patch or thumbnail, in patch order,
    `cut` those of JPEG patches that were cut before they were judged.
    """

    ref: InputRef
    data: bytes = b""
    sha256: str = ""
    pixels_sha256: str = ""
    facts: ImageFacts | None = None
    view: ImageView | None = None
    pair: Pair | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    patches: list[ScoredPatch] = field(default_factory=list)
    extension: str = ""
    fingerprint: Fingerprint | None = None
    leaks: tuple[Leak, ...] = ()
    cut: dict[tuple[int, int], bytes] = field(default_factory=dict)
    blobs: list[bytes] = field(default_factory=list)

    @property
    def seen(self) -> ImageView:
        """The view, for stages after `Decode`."""
        assert self.view is not None, "stages run in order"
        return self.view
