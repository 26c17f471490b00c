"""What people asked us to forget: `ledger/forgotten.jsonl`, read by the downloader and by `forget`.

One JSON object a line, with one of the keys `host`, `sha256`, `url`. Nothing is ever taken out of it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import idna

from ..core import artifacts
from ..core.errors import ConfigError, ManifestError

FORGOTTEN = "ledger/forgotten.jsonl"
JOURNAL = "ledger/forget.json"
"""There while a `forget` is under way, or was interrupted."""

MIN_DIGITS = 16  # of a sha256: 64 bits, so that no other picture of any corpus begins alike
_NAME = re.compile(r"(?!-)[^\s/?#@:\\*%]{1,253}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """Requests. Make it with `requests` or `load_forgotten`, which bring hosts and hashes to their one form.

    Attributes:
        hosts: names in ASCII lower case; each stands for its subdomains, too, unless it is a single label or an address.
        sha256s: first hex digits (at least MIN_DIGITS, up to 64) of files' hashes, lower case.
        urls: URLs, each meant exactly as written, but for a user and password, which no table holds.
    """

    hosts: frozenset[str] = frozenset()
    sha256s: tuple[str, ...] = ()
    urls: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Say whether anything is to be forgotten."""
        return bool(self.hosts or self.sha256s or self.urls)

    def matches(self, host: str, url: str, sha256: str) -> bool:
        """Say whether a picture is to be forgotten; "" for what is not known.

        Args:
            host: where it lies; a port is ignored.
            url: its URL.
            sha256: of its file's bytes, 64 hex digits.
        """
        return (
            (bool(url) and url in self.urls)
            or (bool(sha256) and sha256.lower().startswith(self.sha256s))
            or (bool(host and self.hosts) and any(name in self.hosts for name in _with_parents(plain_host(host))))
        )

    def matches_url(self, url: str) -> bool:
        """Say whether what lies at a URL is to be forgotten."""
        return self.matches(host_of(url), url, "")


def requests(*, hosts: Sequence[str] = (), sha256s: Sequence[str] = (), urls: Sequence[str] = ()) -> Forgotten:
    """Check what a person asked for and bring it to its one form.

    Raises:
        ConfigError: nothing was asked, or it is no host, no URL, or not MIN_DIGITS to 64 hex digits.
    """
    if not (hosts or sha256s or urls):
        raise ConfigError("nothing to forget: give --host, --sha256 or --url")
    for digits in sha256s:
        if not re.fullmatch(rf"[0-9a-fA-F]{{{MIN_DIGITS},64}}", digits):
            raise ConfigError(f"sha256 must be {MIN_DIGITS} to 64 hex digits, got {digits!r}")
    for url in urls:
        if not host_of(url.strip()):
            raise ConfigError(f"url must be a whole URL such as https://example.org/a.jpg, got {url!r}")
    for host in hosts:
        if not re.fullmatch(r"[0-9a-f:.]*:[0-9a-f:.]*", plain_host(host)) and not _NAME.fullmatch(plain_host(host)):
            raise ConfigError(f"host must be a name such as example.org, got {host!r}")
    return Forgotten(
        hosts=frozenset(map(plain_host, hosts)),
        sha256s=tuple(sorted({digits.lower() for digits in sha256s})),
        urls=frozenset(re.sub(r"^(\w+://)[^/?#]*@", r"\1", url.strip()) for url in urls),
    )


def load_forgotten(out: Path) -> Forgotten:
    """Read what is to be forgotten in OUT; no file: nothing.

    Raises:
        ManifestError: a line that is no request (it would be fetched again, so it is not passed over).
    """
    found = dict[str, list[str]](host=[], sha256=[], url=[])
    for number, line in enumerate(_lines(out), 1):
        try:
            ((kind, value),) = json.loads(line).items()
            found[kind].append(str(value))
        except (ValueError, KeyError, AttributeError) as error:
            raise ManifestError(f"{out / FORGOTTEN}: line {number} is no request: {line[:80]!r}") from error
    if not any(found.values()):
        return Forgotten()
    return requests(hosts=found["host"], sha256s=found["sha256"], urls=found["url"])


def record(out: Path, asked: Forgotten) -> int:
    """Add requests to those of OUT, each once; they are on disk when this returns.

    Returns:
        How many were new.
    """
    by_kind = (("host", sorted(asked.hosts)), ("sha256", asked.sha256s), ("url", sorted(asked.urls)))
    known = list(_lines(out))
    new = [json.dumps({kind: value}) for kind, values in by_kind for value in values]
    new = [line for line in new if line not in known]
    if new:
        artifacts.write_bytes(out / FORGOTTEN, "".join(f"{line}\n" for line in [*known, *new]).encode())
    return len(new)


def refuse_interrupted(out: Path) -> None:
    """Refuse to work on a corpus of which a `forget` changed only a part.

    Raises:
        ConfigError: it names the way out.
    """
    if (out / JOURNAL).exists():
        raise ConfigError(f"a `curate forget` of {out} was interrupted; run it again, it goes on where it stopped")


def host_of(url: str) -> str:
    """Return the host of a URL in its one form, "" if it has none."""
    try:
        return plain_host(urlsplit(url).netloc.rpartition("@")[2])
    except ValueError:
        return ""


def plain_host(host: str) -> str:
    """Bring a host to one form: no port, no brackets, lower case, ASCII (as aiohttp's yarl does), no dot at the end."""
    host = unquote(host.strip())
    if host.startswith("[") or host.count(":") == 1:
        host = re.sub(r":\d*$", "", host)
    host = host.strip("[]").rstrip(".").lower()
    if host.isascii():
        return host
    for encode in (functools.partial(idna.encode, uts46=True), functools.partial(str.encode, encoding="idna")):
        try:
            return encode(host).decode("ascii")
        except UnicodeError:
            continue
    return host


def _with_parents(host: str) -> Iterator[str]:
    """Yield a host and the domains it lies in, but no single label: nobody can speak for all of `org`."""
    yield host
    while (host := host.partition(".")[2]).count("."):
        yield host


def _lines(out: Path) -> Iterator[str]:
    path = out / FORGOTTEN
    if path.is_file():
        yield from (line for line in path.read_text(encoding="utf-8").split("\n") if line.strip())
