"""Kills, interrupts and slow tails while downloading: nothing fetched is fetched again, and the corpus is the same."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import loopback
import psutil
import pyarrow.parquet as pq
import pytest
from answers import answer, dispatch, drip, jpeg, later, picture

from curate.download import DownloadConfig, download
from curate.fetch.config import FetchConfig

NUM_URLS, NUM_HOSTS, IN_FLIGHT = 400, 6, 8
CURATE = str(Path(sys.executable).parent / "curate")


async def slow_pictures(x: loopback.Exchange) -> None:
    """A picture for every path, after 20 to 100 ms; both follow from the path."""
    number = zlib.crc32(x.path.encode())
    handler = answer(404) if x.path == "/robots.txt" else later(0.02 + number % 81 / 1000, picture(number))
    await handler(x)


@pytest.fixture(scope="module")
def web() -> Iterator[loopback.Web]:
    with loopback.Web({f"host{number}": slow_pictures for number in range(NUM_HOSTS)}) as served:
        yield served
        assert served.errors == []


@pytest.fixture(scope="module")
def listed(web, tmp_path_factory) -> list[str]:
    """Arguments that name the list and how to fetch it."""
    folder = tmp_path_factory.mktemp("list")
    origins = [site.origin for site in web.sites.values()]
    urls = [f"{origins[number % NUM_HOSTS]}/{number:03d}.jpg" for number in range(NUM_URLS)]
    (folder / "list.txt").write_text("\n".join(urls) + "\n")
    allowed = [site.place for site in web.sites.values()]
    (folder / "fetch.toml").write_text(f"allow_private = {allowed}\nmax_in_flight = {IN_FLIGHT}\n")
    return [str(folder / "list.txt"), "--fetch", str(folder / "fetch.toml")]


def build(listed: list[str], out: Path) -> list[str]:
    source, *options = listed
    more = ["--workers", "2", "--patch-size", "64", "--recipe", "everything"]
    return [CURATE, "build-shards", source, str(out), *options, *more]


def digests(out: Path) -> dict[str, str]:
    names = ("shards/*", "metadata/*", "rejected/*", "images/*", "manifest.json", "index.json", "_SUCCESS")
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for n in names for p in sorted(out.glob(n))
    }


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and not condition():
        time.sleep(0.005)


def wait_for_the_end_of_all(out: Path) -> None:
    """Workers notice that their parent is gone."""
    end = time.monotonic() + 5
    while left := [p for p in psutil.process_iter(["cmdline"]) if str(out) in (p.info["cmdline"] or [])]:
        assert time.monotonic() < end, f"outlived its parent: {left}"
        time.sleep(0.05)


def served_and_asked_again(web: loopback.Web, lives: list[tuple[int, int]]) -> list[int]:
    """Count, for each life but the last, the paths it was served whole and that a later life asked for again.

    Args:
        web: the server.
        lives: first and last + 1 index into the server's log.
    """
    again = []
    for begin, end in lives[:-1]:
        whole = {(r.site, r.path) for r in web.log[begin:end] if r.done and r.path != "/robots.txt"}
        asked = {(r.site, r.path) for r in web.log[end : lives[-1][1]]}
        again.append(len(whole & asked))
    return again


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_five_times_equals_uninterrupted(web, listed, tmp_path):
    whole, out = tmp_path / "whole" / "c", tmp_path / "killed" / "c"
    subprocess.run(build(listed, whole), check=True, capture_output=True)
    assert len(web.asked("host0")) >= NUM_URLS // NUM_HOSTS
    origin = len(web.log)

    def num_served() -> int:
        return len({(r.site, r.path) for r in web.log[origin:] if r.done and r.path != "/robots.txt"})

    rng = random.Random(0)
    lives = []
    for number in (40, 110, 190, 270, 350):
        begin = len(web.log)
        process = subprocess.Popen(build(listed, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda wanted=number: num_served() >= wanted, process)
        time.sleep(rng.uniform(0, 0.05))
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for_the_end_of_all(out)
        lives.append((begin, len(web.log)))
    begin = len(web.log)
    subprocess.run(build(listed, out), check=True, capture_output=True)
    lives.append((begin, len(web.log)))
    assert num_served() == NUM_URLS
    again = served_and_asked_again(web, lives)
    assert all(num <= IN_FLIGHT for num in again), again
    assert digests(out) == digests(whole)
    assert len(digests(out)) > 4
    assert [str(p) for p in out.rglob("*") if "tmp" in p.name] == []


@pytest.mark.slow
def test_an_interrupt_exits_130_and_loses_nothing(web, listed, tmp_path):
    out = tmp_path / "out"
    source, *options = listed
    command = [CURATE, "download", source, str(out), *options, "--workers", "1"]
    begin = len(web.log)
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True)
        wait_until(lambda: len(web.log) - begin > 120, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        assert process.wait(timeout=20) == 130
    words = (tmp_path / "stderr").read_text()
    assert "Traceback" not in words
    assert words.splitlines()[-1] == "interrupted; the same command resumes"
    wait_for_the_end_of_all(out)
    middle = len(web.log)
    subprocess.run(command, check=True, capture_output=True)
    (num_again,) = served_and_asked_again(web, [(begin, middle), (middle, len(web.log))])
    assert num_again <= IN_FLIGHT
    rows = pq.read_table(out / "urls").to_pylist()
    assert [row["class"] for row in rows] == ["ok"] * NUM_URLS
    data = [(out / row["file"]).read_bytes() for row in rows]
    assert [hashlib.sha256(one).hexdigest() for one in data] == [row["sha256"] for row in rows]


@pytest.mark.parametrize("hosts", ["same host", "other hosts"])
def test_a_slow_tail_blocks_nobody(tmp_path, hosts):
    """The slow ones come first, each from a host of its own; or last, from the host of all the others."""
    start = b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n\xff\xd8"
    drips = {f"/drip{number}.jpg": drip(start) for number in range(3)}
    quick = {f"/quick{number}.jpg": picture(number) for number in range(60)}
    split = {path: {path: handler} for path, handler in drips.items()} | {"quick": quick}
    if hosts == "same host":
        split = {"all": quick | drips}
    with loopback.Web({name: dispatch(routes) for name, routes in split.items()}) as web:
        urls = [web.sites[name].origin + path for name, routes in split.items() for path in routes]
        (tmp_path / "list.txt").write_text("\n".join(urls) + "\n")
        places = tuple(site.place for site in web.sites.values())
        fetch = FetchConfig(allow_private=places, deadline_s=3.0, max_rate_per_host_hz=1000.0, backoff_s=0.1)
        begin = time.monotonic()
        config = DownloadConfig(list=str(tmp_path / "list.txt"), out=tmp_path / "out", fetch=fetch, workers=1)
        result = download(config)
        seconds = time.monotonic() - begin
        last = max(r.at for r in web.log if "quick" in r.path)
    assert dict(result.classes) == {"ok": len(quick), "timeout": len(drips)}
    assert last - begin < 2
    assert seconds < 3.0 + 2
    found = {row["url"]: row["sha256"] for row in pq.read_table(tmp_path / "out" / "urls").to_pylist()}
    wanted = {f"/quick{number}.jpg": hashlib.sha256(jpeg(number)).hexdigest() for number in range(len(quick))}
    assert {url: found[url] for url in urls if "quick" in url} == {
        url: wanted["/" + url.rpartition("/")[2]] for url in urls if "quick" in url
    }
