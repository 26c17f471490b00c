"""From a list of URLs to a corpus: the same patches as from a folder, with every row accounted for; and failed rows again."""

import dataclasses
import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import loopback
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answers import answer, dispatch, in_turn, jpeg, picture

import curate.retry
from curate.build import BuildShardsConfig, BuildShardsResult, build_shards
from curate.core.errors import ConfigError
from curate.dataset import open_dataset
from curate.download import DownloadConfig, download
from curate.fetch.config import FetchConfig
from curate.recipes import load_recipe
from curate.retry import RetryConfig, retry
from curate.verify import verify_corpus

NUM = 9
CURATE = str(Path(sys.executable).parent / "curate")
LICENCE = ("Link", '<https://example.org/by>; rel="license"')


@pytest.fixture
def web() -> Iterator[loopback.Web]:
    """Pictures 0..8; 3 is missing, 5 comes only when asked a second time, 6 is damaged."""
    routes = {f"/{number}.jpg": picture(number, LICENCE) for number in range(NUM)}
    routes |= {"/3.jpg": answer(404), "/5.jpg": in_turn(answer(410), picture(5)), "/robots.txt": answer(404)}
    routes |= {"/6.jpg": answer(200, jpeg(6)[:-700])}
    with loopback.Web({"host": dispatch(routes)}) as served:
        yield served
        assert served.errors == []


@pytest.fixture
def listed(web: loopback.Web, tmp_path: Path) -> Path:
    """A CSV with a caption and a licence of its own; its last row names the first picture again."""
    origin = web.sites["host"].origin
    lines = ["caption,url,license"]
    lines += [f'"picture {n}, a view",{origin}/{n}.jpg,{"CC0" if n == 1 else ""}' for n in (*range(NUM), 0)]
    path = tmp_path / "list.csv"
    path.write_text("\n".join([*lines, "nothing,,", "a file,file:///etc/passwd,"]) + "\n")
    return path


def fetching(web: loopback.Web) -> FetchConfig:
    return FetchConfig(allow_private=tuple(site.place for site in web.sites.values()), backoff_s=0.01, deadline_s=5)


def build(web: loopback.Web, source: Path, out: Path, **more: object) -> BuildShardsResult:
    recipe = load_recipe("everything", patch_size_px=64)
    fixed = {"recipe": recipe, "patch_size_px": 64, "images_per_shard": 4, "workers": 1, "fetch": fetching(web)}
    return build_shards(BuildShardsConfig(source=source, out=out, **(fixed | more)))  # type: ignore[arg-type]


def images(out: Path) -> list[dict]:
    return pa.concat_tables([pq.read_table(part) for part in sorted(out.glob("images/*.parquet"))]).to_pylist()


def digests(out: Path, *patterns: str) -> dict[str, str]:
    patterns = patterns or ("shards/*", "metadata/*", "rejected/*", "images/*", "manifest.json", "index.json")
    found = (path for pattern in patterns for path in sorted(out.glob(pattern)))
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_every_row_is_accounted_for(web: loopback.Web, listed: Path, tmp_path: Path) -> None:
    result = build(web, listed, tmp_path / "out")
    assert result.counts == {"kept": 6, "rejected": 3, "failed": 3}
    rows = images(tmp_path / "out")
    origin = web.sites["host"].origin
    assert [(row["status"], row["reason"]) for row in rows[3:]] == [
        ("failed", "http-4xx"), ("kept", ""), ("failed", "http-4xx"), ("failed", "truncated"), ("kept", ""), ("kept", ""),
        ("rejected", "duplicate"), ("rejected", "policy"), ("rejected", "policy"),
    ]  # fmt: skip
    assert rows[0]["source"] == rows[0]["url"] == f"{origin}/0.jpg"
    assert len({row["source"] for row in rows}) == len(rows)
    assert [row["list_caption"] for row in rows[:2]] == ["picture 0, a view", "picture 1, a view"]
    assert [row["licence"] for row in rows[:2]] == ["https://example.org/by", "CC0"]
    assert json.loads(rows[0]["provenance"])["final_url"] == f"{origin}/0.jpg"
    assert rows[3]["num_bytes"] is None
    assert rows[0]["num_bytes"] == len(jpeg(0))
    assert verify_corpus(tmp_path / "out").differences == ()
    assert not (tmp_path / "out" / "ledger" / "bodies").exists()


def test_a_list_gives_the_patches_of_the_same_files_in_a_folder(
    web: loopback.Web, listed: Path, tmp_path: Path
) -> None:
    build(web, listed, tmp_path / "out")
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in (0, 1, 2, 4, 7, 8):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    build(web, folder, tmp_path / "same")
    columns = ["key", "patch_sha256"]
    tables = [
        pa.concat_tables([pq.read_table(part, columns=columns) for part in sorted((tmp_path / out).glob("metadata/*"))])
        for out in ("out", "same")
    ]
    assert tables[0].to_pylist() == tables[1].to_pylist()


def test_two_workers_and_a_second_run_give_the_same_bytes(web: loopback.Web, listed: Path, tmp_path: Path) -> None:
    build(web, listed, tmp_path / "one")
    num_asked = len(web.asked("host"))
    before = digests(tmp_path / "one")
    assert build(web, listed, tmp_path / "one").resumed
    assert digests(tmp_path / "one") == before
    assert len(web.asked("host")) == num_asked
    build(web, listed, tmp_path / "first")  # now picture 5 is there
    build(web, listed, tmp_path / "second", workers=2)
    assert digests(tmp_path / "first") == digests(tmp_path / "second")


def test_retry_adds_shards_and_changes_none(web: loopback.Web, listed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(web, listed, out)
    before = digests(out, "shards/*", "metadata/*", "rejected/*")
    num_asked = len(web.asked("host"))
    result = retry(RetryConfig(out=out, kinds=("http-4xx",), workers=1))
    assert isinstance(result, BuildShardsResult)
    assert result.counts == {"kept": 7, "rejected": 3, "failed": 2}
    assert sorted(r.path for r in web.asked("host")[num_asked:]) == ["/3.jpg", "/5.jpg"]
    after = digests(out, "shards/*", "metadata/*", "rejected/*")
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3
    assert [row["status"] for row in images(out)[3:6]] == ["failed", "kept", "kept"]
    assert verify_corpus(out).differences == ()
    finished = digests(out)
    build(web, listed, out)
    assert digests(out) == finished


def test_a_retry_that_is_killed_goes_on(
    web: loopback.Web, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build(web, listed, out)

    def killed(cfg: BuildShardsConfig) -> BuildShardsResult:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(curate.retry, "build_shards", killed)
        with pytest.raises(KeyboardInterrupt):
            retry(RetryConfig(out=out, kinds=("http-4xx",), workers=1))
    assert not (out / "_SUCCESS").exists()
    retry(RetryConfig(out=out, kinds=("http-4xx",), workers=1))
    assert images(out)[5]["status"] == "kept"
    assert verify_corpus(out).differences == ()


def test_retry_of_a_download_asks_for_those_rows_only(web: loopback.Web, listed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert download(DownloadConfig(list=listed, out=out, fetch=fetching(web), workers=1)).classes == {
        "ok": 6, "http-4xx": 2, "policy": 2, "decode": 1, "duplicate": 1,
    }  # fmt: skip
    num_asked = len(web.asked("host"))
    result = retry(RetryConfig(out=out, kinds=("http-4xx", "dns"), workers=1))
    assert result.classes == {"ok": 7, "policy": 2, "decode": 1, "duplicate": 1, "http-4xx": 1}  # type: ignore[union-attr]
    assert sorted(r.path for r in web.asked("host")[num_asked:]) == ["/3.jpg", "/5.jpg"]
    rows = pq.read_table(out / "urls" / "part-000000.parquet").to_pylist()
    assert (out / rows[5]["file"]).read_bytes() == jpeg(5)
    assert sorted(p.name for p in out.rglob("*.jpg")) == [Path(r["file"]).name for r in rows if r["file"]]


def test_a_downloads_folder_keeps_where_its_pictures_came_from(web: loopback.Web, listed: Path, tmp_path: Path) -> None:
    download(DownloadConfig(list=listed, out=tmp_path / "pictures", fetch=fetching(web), workers=1))
    build(web, tmp_path / "pictures", tmp_path / "out")
    rows = images(tmp_path / "out")
    origin = web.sites["host"].origin
    assert [row["url"] for row in rows] == [f"{origin}/{n}.jpg" for n in (0, 1, 2, 4, 7, 8)]
    assert rows[1]["licence"] == "CC0"
    assert json.loads(rows[0]["provenance"])["status"] == 200


def test_another_list_or_config_on_a_used_out_is_refused(web: loopback.Web, listed: Path, tmp_path: Path) -> None:
    build(web, listed, tmp_path / "out")
    download(DownloadConfig(list=listed, out=tmp_path / "pictures", fetch=fetching(web), workers=1))
    polite = FetchConfig(allow_private=fetching(web).allow_private, robots=False)
    with pytest.raises(ConfigError, match="another config"):
        build(web, listed, tmp_path / "out", fetch=polite)
    with pytest.raises(ConfigError, match="another config"):
        download(DownloadConfig(list=listed, out=tmp_path / "pictures", fetch=polite, workers=1))
    listed.write_text(listed.read_text() + "more,http://example.org/,\n")
    with pytest.raises(ConfigError, match="other inputs"):
        build(web, listed, tmp_path / "out")
    with pytest.raises(ConfigError, match="another list"):
        retry(RetryConfig(out=tmp_path / "pictures", kinds=("dns",), workers=1))


def test_a_list_without_one_picture_says_why(web: loopback.Web, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{web.sites['host'].origin}/3.jpg\nftp://example.org/x.jpg\n")
    with pytest.raises(ConfigError, match=r"none of the 2 URLs .* gave a picture \(http-4xx 1, policy 1\)"):
        build(web, path, tmp_path / "out")


@pytest.mark.parametrize("kinds", [(), ("nope",), ("skipped",)])
def test_retry_names_the_classes_there_are(kinds: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        RetryConfig(out=tmp_path, kinds=kinds)


def test_retry_wants_the_out_of_a_list(photo_folder: Path, tmp_path: Path) -> None:
    build_shards(
        BuildShardsConfig(
            source=photo_folder, out=tmp_path / "out", recipe=load_recipe("everything", patch_size_px=64),
            patch_size_px=64, workers=1,
        )
    )  # fmt: skip
    with pytest.raises(ConfigError, match="not made from a list"):
        retry(RetryConfig(out=tmp_path / "out", kinds=("dns",)))


def test_pairs_need_folders(listed: Path, web: loopback.Web, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--paired"):
        build(web, listed, tmp_path / "out", paired=tmp_path)


@pytest.mark.parametrize("limit", [2_000, 60_000])
def test_a_full_disk_is_not_a_servers_fault(web: loopback.Web, listed: Path, tmp_path: Path, limit: int) -> None:
    """A limit on the size of files stands in for the full disk: pictures hit one, the ledger the other."""
    out, settings = tmp_path / "out", tmp_path / "fetch.toml"
    settings.write_text(f"allow_private = {[site.place for site in web.sites.values()]}\n")
    command = [CURATE, "download", str(listed), str(out), "--fetch", str(settings), "--workers", "1"]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    ended = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_files, timeout=60)
    assert ended.returncode == 2, ended.stderr
    assert [line for line in ended.stderr.splitlines() if "cannot" in line] == ended.stderr.splitlines()[-1:]
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0
    assert "1  decode" in again.stdout
    assert "protocol" not in again.stdout


@pytest.mark.parametrize(
    "settings",
    [
        {"max_waiting_bytes": 0},
        {"rows_ahead": 1},
        {"max_in_flight": 1},
        {"max_per_host": 1},
        {"probe_bytes": 0},
        {"robots": False},
    ],
    ids=str,
)
def test_every_setting_reaches_the_end(web: loopback.Web, listed: Path, tmp_path: Path, settings: dict) -> None:
    fetch = dataclasses.replace(fetching(web), **settings)
    listed.write_text(listed.read_text() + "".join(f"none,ftp://example.org/{n}.jpg,\n" for n in range(200)))
    assert build(web, listed, tmp_path / "out", fetch=fetch).counts["kept"] == 6
    assert [r.path for r in web.log].count("/robots.txt") == settings.get("robots", True)
    assert any("range" in r.headers for r in web.log) == (settings.get("probe_bytes") != 0)
    assert open_dataset(tmp_path / "out").manifest["config"]["fetch"]["robots"] == settings.get("robots", True)


def test_a_killed_retry_and_then_one_of_another_class(
    web: loopback.Web, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The groups of the two overlap in the list: rows 3 and 5 of the first, 6 and later of the second, and row 3 again."""
    out = tmp_path / "out"
    with listed.open("a") as file:
        file.writelines(f"late,{web.sites['host'].origin}/late{n}.jpg,\n" for n in range(2))
    build(web, listed, out)
    assert [row["reason"] for row in images(out)[-2:]] == ["http-4xx"] * 2

    def killed(cfg: BuildShardsConfig) -> BuildShardsResult:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(curate.retry, "build_shards", killed)
        retry(RetryConfig(out=out, kinds=("http-4xx",), workers=1))
    num_asked = len(web.asked("host"))
    retry(RetryConfig(out=out, kinds=("decode",), workers=1))
    asked = sorted(r.path for r in web.asked("host")[num_asked:])
    assert asked == ["/3.jpg", "/5.jpg", "/6.jpg", "/late0.jpg", "/late1.jpg"]
    rows = images(out)
    assert [row["reason"] for row in rows[3:7]] == ["http-4xx", "", "", "truncated"]
    assert [row["reason"] for row in rows[-2:]] == ["http-4xx"] * 2
    assert verify_corpus(out).differences == ()
