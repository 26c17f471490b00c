"""Odd answers and odd orders of commands: nothing stops a run, nothing forgotten comes back, no bytes of two pictures meet."""

from collections.abc import Callable
from pathlib import Path

import loopback
import pyarrow.parquet as pq
import pytest
from answers import answer, dispatch, jpeg, noise, picture, redirect

import curate.build
from curate.build import BuildShardsConfig, BuildShardsResult, build_shards
from curate.core.errors import ConfigError
from curate.download import DownloadConfig, download
from curate.fetch.config import FetchConfig
from curate.fetch.forgotten import record, requests
from curate.forget import ForgetConfig, forget
from curate.recipes import load_recipe
from curate.retry import RetryConfig, retry
from curate.verify import verify_corpus

NO_ROBOTS = {"/robots.txt": answer(404)}


def served(**sites: dict[str, loopback.Handler]) -> loopback.Web:
    return loopback.Web({name: dispatch(NO_ROBOTS | routes) for name, routes in sites.items()})


def config(web: loopback.Web, folder: Path, *urls: str, **more: object) -> DownloadConfig:
    path = folder / "list.txt"
    path.write_text("".join(f"{url}\n" for url in urls))
    places = tuple(site.place for site in web.sites.values())
    fixed = {"allow_private": places, "backoff_s": 0.01, "deadline_s": 5}
    fetch = FetchConfig(**(fixed | more))  # type: ignore[arg-type]
    return DownloadConfig(list=path, out=folder / "out", fetch=fetch, workers=1)


def build(cfg: DownloadConfig, out: Path) -> BuildShardsResult:
    recipe = load_recipe("everything", patch_size_px=64)
    return build_shards(
        BuildShardsConfig(source=cfg.list, out=out, recipe=recipe, patch_size_px=64, workers=1, fetch=cfg.fetch)
    )


def rows(out: Path) -> list[dict]:
    return pq.read_table(out / "urls" / "part-000000.parquet").to_pylist()


def pieces(*answers: Callable[[int, bytes], tuple[int, bytes, str]]) -> loopback.Handler:
    """Answer each request in turn by `(first byte asked for, whole body) -> (status, body, Content-Range)`."""
    body, asked = jpeg(1) + noise(300_000), iter(answers)

    async def handler(x: loopback.Exchange) -> None:
        status, part, span = next(asked)(x.request.start or 0, body)
        await x.reply(status, part, ("ETag", '"v"'), *((("Content-Range", span),) if span else ()))

    return handler


@pytest.mark.parametrize(
    "header",
    [
        ("ETag", '"\udce9"'),
        ("Content-Type", "image/jp\udce9g"),
        ("Last-Modified", "\udcff"),
        ("X-Robots-Tag", "\udce9: noai"),
    ],
)
def test_headers_that_are_no_text(tmp_path: Path, header: tuple[str, str]) -> None:
    name, value = header
    raw = f"HTTP/1.1 200 OK\r\nContent-Length: {len(jpeg(1))}\r\n{name}: {value}\r\n\r\n".encode(
        "utf-8", "surrogateescape"
    )

    async def odd(x: loopback.Exchange) -> None:
        await x.send(raw + jpeg(1), last=True)

    with served(host={"/odd.jpg": odd, "/good.jpg": picture(2)}) as web:
        origin = web.sites["host"].origin
        assert download(config(web, tmp_path, f"{origin}/odd.jpg", f"{origin}/good.jpg")).classes == {"ok": 2}


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([lambda a, b: (206, b[:65536], "bytes 0-65535/" + "9" * 5000)], "protocol"),
        ([lambda a, b: (206, b[:65536] + b"more", f"bytes 0-65535/{len(b)}")], "protocol"),
        ([lambda a, b: (206, b[a : a + 60000], f"bytes {a}-{a + 65535}/{len(b)}")] * 4, "truncated"),
        ([lambda a, b: (206, b[a : a + 65536], f"bytes {a}-{a + 65535}/{len(b)}")] * 2
         + [lambda a, b: (206, b[a:], f"bytes {a}-{len(b) - 1}/{len(b)}")], "ok"),
        ([lambda a, b: (206, b[:65536], "bytes 0-65535/*"), lambda a, b: (200, b, "")], "ok"),
    ],
    ids=["endless number", "more than announced", "less than announced", "in pieces", "of unknown size"],
)  # fmt: skip
def test_a_206_is_counted(tmp_path: Path, answers: list, kind: str) -> None:
    with served(host={"/a.jpg": pieces(*answers)}) as web:
        cfg = config(web, tmp_path, f"{web.sites['host'].origin}/a.jpg")
        result = download(cfg)
        (row,) = rows(cfg.out)
        # the body is a whole JPEG and noise behind it: decoding accepts it, so only counting can tell
        assert row["class"] == kind, row
        assert sum(result.classes.values()) == 1
        if kind == "ok":
            assert (cfg.out / row["file"]).read_bytes() == jpeg(1) + noise(300_000)


def test_the_status_of_an_answer_that_is_no_picture_is_kept(tmp_path: Path) -> None:
    with served(host={"/a.jpg": answer(200, b"<html>")}) as web:
        cfg = config(web, tmp_path, f"{web.sites['host'].origin}/a.jpg")
        download(cfg)
        assert [(row["class"], row["status"]) for row in rows(cfg.out)] == [("not-image", 200)]


def test_a_forgotten_host_is_not_asked_after_a_redirect(tmp_path: Path) -> None:
    with served(first={}, other={"/a.jpg": picture(1)}) as web:
        first, other = (web.sites[name].origin for name in ("first", "other"))
        web.sites["first"].handler = dispatch(NO_ROBOTS | {"/go.jpg": redirect(f"{other}/a.jpg"), "/b.jpg": picture(2)})
        cfg = config(web, tmp_path, f"{first}/go.jpg", f"{first}/b.jpg")
        (cfg.out / "ledger").mkdir(parents=True)
        (cfg.out / "ledger" / "lock").touch()
        record(cfg.out, requests(hosts=(web.sites["other"].address,)))
        assert download(cfg).classes == {"ok": 1, "opt-out": 1}
        assert [r for r in web.log if r.site == "other"] == []


def test_one_out_holds_one_job(tmp_path: Path) -> None:
    with served(host={"/a.jpg": picture(1)}) as web:
        cfg = config(web, tmp_path, f"{web.sites['host'].origin}/a.jpg")
        download(cfg)
        build(cfg, tmp_path / "corpus")
        with pytest.raises(ConfigError, match="is a download"):
            build(cfg, cfg.out)
        with pytest.raises(ConfigError, match="is a corpus"):
            download(DownloadConfig(list=cfg.list, out=tmp_path / "corpus", fetch=cfg.fetch, workers=1))
        assert verify_corpus(tmp_path / "corpus").differences == ()


def test_a_first_run_without_allow_private_can_be_mended(tmp_path: Path) -> None:
    with served(host={"/a.jpg": picture(1), "/b.jpg": picture(2)}) as web:
        site = web.sites["host"]
        cfg = config(web, tmp_path, f"{site.origin}/a.jpg", f"{site.origin}/b.jpg", allow_private=())
        with pytest.raises(ConfigError, match=r"curate retry .* --class policy"):
            build(cfg, tmp_path / "corpus")
        result = retry(RetryConfig(out=tmp_path / "corpus", kinds=("policy",), allow_private=(site.place,), workers=1))
        assert isinstance(result, BuildShardsResult)
        assert (result.counts["kept"], result.num_retried, result.num_came) == (2, 2, 2)
        assert download(cfg).classes == {"policy": 2}
        again = retry(RetryConfig(out=cfg.out, kinds=("policy",), allow_private=(site.place,), workers=1))
        assert (again.num_retried, again.num_came) == (2, 2)


def test_a_retry_of_an_unfinished_corpus_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(host={"/a.jpg": picture(1)}) as web:
        cfg = config(web, tmp_path, f"{web.sites['host'].origin}/a.jpg")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("curate.intake.FETCHED_ALL", "ledger/never")
            patch.setattr(curate.build, "make_plan", interrupted)
            build(cfg, tmp_path / "corpus")
        with pytest.raises(ConfigError, match="not finished"):
            retry(RetryConfig(out=tmp_path / "corpus", kinds=("dns",), workers=1))


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_what_is_forgotten_while_a_corpus_is_made_does_not_enter_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(good={"/a.jpg": picture(1)}, bad={"/b.jpg": picture(2)}) as web:
        cfg = config(web, tmp_path, f"{web.sites['good'].origin}/a.jpg", f"{web.sites['bad'].origin}/b.jpg")
        out = tmp_path / "corpus"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(curate.build, "make_plan", interrupted)
            build(cfg, out)
        with pytest.raises(ConfigError, match="on record"):
            forget(ForgetConfig(out=out, hosts=(web.sites["bad"].address,)))
        assert build(cfg, out).counts == {"kept": 1, "rejected": 1, "failed": 0}
        sources = pq.read_table(out / "metadata" / "patches-000000.parquet")["source"].to_pylist()
        assert set(sources) == {f"{web.sites['good'].origin}/a.jpg"}
        assert verify_corpus(out).differences == ()
