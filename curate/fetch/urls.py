"""URLs as we request, compare and log them: parsed once, refused early, never with credentials in their text."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import unquote

import idna

from .faults import Fault

MAX_CHARS = 8192  # RFC 9110, section 4.1 asks servers for 8000 octets at least; more is a data: URL gone wrong
_PORTS = {"http": 80, "https": 443}
_BLANKS = " \t\r\n\f\v"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_REST = re.compile(r"//([^/?#]*)([^#]*)")
_HOST = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\Z")  # names with _ are in use though no RFC allows them
_MAX_HOST_CHARS = 253  # RFC 1035, section 2.3.4
# Browsers (URL standard, path and query percent-encode sets) leave every other printable ASCII character as it is
_ILLEGAL = re.compile(r"""[^\x21-\x7e]+|["<>\\^`{|}]|%(?![0-9A-Fa-f]{2})""")
_DOTS = re.compile(r"/(?:\.|%2e){1,2}(?:[/?]|$)", re.IGNORECASE)
_USERINFO = re.compile(r"((?:://|\bhttps?:/?|^//|(?<=[\s\"'<(])//))[^/?#\s]*@")
_SLASHED_PASSWORD = re.compile(r"(://)[^\s/?#@:\[]{0,300}:(?!\d{0,5}(?:[/?#\s]|$))\S{0,300}@")


@dataclass(frozen=True, slots=True)
class Url:
    """An http(s) URL in canonical form; made by `parse_url`.

    Attributes:
        scheme: `http` or `https`.
        host: ASCII (IDNA), lower case, without trailing dot; IPv6 without brackets.
        port: 1 to 65535.
        target: `/path?query`, percent-encoded ASCII, without fragment.
        credentials: `user:password`, decoded; empty without. Never part of `text` or `repr`.
    """

    scheme: str
    host: str
    port: int
    target: str
    credentials: str = field(default="", repr=False)

    @property
    def text(self) -> str:
        """The URL without credentials; the default port is left out."""
        return self.origin + self.target

    @property
    def origin(self) -> str:
        """`http://host:8001`; the default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" if self.port == _PORTS[self.scheme] else f"{self.scheme}://{host}:{self.port}"

    @property
    def place(self) -> str:
        """`host:port`, always with the port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def join(self, location: str) -> Url:
        """Return where a redirect leads to.

        Our credentials go along to the same origin only; those a server writes into its Location are dropped.

        Raises:
            Fault: `redirect` for a Location that is empty or no URL, `policy` for another scheme than http(s).
        """
        location = location.strip(_BLANKS)
        scheme = _SCHEME.match(location)
        if scheme and scheme[1].lower() not in _PORTS:
            raise Fault("policy", f"redirect to {_shown(scheme[0])}, which is not http(s)")
        try:
            url = _parse(location if scheme else self._absolute(location))
        except ValueError as error:
            raise Fault("redirect", f"bad Location {_shown(location)!r}: {error}") from None
        kept = self.credentials if url.origin == self.origin else ""
        return Url(url.scheme, url.host, url.port, url.target, kept)

    def _absolute(self, location: str) -> str:
        """RFC 3986, section 5.2.2, for references without scheme."""
        if not location:
            raise ValueError("empty")
        if location[0] == "\\" or location[:2] == "/\\":
            raise ValueError("begins with a backslash")  # browsers read // there, others a path: nobody means it
        if location.startswith("//"):
            return f"{self.scheme}:{location}"
        if location[0] == "/":
            return self.origin + location
        path, mark, query = self.target.partition("?")
        if location[0] == "#":
            return self.origin + path + mark + query
        if location[0] == "?":
            return self.origin + path + location
        return self.origin + path[: path.rindex("/") + 1] + location


def parse_url(text: str | None) -> Url:
    """Read a URL of a list.

    What is legal stays byte for byte; anything else is percent-encoded as browsers do (non-ASCII as UTF-8). `.` and `..`
    segments are resolved, so that robots.txt is asked about the path that the server will serve.

    Raises:
        Fault: `policy`, if it is no http(s) URL that we may request.
    """
    try:
        return _parse((text or "").strip(_BLANKS))
    except ValueError as error:
        raise Fault("policy", str(error)) from None


def redact(text: str) -> str:
    """Return the text with `user:password@` taken out of every URL in it: for logs and tables."""
    if "@" not in text:
        return text
    return _USERINFO.sub(r"\1", _SLASHED_PASSWORD.sub(r"\1", text))


def canonical_host(text: str) -> str:
    """Return a host name or address as `Url.host` spells it; an IPv6 address may come in brackets.

    Raises:
        ValueError: it is none, with the reason.
    """
    if text.startswith("[") and text.endswith("]"):
        return _canonical_v6(text[1:-1])
    host = text.lower()
    if not host.isascii():
        try:
            # The same rules as yarl, hence aiohttp; it also maps full-width digits and dots to plain ones.
            host = idna.encode(host[:MAX_CHARS], uts46=True).decode("ascii").lower()
        except UnicodeError as error:  # idna.IDNAError is one
            raise ValueError(f"bad international host name ({_shown(str(error))})") from None
    host = host.removesuffix(".")
    if not host:
        raise ValueError("no host")
    # After IDNA, not before: it maps single characters to sequences such as `a/c` (U+2100)
    if len(host) > _MAX_HOST_CHARS or not _HOST.match(host):
        raise ValueError(f"bad host name {_shown(host)!r}")
    return host


def _parse(text: str) -> Url:
    if not text:
        raise ValueError("no URL")
    if len(text) > MAX_CHARS:
        raise ValueError(f"{len(text)} characters, more than {MAX_CHARS}")
    if _CONTROL.search(text):
        raise ValueError("control character inside the URL")
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found else ""
    if found is None:
        raise ValueError(f"not an http(s) URL: {_shown(text)!r}")
    if scheme not in _PORTS:
        raise ValueError(f"not an http(s) URL but {_shown(scheme)}:")  # the rest may be a picture, or a password
    rest = _REST.match(text, found.end())
    if rest is None:
        raise ValueError("no host (http:// needs two slashes)")
    credentials, host, port = _split_authority(rest[1])
    url = Url(scheme, host, _parse_port(port) or _PORTS[scheme], _canonical_target(rest[2]), credentials)
    if len(url.origin) + len(url.target) > MAX_CHARS:
        raise ValueError(f"more than {MAX_CHARS} characters once it is percent-encoded")
    return url


def _split_authority(authority: str) -> tuple[str, str, str]:
    """Return decoded credentials, canonical host, port as written."""
    if "\\" in authority:
        raise ValueError("backslash before the path")  # good.com\@evil.com is one host to some and the other to others
    userinfo, at, place = authority.rpartition("@")
    if "@" in userinfo:
        raise ValueError("more than one @ before the path")
    if place.startswith("["):
        host, bracket, port = place.partition("]")
        host += bracket
        if not bracket or (port and port[0] != ":"):
            raise ValueError("bad IPv6 address")
        port = port[1:]
    else:
        host, _, port = place.partition(":")
    return (_credentials(userinfo) if at else ""), canonical_host(host), port


def _credentials(userinfo: str) -> str:
    user, _, password = userinfo.partition(":")
    user, password = unquote(user), unquote(password)
    if ":" in user or _CONTROL.search(user + password):
        raise ValueError("credentials that no Authorization header can carry")  # RFC 7617, section 2
    return f"{user}:{password}" if user or password else ""


def _parse_port(text: str) -> int | None:
    """None: not given (an empty one is allowed, RFC 3986, section 3.2.3)."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65_535):
        raise ValueError("bad port")  # not shown: `http://user:secret/x@host` has its password there
    return int(text)


def _canonical_v6(text: str) -> str:
    if "%" in text:
        raise ValueError("IPv6 address with a zone")
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(f"bad IPv6 address {_shown(text)!r}") from None
    mapped = address.ipv4_mapped
    # Python 3.13 began to write the mapped ones with dots
    return str(address) if mapped is None else f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}"


def _canonical_target(text: str) -> str:
    if not text.startswith("/"):
        text = "/" + text
    if _ILLEGAL.search(text):
        text = _ILLEGAL.sub(_quote, text)
    return _without_dots(text) if _DOTS.search(text) else text


def _quote(found: re.Match[str]) -> str:
    try:
        # aiohttp gives the bytes of a Location that are no UTF-8 as surrogates: they go out as they came
        return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise ValueError("not Unicode text") from None


def _without_dots(target: str) -> str:
    """RFC 3986, section 5.2.4; %2e counts as a dot, as the URL standard has it."""
    path, mark, query = target.partition("?")
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        plain = segment.lower().replace("%2e", ".")
        if plain == "..":
            del kept[-1:]
        elif plain != ".":
            kept.append(segment)
    if segments[-1].lower().replace("%2e", ".") in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept) + mark + query


def _shown(text: str) -> str:
    text = redact(text)
    return text if len(text) <= 100 else text[:97] + "..."
