"""What the commands for lists of URLs say: while they run, at the end, and of flags that do not fit."""

import re
import sys

import loopback
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answers import answer, dispatch, in_turn, jpeg, later, picture

from curate.cli import app
from curate.core import console

ROUTES = {"/robots.txt": answer(404), "/slow.jpg": later(2.3, picture(0))}
ROUTES |= {f"/{number}.jpg": picture(number) for number in range(4)} | {"/busy.jpg": answer(503)}
ROUTES |= {"/busy.jpg?2": answer(503), "/cut.jpg": answer(200, jpeg(6)[:-700])}


@pytest.fixture
def site():
    once = in_turn(answer(503), answer(503), picture(9))
    with loopback.Web({"host": dispatch(ROUTES | {"/once.jpg": once})}) as web:
        yield web.sites["host"]
        assert web.errors == []


@pytest.fixture
def curate(monkeypatch, capsys):
    """Run a command in this process; return exit code, stdout and stderr as lines."""

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", ["curate", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            console.run(app, ("curate",))
        found = capsys.readouterr()
        return int(ended.value.code or 0), found.out.splitlines(), found.err.splitlines()

    return run


@pytest.fixture
def listed(site, tmp_path):
    """Write a list of paths of the site (or whole URLs), and settings that let it be asked and give up soon."""

    def write(*paths: str, name: str = "list.txt") -> list[object]:
        urls = [path if "://" in path else site.origin + path for path in paths]
        (tmp_path / name).write_text("\n".join(urls) + "\n")
        settings = tmp_path / "fetch.toml"
        settings.write_text(f'allow_private = ["{site.place}"]\nmax_attempts = 2\nbackoff_s = 0.01\n')
        return [tmp_path / name, "--fetch", settings, "--workers", 1]

    return write


def test_progress_comes_while_no_group_is_complete(curate, listed, tmp_path):
    listing, *options = listed("/0.jpg", "/1.jpg", "/slow.jpg", "/busy.jpg", "/3.jpg")
    code, _, said = curate("download", listing, tmp_path / "out", *options)
    assert code == 0
    lines = [line for line in said if line.startswith("fetch ")]
    assert any(line.startswith("fetch 4 rows, ") and line.endswith("/s (0 pictures)") for line in lines[:-1])
    assert lines[-1].startswith("fetch 5 rows, ")
    assert lines[-1].endswith("/s (4 pictures)")


@pytest.mark.parametrize("name", ["list.txt", "list.parquet"])
def test_a_resumed_run_counts_no_row_that_is_not_there(curate, listed, tmp_path, name):
    listing, *options = listed("/0.jpg", "/1.jpg")
    if name == "list.parquet":
        listing = tmp_path / name
        pq.write_table(pa.table({"url": (tmp_path / "list.txt").read_text().split()}), listing)
    for wanted in (1, 0):
        code, _, said = curate("download", listing, tmp_path / "out", *options)
        assert code == 0
        assert len([line for line in said if line.startswith("fetch ")]) >= wanted
    assert said == []


def test_a_download_gives_one_example_of_each_class_and_says_what_may_change(curate, listed, site, tmp_path):
    bad = ["/busy.jpg", "/gone.jpg", "/busy.jpg?2", "nonsense://\x1b[2Jx"]
    listing, *options = listed("/0.jpg", *bad)
    out = tmp_path / "my out"
    code, told, _ = curate("download", listing, out, *options)
    assert code == 0
    assert told[:2] == ["urls     5", "               1  ok"]
    assert told[2:4] == ["               2  http-5xx", f"{'':20}{site.origin}/busy.jpg: status 503"]
    assert told[4].split() == ["1", "http-4xx"]
    assert told[5].startswith(f"{'':20}{site.origin}/gone.jpg: status 404")
    assert told[6].split() == ["1", "policy"]
    assert told[7].startswith(f"{'':20}nonsense://?[2Jx: ")
    assert told[-2:] == [
        f"pictures {out}/pictures, every URL in {out}/urls",
        f"retry    curate retry '{out}' --class http-5xx",
    ]


def test_a_download_of_nothing_says_so(curate, listed, tmp_path):
    listing, *options = listed("/gone.jpg")
    code, told, _ = curate("download", listing, tmp_path / "out", *options)
    assert code == 0
    assert told[-1] == f"pictures none: not one URL gave a picture, every URL in {tmp_path}/out/urls"


def test_build_shards_says_what_may_change(curate, listed, tmp_path):
    more = ["--patch-size", 64, "--recipe", "everything"]
    listing, *options = listed("/0.jpg", "/cut.jpg", "/busy.jpg")
    _, told, _ = curate("build-shards", listing, tmp_path / "out", *options, *more)
    assert told[-2:] == [f"corpus   {tmp_path}/out", f"retry    curate retry {tmp_path}/out --class http-5xx"]
    assert any(line.split() == ["1", "failed:", "truncated"] for line in told), "the decoder's, not the network's"


@pytest.mark.parametrize("command", ["download", "build-shards"])
def test_a_retry_says_first_what_became_of_it(curate, listed, site, tmp_path, command):
    more = ["--patch-size", 64, "--recipe", "everything"] if command == "build-shards" else []
    listing, *options = listed("/0.jpg", "/once.jpg", "/busy.jpg", "/gone.jpg")
    out = tmp_path / "out"
    assert curate(command, listing, out, *options, *more)[0] == 0
    code, told, _ = curate("retry", out, "--class", "http-5xx,timeout", *options)
    assert (code, told[0]) == (0, "retry    2 rows: 1 came, 1 failed again")
    assert told[-1] == f"retry    curate retry {out} --class http-5xx"
    code, told, _ = curate("retry", out, "--class", "dns,timeout", *options)
    assert (code, told[0]) == (0, "retry    nothing to try again: no row is of class dns or timeout")


@pytest.mark.parametrize("command", ["download", "build-shards", "retry"])
def test_no_workers_are_refused(curate, listed, tmp_path, command):
    listing, *options = listed("/0.jpg")
    arguments = [command, listing, tmp_path / "out"]
    if command == "retry":
        assert curate("download", listing, tmp_path / "out", *options)[0] == 0
        arguments = [command, tmp_path / "out", "--class", "dns"]
    code, _, said = curate(*arguments, *options[:-1], 0)
    assert (code, said) == (2, ["error: workers must be >= 1, got 0"])


def test_forget_says_when_nothing_matched(curate, listed, tmp_path):
    listing, *options = listed("/0.jpg")
    curate("download", listing, tmp_path / "out", *options)
    code, told, _ = curate("forget", tmp_path / "out", "--host", "elsewhere.example")
    assert (code, told[1]) == (0, "pictures 0 removed: no picture here matches")
    code, told, _ = curate("forget", tmp_path / "out", "--host", "127.0.0.2")
    assert (code, told[1]) == (0, "pictures 1 removed")


def test_filter_cannot_bring_back_what_a_list_named(curate, listed, tmp_path):
    why = (
        "a corpus made from a list of URLs can only be narrowed: `curate download` the list and build from that folder"
    )
    recipe = 'measure = ["entropy"]\ngates = ["entropy"]\n[thresholds.entropy]\nmin_entropy_bits = 7.1\n'
    (tmp_path / "strict.toml").write_text(recipe)
    listing, *options = listed(*(f"/{number}.jpg" for number in range(4)))
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    more = ["--patch-size", 32, "--recipe", tmp_path / "strict.toml"]
    code, told, said = curate("build-shards", listing, corpus, *options, *more)
    assert code == 0, said
    code, _, said = curate("filter", corpus, out, "--where", "entropy > 0", "--source", tmp_path)
    assert (code, len(said)) == (2, 1)
    assert said[0].startswith("error: 'entropy > 0' brings back ")
    assert said[0].endswith(f" patches; {why}")
    code, told, _ = curate("filter", corpus, out, "--where", "entropy > 0", "--dry-run")
    assert code == 0
    assert f"note     nothing can be brought back: {why}" in told


def test_explain_finds_the_rows_of_a_url(curate, listed, site, tmp_path):
    words = site.origin.replace("//", "//me:secret@")
    paths = ["/0.jpg", f"{words}/1.jpg", "/gone.jpg", "/0.jpg", "/0.jpg"]
    listing, *options = listed(*paths, "nonsense://x")
    curate("build-shards", listing, tmp_path / "out", *options, "--patch-size", 64, "--recipe", "everything")

    def explain(key: str) -> list[str]:
        code, told, said = curate("explain", tmp_path / "out", key)
        assert (code, said) == (0, [])
        return told

    url = f"{site.origin}/0.jpg"
    assert explain(url)[:2] == [
        f"picture   {url}: KEPT",
        f"rows      3 have this URL, this is the first: {url}, {url} (row 3), {url} (row 4)",
    ]
    assert explain(f"{url} (row 4)")[:2] == [
        f"picture   {url} (row 4): REJECTED (duplicate)",
        "decided   duplicate: of row 0",
    ]
    assert explain("nonsense://x")[0] == "picture   nonsense://x (row 5): REJECTED (policy)"
    assert explain(f"{words}/1.jpg")[0] == f"picture   {site.origin}/1.jpg: KEPT"
    assert explain(f"{site.origin}/gone.jpg")[-1] == "picture   never fetched"


def test_the_report_of_a_list_tells_fetched_from_readable(curate, listed, tmp_path):
    listing, *options = listed("/0.jpg", "/1.jpg", "/gone.jpg", "/busy.jpg", "/cut.jpg", "/0.jpg", "nonsense://x")
    curate("build-shards", listing, tmp_path / "out", *options, "--patch-size", 64, "--recipe", "everything")
    assert curate("report", tmp_path / "out")[0] == 0
    page = (tmp_path / "out" / "report.html").read_text()
    rows = re.findall(r'<tr class="(?:loss|stage)"><td>(.*?)</td><td>(.*?)</td><td>.*?</td>\s*<td>(.*?)</td>', page)
    assert [(label, num) for label, num, _ in rows] == [
        ("rows of the list", "7"), ("failed: http-4xx", "-1"), ("failed: http-5xx", "-1"), ("rejected: duplicate", "-1"),
        ("rejected: policy", "-1"), ("fetched", "3"), ("failed: truncated", "-1"), ("could be read", "2"),
        ("cut into patches", "2"), ("kept in shards", "2"),
    ]  # fmt: skip
    assert [size for _, _, size in rows][:5] == [""] * 5, "nothing is known of what was not fetched"
    assert "<b>3</b><span>rows that failed</span>" in page
    assert "could not be read" not in page


@pytest.mark.parametrize("name", ["pics.zip", "urls.lst", "small.parquet.gz"])
def test_a_file_that_is_neither_is_told_of_both(curate, tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    code, _, said = curate("build-shards", tmp_path / name, tmp_path / "out")
    wanted = "a folder of pictures, or a list of URLs (.txt, .csv, .tsv, .jsonl, .parquet; text also .gz, .zst)"
    assert (code, said) == (2, [f"error: source {tmp_path / name} is a file; wanted {wanted}"])


def test_folders_and_flags_that_do_not_fit(curate, make_folder, tmp_path):
    folder = make_folder(tmp_path / "photos", num=2)
    code, _, said = curate("download", folder, tmp_path / "out")
    words = f"{folder} is a folder: build-shards reads it as it is; download wants a list of URLs"
    assert (code, said) == (2, [f"error: {words}"])
    code, _, said = curate("build-shards", folder, tmp_path / "out", "--contact", "me@x.example", "--url-column", "u")
    words = f"--url-column, --contact: only for a list of URLs; {folder} is a folder, nothing is fetched for it"
    assert (code, said) == (2, [f"error: {words}"])
    (tmp_path / "lq.zip").write_bytes(b"x")
    code, _, said = curate("build-shards", folder, tmp_path / "out", "--paired", tmp_path / "lq.zip")
    assert (code, said) == (2, [f"error: --paired {tmp_path}/lq.zip is a file; wanted a folder of degraded pictures"])
