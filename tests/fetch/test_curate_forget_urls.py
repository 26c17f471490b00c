"""Forgetting in a corpus made from a list of URLs: by host, by what a redirect led to, and never fetched again."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from answers import answer, dispatch, in_turn, jpeg, picture, redirect
from loopback import Web

from curate import BuildShardsConfig, build_shards, forget_download, open_dataset, verify_corpus
from curate.core.errors import ConfigError
from curate.download import DownloadConfig, download
from curate.fetch.config import FetchConfig
from curate.forget import ForgetConfig, forget
from curate.recipes import load_recipe
from curate.retry import RetryConfig, retry

RECIPE = load_recipe("everything", patch_size_px=64)


def rows(out: Path) -> dict[str, dict]:
    return {
        row["source"]: row for part in sorted((out / "images").iterdir()) for row in pq.read_table(part).to_pylist()
    }


def digests(out: Path) -> dict[str, str]:
    names = ("shards/*", "metadata/*", "rejected/*", "images/*", "manifest.json", "index.json", "_SUCCESS")
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for n in names for p in sorted(out.glob(n))
    }


@pytest.fixture
def web():
    def served(first: int):
        return {
            f"/{number}.jpg": answer(200, jpeg(first + number), ("Content-Type", "image/jpeg")) for number in range(3)
        }

    late = in_turn(answer(404), answer(200, jpeg(50), ("Content-Type", "image/jpeg")))
    to_a = redirect(lambda: f"{sites.sites['a'].origin}/2.jpg")
    handlers = {"a": served(0) | {"/late.jpg": late}, "b": served(10) | {"/to-a.jpg": to_a, "/late.jpg": late}}
    sites = Web({name: dispatch(routes) for name, routes in handlers.items()})
    with sites:
        yield sites
    assert sites.errors == []


@pytest.fixture
def settings(web, tmp_path) -> BuildShardsConfig:
    a, b = (web.sites[name].origin for name in "ab")
    urls = [
        f"{a}/0.jpg",
        f"{b}/0.jpg",
        f"{a}/1.jpg",
        f"{b}/1.jpg",
        f"{b}/2.jpg",
        f"{b}/to-a.jpg",
        f"{a}/late.jpg",
        f"{a}/0.jpg",
    ]
    (tmp_path / "list.csv").write_text("url,caption\n" + "".join(f"{url},{n}\n" for n, url in enumerate(urls)))
    return BuildShardsConfig(
        source=tmp_path / "list.csv", out=tmp_path / "c", recipe=RECIPE, patch_size_px=64, workers=1, images_per_shard=1,
        fetch=FetchConfig(allow_private=tuple(web.places.values()), backoff_s=0.01),
    )  # fmt: skip


def test_a_host(web, settings):
    out = settings.out
    build_shards(settings)
    before, known = digests(out), rows(out)
    result = forget(ForgetConfig(out=out, hosts=(web.sites["a"].address,)))
    assert not verify_corpus(out).differences
    gone = {url for url, row in rows(out).items() if row["reason"] == "forgotten"}
    a, b = (web.sites[name].origin for name in "ab")
    assert gone == {f"{a}/0.jpg", f"{a}/1.jpg", f"{b}/to-a.jpg"} and result.num_pictures == 3 == result.num_shards
    assert {row["source"] for row in open_dataset(out).rows().to_pylist()} == {
        f"{b}/{number}.jpg" for number in range(3)
    }
    for url, row in rows(out).items():
        for name in ("url", "list_caption", "provenance", "image_sha256"):
            assert row[name] == known[url][name]
    after = digests(out)
    assert {name for name in before if name.startswith("shards") and before[name] == after.get(name)} == {
        f"shards/patches-00000{number}.tar" for number in (1, 3, 4)
    }
    num_requests = len(web.log)
    build_shards(settings)
    assert digests(out) == after and len(web.log) == num_requests
    (out / "_SUCCESS").unlink()  # the end of a build, done again from its ledger
    build_shards(settings)
    assert digests(out) == after and len(web.log) == num_requests


def test_retry_does_not_fetch_what_is_forgotten(web, settings):
    out = settings.out
    build_shards(settings)
    a = web.sites["a"].origin
    assert rows(out)[f"{a}/late.jpg"]["reason"] == "http-4xx"
    forget(ForgetConfig(out=out, hosts=(web.sites["a"].address,)))
    before, num_requests = digests(out), len(web.asked("a"))
    retry(RetryConfig(out=out, kinds=("http-4xx",), workers=1))
    assert len(web.asked("a")) == num_requests and not verify_corpus(out).differences
    assert rows(out)[f"{a}/late.jpg"]["reason"] == "opt-out"
    assert {n: d for n, d in digests(out).items() if n.startswith("shards")} == {
        n: d for n, d in before.items() if n.startswith("shards")
    }
    assert sum(row["reason"] == "forgotten" for row in rows(out).values()) == 3


@pytest.mark.parametrize("killed_at", ["", "files", "tables"])
def test_forget_in_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: str) -> None:
    routes = {f"/{number}.jpg": picture(number) for number in range(4)} | {"/robots.txt": answer(404)}
    with Web({"good": dispatch(routes), "bad": dispatch(routes)}) as web:
        places = tuple(site.place for site in web.sites.values())
        (tmp_path / "list.txt").write_text(
            "".join(f"{web.sites[name].origin}/{number}.jpg\n" for number in range(4) for name in ("good", "bad"))
        )
        config = DownloadConfig(
            list=tmp_path / "list.txt", out=tmp_path / "out", fetch=FetchConfig(allow_private=places), workers=1
        )
        download(config)
        wanted = ForgetConfig(out=config.out, hosts=(web.sites["bad"].address,))
        if killed_at:
            name = "_matching" if killed_at == "files" else "_forget_in_tables"
            kept = getattr(forget_download, name)

            def kill(*values: object) -> object:
                if killed_at == "files":
                    next(iter(kept(*values)))
                raise KeyboardInterrupt

            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(forget_download, name, kill)
                forget(wanted)
            with pytest.raises(ConfigError, match="interrupted"):
                download(config)
        result = forget(wanted)
        assert result.num_pictures == 4
        rows = pq.read_table(config.out / "urls" / "part-000000.parquet").to_pylist()
        assert [row["class"] for row in rows] == ["ok", "opt-out"] * 4
        assert sorted(str(p.relative_to(config.out)) for p in config.out.rglob("*.jpg")) == [
            r["file"] for r in rows[::2]
        ]
        num_asked = len(web.log)
        assert download(config).classes == {"ok": 4, "opt-out": 4}
        retry(RetryConfig(out=config.out, kinds=("opt-out",), workers=1))
        assert [r.path for r in web.log[num_asked:] if r.site == "bad"] == []
        assert pq.read_table(config.out / "urls" / "part-000000.parquet")["class"].to_pylist() == ["ok", "opt-out"] * 4
