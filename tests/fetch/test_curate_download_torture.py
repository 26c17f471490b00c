"""The whole torture list in one run: every row ends in its class; the server's log shows what was asked and what was not."""

import hashlib
import importlib
import itertools
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import loopback
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torture
from answers import dispatch, jpeg, ranges
from torture import ADDRESSES, BIG, CASES, GARBAGE, IDN, MAX_BYTES, NEW, NUM_RESETS, SECRET, SECURE

from curate.download import DownloadConfig, download
from curate.fetch.config import FetchConfig

CONTACT = "https://example.org/about-our-robot"
DEADLINE_S = 4.5
MAX_PER_HOST = 3
NAMES = {IDN: "127.0.0.1", "inside.example": "127.0.0.1"}


def fetch_settings() -> dict[str, object]:
    places = torture.PLACES
    allowed = [place for name, place in places.items() if "canary" not in name and not name.endswith("_port")]
    return {
        "allow_private": [*allowed, f"{IDN}:{places['idn_port']}"], "contact": CONTACT, "max_bytes": MAX_BYTES,
        "connect_timeout_s": 2.0, "read_timeout_s": 3.0, "deadline_s": DEADLINE_S, "backoff_s": 0.1,
        "max_per_host": MAX_PER_HOST,
    }  # fmt: skip


def rows_of(out: Path) -> list[dict]:
    return pq.read_table(out / "urls").to_pylist()


class Run:
    """One download of the whole list, and everything it left behind."""

    def __init__(self, root: Path, web: loopback.Web) -> None:

        self.web, self.out = web, root / "out"
        self.urls = [case.url.format(**torture.PLACES) for case in CASES]
        listed = root / "list.txt"
        listed.write_text("\n".join(self.urls) + "\n", encoding="utf-8")
        settings = fetch_settings()
        settings["allow_private"] = tuple(settings["allow_private"])  # type: ignore[arg-type]
        self.config = DownloadConfig(list=str(listed), out=self.out, fetch=FetchConfig(**settings), workers=1)
        self.download = lambda: download(self.config)
        threads = set(threading.enumerate())
        begin = time.monotonic()
        self.result = self.download()
        self.seconds = time.monotonic() - begin
        self.threads_left = set(threading.enumerate()) - threads
        self.processes_left = psutil.Process().children(recursive=True)
        self.num_asked = len(web.log)
        self.rows = rows_of(self.out)


@contextmanager
def torturers() -> Iterator[loopback.Web]:
    """All hosts of the list, without a memory of earlier runs, and one that nobody listens at."""
    before = torture.PLACES
    importlib.reload(torture)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        with loopback.Web(torture.handlers(), secure=SECURE, addresses=ADDRESSES) as served:
            ports = {f"{name}_port": str(site.port) for name, site in served.sites.items()}
            torture.PLACES = served.places | ports | {"closed": f"127.0.0.1:{closed.getsockname()[1]}"}
            yield served
        torture.PLACES = before
        assert served.errors == []


@pytest.fixture(scope="module")
def web() -> Iterator[loopback.Web]:
    with torturers() as served:
        yield served


@pytest.fixture(scope="module")
def met() -> list[tuple]:
    """Addresses that sockets of this process connected to."""
    return []


@pytest.fixture(scope="module")
def words() -> list[str]:
    """What was logged."""
    return []


@pytest.fixture(scope="module")
def run(web, met, words, tmp_path_factory):
    real_names, real_connect = socket.getaddrinfo, socket.socket.connect

    def getaddrinfo(host, *rest, **named):
        name = host.decode() if isinstance(host, bytes) else host
        numeric = name and re.fullmatch(r"[0-9.]+|0x[0-9a-f]+|[0-9a-f:.]*:[0-9a-f:.]*|localhost\.?", name)
        if name not in NAMES and not numeric:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real_names(NAMES.get(name, name), *rest, **named)

    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            met.append(address)
            if not address[0].startswith("127."):
                raise ConnectionRefusedError(f"a test would have left this machine for {address[0]}")
        real_connect(self, address)

    class Keep(logging.Handler):
        def emit(self, record):
            words.append(self.format(record))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        patch.setattr(socket.socket, "connect", connect)
        keep = Keep(logging.DEBUG)
        logging.getLogger().addHandler(keep)
        logging.getLogger("curate").setLevel(logging.DEBUG)
        yield Run(tmp_path_factory.mktemp("torture"), web)
        logging.getLogger("curate").setLevel(logging.NOTSET)
        logging.getLogger().removeHandler(keep)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_every_row_ends_in_its_class(run, number):
    case, row = CASES[number], run.rows[number]
    assert row["row"] == number
    assert row["class"] in case.expect.split("|"), row
    assert (bool(row["file"]) and (run.out / row["file"]).is_file()) == (row["class"] == "ok")
    asked = run.web.asked(case.site, case.path) if case.site else []
    if case.asked is not None:
        assert len(asked) <= case.asked, [(r.at, r.headers) for r in asked]
    if row["class"] == "ok":
        assert asked, "a picture from nowhere"
    if case.sent is not None:
        assert sum(r.sent for r in asked) <= case.sent


def case_row(run: Run, name: str) -> dict:
    return run.rows[next(number for number, case in enumerate(CASES) if case.name == name)]


def asked_for(run: Run, name: str) -> list[loopback.Request]:
    case = next(case for case in CASES if case.name == name)
    return run.web.asked(case.site, case.path)


def test_counts_add_up_and_the_run_ends_in_time(run):
    assert sum(run.result.classes.values()) == len(CASES) == len(run.rows)
    assert run.result.classes["ok"] == sum(row["class"] == "ok" for row in run.rows) > 60
    assert run.seconds < 30
    assert run.threads_left == set()
    assert run.processes_left == []


def test_pictures_are_the_bytes_that_were_sent(run):
    for row in run.rows:
        if row["class"] == "ok":
            data = (run.out / row["file"]).read_bytes()
            assert (row["sha256"], row["num_bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
            assert re.fullmatch(r"pictures/\d{6}/\d{9}\.jpg", row["file"]), row  # `wrong.png` is a JPEG
    for name in ("big by ranges", "reset once, resumed"):
        assert (run.out / case_row(run, name)["file"]).read_bytes() == BIG
    assert (run.out / case_row(run, "changed meanwhile")["file"]).read_bytes() == NEW
    for name in ("changed, dishonest", "changed, weak etag", "changed, no etag"):
        row = case_row(run, name)
        assert row["class"] != "ok" or (run.out / row["file"]).read_bytes() == NEW, name
    assert (run.out / case_row(run, "honest gzip")["file"]).read_bytes() == jpeg(8)
    written = {str(p.relative_to(run.out)) for p in (run.out / "pictures").rglob("*") if p.is_file()}
    assert written == {row["file"] for row in run.rows if row["file"]}


def test_nobody_was_asked_who_must_not_be(run, met):
    assert run.web.asked("canary") == run.web.asked("canary6") == []
    assert [r for r in run.web.log if r.site in ("canary", "canary6")] == []  # not even for robots.txt
    allowed = {(site.address, site.port) for name, site in run.web.sites.items() if "canary" not in name}
    closed = torture.PLACES["closed"].split(":")
    assert {address[:2] for address in met} <= allowed | {(closed[0], int(closed[1]))}
    assert len({address[:2] for address in met}) > len(allowed) - 2
    assert [r.path for r in run.web.asked("robots") if r.path.startswith("/private/") and "shown" not in r.path] == []
    assert run.web.asked("robots_503") == []


def test_robots_txt_is_asked_once_an_origin_and_before_anything_else(run):
    first: dict[str, str] = {}
    for request in run.web.log:
        first.setdefault(request.site, request.path)
    assert set(first.values()) == {"/robots.txt"}
    times = {name: len(run.web.asked(name, "/robots.txt")) for name in first}
    assert times["robots_503"] == 1
    again = {name: num for name, num in times.items() if num != 1}  # those that broke off or never ended
    assert max(again.values()) <= 3
    assert len(again) <= 3, again


def test_waits_are_waited(run):
    for name in ("429 seconds", "503 seconds", "429 always"):
        times = [r.at for r in asked_for(run, name)]
        assert len(times) >= 2
        assert all(1.0 <= b - a < 4 for a, b in itertools.pairwise(times)), (name, times)
    first, second = asked_for(run, "429 date")
    assert 0.9 < second.at - first.at < 4  # two whole seconds ahead, less a part of one
    for name in ("503 then 200", "503 always"):
        times = [r.at for r in asked_for(run, name)]
        assert all(b - a >= 0.05 for a, b in itertools.pairwise(times))
    assert len(asked_for(run, "503 always")) > 1


def test_no_more_than_so_many_at_a_time(run):
    assert {name: site.most_busy for name, site in run.web.sites.items() if site.most_busy > MAX_PER_HOST} == {}
    assert {name: site.most_open for name, site in run.web.sites.items() if site.most_open > MAX_PER_HOST} == {}
    assert run.web.sites["busy"].most_busy == MAX_PER_HOST
    assert len({r.connection for r in run.web.asked("busy")}) == MAX_PER_HOST  # kept alive between requests


def test_a_host_that_always_resets_is_left_alone(run):
    assert 1 <= len(run.web.asked("resets")) < NUM_RESETS


def test_half_a_body_is_not_asked_for_again(run):
    requests = asked_for(run, "reset once, resumed")
    assert [r.start for r in requests[:2]] == [0, 65_536]
    assert 65_536 < requests[2].start <= 65_536 + requests[1].sent
    assert [r.headers.get("if-range") for r in requests[1:]] == ['"strong"', '"strong"']
    assert all(
        r.start == 0 and "if-range" not in r.headers
        for r in run.web.log
        if r.headers.get("range", "").startswith("bytes=0")
    )


def test_requests_say_who_asks_and_nothing_else(run):
    pictures = [r for r in run.web.log if r.path != "/robots.txt"]
    assert all(r.method == "GET" for r in run.web.log)
    assert all(r.headers["user-agent"].startswith("irdistill/") for r in run.web.log)
    assert all(CONTACT in r.headers["user-agent"] for r in run.web.log)
    assert [r for r in run.web.log if "cookie" in r.headers or "referer" in r.headers] == []
    assert {r.headers["host"] for r in asked_for(run, "idn")} == {f"{IDN}:{torture.PLACES['idn_port']}"}
    known = {"/in.jpg", "/out.jpg", "/with-password.jpg"}
    assert {
        r.path for r in pictures if "authorization" in r.headers
    } == known  # not across the redirect to another host


def test_passwords_are_nowhere(run, words, capfd):
    assert [word for word in words if SECRET in word] == []
    files = [p for p in run.out.rglob("*") if p.is_file()]
    assert files
    assert [p for p in files if SECRET.encode() in p.read_bytes()] == []
    for table in run.out.rglob("*.parquet"):
        assert SECRET not in str(pq.read_table(table).to_pylist()), table  # compressed pages hide words
    assert SECRET not in "".join(capfd.readouterr())


def test_the_table_says_where_the_picture_came_from(run):
    row = case_row(run, "to another host")
    assert row["final_url"] == f"http://{torture.PLACES['fine']}/moved.jpg"
    assert row["url"] == f"http://{torture.PLACES['moving']}/to-another-host.jpg"
    row = case_row(run, "big by ranges")
    assert (row["etag"], row["content_type"], row["attempts"]) == ('"v1"', "image/jpeg", 1)
    assert case_row(run, "503 then 200")["attempts"] == 2
    assert (case_row(run, "404")["status"], case_row(run, "429 always")["status"]) == (404, 429)
    assert all(row["detail"] for row in run.rows if row["class"] != "ok")


def test_the_same_command_again_asks_nothing(run):
    before = len(run.web.log)
    again = run.download()
    assert len(run.web.log) == before
    assert again.classes == run.result.classes
    assert rows_of(run.out) == run.rows


def write_toml(path: Path) -> Path:
    lines = (
        f"{name} = {str(value) if not isinstance(value, str) else repr(value)}"
        for name, value in fetch_settings().items()
    )
    path.write_text("\n".join(lines) + "\n")
    return path


def peak_mib(process: subprocess.Popen) -> float:
    """Wait for a command; the sum of the peaks of all its processes, in MiB."""
    peaks: dict[int, float] = {}
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            for one in [parent, *parent.children(recursive=True)]:
                status = Path(f"/proc/{one.pid}/status").read_text()
                now = next((int(x.split()[1]) / 1024 for x in status.splitlines() if "VmHWM" in x), 0.0)
                peaks[one.pid] = max(peaks.get(one.pid, 0.0), now)  # one that ends says nothing any more
        except (psutil.NoSuchProcess, OSError):
            pass  # it ended between two looks
        time.sleep(0.02)
    return sum(peaks.values())


def test_the_command_needs_little_memory_and_retries_one_class(tmp_path):
    """With a log of its own, and without what would leave the machine if we were wrong: no guard reaches that process."""
    script = str(Path(sys.executable).parent / "curate")
    outside = ("idn", "no such name", "name of inside", "metadata service", "private network", "nat64")
    cases = [case for case in CASES if case.name.removeprefix("to ") not in outside]
    with torturers() as web:
        listed = tmp_path / "list.txt"
        listed.write_text("".join(case.url.format(**torture.PLACES) + "\n" for case in cases), encoding="utf-8")
        toml, out = write_toml(tmp_path / "fetch.toml"), tmp_path / "out"
        limit = (
            f"max_bytes = {FetchConfig().max_bytes}"  # the usual one, not the small one that keeps the other run short
        )
        assert f"max_bytes = {MAX_BYTES}\n" in toml.read_text()
        toml.write_text(toml.read_text().replace(f"max_bytes = {MAX_BYTES}", limit))
        command = [script, "download", str(listed), str(out), "--fetch", str(toml), "--workers", "2"]
        with (tmp_path / "stderr").open("wb") as errors, (tmp_path / "stdout").open("wb") as said:
            process = subprocess.Popen(command, stdout=said, stderr=errors)
            peak = peak_mib(process)
        words = (tmp_path / "stderr").read_text() + (tmp_path / "stdout").read_text()
        assert process.returncode == 0, words
        assert SECRET not in words
        assert 50 < peak < 500
        rows = rows_of(out)
        assert [row["class"] for row in rows if row["class"] == "http-5xx"] == ["http-5xx"]
        begin = len(web.log)
        again = subprocess.run(
            [script, "retry", str(out), "--class", "http-5xx"], capture_output=True, text=True, check=False
        )
        assert again.returncode == 0, again.stderr
        always = next(case for case in cases if case.name == "503 always")
        assert {r.site for r in web.log[begin:]} == {always.site}
        assert {r.path for r in web.log[begin:]} - {"/robots.txt"} == {always.path}


def small_run(tmp_path: Path, table: pa.Table):

    pq.write_table(table, tmp_path / "list.parquet")
    fetch = FetchConfig(allow_private=tuple(fetch_settings()["allow_private"]), backoff_s=0.1, deadline_s=4)  # type: ignore[arg-type]
    out = tmp_path / "out"
    return download(DownloadConfig(list=str(tmp_path / "list.parquet"), out=out, fetch=fetch, workers=1)), rows_of(out)


def test_rows_that_are_no_url(web, tmp_path, monkeypatch):
    def getaddrinfo(host, *rest, **named):
        raise AssertionError(f"a name was looked up: {host!r}")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    before = len(web.log)
    result, rows = small_run(tmp_path, pa.table({"url": pa.array(GARBAGE, pa.string())}))
    assert dict(result.classes) == {"policy": len(GARBAGE)}, [(row["url"], row["class"], row["detail"]) for row in rows]
    assert len(web.log) == before


def test_expected_hashes_are_checked(web, tmp_path):
    url = f"http://{torture.PLACES['fine']}/"
    right, wrong = hashlib.sha256(jpeg(3)).hexdigest(), hashlib.sha256(b"other").hexdigest()
    names = ["plain.jpg", "octet-stream.jpg", "evil-file-name.jpg"]
    table = pa.table({"url": [url + name for name in names], "sha256": [right, wrong, None]})
    _, rows = small_run(tmp_path, table)
    assert [row["class"] for row in rows] == ["ok", "hash-mismatch", "ok"]
    assert [bool(row["file"]) for row in rows] == [True, False, True]
    assert len(web.asked("fine", "/octet-stream.jpg")) <= 3  # once here: the same bytes would come again


def test_a_picture_that_the_recipe_rejects_by_its_header_is_not_downloaded(make_photo, jpeg_bytes, tmp_path):
    strip = jpeg(950, 6000, 700, 96)  # aspect 8.6; `photographs` takes 4
    assert len(strip) > 2_000_000
    served = {"/strip.jpg": ranges(strip, '"s"'), "/photo.jpg": ranges(jpeg_bytes(make_photo(0)), '"p"')}
    with loopback.Web({"strips": dispatch(served)}) as web:
        site = web.sites["strips"]
        (tmp_path / "list.txt").write_text("".join(f"{site.origin}{path}\n" for path in served))
        script = str(Path(sys.executable).parent / "curate")
        command = [script, "build-shards", str(tmp_path / "list.txt"), str(tmp_path / "out"), "--patch-size", "128"]
        done = subprocess.run(
            [*command, "--workers", "1", "--allow-private", site.place], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        rejected, kept = pq.read_table(tmp_path / "out" / "images").to_pylist()
        assert (rejected["status"], kept["status"]) == ("rejected", "kept")
        assert (rejected["reason"], rejected["detail"]) == ("too-long", "6000x700")
        assert 65_536 <= sum(r.sent for r in web.asked("strips", "/strip.jpg")) < 200_000
