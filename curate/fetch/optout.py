"""What an answer's headers say about use: X-Robots-Tag (opt-outs) and Link (licences).

X-Robots-Tag has no standard; this is the grammar of Google's "Robots meta tag, data-nosnippet, and X-Robots-Tag
specifications" and of MDN: `[agent:] directive, directive, agent: directive ...`, any case. Where a header is sloppy, it is
read so that an opt-out counts.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from .urls import redact

_DATED = frozenset({"unavailable_after", "unavailable-after"})
_VALUED = _DATED | {"max-snippet", "max-image-preview", "max-video-preview"}
_KNOWN = _VALUED | {
    "all", "index", "noindex", "follow", "nofollow", "none", "archive", "noarchive", "nocache", "snippet", "nosnippet",
    "notranslate", "noimageindex", "indexifembedded", "nositelinkssearchbox", "nopagereadaloud", "noodp", "noydir",
    "noai", "noimageai", "noimageclick",
}  # fmt: skip
_DATE_PART = re.compile(r"\d{1,4}(?![0-9A-Za-z])")  # how the rest of a date with commas begins; `360spider` is an agent
_ZONE = re.compile(r"\s+[A-Za-z]{1,5}$")  # a named zone after an ISO date, which is no ISO: some hours do not matter
_MAX_TARGET_CHARS = 2048

_LINK = re.compile(r"""<([^<>]*)>((?:\s*;\s*[\w*.-]+(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s",;]*))?)*)""")
_PARAMETER = re.compile(r""";\s*([\w*.-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",;]*)))?""")


def find_opt_out(values: Iterable[str], *, agent: str, directives: Collection[str], now: datetime) -> str | None:
    """Return the first directive that tells us to keep off, as `X-Robots-Tag: noai`; None if there is none.

    An agent counts until the next one in the same header; what comes before any agent is for everybody.

    Args:
        values: of all X-Robots-Tag headers, in their order.
        agent: our product token.
        directives: those we obey, lower case; with `noindex` goes `unavailable_after`, once its date has passed.
        now: the time, with its zone.
    """
    obeys_dates = bool({"noindex", *_DATED} & set(directives))
    for value in values:
        for name, directive, argument in _directives(value, frozenset(directives) | _KNOWN):
            if name not in ("", "*", agent.lower()):
                continue
            if directive in _DATED:
                date = _parse_date(argument) if obeys_dates else None
                if date is not None and date <= now:
                    return f"X-Robots-Tag: unavailable_after: {date.isoformat()}"
            elif directive in directives:
                return f"X-Robots-Tag: {directive}"
    return None


def licence_links(values: Iterable[str]) -> str | None:
    """Return the target of the first `Link: <...>; rel="license"` (RFC 8288, RFC 4946), as it is written.

    Args:
        values: of all Link headers, in their order.
    """
    for value in values:
        for target, tail in _LINK.findall(value):
            # the first of two rels counts (RFC 8288, section 3.3); with an anchor it is about something else
            parameters: dict[str, str] = {}
            for name, quoted, plain in _PARAMETER.findall(tail):
                parameters.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) or plain)
            if "license" in parameters.get("rel", "").lower().split() and "anchor" not in parameters and target.strip():
                # aiohttp writes bytes that are no UTF-8 as surrogates, which no table takes
                clean = target.strip().encode("utf-8", "backslashreplace").decode("utf-8")
                return redact(clean)[:_MAX_TARGET_CHARS]
    return None


def _directives(value: str, known: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (agent, directive, argument), lower case but for the argument."""
    agent = ""
    pieces = deque(re.split("[,;]", value))
    while pieces:
        piece = pieces.popleft()
        head, colon, rest = (part.strip(" \t\"'") for part in piece.partition(":"))
        while colon and head.lower() not in known:
            agent = head.lower().partition("/")[0].strip()
            head, colon, rest = (part.strip(" \t\"'") for part in rest.partition(":"))
        directive = head.lower()
        if directive in _DATED:
            # Fri, 25 Jun 2010 15:00:00 GMT: its commas and colons belong to the date, be it a valid one or not
            while pieces and _DATE_PART.match(pieces[0].strip()):
                rest += "," + pieces.popleft()
        if directive:
            yield agent, directive, rest


def _parse_date(text: str) -> datetime | None:
    """RFC 822, RFC 850 or ISO 8601; UTC where it names no zone; None if it is no date."""
    attempts: tuple[tuple[Callable[[str], datetime], str], ...] = (
        (datetime.fromisoformat, _ZONE.sub("", text)),
        (parsedate_to_datetime, text),
        (parsedate_to_datetime, text + " 00:00:00"),
    )
    for parse, candidate in attempts:
        try:
            date = parse(candidate)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return date if date.tzinfo else date.replace(tzinfo=UTC)
    return None
