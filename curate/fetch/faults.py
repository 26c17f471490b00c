"""Why a URL gave no picture: the classes of the ledger, and the exception that carries one."""

from __future__ import annotations

FETCHED = "ok"
SKIPPED = "skipped"
"""Not an error: the header alone shows that the recipe rejects the picture."""
CLASSES = (
    "dns", "tls", "connect", "timeout", "http-4xx", "http-429", "http-5xx", "redirect", "protocol", "truncated",
    "duplicate", "robots", "opt-out", "too-large", "not-image", "decode", "hash-mismatch", "policy",
)  # fmt: skip
"""Error classes, as the ledger and `curate retry --class` know them.

dns: the name has no address. tls: handshake or certificate. connect: no connection. timeout: a deadline passed. http-4xx,
http-5xx: the server's answer (any answer that is no picture and no other class is http-4xx); http-429: too many requests,
still so after every wait. redirect: a loop, more hops than allowed, or a redirect to nowhere. protocol: not HTTP, or the
connection broke. truncated: fewer bytes than announced. duplicate: an earlier row has the same URL. robots: robots.txt
forbids it. opt-out: the answer forbids it (X-Robots-Tag), or the picture was forgotten on request. too-large: over the limit
of bytes or pixels. not-image: something else, or a format we do not read. decode: damaged. hash-mismatch: not the bytes the
list expects. policy: not an http(s) URL, or an address that is not public.
"""

MAY_CHANGE = ("dns", "connect", "timeout", "http-429", "http-5xx", "protocol", "truncated")
"""Classes that another day may end otherwise, and so worth a `curate retry`."""
PASSING = frozenset({*MAY_CHANGE, "tls"})
"""Classes whose detail, and perhaps the class itself, would be another at another moment."""


class Fault(Exception):  # noqa: N818 - a fault is data here: it becomes a row of the ledger
    """A URL's try ended without a picture.

    Attributes:
        kind: one of CLASSES.
        detail: for people; holds no credentials.
        again: another try may end otherwise.
        wait_s: the server asked for this many seconds before the next try; None if it did not say.
        status: HTTP status of the answer; None without one.
    """

    def __init__(
        self, kind: str, detail: str, *, again: bool = False, wait_s: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail, self.again, self.wait_s, self.status = kind, detail, again, wait_s, status
