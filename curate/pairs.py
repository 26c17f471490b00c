"""Pairs: a clean picture (gt) with its degraded version (lq), same name, same size. Scored and filtered on gt."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .core.errors import DecodeError
from .core.images import check_num_bytes, decode_image, read_facts
from .core.records import Image, ImageFacts


@dataclass(frozen=True, slots=True)
class Pair:
    """The degraded picture of a pair, read but not yet decoded."""

    data: bytes
    sha256: str
    facts: ImageFacts

    def decode(self) -> Image:
        """Decode it to (H, W, 3) uint8; raises DecodeError as `decode_image`."""
        return decode_image(self.data, self.facts)


@contextlib.contextmanager
def blame_pair() -> Iterator[None]:
    """Say in the reason of a DecodeError that the degraded picture is meant, not the clean one."""
    try:
        yield
    except DecodeError as error:
        raise DecodeError(f"pair-{error.reason}", error.detail) from error


def read_pair(path: str, gt: ImageFacts) -> Pair | None:
    """Read the header of the degraded picture and check that it fits the clean one.

    Args:
        path: where it is; "" if the input is no pair.
        gt: facts of the clean picture.

    Raises:
        DecodeError: `pair-missing`, `pair-size` or `pair-` and the decoder's own reason.
    """
    if not path:
        return None
    try:
        with blame_pair():
            check_num_bytes(Path(path).stat().st_size)
            data = Path(path).read_bytes()
            facts = read_facts(data, path)
    except OSError as error:
        raise DecodeError("pair-missing", f"{path}: {error.strerror}") from error
    if (facts.width, facts.height) != (gt.width, gt.height):
        raise DecodeError("pair-size", f"gt is {gt.width}x{gt.height}, lq is {facts.width}x{facts.height}")
    return Pair(data, hashlib.sha256(data).hexdigest(), facts)
