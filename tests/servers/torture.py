"""The torture list: what servers do to a downloader, one case each, with the class it must end in.

`CASES` are the rows of the list in order, `handlers()` the hosts that serve them. In a URL `{site}` stands for HOST:PORT.
What breaks has a host of its own, so that parking one host spoils no other case.
"""

import gzip
from collections.abc import Callable
from dataclasses import dataclass

from answers import (
    answer,
    broken_once,
    changing,
    date_limited,
    dispatch,
    drip,
    flood,
    guarded,
    gzip_bomb,
    in_turn,
    jpeg,
    later,
    noise,
    padded,
    picture,
    png_bomb,
    ranges,
    raw,
    redirect,
    silence,
)
from loopback import Handler

MAX_BYTES = 4 << 20  # of one body, in the run under test
SECRET = "s3cret-word"
IDN = "xn--bcher-kva.example"
NUM_RESETS, NUM_BUSY = 40, 24  # rows of the host that always resets, of the host that counts connections


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the list.

    Attributes:
        name: for people.
        url: as in the list, with `{site}` for HOST:PORT.
        expect: the class; several with `|` where the rules leave a choice.
        site: whose log to look at; "" for rows that must reach nobody.
        path: as it must arrive.
        asked: requests for that path at most; None: not limited here; 0: never.
        sent: bytes for that path at most, all requests together; None: not limited here.
    """

    name: str
    url: str
    expect: str
    site: str = ""
    path: str = ""
    asked: int | None = None
    sent: int | None = None


CASES: list[Case] = []
PLACES: dict[str, str] = {}  # site -> HOST:PORT; the test fills it once the server has its ports
_FIXED = (
    "fine",
    "canary",
    "canary6",
    "tls",
    "robots",
    "robots_503",
    "robots_moved",
    "optout",
    "moving",
    "busy",
    "resets",
)
ROUTES: dict[str, dict[str, Handler]] = {name: {} for name in _FIXED}
ADDRESSES = {"fine": "127.0.0.1", "canary": "127.0.0.1", "canary6": "::1", "idn": "127.0.0.1"}
SECURE = ("tls",)


def handlers() -> dict[str, Handler]:
    """Return one handler a host; a path nobody wrote is 404."""
    return {name: dispatch(routes) for name, routes in ROUTES.items()}


def add(
    name: str, expect: str, handler: Handler | None = None, *, site: str = "", path: str = "", url: str = "",
    asked: int | None = None, sent: int | None = None,
) -> None:  # fmt: skip
    """Add a case; without a site it gets a host of its own."""
    site = site or f"own{len(ROUTES)}"
    path = path or f"/{''.join(c if c.isalnum() else '-' for c in name)}.jpg"
    routes = ROUTES.setdefault(site, {})
    if handler:
        routes[path] = handler
    url = url or f"http://{{{site}}}{path}"
    CASES.append(Case(name=name, url=url, expect=expect, site=site, path=path, asked=asked, sent=sent))


def there(template: str) -> Callable[[], str]:
    """Fill in places when asked."""
    return lambda: template.format(**PLACES)


JPEG = ("Content-Type", "image/jpeg")
OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
LITTLE = (
    9 << 20
)  # what kernels buffer on loopback between a server that pushes and a client that stopped reading, and some
BIG = padded(jpeg(900, 1000, 800, 97), 700_000)
NEW = padded(jpeg(901, 1000, 800, 97), len(BIG))  # the length tells nobody that it changed

# --- answers that are final
add("404", "http-4xx", answer(404), site="fine", asked=1)
add("410", "http-4xx", answer(410), site="fine", asked=1)
add("403 with a picture", "http-4xx", answer(403, jpeg(2), JPEG), site="fine", asked=1)
add("204", "http-4xx|not-image", answer(204), site="fine", asked=1)
add("html as image", "not-image", answer(200, b"<!DOCTYPE html><p>Log in</p>" * 40, JPEG), site="fine", asked=1)
add("nonsense as image", "not-image", answer(200, noise(3000), JPEG), site="fine", asked=1)
add("empty body", "not-image", answer(200, b"", JPEG), site="fine", asked=1)
add("416", "http-4xx", answer(416, b"", ("Content-Range", "bytes */0")), site="fine")

# --- pictures
add("plain", "ok", picture(3), site="fine", asked=1)
add("octet-stream", "ok", picture(4, kind="application/octet-stream"), site="fine", asked=1)
add("wrong suffix", "ok", picture(5), site="fine", path="/wrong.png", asked=1)
add("no length", "ok", raw(OK + b"Connection: close\r\n\r\n", jpeg(6)), site="fine")
_CHUNKED = [b"%x\r\n" % len(p) + p + b"\r\n" for p in (jpeg(7)[:1000], jpeg(7)[1000:], b"")]
add("chunked", "ok", raw(OK + b"Transfer-Encoding: chunked\r\n\r\n", *_CHUNKED), site="fine")
_PACKED = answer(200, gzip.compress(jpeg(8), mtime=0), JPEG, ("Content-Encoding", "gzip"))
add("honest gzip", "ok", _PACKED, site="fine", asked=1)
add("evil file name", "ok", picture(9, ("Content-Disposition", 'attachment; filename="../../../evil.sh"')), site="fine")
add("cookies", "ok", picture(10, ("Set-Cookie", "track=me; Path=/")), site="fine")
_ODD = "/a%20b,c%20%22d%22%20'e'.jpg"
add("spaces commas quotes", "ok", picture(11), site="fine", path=_ODD, url="http://{fine}/a b,c \"d\" 'e'.jpg", asked=1)
add("escapes stay", "ok", picture(12), site="fine", path="/100%25%2Fx%2B.jpg?a=%26&b=1%2C2,3", asked=1)
add("umlaut in path", "ok", picture(13), site="fine", path="/b%C3%BCcher.jpg", url="http://{fine}/bücher.jpg", asked=1)
add("idn", "ok", picture(14), site="idn", path="/idn.jpg", url="http://bücher.example:{idn_port}/idn.jpg", asked=1)
add("same again", "duplicate", site="fine", path="/plain.jpg", asked=1)
add("big by ranges", "ok", ranges(BIG, '"v1"'), site="fine", asked=2)
add("password", "ok", guarded(jpeg(15), "user", SECRET), path="/in.jpg", site="fine",
    url=f"http://user:{SECRET}@{{fine}}/in.jpg")  # fmt: skip
add("wrong password", "http-4xx", guarded(jpeg(16), "user", "other"), path="/out.jpg", site="fine",
    url=f"http://user:{SECRET}@{{fine}}/out.jpg", asked=1)  # fmt: skip

# --- sizes
_HUGE = 400 << 20
add("400 MB announced", "too-large", flood(OK + b"Content-Length: %d\r\n\r\n" % _HUGE, jpeg(20) + bytes(60_000), 6_400),
    sent=LITTLE)  # fmt: skip
add("400 MB unannounced", "too-large", flood(OK + b"\r\n", jpeg(21) + bytes(60_000), 6_400), sent=MAX_BYTES + LITTLE)
_ENDLESS = flood(
    OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + (jpeg(22) + bytes(65_536))[:65_536] + b"\r\n"
)
add("endless", "too-large", _ENDLESS, sent=MAX_BYTES + LITTLE)
_BOMB = answer(200, gzip_bomb(), JPEG, ("Content-Encoding", "gzip"))
add("gzip bomb", "too-large", _BOMB)
add("png bomb", "too-large", answer(200, png_bomb(), ("Content-Type", "image/png")), path="/bomb.png")

# --- waits
_SOON = answer(429, b"", ("Retry-After", "1"))
add("429 seconds", "ok", in_turn(_SOON, picture(30)), asked=2)
add("429 date", "ok", date_limited(2, jpeg(31)), asked=2)
add("429 always", "http-429", _SOON, asked=4)
add("429 tomorrow", "http-429", answer(429, b"", ("Retry-After", "86400")), asked=1)
add("429 nonsense", "ok", in_turn(answer(429, b"", ("Retry-After", "soon")), picture(32)), asked=2)
add("503 then 200", "ok", in_turn(answer(503), picture(33)), asked=2)
add("503 seconds", "ok", in_turn(answer(503, b"", ("Retry-After", "1")), picture(34)), asked=2)
add("503 always", "http-5xx", answer(503), asked=4)
add("drip", "timeout", drip(OK + b"Content-Length: 90000\r\n\r\n" + jpeg(35)[:500]))
add("drip of headers", "timeout", drip(OK + b"X-Slow: "))
add("silence", "timeout", silence)

# --- redirects
for _hop in range(1, 13):
    _next = f"/hop{_hop + 1}.jpg" if _hop < 12 else "/plain.jpg"
    ROUTES["moving"][f"/hop{_hop}.jpg"] = redirect(_next, (301, 302, 303, 307, 308)[_hop % 5])
ROUTES["moving"]["/plain.jpg"] = picture(40)
add("chain of 3", "ok", site="moving", path="/hop10.jpg", asked=2)
add("chain of 12", "redirect", site="moving", path="/hop1.jpg", asked=1)
add("loop", "redirect", redirect("/loop.jpg"), site="moving", path="/loop.jpg", asked=11)
add("loop of two", "redirect", redirect("/two-b.jpg"), site="moving", path="/two-a.jpg", asked=11)
ROUTES["moving"]["/two-b.jpg"] = redirect("/two-a.jpg")
add("no location", "redirect", answer(302), site="moving", asked=1)
add("bad location", "redirect|policy", redirect("http://["), site="moving", asked=1)
add("to another host", "ok", redirect(there("//{fine}/moved.jpg")), site="moving", asked=1)
ROUTES["fine"]["/moved.jpg"] = picture(41)
add("password stays", "ok", redirect(there("http://{fine}/open.jpg")), site="moving", path="/with-password.jpg",
    url=f"http://user:{SECRET}@{{moving}}/with-password.jpg")  # fmt: skip
ROUTES["fine"]["/open.jpg"] = picture(42)
add("to robots", "robots", redirect(there("http://{robots}/private/moved.jpg")), site="moving", asked=1)

# --- places nobody may be sent to: as a row, and by redirect
_FORBIDDEN = {
    "file": "file:///etc/passwd",
    "ftp": "ftp://{canary}/x.jpg",
    "data": "data:image/png;base64,iVBORw0KGgo=",
    "javascript": "javascript:alert(1)",
    "port not allowed": "http://{canary}/x.jpg",
    "metadata service": "http://169.254.169.254/latest/meta-data/",
    "private network": "http://10.1.2.3/x.jpg",
    "ipv6 loopback": "http://{canary6}/x.jpg",
    "mapped ipv4": "http://[::ffff:127.0.0.1]:{canary_port}/x.jpg",
    "nat64": "http://[64:ff9b::7f00:1]:{canary_port}/x.jpg",
    "decimal": "http://2130706433:{canary_port}/x.jpg",
    "hexadecimal": "http://0x7f000001:{canary_port}/x.jpg",
    "octal": "http://0177.0.0.1:{canary_port}/x.jpg",
    "short": "http://127.1:{canary_port}/x.jpg",
    "any": "http://0.0.0.0:{canary_port}/x.jpg",
    "localhost": "http://localhost:{canary_port}/x.jpg",
    "name of inside": "http://inside.example:{canary_port}/x.jpg",
    "trailing dot": "http://localhost.:{canary_port}/dot.jpg",
    "password before": "http://{fine}@{canary}/password.jpg",
}
for _name, _url in _FORBIDDEN.items():
    CASES.append(Case(name=_name, url=_url, expect="policy"))
    add(f"to {_name}", "policy", redirect(there(_url)), site="moving", asked=1)

# --- broken HTTP
_SHORT = raw(OK + b"Content-Length: 6000\r\n\r\n", jpeg(50)[:3000])
add("short body", "truncated", _SHORT, asked=4)
add("short once", "ok", in_turn(_SHORT, picture(51)))
add(
    "chunks cut early",
    "truncated",
    raw(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + jpeg(52)[:2000]),
    asked=4,
)
add("bad chunk", "protocol", raw(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"zebra\r\n" + jpeg(53)), asked=4)
_HEAD = OK + b"Transfer-Encoding: chunked\r\n\r\n"
for _name, _bad in (("bad chunk", b"zebra\r\n"), ("chunk too long", b"4\r\nabcdefgh\r\n")):
    add(f"{_name} later", "protocol", raw(_HEAD, later=_bad), asked=4)
    add(f"{_name} and no end", "protocol", raw(_HEAD + _bad, end="hold"), asked=4)
    add(f"{_name} later and no end", "protocol", raw(_HEAD, later=_bad, end="hold"), asked=4)
add("reset in body", "protocol", raw(OK + b"Content-Length: 6000\r\n\r\n", jpeg(54)[:3000], pause_s=0.05, end="reset"),
    asked=4)  # fmt: skip
add("reset once, resumed", "ok", broken_once(BIG, '"strong"'), asked=3)
add("changed meanwhile", "ok", changing(BIG, NEW, honest=True))
add("changed, dishonest", "ok|protocol", changing(BIG, NEW))
add("changed, weak etag", "ok|protocol", changing(BIG, NEW, etags=('W/"same"', 'W/"same"')))
add("changed, no etag", "ok|protocol", changing(BIG, NEW, etags=("", "")))
_WRONG = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 500-6499/9000\r\nContent-Length: 6000\r\n\r\n"
add("206 of something else", "protocol", raw(_WRONG, noise(6000)), asked=4)
add("header of 1 MB", "protocol", raw(OK + b"X-Long: " + b"a" * (1 << 20) + b"\r\nContent-Length: 0\r\n\r\n"), asked=4)
add("50,000 headers", "protocol", raw(OK + b"".join(b"X-%d: y\r\n" % i for i in range(50_000)) + b"\r\n"), asked=4)
add("not HTTP", "protocol", raw(b"<html>welcome to 1991</html>\r\n\r\n"), asked=4)
add("closes after each", "ok", raw(OK + b"Content-Length: %d\r\n\r\n" % len(jpeg(55)), jpeg(55)), path="/1.jpg")
for _number in (2, 3, 4):  # the client thinks that the connection is still there
    add(f"closes after each {_number}", "ok", site=CASES[-_number + 1].site, path=f"/{_number}.jpg")
    ROUTES[CASES[-1].site][CASES[-1].path] = ROUTES[CASES[-1].site]["/1.jpg"]
add("always closes unanswered", "protocol", raw(), asked=4)
add("always resets unanswered", "protocol", raw(end="reset"), asked=4)
add("closes unanswered once", "ok", in_turn(raw(), picture(56)), asked=2)
add("self-signed", "tls", picture(57), site="tls", url="https://{tls}/self-signed.jpg", asked=0)
add("no tls there", "tls", site="plain", url="https://{plain}/no-tls.jpg", asked=0)
add("nobody listens", "connect", url="http://{closed}/x.jpg", asked=0)
add("no such name", "dns", url="http://nothing.invalid/x.jpg", asked=0)

# --- those who do not want us
_RULES = b"User-agent: *\nDisallow: /\n\nUser-agent: irdistill\nDisallow: /private/\nAllow: /private/shown.jpg\n"
ROUTES["robots"]["/robots.txt"] = answer(200, _RULES, ("Content-Type", "text/plain"))
ROUTES["robots_503"]["/robots.txt"] = answer(503)
ROUTES["robots_moved"] |= {"/robots.txt": redirect("/rules.txt"), "/rules.txt": answer(200, _RULES)}
add("robots forbids", "robots", picture(60), site="robots", path="/private/hidden.jpg", asked=0)
add("robots allows", "ok", picture(61), site="robots", path="/public.jpg", asked=1)
add("robots allows more exactly", "ok", picture(62), site="robots", path="/private/shown.jpg", asked=1)
add("robots out of order", "robots", picture(63), site="robots_503", asked=0)
add("robots moved, forbids", "robots", picture(64), site="robots_moved", path="/private/x.jpg", asked=0)
add("robots moved, allows", "ok", picture(65), site="robots_moved", path="/x.jpg", asked=1)
for _name, _answer, _expect in (
    ("drips", drip(b"HTTP/1.1 200 OK\r\n\r\n" + _RULES), "robots|timeout"),
    ("endless", flood(b"HTTP/1.1 200 OK\r\n\r\n" + _RULES, b"# more\n" * 9_000), "robots"),
    ("sends inside", redirect(there("http://{canary}/robots.txt")), "robots|policy"),
    ("password", answer(401), "ok"),
    ("resets", raw(end="reset"), "robots|protocol"),
):
    add(f"robots {_name}", _expect, picture(66), path="/private/x.jpg", asked=int(_expect == "ok"))
    ROUTES[CASES[-1].site]["/robots.txt"] = _answer
_NO = {
    "plain": ["NoAI"],
    "with others": ["nofollow, noindex"],
    "for us": ["irdistill: noimageai"],
    "second header": ["otherbot: all", "none"],
    "several agents": ["otherbot: nofollow, noarchive, irdistill: nofollow, noai"],
}
_YES = {
    "other agent": ["otherbot: noindex, noimageai"],
    "all": ["all"],
    "later": ["unavailable_after: Saturday, 01-Jan-2050 00:00:00 GMT"],
    "previews": ["max-image-preview:large, index"],
}
for _names, _expect in ((_NO, "opt-out"), (_YES, "ok")):
    for _seed, (_name, _values) in enumerate(_names.items()):
        _served = picture(70 + _seed + 10 * (_names is _YES), *(("X-Robots-Tag", value) for value in _values))
        add(f"X-Robots-Tag {_name}", _expect, _served, site="optout", asked=1)

# --- crowds: one host that always resets, one that counts how many come at a time
ROUTES["resets"] |= {"*": raw(end="reset"), "/robots.txt": answer(404)}
for _number in range(NUM_RESETS):
    add(f"always resets {_number}", "protocol|connect", site="resets")
for _number in range(NUM_BUSY):
    add(f"busy {_number}", "ok", later(0.03, picture(100 + _number)), site="busy", asked=1)

# --- rows that are no URL (a list of its own: a text file has no null)
GARBAGE = (
    None, "", "   ", "picture.jpg", "//no.scheme/x.jpg", "http://", "http:///x.jpg", "http://h.invalid:99999/x.jpg",
    "http://h.invalid:x/x.jpg", "http://[::1/x.jpg", "http://a b.invalid/x.jpg", "http://exa\0mple.invalid/x.jpg",
    "http://h.invalid/x\r\nHost: other", "\u202ehttp://h.invalid/",
)  # fmt: skip
