"""The same corpus from any engine, whichever workers die; and one line when a cluster cannot be used."""

import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from dask_programs import BIN, kill_at_marks, scheduler, wait_until, worker, workers_under

from curate import verify_corpus

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
KILL_AT = [1, 5, 10]  # of the 21 batches that are scanned


@pytest.fixture(autouse=True)
def _workers_find_what_tests_hold(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS / "servers")]))


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def command(source: Path, out: Path, engine: str, workers: int = 3) -> list[str]:
    options = ["--recipe", "everything", "--patch-size", "64", "--engine", engine, "--workers", str(workers)]
    return [str(BIN / "curate"), "build-shards", str(source), str(out), *options]


def start(*arguments) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=200)


def digests(out: Path) -> dict[str, str]:
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.relative_to(out).parts[0] != "ledger"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def scanned(out: Path) -> int:
    return len(list(out.glob("ledger/scan/[0-9]*.json")))


@pytest.fixture(scope="module")
def photos(make_folder, tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("source") / "photos", num=200)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("whole") / "c"
    assert run(photos, out, "process", 1).returncode == 0
    return digests(out)


@pytest.mark.timeout(300)
def test_workers_of_this_machine_die_and_the_corpus_is_the_same(photos, whole, tmp_path):
    out = tmp_path / "c"
    process = start(photos, out, "dask")
    killed = kill_at_marks(process, [process.pid], marks=KILL_AT, progress=lambda: scanned(out))
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert killed == len(KILL_AT)
    assert digests(out) == whole
    assert verify_corpus(out).differences == ()
    assert not list(out.rglob(".tmp-*")) and not (out / "ledger" / "spool").exists()
    assert "scan 200/200 pictures" in errors and "dashboard" in errors and "Traceback" not in errors


@pytest.mark.timeout(300)
def test_two_workers_joined_by_address_one_of_which_dies(photos, whole, tmp_path):
    out = tmp_path / "c"
    (tmp_path / "s").mkdir()
    with (
        scheduler(tmp_path / "s") as (address, _),
        worker(address, tmp_path / "a") as a,
        worker(address, tmp_path / "b"),
    ):
        wait_until(lambda: workers_under(a.pid))
        process = start(photos, out, address)
        killed = kill_at_marks(process, [a.pid], marks=KILL_AT[:2], progress=lambda: scanned(out))
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert killed >= 1
        assert digests(out) == whole
        assert not list(out.rglob(".tmp-*"))
        again = run(photos, tmp_path / "again", address)  # the cluster was left as it was found
        assert again.returncode == 0 and digests(tmp_path / "again") == whole


@pytest.mark.timeout(300)
def test_a_lost_scheduler_is_one_line_and_what_finished_is_kept(photos, whole, tmp_path):
    out = tmp_path / "c"
    (tmp_path / "s").mkdir()
    with scheduler(tmp_path / "s") as (address, process), worker(address, tmp_path / "a"):
        client = start(photos, out, address)
        wait_until(lambda: scanned(out) > 2)
        process.kill()
        begin = time.monotonic()
        _, errors = client.communicate()
        assert time.monotonic() - begin < 20
    assert client.returncode == 2
    assert errors.splitlines()[-1].startswith(f"error: lost the connection to the dask scheduler at {address}")
    assert "Traceback" not in errors
    done = scanned(out)
    assert done > 2
    resumed = run(photos, out, "process", 2)
    assert resumed.returncode == 0, resumed.stderr
    assert "(resumed)" in resumed.stdout and digests(out) == whole


@pytest.mark.timeout(300)
def test_a_killed_client_takes_its_workers_along_and_resumes(photos, whole, tmp_path):
    out = tmp_path / "c"
    process = start(photos, out, "dask")
    wait_until(lambda: scanned(out) > 2)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    resumed = run(photos, out, "dask")
    assert resumed.returncode == 0, resumed.stderr
    assert "(resumed)" in resumed.stdout and digests(out) == whole
    assert not list(out.rglob(".tmp-*"))


@pytest.mark.timeout(300)
def test_a_list_of_urls_is_fetched_here_and_scanned_by_the_workers(make_folder, tmp_path):
    photos = make_folder(tmp_path / "photos", num=120)
    handler = functools.partial(QuietHandler, directory=str(photos))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_address[1]}"
        names = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*")) if path.is_file()]
        (tmp_path / "list.txt").write_text("".join(f"http://{place}/{quote(name)}\n" for name in [*names, "none.jpg"]))
        for engine in ("process", "dask"):
            more = ["--allow-private", place, "--contact", "you@example.org"]
            arguments = command(tmp_path / "list.txt", tmp_path / engine, engine)
            process = subprocess.Popen([*arguments, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if engine == "dask":
                bodies = tmp_path / engine / "ledger" / "bodies"
                progress = functools.partial(
                    lambda there, out: there.is_dir() + scanned(out), bodies, tmp_path / engine
                )
                killed = kill_at_marks(process, [process.pid], marks=[1, 2], progress=progress)
            _, errors = process.communicate()
            assert process.returncode == 0, errors
        server.shutdown()
    assert killed == 2
    assert digests(tmp_path / "dask") == digests(tmp_path / "process")
    assert not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.parametrize("task", ["die", "eat"])
def test_a_task_that_no_worker_survives_is_named(tmp_path, task):
    script = tmp_path / "script.py"
    script.write_text(
        f"""
from pathlib import Path
from types import SimpleNamespace
from distributed.system import MEMORY_LIMIT
from curate import engine_dask
from curate.core.artifacts import locked_output
from curate.core.errors import ToolkitError
from curate.engine import Surroundings, open_engine
from dask_programs import die, eat

if __name__ == "__main__":
    out = Path({str(tmp_path / "c")!r})
    engine_dask.RESUBMITS = 1
    engine_dask.MEMORY_SHARE_FRAC = 600 * 2**20 / MEMORY_LIMIT
    engine_dask._LOCAL["distributed.scheduler.allowed-failures"] = 0
    with locked_output(out), open_engine("dask", workers=1, around=Surroundings(out=out, files=(), versions={{}})) as engine:
        try:
            list(engine.run({task}, [SimpleNamespace(sources=["a.jpg", "b.jpg"])]))
        except ToolkitError as error:
            print(error)
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=100)
    assert "the task with a.jpg and 1 more lost its worker 2 times beyond what the scheduler allows" in done.stdout, (
        done.stderr
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("preload", "threads", "message"),
    [
        ("import importlib.metadata as m; m.version = lambda n: '1.26.4' if n == 'numpy' else m.distribution(n).version", 1,
         "has numpy 1.26.4, this machine has"),
        ("import sys; sys.modules['curate'] = None", 1, "cannot run irdistill"),
        ("", 2, "has 2 threads"),
    ],
)  # fmt: skip
def test_a_worker_that_is_unlike_the_client_is_named(photos, tmp_path, preload, threads, message):
    (tmp_path / "s").mkdir()
    (tmp_path / "preload.py").write_text(preload)
    options = ["--preload", str(tmp_path / "preload.py"), "--name", "odd"]
    with scheduler(tmp_path / "s") as (address, _), worker(address, tmp_path / "a", *options, threads=threads):
        done = run(photos, tmp_path / "c", address)
    assert done.returncode == 2
    assert done.stderr.startswith("error: dask worker tcp://127.0.0.1:") and message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_address_where_nobody_listens_is_one_line(photos, tmp_path):
    begin = time.monotonic()
    done = run(photos, tmp_path / "c", "tcp://127.0.0.1:9")
    assert time.monotonic() - begin < 25
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: no dask scheduler answers at tcp://127.0.0.1:9 within 10 s; is the address right, is it running?"
    ]
