"""URLs: what is refused, what is left alone, what a redirect means, and that no password reaches a text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.fetch.faults import Fault
from curate.fetch.urls import MAX_CHARS, canonical_host, parse_url, redact


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("http://example.org", "http://example.org/"),
        ("HTTP://EXAMPLE.org:80/A.JPG", "http://example.org/A.JPG"),
        ("https://example.org:443/", "https://example.org/"),
        ("http://example.org:443/", "http://example.org:443/"),
        ("http://example.org:0080/", "http://example.org/"),
        ("http://example.org:/x", "http://example.org/x"),
        ("http://example.org./x", "http://example.org/x"),
        ("http://example.org?x=1", "http://example.org/?x=1"),
        ("http://example.org/x?", "http://example.org/x?"),
        ("http://example.org/a#frag?ment", "http://example.org/a"),
        ("  http://example.org/a\n", "http://example.org/a"),
        ("http://example.org/a b.jpg", "http://example.org/a%20b.jpg"),
        ("http://example.org/%41%2f%zz%", "http://example.org/%41%2f%25zz%25"),
        ("http://example.org/a,b'c;d=(e)!*[1]~@:$&+", "http://example.org/a,b'c;d=(e)!*[1]~@:$&+"),
        ('http://example.org/"<>\\^`{|}', "http://example.org/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("http://example.org/é?q=日", "http://example.org/%C3%A9?q=%E6%97%A5"),
        ("http://example.org/\udce9", "http://example.org/%E9"),  # a Latin-1 byte as aiohttp hands it over
        ("http://example.org//a//b", "http://example.org//a//b"),
        ("http://example.org/a/../../b/./c/..", "http://example.org/b/"),
        ("http://example.org/a/%2E%2e/private/x", "http://example.org/private/x"),
        ("http://example.org/a...b/..c/x?y=/../z", "http://example.org/a...b/..c/x?y=/../z"),
        ("http://my_host.example.org/", "http://my_host.example.org/"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://BÜCHER.example/", "http://xn--bcher-kva.example/"),
        ("http://exa\u00admple.org/", "http://example.org/"),
        ("http://例え。jp/", "http://xn--r8jz45g.jp/"),
        ("http://\uff11\uff12\uff17.0\uff0e0\u30021/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://2130706433/"),
        ("http://0x7F.1/", "http://0x7f.1/"),
        ("http://0177.0.0.1/", "http://0177.0.0.1/"),
        ("http://[::1]:8001/x", "http://[::1]:8001/x"),
        ("http://[2001:DB8:0:0::1]/", "http://[2001:db8::1]/"),
        ("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
        ("http://user:secret@example.org/x", "http://example.org/x"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    assert parse_url(text).text == canonical
    assert parse_url(canonical).text == canonical


@pytest.mark.parametrize(
    "text",
    [
        None, "", "   ", "example.org/a.jpg", "//example.org/a.jpg", "file:///etc/passwd", "ftp://example.org/a",
        "data:image/png;base64,AAAA", "javascript:alert(1)", "http:/example.org/", "http:example.org", "http:", "http://",
        "http:///x", "http://?x", "http://./", "http://:80/", "http://user@/", "http://a..b/", "http://.a/", "http://a:0/",
        "http://a:65536/", "http://a:x/", "http://a:-1/", "http://a:\uff18\uff10/", "http://a:1:2/", "http://a b/", "http://a\tb/",
        "http://a/b\nc", "http://a/\x00", "http://a/\x7f", "http://good.com\\@evil/", "http:\\\\evil/", "http://a@b@c/",
        "http://a%2eb/", "http://[::1/", "http://::1/", "http://[::1]x/", "http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/",
        "http://[1.2.3.4]/", "http://[]/", "http://a/\ud800", "http://\udcff.org/", "http://\u2100.com/", "http://a\uff0fb/",
        "http://a\u0000.org/", "http://u%0a:x@a/", "http://u%3Ax:y@a/", "http://" + "a" * 64 + "/",
        "http://" + "a." * 127 + "org/", "http://a/" + "x" * MAX_CHARS, "http://a/" + "é" * (MAX_CHARS // 2),
        "http://" + "é" * 8000 + "/",
    ],
)  # fmt: skip
def test_refused_as_policy(text: str | None) -> None:
    with pytest.raises(Fault) as caught:
        parse_url(text)
    assert caught.value.kind == "policy"
    assert not caught.value.again
    caught.value.detail.encode()  # goes into a table: no lone surrogates


def test_parts() -> None:
    url = parse_url("https://us%20er:p%40ss:w@[2001:db8::1]:8443/a?b")
    assert (url.scheme, url.host, url.port, url.target) == ("https", "2001:db8::1", 8443, "/a?b")
    assert url.credentials == "us er:p@ss:w"
    assert url.origin == "https://[2001:db8::1]:8443"
    assert url.place == "[2001:db8::1]:8443"
    assert parse_url("http://example.org/").place == "example.org:80"
    assert parse_url("http://example.org/").origin == "http://example.org"
    assert parse_url("http://token@example.org/").credentials == "token:"
    assert parse_url("http://@example.org/").credentials == ""
    assert "p@ss" not in repr(url) and "us er" not in repr(url)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("http://other.org/y", "http://other.org/y"),
        ("HTTPS://Example.org/y#z", "https://example.org/y"),
        ("//other.org/y", "https://other.org/y"),
        ("/y?z", "https://example.org/y?z"),
        ("y", "https://example.org/a/y"),
        ("../y", "https://example.org/y"),
        ("./", "https://example.org/a/"),
        ("?z", "https://example.org/a/b?z"),
        ("#top", "https://example.org/a/b?c"),
        (" /sp ace\r\n", "https://example.org/sp%20ace"),
        ("/caf\udce9", "https://example.org/caf%E9"),
        ("/café", "https://example.org/caf%C3%A9"),
        ("http://127.0.0.1/", "http://127.0.0.1/"),  # the address check refuses that, not we
    ],
)
def test_join(location: str, target: str) -> None:
    assert parse_url("https://example.org/a/b?c").join(location).text == target


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("", "redirect"), ("  ", "redirect"), ("http:///x", "redirect"), ("http://a:0/", "redirect"), ("//", "redirect"),
        ("http:x", "redirect"), ("/\\evil.com", "redirect"), ("\\\\evil.com", "redirect"), ("/a\x00b", "redirect"),
        ("http://good.com\\@evil.com/", "redirect"), ("/" + "x" * MAX_CHARS, "redirect"), ("http://a\nb/", "redirect"),
        ("file:///etc/passwd", "policy"), ("FTP://a/", "policy"), ("data:image/png;base64,AA", "policy"),
        ("javascript:alert(1)", "policy"), ("gopher://127.0.0.1:25/", "policy"),
    ],
)  # fmt: skip
def test_join_refuses(location: str, kind: str) -> None:
    with pytest.raises(Fault) as caught:
        parse_url("https://example.org/a/b?c").join(location)
    assert caught.value.kind == kind
    assert not caught.value.again


def test_credentials_stay_with_their_origin() -> None:
    url = parse_url("https://me:secret@example.org/a")
    assert url.join("/b").credentials == "me:secret"
    assert url.join("https://example.org:443/b").credentials == "me:secret"
    for elsewhere in (
        "http://example.org/b",
        "https://www.example.org/b",
        "https://example.org:444/b",
        "//other.org/b",
    ):
        assert url.join(elsewhere).credentials == ""
    assert url.join("//other.org/b").join("https://example.org/a").credentials == ""
    assert url.join("https://you:theirs@example.org/b").credentials == "me:secret"
    assert url.join("https://you:theirs@other.org/b").credentials == ""


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://me:secret@example.org/x", "http://example.org/x"),
        ("http://me:sec@ret@example.org/x", "http://example.org/x"),
        ("http://me:sec/ret@example.org/x", "http://example.org/x"),
        ("https://secret@example.org", "https://example.org"),
        ("//me:secret@example.org/x", "//example.org/x"),
        ("GET ftp://me:secret@a/ then (http://me:secret@b/)", "GET ftp://a/ then (http://b/)"),
        ("https://medium.com/@user/1?mail=a@b.org", "https://medium.com/@user/1?mail=a@b.org"),
        ("http://example.org:8080/@x", "http://example.org:8080/@x"),
        ("http://[::1]:80/@x", "http://[::1]:80/@x"),
        ("http://a//b@c", "http://a//b@c"),
        ("mail me@example.org", "mail me@example.org"),
        ("", ""),
    ],
)
def test_redact(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "http://me:secret@/", "http://me:secret@a:0/", "http://me:sec/secret@a/", "http://me:secret@a@b/",
        "http://me:secret@a b/", "ftp://me:secret@a/", "//me:secret@a/", "http://me:secret@\\a/", "http://me:secret@é\u2100/",
        "me:secret@a/", "http:me:secret@a",
    ],
)  # fmt: skip
def test_no_password_in_a_fault(text: str) -> None:
    with pytest.raises(Fault) as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)
    with pytest.raises(Fault) as caught:
        parse_url("http://example.org/").join(text if text[:2] != "//" else "ftp:" + text)
    assert "secret" not in str(caught.value)


def test_redact_is_linear() -> None:
    for text in ("://a:b" * 50_000 + "@", "a" * 300_000 + "@", "//" * 150_000 + "@", "http://a" * 40_000 + "@"):
        assert len(redact(text)) <= len(text)  # quadratic time would hang here (the test's own limit)


def test_canonical_host() -> None:
    assert canonical_host("[::1]") == "::1"
    assert canonical_host("LOCALHOST.") == "localhost"
    with pytest.raises(ValueError, match="bad host name"):
        canonical_host("a/b")


_PIECES = st.one_of(
    st.sampled_from(
        ["http://", "https://", "a.org", "é.org", ":80", "/", "//", "?", "#", "%", "%2e", "..", "\\", "@", "[::1]"]
    ),
    st.text(max_size=6),
    st.characters(codec=None).map(str),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(_PIECES, max_size=8).map("".join), st.sampled_from(["", "http://example.org/", "https://é.example:8/?"])
)
def test_canonical_is_stable(text: str, start: str) -> None:
    try:
        url = parse_url(start + text)
    except Fault as fault:
        assert fault.kind == "policy"
        return
    assert url.text.isascii()
    assert " " not in url.text
    assert parse_url(url.text).text == url.text
    assert parse_url(url.text).origin == url.origin
    assert "@" not in url.origin


@settings(max_examples=200, deadline=None)
@given(st.lists(_PIECES, max_size=8).map("".join))
def test_join_never_raises_anything_else(location: str) -> None:
    url = parse_url("http://me:secret@example.org/a?b")
    try:
        found = url.join(location)
    except Fault as fault:
        assert fault.kind in ("redirect", "policy")
        return
    assert not found.credentials or found.origin == url.origin
    assert isinstance(redact(location), str)
