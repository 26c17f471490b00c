"""What is to be forgotten: hosts in one form, hashes by their first digits, URLs letter by letter; on disk once each."""

from pathlib import Path

import pytest
from yarl import URL

from curate.core.errors import ConfigError, ManifestError
from curate.fetch.forgotten import FORGOTTEN, Forgotten, host_of, load_forgotten, plain_host, record, requests

SHA256 = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Example.ORG", "example.org"), ("example.org.", "example.org"), ("example.org:8080", "example.org"),
        (" bücher.example ", "xn--bcher-kva.example"), ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("faß.de", "xn--fa-hia.de"), ("💩.la", "xn--ls8h.la"),
        ("[2001:DB8::1]:443", "2001:db8::1"), ("2001:db8::1", "2001:db8::1"),
        ("127.0.0.1:80", "127.0.0.1"), ("a_b.example", "a_b.example"), ("ex%61mple.org", "example.org"),
    ],
)  # fmt: skip
def test_hosts_have_one_form(text: str, host: str) -> None:
    assert plain_host(text) == host == plain_host(host)
    assert requests(hosts=(text,)).matches(host, "", "") and requests(hosts=(host,)).matches(text, "", "")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://user:pw@Example.org:8443/a b?c#d", "example.org"), ("http://[::1]:80/x", "::1"), ("http://[::1/x", ""),
        ("//example.org/x", "example.org"), ("example.org/x", ""), ("photos/1.jpg", ""), ("", ""),
    ],
)  # fmt: skip
def test_host_of(url: str, host: str) -> None:
    assert host_of(url) == host


def test_hosts_as_the_downloader_knows_them() -> None:
    for url in (
        "https://BÜCHER.example/x",
        "https://faß.de:81/",
        "https://💩.la/x",
        "http://[::1]:80/",
        "http://a.test./x",
    ):
        known = URL(url)
        assert known.raw_host is not None and known.host is not None
        assert plain_host(known.raw_host) == plain_host(known.host) == host_of(url)


def test_a_host_stands_for_its_subdomains_and_nothing_else() -> None:
    asked = requests(hosts=("example.org", "localhost", "10.0.0.1", "org"))
    for host in ("example.org", "www.example.org", "A.b.Example.org", "localhost", "10.0.0.1", "org"):
        assert asked.matches(host, "", "")
    for host in ("", "notexample.org", "example.org.test", "x.localhost", "110.0.0.1", "other.org", "0.0.1"):
        assert not asked.matches(host, "", "")
    assert asked.matches_url("https://img.example.org/1.jpg") and not asked.matches_url(
        "https://other.test/?example.org"
    )


def test_hashes_and_urls() -> None:
    asked = requests(sha256s=(SHA256[:16].upper(),), urls=(" https://a.test/x y,z ",))
    assert asked.matches("", "", SHA256) and asked.matches_url("https://a.test/x y,z")
    assert not asked.matches("", "", "1" + SHA256[1:]) and not asked.matches_url("https://a.test/x%20y,z")
    assert not asked.matches("a.test", "", "") and not Forgotten().matches("a.test", "https://a.test", SHA256)
    assert asked and not Forgotten()
    assert requests(urls=("https://me:secret@a.test/x@y",)).urls == {"https://a.test/x@y"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "nothing to forget: give --host, --sha256 or --url"),
        ({"sha256s": [SHA256[:15]]}, "16 to 64 hex digits, got '0123456789abcde'"),
        ({"sha256s": [SHA256 + "0"]}, "16 to 64"), ({"sha256s": ["g" * 20]}, "hex digits"),
        ({"hosts": ["https://a.test"]}, "host must"),
        ({"hosts": ["a b"]}, "host must be"), ({"hosts": ["*.a.test"]}, "host must be"), ({"hosts": ["."]}, "host must be"),
        ({"urls": ["a.test/x"]}, "whole URL"),
    ],
)  # fmt: skip
def test_requests_that_are_none(asked: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        requests(**asked)


def test_requests_are_kept_once_each(tmp_path: Path) -> None:
    assert load_forgotten(tmp_path) == Forgotten()
    (tmp_path / "ledger").mkdir()
    first = requests(hosts=("a.test", "A.test:80"), sha256s=(SHA256,))
    assert record(tmp_path, first) == 2 and record(tmp_path, first) == 0
    assert record(tmp_path, requests(hosts=("a.test",), urls=('https://b.test/"ü"',))) == 1
    lines = (tmp_path / FORGOTTEN).read_text().splitlines()
    assert lines[:2] == ['{"host": "a.test"}', f'{{"sha256": "{SHA256}"}}'] and len(lines) == 3
    found = load_forgotten(tmp_path)
    assert (found.hosts, found.sha256s, found.urls) == ({"a.test"}, (SHA256,), {'https://b.test/"ü"'})


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"host": "a", "url": "b"}', '{"name": "a"}', '"x"'])
def test_a_line_that_is_no_request_is_not_passed_over(tmp_path: Path, line: str) -> None:
    (tmp_path / "ledger").mkdir()
    (tmp_path / FORGOTTEN).write_text(f'{{"host": "a.test"}}\n\n{line}\n')
    with pytest.raises(ManifestError, match="line 2 is no request"):
        load_forgotten(tmp_path)
