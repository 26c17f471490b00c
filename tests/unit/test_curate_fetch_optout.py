"""X-Robots-Tag in every spelling, and licence links."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.fetch.config import OPT_OUT_DIRECTIVES
from curate.fetch.optout import find_opt_out, licence_links

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def find(*values: str, directives: tuple[str, ...] = OPT_OUT_DIRECTIVES) -> str | None:
    return find_opt_out(values, agent="irdistill", directives=directives, now=NOW)


@pytest.mark.parametrize(
    ("values", "directive"),
    [
        (["noai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["  noindex  "], "noindex"),
        (["nofollow,noai"], "noai"),
        (["nofollow ,\tnoimageindex, noai"], "noimageindex"),
        (["nofollow", "all", "none"], "none"),
        (["*: noai"], "noai"),
        (["irdistill: noai"], "noai"),
        (["IRDistill :noai"], "noai"),
        (["irdistill/1.0: noai"], "noai"),
        (["irdistill: nofollow, noindex"], "noindex"),
        (["BadBot: noindex, nofollow, irdistill: noai"], "noai"),  # merged by a proxy
        (["googlebot: nofollow, *: noai"], "noai"),
        (["noai, googlebot: noindex"], "noai"),
        (["googlebot: noindex", "noai"], "noai"),  # each header begins anew
        (["googlebot:, irdistill:, noai"], "noai"),
        (["max-snippet:20, noai"], "noai"),
        (["max-snippet: 20, max-image-preview: large, max-video-preview: -1, noai"], "noai"),
        (["noarchive: x, noai"], "noai"),  # a known directive with a colon is no agent
        (["noai: 1"], "noai"),
        (["nofollow; noai"], "noai"),
        (['"noai"'], "noai"),
        (["unavailable_after: 31 Dec 2099 15:00:00 PST, noai"], "noai"),
        (["unavailable_after: Thu, 31 Dec 2099 15:00:00 GMT, noai"], "noai"),
        (["unavailable_after: Thursday, 31-Dec-68 15:00, noindex"], "noindex"),
        (["unavailable_after: whenever, 12 o'clock: maybe, noai"], "noai"),
        (["irdistill: unavailable_after: Thu, 31 Dec 2099 15:00:00 GMT, noai"], "noai"),
        ([",,, ,noai,"], "noai"),
    ],
)
def test_opted_out(values: list[str], directive: str) -> None:
    assert find(*values) == f"X-Robots-Tag: {directive}"


@pytest.mark.parametrize(
    "values",
    [
        [], [""], [" , ;,"], ["all"], ["index, follow"], ["nofollow, noarchive, nosnippet, notranslate"],
        ["googlebot: noindex"], ["googlebot: noindex, nofollow, noai"], ["otherbot: noai", "bing: noindex"],
        ["irdistill: nofollow, otherbot: noai"], ["irdistillbot: noai"], ["my-irdistill: noai"], ["ir: noai"],
        ["360spider: noai"], ["googlebot: max-snippet: 20, noai"], ["Googlebot Image: noai"],
        ["max-image-preview: none"], ["max-image-preview:none, max-snippet:-1"], ["noainoai"], ["no ai"],
        ["otherbot: unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT, noai"],
        ["unavailable_after: Thu, 31 Dec 2099 15:00:00 GMT"], ["unavailable_after: soon"], ["unavailable_after:"],
        ["unavailable_after"], ["unavailable_after: 22 Nov 2026 12:00:01 GMT"], ["noindex2"], [":"], [": ,:"],
    ],
)  # fmt: skip
def test_not_opted_out(values: list[str]) -> None:
    assert find(*values) is None


@pytest.mark.parametrize(
    "date",
    [
        "25 Jun 2010 15:00:00 PST", "Fri, 25 Jun 2010 15:00:00 GMT", "Fri, 25 Jun 2010 15:00:00 -0000", "25 Jun 2010",
        "Friday, 25-Jun-10 15:00:00 GMT", "25-Jun-2010 15:00:00 EST", "Jun 25, 2010 15:00:00 PST", "Fri Jun 25 15:00:00 2010",
        "2010-06-25", "2010-06-25T15:00:00Z", "2010-06-25T15:00:00.123+02:00", "2010-06-25 15:00:00 UTC",
        "2010-06-25 15:00:00 PST", "22 Nov 2026 12:00:00 GMT", "2026-11-22T12:59:00+01:00",
    ],
)  # fmt: skip
def test_unavailable_after(date: str) -> None:
    for value in (
        f"unavailable_after: {date}",
        f"nofollow, Unavailable_After:{date} , noarchive",
        f"irdistill: unavailable_after: {date}",
    ):
        found = find(value)
        assert found is not None
        assert found.startswith("X-Robots-Tag: unavailable_after: 20")
    assert find(f"otherbot: unavailable_after: {date}, nofollow") is None
    assert find(f"unavailable_after: {date}", directives=("noai",)) is None  # means noindex, which is not obeyed here
    assert find(f"unavailable_after: {date}, noai", directives=("noai",)) == "X-Robots-Tag: noai"


def test_only_the_directives_asked_for() -> None:
    assert find("noindex, noai", directives=("noai",)) == "X-Robots-Tag: noai"
    assert find("noindex, none, noimageai", directives=()) is None
    assert find("notrain: x", directives=("notrain",)) == "X-Robots-Tag: notrain"


@pytest.mark.parametrize(
    ("values", "target"),
    [
        (['<https://a.org/l>; rel="license"'], "https://a.org/l"),
        (["<https://a.org/l>;rel=license"], "https://a.org/l"),
        (['<https://a.org/l> ; REL = "nofollow LICENSE"'], "https://a.org/l"),
        (
            ['</next>; rel="next", <https://a.org/a,b;c>; title="a, <b>; \\"rel=license\\""; rel=license'],
            "https://a.org/a,b;c",
        ),
        (["</x>; rel=next", "</1>; rel=license", "</2>; rel=license"], "/1"),
        (["<https://me:secret@a.org/l>; rel=license"], "https://a.org/l"),
        (["<https://a.org/\udce9>; rel=license"], "https://a.org/\\udce9"),
        (["<" + "x" * 5000 + ">; rel=license"], "x" * 2048),
    ],
)
def test_licence_links(values: list[str], target: str) -> None:
    assert licence_links(values) == target


@pytest.mark.parametrize(
    "values",
    [
        [], [""], ["https://a.org; rel=license"], ['<https://a.org/l>; rel="next"'], ['<https://a.org/l>; rel="licensed"'],
        ['<https://a.org/l>; title="; rel=license"'], ["<https://a.org/l>; rel=next; rel=license"], ["<>; rel=license"],
        ["<https://a.org/l>, rel=license"], ['<https://a.org/l>; rel=license; anchor="#other"'], ["<https://a.org/l"],
    ],
)  # fmt: skip
def test_no_licence_link(values: list[str]) -> None:
    assert licence_links(values) is None


_PIECES = st.one_of(
    st.sampled_from(["noai", "unavailable_after:", "irdistill:", ",", ";", ":", "25 Jun 2010", " 15:00:00 PST",
                     "9999-12-31T23:59:59-12:00",
                     "0001-01-01T00:00+14:00", "<", ">", '"', "rel=license", "; "]),
    st.text(max_size=5),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(_PIECES, max_size=12).map("".join))
def test_never_raises(value: str) -> None:
    found = find(value)
    assert found is None or found.startswith("X-Robots-Tag: ")
    target = licence_links([value])
    assert target is None or target in value or "\\u" in target or "@" in value
    assert find(value + ", *: noai") is not None


def test_long_headers_take_linear_time() -> None:
    for text in (
        "<" * 60_000,
        "<a>" + ";a=b" * 20_000,
        '<a>;x="' + "\\" * 60_000,
        "<a>" + " " * 60_000,
        "a:" * 30_000,
        "," * 60_000,
    ):
        assert licence_links([text]) is None
        assert find(text) is None
