"""The small parts of the downloader: bodies, first bytes, answers, the ledger."""

import dataclasses
import email.utils
import gzip
import hashlib
import io
import struct
import time
import tomllib
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from PIL import Image

from curate.core.errors import ConfigError
from curate.fetch.answer import Ask, Extent, check_status, encoding, extent, retry_after, validator
from curate.fetch.body import HEAD_BYTES, Body, Unpacker, Version
from curate.fetch.config import FetchConfig, content, load_fetch_config
from curate.fetch.faults import CLASSES, Fault
from curate.fetch.ledger import Ledger, Outcome
from curate.fetch.probe import check_format, head_facts, header_judge
from curate.recipes import load_recipe


@dataclasses.dataclass
class Answer:
    status: int
    headers: CIMultiDictProxy[str]


def answer(status: int, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, CIMultiDictProxy(CIMultiDict(named)))


# bodies


@pytest.mark.parametrize("size", [1, HEAD_BYTES, HEAD_BYTES + 1, 3 * HEAD_BYTES + 7])
@pytest.mark.parametrize("step", [1000, HEAD_BYTES, 10**6])
def test_body_writes_every_byte_once(tmp_path: Path, size: int, step: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    body = Body(tmp_path / "000" / "7", tmp_path / "7.part", max_bytes=10**7, algorithms=("md5",))
    for start in range(0, size, step):
        body.write(data[start : start + step])
    assert (tmp_path / "7.part").exists() == (size > HEAD_BYTES)
    assert body.hashes() == {"sha256": hashlib.sha256(data).hexdigest(), "md5": hashlib.new("md5", data).hexdigest()}  # noqa: S324
    body.finish(".jpg")
    assert not (tmp_path / "7.part").exists()
    assert (tmp_path / "000" / "7.jpg").read_bytes() == data
    assert [path.name for path in (tmp_path / "000").iterdir()] == ["7.jpg"]


def test_body_survives_a_kill(tmp_path: Path) -> None:
    data = np.random.default_rng(1).bytes(5 * HEAD_BYTES)
    body = Body(tmp_path / "7", tmp_path / "7.part", max_bytes=10**7)
    body.version = version = Version(url="u", validator='"v"', total=len(data))
    body.write(data[: 2 * HEAD_BYTES])
    body.pause()
    again = Body(tmp_path / "7", tmp_path / "7.part", max_bytes=10**7)
    again.recover()
    assert again.version == version
    assert again.size == 2 * HEAD_BYTES
    again.write(data[2 * HEAD_BYTES :])
    again.finish(".png")
    assert (tmp_path / "7.png").read_bytes() == data
    assert again.hashes()["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_part_of_unknown_origin_is_not_taken_up(tmp_path: Path) -> None:
    body = Body(tmp_path / "7", tmp_path / "7.part", max_bytes=10**7)
    body.write(bytes(2 * HEAD_BYTES))
    body.pause()
    again = Body(tmp_path / "7", tmp_path / "7.part", max_bytes=10**7)
    again.recover()
    assert again.size == 0
    assert list(tmp_path.iterdir()) == []


def test_body_stops_at_the_limit_and_leaves_no_file(tmp_path: Path) -> None:
    body = Body(tmp_path / "7", tmp_path / "7.part", max_bytes=HEAD_BYTES + 10)
    body.write(b"x" * HEAD_BYTES)
    body.write(b"x" * 10)
    with pytest.raises(Fault) as caught:
        body.write(b"x")
    assert caught.value.kind == "too-large"
    body.restart()
    assert body.size == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wbits", [31, 15])
def test_unpacker_gives_the_bytes(tmp_path: Path, wbits: int) -> None:
    data = np.random.default_rng(2).bytes(200_000)
    packer = zlib.compressobj(wbits=wbits)
    packed = packer.compress(data) + packer.flush()
    body, unpacker = (
        Body(tmp_path / "7", tmp_path / "7.part", max_bytes=10**6),
        Unpacker("gzip" if wbits == 31 else "deflate"),
    )
    for start in range(0, len(packed), 777):
        unpacker.feed(packed[start : start + 777], body)
    unpacker.close()
    body.pause()
    assert body.hashes()["sha256"] == hashlib.sha256(data).hexdigest()


def test_unpacker_meets_a_bomb_at_the_limit(tmp_path: Path) -> None:
    body = Body(tmp_path / "7", tmp_path / "7.part", max_bytes=10**7)
    with pytest.raises(Fault, match="too-large"):
        Unpacker("gzip").feed(gzip.compress(bytes(10**8)), body)
    body.pause()
    assert body.size <= 10**7


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("br", b"", "protocol"),
        ("gzip", b"not gzip at all", "protocol"),
        ("gzip", gzip.compress(b"x" * 99)[:-9], "truncated"),
    ],
)
def test_unpacker_refuses(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    with pytest.raises(Fault) as caught:
        unpacker = Unpacker(name)
        unpacker.feed(data, Body(tmp_path / "7", tmp_path / "7.part", max_bytes=1000))
        unpacker.close()
    assert caught.value.kind == kind


# answers


def test_ask_headers() -> None:
    assert Ask().headers('"v"') == {}
    assert Ask(0, 100, ranged=True).headers('"v"') == {"Range": "bytes=0-99"}
    assert Ask(100, None, ranged=True).headers('"v"') == {"Range": "bytes=100-", "If-Range": '"v"'}
    assert Ask(100, None, ranged=True).headers("") == {"Range": "bytes=100-"}


@pytest.mark.parametrize(
    ("status", "kind", "again"),
    [
        (404, "http-4xx", False), (403, "http-4xx", False), (408, "http-4xx", True), (429, "http-429", True),
        (500, "http-5xx", True), (501, "http-5xx", False), (503, "http-5xx", True), (304, "redirect", False),
        (204, "http-4xx", False),
    ],
)  # fmt: skip
def test_status_classes(status: int, kind: str, again: bool) -> None:
    with pytest.raises(Fault) as caught:
        check_status(answer(status))
    assert (caught.value.kind, caught.value.again, caught.value.status) == (kind, again, status)
    assert kind in CLASSES


@pytest.mark.parametrize("text", ["", "soon", "-5", "Mon, 99 Foo 2020", "1.5"])
def test_retry_after_that_says_nothing(text: str) -> None:
    assert retry_after(answer(429, Retry_After=text)) is None


def test_retry_after_in_seconds_and_as_a_date() -> None:
    assert retry_after(answer(429, Retry_After=" 17 ")) == 17.0
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert 97 < (retry_after(answer(503, Retry_After=later)) or 0) <= 100
    assert retry_after(answer(503, Retry_After=email.utils.formatdate(0, usegmt=True))) == 0.0


def test_extent() -> None:
    assert extent(answer(200, Content_Length="12"), Ask()) == Extent(0, 12, 12)
    assert extent(answer(200), Ask()) == Extent(0, None, None)
    assert extent(answer(200, Content_Length="9" * 5000), Ask()) == Extent(0, None, None)
    assert extent(answer(200, Content_Length="12", Content_Encoding="gzip"), Ask()) == Extent(0, None, None)
    asked = Ask(5, None, ranged=True)
    assert extent(answer(206, Content_Range="bytes 5-9/100"), asked) == Extent(5, 10, 100)
    assert extent(answer(206, Content_Range="bytes 5-9/*"), asked) == Extent(5, 10, None)
    for text in ("bytes 0-9/100", "bytes 5-4/100", "bytes 5-9/" + "9" * 5000, "bytes \udce9", ""):
        with pytest.raises(Fault, match="protocol"):
            extent(answer(206, Content_Range=text), asked)
    with pytest.raises(Fault, match="protocol"):
        extent(answer(206, Content_Range="bytes 0-9/100"), Ask())


def test_only_strong_validators_join_bytes() -> None:
    then, later, sure = (email.utils.formatdate(seconds, usegmt=True) for seconds in (1e9, 1e9 + 5, 1e9 + 500))
    assert validator(answer(200, ETag='"a"', Last_Modified=then)) == '"a"'
    assert validator(answer(200, ETag='W/"a"', Last_Modified=then, Date=sure)) == ""
    assert validator(answer(200, ETag='"\udce9"')) == ""
    assert validator(answer(200, Last_Modified=then, Date=sure)) == then
    assert validator(answer(200, Last_Modified=then, Date=later)) == ""
    assert validator(answer(200, Last_Modified=then)) == ""
    assert validator(answer(200)) == ""
    assert encoding(answer(200, Content_Encoding=" Identity ")) == ""


# first bytes


def encoded(image: np.ndarray, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_beginning_of_a_file_tells_its_size(make_photo: Callable[..., np.ndarray], kind: str) -> None:
    data = encoded(make_photo(1, 600, 500), kind, **({"lossless": True} if kind == "WEBP" else {}))
    facts = head_facts(data[:2000])
    assert facts is not None
    assert (facts.format, facts.width, facts.height) == (kind.lower(), 500, 600)


def test_a_beginning_that_does_not_tell() -> None:
    assert head_facts(b"\xff\xd8\xff\xe1\xff\xff" + bytes(3000)) is None
    assert head_facts(b"II*\x00" + bytes(100)) is None


def test_a_bomb_is_met_in_its_header() -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 32000, 32000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", bytes(99))
    )
    with pytest.raises(Fault, match="32000x32000") as caught:
        head_facts(bomb)
    assert caught.value.kind == "too-large"


@pytest.mark.parametrize("head", [b"<!DOCTYPE html><html>", b"GIF89a" + bytes(20), b"%PDF-1.7", b"\x00" * 64])
def test_what_is_no_picture(head: bytes) -> None:
    with pytest.raises(Fault) as caught:
        check_format(head)
    assert caught.value.kind == "not-image"


def test_header_judge_asks_no_pixel_and_knows_when_it_cannot_tell(make_photo: Callable[..., np.ndarray]) -> None:
    judge = header_judge(load_recipe("photographs", patch_size_px=256), 256)
    good, small = (head_facts(encoded(make_photo(1, *size), "JPEG", quality=92)) for size in ((600, 500), (200, 900)))
    coarse = head_facts(encoded(make_photo(1, 600, 500), "JPEG", quality=10))
    assert good is not None
    assert small is not None
    assert coarse is not None
    assert judge(good, 200_000) == ""
    assert judge(good, None) == ""
    assert judge(small, 100_000) == "too-small"
    strict = header_judge(
        dataclasses.replace(load_recipe("everything", patch_size_px=64), gates=("jpeg_quality", "flat_area")), 64
    )
    assert strict(coarse, 10_000) == "low-quality"


# config and ledger


def test_fetch_config_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "fetch.toml"
    path.write_text('robots = false\nallow_private = ["127.0.0.1:80"]\ncontact = "a@b.c"\n')
    cfg = load_fetch_config(path, contact="me@x.org", allow_private=("10.0.0.1:8080",))
    assert (cfg.robots, cfg.contact, cfg.allow_private) == (False, "me@x.org", ("127.0.0.1:80", "10.0.0.1:8080"))
    assert content(cfg)["robots"] is False
    assert content(cfg) == content(dataclasses.replace(cfg, max_per_host=1, contact=""))
    path.write_text("robot = false\n")
    with pytest.raises(ConfigError, match="did you mean 'robots'"):
        load_fetch_config(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_bytes": 0}, {"deadline_s": 0}, {"deadline_s": float("nan")}, {"probe_bytes": -1}, {"contact": "ü"},
        {"contact": "a\nb"},
        {"allow_private": ("host",)}, {"allow_private": ("host:0",)}, {"allow_private": (":80",)},
    ],
)  # fmt: skip
def test_fetch_config_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FetchConfig(**wrong)  # type: ignore[arg-type]


def test_ledger_remembers_and_reopens(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        assert [ledger.claim(key, row) for row, key in enumerate((b"a", b"b", b"a"))] == [0, 1, 0]
        ledger.put(Outcome(row=0, url="u0", kind="ok", sha256="s", num_bytes=7, suffix=".jpg", etag='"e"'))
        ledger.put(Outcome(row=1, url="u1", kind="timeout", attempts=4))
        ledger.put(Outcome(row=2, url="u2", kind="duplicate", detail="of row 0"))
        ledger.put(Outcome(row=3, url="u3"))
    with Ledger(tmp_path) as ledger:
        assert ledger.num_rows() == 4
        assert ledger.classes() == {"ok": 1, "duplicate": 1, "timeout": 1}
        assert ledger.num_bytes() == 7
        assert ledger.reopen(("timeout", "dns")) == [1]
        assert [outcome.kind for outcome in ledger.rows(0, 4)] == ["ok", "", "duplicate", ""]
        assert ledger.rows_at([3, 0, 9])[0] == Outcome(
            row=0, url="u0", kind="ok", sha256="s", num_bytes=7, suffix=".jpg", etag='"e"'
        )
        ledger.reclassify([(0, "decode", "damaged"), (2, "decode", "not ok before")])
        assert ledger.classes() == {"decode": 1, "duplicate": 1}
        ledger.add_retries([(5, [1]), (6, [2, 3])])
        assert ledger.retries() == [(5, [1]), (6, [2, 3])]


def test_ledger_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        with pytest.raises(RuntimeError), ledger.transaction():
            ledger.put(Outcome(row=0, url="u"))
            raise RuntimeError
        assert ledger.num_rows() == 0


def test_the_settings_in_the_documentation_are_the_defaults(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "download.md").read_text()
    path = tmp_path / "fetch.toml"
    path.write_text(page.partition("```toml\n")[2].partition("```")[0])
    assert load_fetch_config(path) == FetchConfig()
    assert set(tomllib.loads(path.read_text())) == {field.name for field in dataclasses.fields(FetchConfig)}
    assert all(f"`{name}`" in page for name in CLASSES)
