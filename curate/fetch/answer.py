"""What an answer's status and headers mean, before its body is read."""

from __future__ import annotations

import email.utils
import re
import time
from dataclasses import dataclass
from typing import Protocol

from multidict import CIMultiDictProxy

from .faults import Fault

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524})
"""Statuses that another try may not meet again: RFC 9110's, and a well-known proxy's."""
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_SURE_S = 60.0
"""A Last-Modified so much older than the answer is as good as a strong ETag (RFC 9110, 8.8.2.2)."""


class Answer(Protocol):
    """The part of aiohttp's ClientResponse that is looked at here."""

    @property
    def status(self) -> int:
        """HTTP status."""
        ...

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """Headers, several of one name allowed."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """Which bytes are asked for: from `start` up to `stop` (None: the end); without a Range header if not `ranged`."""

    start: int = 0
    stop: int | None = None
    ranged: bool = False

    def headers(self, validator: str) -> dict[str, str]:
        """Return the request's headers; bytes to be joined to others come only if the picture is still the same."""
        if not self.ranged:
            return {}
        wanted = {"Range": f"bytes={self.start}-{'' if self.stop is None else self.stop - 1}"}
        return wanted | {"If-Range": validator} if self.start and validator else wanted


def check_status(answer: Answer) -> None:
    """Accept 200, 206 and 416 (which the caller handles).

    Raises:
        Fault: `http-429`, `http-5xx`, `http-4xx` (any other answer), `redirect` for one that leads nowhere.
    """
    status = answer.status
    if status in (200, 206, 416):
        return
    if status == 429:
        raise Fault("http-429", "too many requests", again=True, wait_s=retry_after(answer), status=status)
    if status >= 500:
        wait_s = retry_after(answer) if status == 503 else None
        raise Fault("http-5xx", f"status {status}", again=status in _PASSING, wait_s=wait_s, status=status)
    if 300 <= status < 400:
        raise Fault("redirect", f"status {status} without a way on", status=status)
    raise Fault("http-4xx", f"status {status}", again=status in _PASSING, status=status)


def retry_after(answer: Answer) -> float | None:
    """Seconds the server asks to wait (RFC 9110 section 10.2.3: a number, or a date); None if it does not, or not sensibly."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), 365 * 86_400))
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class Extent:
    """What an answer's body is: bytes `start` up to `stop` (None: unknown) of a picture of `total` bytes (None: unknown)."""

    start: int
    stop: int | None
    total: int | None


def extent(answer: Answer, ask: Ask) -> Extent:
    """Read Content-Range or Content-Length; a body that travels compressed has no known extent.

    Raises:
        Fault: `protocol` for a 206 that is not what was asked for.
    """
    if answer.status == 206:
        text = answer.headers.get("Content-Range", "").strip()
        found = _RANGE.fullmatch(text)
        if not ask.ranged or not found or int(found[1]) != ask.start or int(found[2]) < ask.start:
            raise Fault("protocol", f"asked for bytes from {ask.start}, got Content-Range {text[:80]!a}", status=206)
        return Extent(ask.start, int(found[2]) + 1, None if found[3] == "*" else int(found[3]))
    text = answer.headers.get("Content-Length", "")
    known = text.isascii() and text.isdigit() and len(text) <= 18 and not encoding(answer)
    return Extent(0, int(text), int(text)) if known else Extent(0, None, None)


def encoding(answer: Answer) -> str:
    """Content-Encoding in lower case; "" for identity."""
    text = answer.headers.get("Content-Encoding", "").strip().lower()
    return "" if text == "identity" else text


def validator(answer: Answer) -> str:
    """Return what proves that a later answer is of the same bytes (RFC 9110, 13.1.5), "" if nothing does.

    A strong ETag, else a Last-Modified that was long past when the answer was made.
    """
    etag = answer.headers.get("ETag", "").strip()
    if etag:
        return etag if etag.startswith('"') and etag.isascii() and etag.isprintable() else ""
    text = answer.headers.get("Last-Modified", "").strip()
    try:
        dates = [email.utils.parsedate_to_datetime(date) for date in (text, answer.headers.get("Date", ""))]
        return text if text.isascii() and (dates[1] - dates[0]).total_seconds() >= _SURE_S else ""
    except (ValueError, TypeError, OverflowError):
        return ""
