"""What the first bytes of a body already say: is it a picture, is it a bomb, would the recipe reject it by its header?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ..core.errors import DecodeError
from ..core.formats import find_format, identify
from ..core.images import read_facts
from ..core.records import ImageFacts
from ..recipes import Recipe
from ..view import View
from .faults import Fault

SNIFF_BYTES = 64
"""So many bytes, or the whole body if it is shorter, tell the format."""
_IEND = b"\0\0\0\0IEND\xaeB`\x82"

HeaderJudge = Callable[[ImageFacts, int | None], str]
"""(facts, bytes of the whole file or None if unknown) -> why the picture would be rejected, "" if the header cannot tell."""


class PixelsNeededError(Exception):
    """A filter asked a header for what only pixels can answer."""


class HeaderView:
    """The view of a filter before the body is there: header facts and size; everything else raises PixelsNeededError.

    Orientation is known for JPEG only (other formats may keep it behind the pixels).
    """

    def __init__(self, facts: ImageFacts, num_bytes: int | None) -> None:
        self.facts = facts
        self._num_bytes = num_bytes

    @property
    def num_bytes(self) -> int:
        """Size of the whole file, where the server said it."""
        if self._num_bytes is None:
            raise PixelsNeededError
        return self._num_bytes

    def __getattr__(self, name: str) -> Any:
        raise PixelsNeededError


def header_judge(recipe: Recipe, patch_size_px: int) -> HeaderJudge:
    """Build the judge of a recipe: its image-level gates as far as they look at no pixel, then the size of a patch."""
    named = {plugin.name: plugin for plugin in recipe.filters() if plugin.level == "image"}
    gates = [named[gate] for gate in recipe.gates if gate in named]

    def judge(facts: ImageFacts, num_bytes: int | None) -> str:
        view = cast(View, HeaderView(facts, num_bytes))
        for plugin in gates:
            try:
                verdict = plugin.judge(plugin.measure(view))
            except PixelsNeededError:
                continue
            if not verdict.keep:
                return verdict.reason
        return "too-small" if min(facts.width, facts.height) < patch_size_px else ""

    return judge


def keep_all(facts: ImageFacts, num_bytes: int | None) -> str:
    """Reject nothing: the judge of a download without a recipe."""
    return ""


def check_format(head: bytes) -> str:
    """Name the format of a body by its first bytes.

    Raises:
        Fault: `not-image`.
    """
    name = find_format(head[:SNIFF_BYTES])
    if name:
        return name
    try:
        identify(head)
    except DecodeError as error:
        raise Fault("not-image", f"{error.reason}: {error.detail}") from error
    raise AssertionError("find_format and identify agree")


def head_facts(head: bytes) -> ImageFacts | None:
    """Read the header of a body of which only the beginning is there.

    Returns:
        Its facts; None where the beginning does not tell (the header is longer, or the format keeps it elsewhere).

    Raises:
        Fault: `too-large` for more pixels than we decode.
    """
    name = find_format(head)
    if name == "png":
        first = head.find(b"IDAT")
        head = head[: first - 4] + _IEND if first > 8 else head[:33] + _IEND
    elif name == "webp":
        head = head[:4] + (len(head) - 8).to_bytes(4, "little") + head[8:]
    elif name != "jpeg":
        return None
    try:
        return read_facts(head)
    except DecodeError as error:
        if error.reason == "too-many-pixels":
            raise Fault("too-large", error.detail) from error
        return None


def fault_of(reason: str) -> str:
    """Class of a DecodeError's reason."""
    if reason in ("too-many-pixels", "too-many-bytes"):
        return "too-large"
    return "not-image" if reason in ("not-an-image", "unsupported-format") else "decode"


def suffix_of(format_name: str) -> str:
    """Suffix of a stored picture: by what its bytes are, never by what the URL or the server calls it."""
    return _SUFFIXES[format_name]


_SUFFIXES = {
    "jpeg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tif", "bmp": ".bmp", "avif": ".avif", "heic": ".heic",
    "jxl": ".jxl",
}  # fmt: skip
