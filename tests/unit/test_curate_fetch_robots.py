"""robots.txt: RFC 9309's rules and groups, what each status means, and that it is asked for once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.core.errors import ToolkitError
from curate.fetch import robots as module
from curate.fetch.faults import Fault
from curate.fetch.robots import Robots, RobotsAnswer, our_rules
from curate.fetch.urls import parse_url

H = "http://a.org"


class Site:
    """Answers every origin with one thing, and counts."""

    def __init__(self, text: bytes | str = b"", status: int = 200) -> None:
        self.answer: RobotsAnswer | BaseException = RobotsAnswer(
            status, text.encode() if isinstance(text, str) else text
        )
        self.asked: list[str] = []
        self.now = 1000.0
        self.takes_s = 0.0
        self.failures: list[Fault] = []  # come first

    async def fetch(self, origin: str) -> RobotsAnswer:
        self.asked.append(origin)
        await asyncio.sleep(self.takes_s)
        if self.failures:
            raise self.failures.pop(0)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def robots(self, **fields: Any) -> Robots:
        return Robots(self.fetch, **{"pauses_s": (0.0, 0.0), "clock": lambda: self.now, **fields})


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


def allowed(text: bytes | str, target: str) -> bool:
    async def go() -> bool:
        try:
            await Site(text).robots().check(parse_url(H + target))
        except Fault as fault:
            assert fault.kind == "robots"
            assert fault.detail == "disallowed by http://a.org/robots.txt"
            assert not fault.again
            return False
        return True

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("rules", "yes", "no"),
    [
        (
            "Disallow: /private",
            ["/", "/priv", "/a/private", "/Private"],
            ["/private", "/private/x", "/privateer", "/private?x"],
        ),
        ("disALLOW:/private/", ["/private"], ["/private/", "/private/x.jpg"]),
        ("Disallow:", ["/", "/x"], []),
        ("Disallow: /", ["/robots.txt"], ["/", "/x", "/?x", "//x"]),
        ("Disallow: /\nAllow: /pics/", ["/pics/x.jpg", "/pics/"], ["/pics", "/x"]),
        ("Allow: /a\nDisallow: /a", ["/a", "/ab"], []),  # equally long: allow
        ("Disallow: /a\nAllow: /a", ["/a", "/ab"], []),
        ("Allow: /a/\nDisallow: /a/b/\nAllow: /a/b/c", ["/a/x", "/a/b/c/d"], ["/a/b/", "/a/b/d"]),
        ("Disallow: /*.jpg$", ["/a.jpg?x", "/a.jpgx", "/a.png"], ["/a.jpg", "/b/c.jpg"]),
        ("Disallow: /*.jpg", ["/a.png"], ["/a.jpg", "/a.jpg?x", "/a.jpgs/b"]),
        ("Disallow: *.gif$", ["/a.gif?", "/gif"], ["/a.gif", "/b/a.gif"]),
        ("Disallow: /a*b*c", ["/acb", "/ab"], ["/abc", "/aXbXcX"]),
        ("Disallow: /x$", ["/xy", "/x/", "/x?"], ["/x"]),
        ("Disallow: /*?", ["/a"], ["/a?x=1", "/?"]),
        ("Disallow: /a?id=7&b", ["/a?id=8", "/a"], ["/a?id=7&b=3"]),
        ("Disallow: /caf%C3%A9", ["/cafe"], ["/café", "/caf%c3%a9/x", "/caf%C3%A9"]),
        ("Disallow: /café", ["/cafe"], ["/café", "/caf%c3%a9/x"]),
        ("Disallow: /%61b", ["/AB"], ["/ab", "/%61%62"]),
        ("Disallow: /a%2Fb", ["/a/b"], ["/a%2fb", "/a%2Fb"]),
        ("Disallow: /private", ["/x"], ["/y/../private", "/%2e/private", "/./private"]),
        ("Disallow: /x # all of x\n#Disallow: /y", ["/y"], ["/x"]),
        ("  Disallow :  /x  ", ["/y"], ["/x/y"]),
    ],
)
def test_rules(rules: str, yes: list[str], no: list[str]) -> None:
    for text in (
        f"User-agent: *\n{rules}\n",
        f"\ufeffuser-AGENT:IRdistill\r\n{rules}",
        f"User-agent: irdistill\r{rules}\r\r",
    ):
        assert [target for target in yes if not allowed(text, target)] == []
        assert [target for target in no if allowed(text, target)] == []


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        ("User-agent: *\nDisallow: /\nUser-agent: irdistill\nDisallow: /other", True),  # the named group alone counts
        ("User-agent: irdistill\nDisallow: /x\nUser-agent: *\nAllow: /", False),
        ("User-agent: irdistill\nUser-agent: other\nDisallow: /x", False),
        ("User-agent: other\nUser-agent: IRDISTILL\n\nDisallow: /x", False),  # blank lines end nothing
        ("User-agent: other\nDisallow: /x\n", True),
        (
            "User-agent: irdistill\nAllow: /y\nUser-agent: b\nDisallow: /z\nUser-agent: irdistill\nDisallow: /x",
            False,
        ),  # merged
        ("User-agent: irdistill\nDisallow:\n\nUser-agent: *\nDisallow: /", True),
        ("User-agent: irdistill\n\nUser-agent: *\nDisallow: /", False),  # agents in a row are one group
        ("User-agent: irdistill/1.0\nDisallow: /x", False),
        ("User-agent: irdistill (a comment)\nDisallow: /x", False),
        ("User-agent: ir\nDisallow: /x", True),
        ("User-agent: irdistillbot\nDisallow: /x", True),
        ("User-agent: irdistill-image\nDisallow: /x", True),
        ("User-agent: my-irdistill\nDisallow: /x", True),
        ("User-agent: ir*\nDisallow: /x", True),
        ("User-agent: * # all\nDisallow: /x", False),
        ("User-agent: *\nSitemap: http://a.org/s.xml\nUser-agent: b\nDisallow: /x", False),  # a sitemap ends no group
        ("User agent *\nDisallow /x", False),
        ("Disallow: /x", True),  # belongs to nobody
        ("User-agent: *\nDisallow: /y\nNonsense: 1\nwhat\nDisallow: /x", False),
        ("User-agent: *\nDisallow: /x", False),
        ("", True),
        ("<html><head><title>Not found</title></head>\n<body>User-agent: * <br>\nDisallow: /</body>", True),
    ],
)
def test_groups(text: str, is_allowed: bool) -> None:
    assert allowed(text, "/x") == is_allowed


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        (b"\xef\xbb\xbfUser-agent: *\nDisallow: /x", False),
        ("User-agent: *\nDisallow: /x".encode("utf-16"), False),
        (b"\0\0User-agent: *\0\nDisallow: /x\0\n", False),
        (b"\xff\xfe\xfd\xfc" * 1000, True),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 50, True),
        (b"User-agent: *\nDisallow: /caf\xe9\nDisallow: /x", False),  # Latin-1
        (b"User-agent: *\nDisallow: /y" + b"x" * 1_000_000 + b"\nDisallow: /x", True),  # beyond the limit
        (b"User-agent: *\nDisallow: /x\n" + b"Disallow: /y\n" * 60_000, False),
        (
            b"User-agent: *\n" + b"#" * (500 * 1024 - 15 - 11) + b"\nDisallow: /xy",
            True,
        ),  # cut before /x: not half a rule
        (b"User-agent: *\nDisallow: /" + b"*a" * 100_000 + b"\n", True),
    ],
)
def test_bytes_of_any_kind(text: bytes, is_allowed: bool) -> None:
    assert allowed(text, "/x") == is_allowed


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=12),
            st.sampled_from(
                [
                    b"User-agent: *",
                    b"User-agent: irdistill",
                    b"Disallow: ",
                    b"Allow: /",
                    b"Crawl-delay: ",
                    b"Request-rate: ",
                    b"\n",
                ]
            ),
        ),
        max_size=20,
    ).map(b"".join),
    st.text(max_size=8),
)
def test_nothing_but_faults(text: bytes, path: str) -> None:
    try:
        url = parse_url(f"{H}/{path}")
    except Fault:
        return
    try:
        delay = asyncio.run(Site(text).robots().check(url))
    except Fault as fault:
        assert fault.kind == "robots"
        return
    assert delay is None or delay >= 0


@pytest.mark.parametrize(
    ("rules", "delay"),
    [
        ("Disallow: /y", None),
        ("Crawl-delay: 10", 10.0),
        ("crawl-delay: 0.5\nDisallow: /y", 0.5),
        ("Crawl-delay: soon", None),
        ("Crawl-delay: -1", None),
        ("Crawl-delay: nan", None),
        ("Request-rate: 1/5", 5.0),
        ("Request-rate: 10/1m\nCrawl-delay: 1", 6.0),
        ("Request-rate: 1/5 0600-0845", None),  # at some hours only
    ],
)
def test_crawl_delay(rules: str, delay: float | None) -> None:
    async def go() -> None:
        robots = Site(f"User-agent: *\n{rules}").robots()
        assert await robots.check(parse_url(H + "/x")) == delay

    run(go())


@pytest.mark.parametrize("status", [200, 204, 301, 304, 400, 401, 403, 404, 410, 418, 451])
def test_statuses_that_allow(status: int) -> None:
    async def go() -> None:
        site = Site("User-agent: *\nDisallow: /secret", status)
        robots = site.robots(keep_s=86_400)
        for _ in range(3):
            await robots.check(parse_url(H + "/x"))
        site.now += 86_399
        await robots.check(parse_url(H + "/y"))
        assert site.asked == [H]
        site.now += 2
        await robots.check(parse_url(H + "/y"))
        assert site.asked == [H, H]

    run(go())


@pytest.mark.parametrize("status", [429, 500, 503, 599, 600, 100])
def test_statuses_that_forbid(status: int) -> None:
    async def go() -> None:
        site = Site("User-agent: *\nAllow: /", status)
        robots = site.robots()
        for _ in range(3):
            with pytest.raises(Fault, match=f"answers {status}") as caught:
                await robots.check(parse_url(H + "/x"))
            assert (caught.value.kind, caught.value.again, caught.value.status) == ("robots", False, status)
        assert site.asked == [H]
        site.now += 601
        site.answer = RobotsAnswer(404, b"")
        await robots.check(parse_url(H + "/x"))
        assert site.asked == [H, H]

    run(go())


def test_a_fetch_without_an_answer_is_tried_again() -> None:
    async def go() -> None:
        site = Site("User-agent: *\nDisallow: /x")
        site.failures = [Fault("protocol", "reset", again=True), Fault("timeout", "slow", again=True)]
        robots = site.robots(pauses_s=(0.01, 0.02))
        begin = time.monotonic()
        results = await asyncio.gather(*(robots.check(parse_url(f"{H}/{index}")) for index in range(40)))
        assert time.monotonic() - begin >= 0.03
        assert results == [None] * 40
        with pytest.raises(Fault, match="disallowed"):
            await robots.check(parse_url(H + "/x"))
        assert site.asked == [H] * 3

    run(go())


def test_a_fetch_that_never_gets_an_answer_is_kept_for_a_minute() -> None:
    async def go() -> None:
        site = Site()
        site.answer = Fault("timeout", "no answer within 20 s", again=True, wait_s=3.0, status=None)
        robots = site.robots()
        for _ in range(3):
            with pytest.raises(Fault) as caught:
                await robots.check(parse_url(H + "/x"))
            assert str(caught.value) == (
                "timeout: robots.txt of http://a.org could not be read in 3 tries: no answer within 20 s"
            )
            assert (caught.value.again, caught.value.wait_s) == (False, 3.0)  # a URL's next try would find it here
        assert site.asked == [H] * 3
        site.now += 61
        site.answer = RobotsAnswer(200, b"")
        assert await robots.check(parse_url(H + "/x")) is None

    run(go())


def test_a_final_fault_of_the_fetch_is_not_tried_again() -> None:
    async def go() -> None:
        site = Site()
        site.answer = Fault("dns", "a.org: unknown")
        robots = site.robots()
        for _ in range(3):
            with pytest.raises(Fault, match=r"^dns: a\.org: unknown$") as caught:
                await robots.check(parse_url(H + "/x"))
            assert not caught.value.again
        assert site.asked == [H]

    run(go())


def test_one_fetch_however_many_wait() -> None:
    async def go() -> None:
        site = Site("User-agent: *\nDisallow: /x")
        site.takes_s = 0.02
        robots = site.robots()
        origins = [H, "https://a.org", "http://a.org:8080"]  # each has its own
        tasks = [
            asyncio.create_task(robots.check(parse_url(f"{origin}/{index}")))
            for origin in origins
            for index in range(20)
        ]
        await asyncio.sleep(0.005)
        tasks[0].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [None] * 59
        assert sorted(site.asked) == sorted(origins)

    run(go())


@pytest.mark.parametrize("error", [ZeroDivisionError(), ToolkitError("too many open files")])
def test_an_error_that_is_no_fault_is_shown_and_not_kept(error: Exception) -> None:
    async def go() -> None:
        site = Site()
        site.answer = error
        robots = site.robots()
        for _ in range(2):
            with pytest.raises(type(error)):
                await robots.check(parse_url(H + "/x"))
        assert len(site.asked) == 2

    run(go())


def test_close() -> None:
    async def go() -> None:
        site = Site()
        site.takes_s = 100
        robots = site.robots()
        task = asyncio.create_task(robots.check(parse_url(H + "/x")))
        await asyncio.sleep(0.005)
        await robots.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(go())


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUM_PARSED", 3)
    monkeypatch.setattr(module, "MAX_KEPT_CHARS", 2000)

    async def go() -> None:
        site = Site("User-agent: *\nDisallow: /x\n")
        robots = site.robots(num_hosts=10)
        for index in range(30):
            await robots.check(parse_url(f"http://{index}.org/"))
            await robots.check(parse_url("http://0.org/"))  # in use, hence kept
        assert len(robots._kept) == 10
        assert len(robots._parsed) == 3
        assert site.asked.count("http://0.org") == 1
        with pytest.raises(Fault):
            await robots.check(parse_url("http://25.org/x"))  # read again from its text
        assert site.asked.count("http://25.org") == 1
        site.answer = RobotsAnswer(200, b"User-agent: *\n" + b"Disallow: /y\n" * 100)
        for index in range(30, 34):
            await robots.check(parse_url(f"http://{index}.org/"))
        assert len(robots._kept) == 1
        assert robots._num_chars == len(our_rules(site.answer.text))

    run(go())


def test_parsed_rules_are_bounded_by_their_text_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PARSED_CHARS", 3000)

    async def go() -> None:
        site = Site(b"User-agent: *\n" + b"Disallow: /y\n" * 100)
        assert isinstance(site.answer, RobotsAnswer)
        size = len(our_rules(site.answer.text))
        robots = site.robots()
        for index in range(10):
            await robots.check(parse_url(f"http://{index}.org/"))
        assert list(robots._parsed) == ["http://8.org", "http://9.org"]  # 1313 characters each
        await robots.check(parse_url("http://8.org/"))
        await robots.check(parse_url("http://0.org/"))  # parsed again, from the text
        assert list(robots._parsed) == ["http://8.org", "http://0.org"]
        assert robots._num_parsed_chars == 2 * size
        assert len(site.asked) == 10
        site.now += 100_000
        await robots.check(parse_url("http://8.org/"))  # read anew, counted once
        assert robots._num_parsed_chars == 2 * size
        site.answer = RobotsAnswer(200, b"User-agent: *\n" + b"Disallow: /y\n" * 1000)
        await robots.check(parse_url("http://big.org/"))
        assert list(robots._parsed) == ["http://big.org"]  # one always is, however large
        for index in range(10):
            robots._drop(f"http://{index}.org")
        robots._drop("http://big.org")
        assert (robots._num_parsed_chars, robots._num_chars) == (0, 0)

    run(go())


def test_only_our_rules_are_kept() -> None:
    text = (
        b"User-agent: big\nDisallow: /a\nCrawl-delay: 3\n\nUser-agent: *\nDisallow: /b # no\nSitemap: http://a.org/s\n"
    )
    assert our_rules(text) == "User-agent: *\nDisallow: /b"
    assert our_rules(b"User-agent: big\nDisallow: /a") == ""
