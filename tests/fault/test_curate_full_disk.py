"""A disk that runs full costs a line and a break, never a file; slow ones mount a small tmpfs and skip where they may not."""

import loopback
import pyarrow.parquet as pq
import pytest
from answers import picture
from full_disk import EVENTS, run_full
from kill_schedule import build_command
from kills import CURATE, Job, digests, leftovers, resize, small_disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
OPTIONS = ("--recipe", "everything", "--patch-size", "64")
ANY_SHARD_FILE = r"(shards|metadata|rejected|ledger/shards)/\S+"


@pytest.mark.parametrize(
    ("workers", "events"),
    [("1", EVENTS), ("2", {"scan": EVENTS["scan"], "tar": ANY_SHARD_FILE, "parquet": ANY_SHARD_FILE})],
)
def test_a_disk_that_runs_full(make_folder, tmp_path, workers, events):
    source = make_folder(tmp_path / "photos", num=36)
    whole = Job(build_command(source, tmp_path / "whole", *OPTIONS), tmp_path / "whole", tmp_path / "logs")
    assert whole.run().code == 0
    out = tmp_path / "disk" / "c"
    job = Job(build_command(source, out, *OPTIONS, "--workers", workers), out, tmp_path / "logs")
    try:
        result = run_full(job, digests(whole.out), whole.out / "ledger", events)
    except PermissionError as error:
        pytest.skip(str(error))
    assert result.faults == (), "\n".join(result.lines)
    assert len(result.lines) == len(events)


NUM_URLS = 60


@pytest.fixture
def listed(tmp_path):
    """A web of small pictures, and the list that names them."""
    with loopback.Web({"host": picture(1)}) as web:
        origin = web.sites["host"].origin
        (tmp_path / "list.txt").write_text("".join(f"{origin}/{number}.jpg\n" for number in range(NUM_URLS)))
        (tmp_path / "fetch.toml").write_text(
            f"allow_private = {[web.sites['host'].place]}\nmax_rate_per_host_hz = 1000.0\n"
        )
        yield [str(tmp_path / "list.txt"), "--fetch", str(tmp_path / "fetch.toml")]


@pytest.mark.parametrize("verb", ["download", "build-shards"])
def test_a_list_of_urls_on_a_disk_that_grows_until_it_is_enough(listed, tmp_path, verb):
    """From two pages on, a third more each time: it runs full wherever it can, in the SQLite ledger too."""
    source, *options = listed
    more = [*options, "--workers", "1", *(OPTIONS if verb == "build-shards" else ())]
    whole = Job([CURATE, verb, source, str(tmp_path / "whole"), *more], tmp_path / "whole", tmp_path / "logs")
    assert whole.run().code == 0
    out = tmp_path / "disk" / "c"
    job = Job([CURATE, verb, source, str(out), *more], out, tmp_path / "logs")
    size, named = 8192, set()
    try:
        with small_disk(out.parent, str(size)) as disk:
            while (run := job.run()).code != 0:
                *_, line = run.stderr.strip().splitlines()
                assert (run.code, "Traceback" in run.stderr) == (2, False), run.stderr
                assert line.startswith(f"error: cannot write {out}") and "make room" in line, line
                assert "delete" not in line
                assert leftovers(out) == []
                named.add(line.partition(":")[2])
                size = size * 4 // 3 // 4096 * 4096 + 4096
                resize(disk, str(size))
            assert any("urls.sqlite" in line for line in named), named
            print(*sorted(named), sep="\n")
            assert leftovers(out) == []
            if verb == "build-shards":
                assert digests(out) == digests(whole.out)
            else:
                rows = pq.read_table(out / "urls").to_pylist()
                assert [row["class"] for row in rows] == ["ok"] * NUM_URLS
    except PermissionError as error:
        pytest.skip(str(error))
