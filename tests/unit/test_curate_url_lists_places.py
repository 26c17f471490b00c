"""Lists of URLs that cannot be read, that are damaged on the way, or that lie somewhere else than on this disk."""

import functools
import gzip
import http.server
import threading
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from curate.core.errors import ConfigError, MissingDependencyError
from curate.sources.urls import open_list

URLS = ["https://a.example/1.jpg", "https://a.example/ü,2.jpg", "https://b.example/3.jpg"]
CSV = "url,caption\n" + "".join(f'"{url}",of {url[8]}\n' for url in URLS)


def write(folder: Path, name: str, data: bytes | str) -> str:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def write_parquet(folder: Path, columns: dict[str, object], **options: object) -> str:
    pq.write_table(pa.table(columns), folder / "list.parquet", **options)
    return str(folder / "list.parquet")


@pytest.mark.parametrize(
    ("name", "text", "url_column", "message"),
    [
        ("a.csv", "url,link\nx,y\n", "", r"more than one column may .* \(url, link\); it has url, link: name it with --url-"),
        ("a.csv", "caption,pic\nx,y\n", "", "no column looks like the URL's; it has caption, pic: name it with --url-column"),
        ("a.csv", "url,pic\nx,y\n", "photo", "has no column 'photo'; it has url, pic"),
        ("a.csv", "url,x,x\n1,2,3\n", "", "more than one column x; rename"),
        ("a.csv", "https://a.example/1.jpg\n", "", "begins with a URL, not with a header"),
        ("a.csv", "", "", "is empty"),
        ("a.csv", "url,x\n", "", "holds no row"),
        ("a.csv", 'url,"x\n', "", "its header cannot be read"),
        ("a.txt", "\n \n", "", "holds no row"),
        ("a.txt", "x\n", "link", "has no column 'link'"),
        ("a.txt", "x\n", "url", "leave out --url-column"),
        ("a.jsonl", "[]\nnonsense\n", "", "holds no JSON object"),
        ("a.jsonl", "", "", "is empty"),
        ("a.parquet", "nonsense", "", "cannot read list .*a.parquet: "),
        ("a.parquet", "", "", "cannot read list .*a.parquet: "),
        ("a.csv.gz", "url\nx\n", "", "cannot read list .*a.csv.gz: Not a gzipped file"),
        ("a.csv.zst", "url\nx\n", "", "cannot read list .*a.csv.zst: "),
        ("a.csv", gzip.compress(b"url\nx\n"), "", "holds gzip, its name says otherwise"),
        ("a.csv", "url\nx\n".encode("utf-16"), "", "holds UTF-16"),
        ("a.xlsx", "", "", "no list of URLs by its name; wanted .txt, .csv"),
        ("a.parquet.gz", "", "", "no list of URLs by its name"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_read(tmp_path: Path, name: str, text: str | bytes, url_column: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_list(write(tmp_path, name, text), url_column=url_column)
    assert "\n" not in str(caught.value)


def test_places_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for where, error, message in (
        (tmp_path / "none.csv", ConfigError, "none.csv does not exist"),
        (tmp_path / "none.parquet", ConfigError, "none.parquet does not exist"),
        (tmp_path / "folder.csv", ConfigError, "is a folder"),
        ("nowhere://x/list.csv", ConfigError, "Protocol not known: nowhere"),
        ("memory://none/list.csv", ConfigError, "does not exist"),
        ("abfs://user:secret@x/list.csv", MissingDependencyError, "pip install adlfs"),
        (
            "ftp://user:secret@127.0.0.1:1/list.csv",
            ConfigError,
            "cannot open list ftp://127.0.0.1:1/list.csv: Connection refused",
        ),
    ):
        with pytest.raises(error, match=message) as caught:
            open_list(str(where))
        assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".txt.gz", ".csv.zst", ".jsonl.gz", ".parquet"])
def test_damage_on_the_way_names_the_row(tmp_path: Path, suffix: str) -> None:
    urls = [f"https://a.example/{i * 7919 % 100_003}.jpg" for i in range(100_000)]
    if suffix == ".parquet":
        where = write_parquet(tmp_path, {"url": urls, "n": range(100_000)}, row_group_size=20_000)
        data = bytearray(Path(where).read_bytes())
        data[len(data) // 2 : len(data) * 3 // 4] = bytes(len(data) * 3 // 4 - len(data) // 2)
    else:
        text = "\n".join('{"url": "' + url + '"}' if "json" in suffix else url for url in urls)
        whole = (("url\n" if "csv" in suffix else "") + text + "\n").encode()
        data = bytearray(gzip.compress(whole) if suffix.endswith("gz") else zstandard.compress(whole))[:-1000]
    found = open_list(write(tmp_path, f"damaged{suffix}", bytes(data)))
    seen = 0
    with pytest.raises(ConfigError, match=r"cannot read list .* after row \d+: ") as caught:
        for row in found.rows():
            assert row.url == urls[row.index]
            seen += 1
    assert 10_000 < seen < 100_000 and f"after row {seen - 1}:" in str(caught.value)
    with pytest.raises(ConfigError, match="after row"):
        list(found.extras(num=10))


@pytest.mark.parametrize("name", ["list.csv.gz", "list.parquet"])
def test_remote(name: str, tmp_path: Path) -> None:
    captions = [f"of {url[8]}" for url in URLS]
    if name == "list.parquet":
        data = Path(write_parquet(tmp_path, {"url": URLS, "caption": captions})).read_bytes()
    else:
        data = gzip.compress(CSV.encode())
    with fsspec.open(f"memory://lists/{name}", "wb") as file:
        file.write(data)
    found = open_list(f"memory://lists/{name}")
    assert [row.url for row in found.rows(1)] == URLS[1:]
    assert [caption for table in found.extras(num=2) for caption in table["list_caption"].to_pylist()] == captions
    assert found.fingerprint == open_list(write(tmp_path, name, data)).fingerprint


def test_lists_on_a_web_server_that_sends_no_parts(tmp_path: Path) -> None:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    write(tmp_path, "list.csv.gz", gzip.compress(CSV.encode()))
    (tmp_path / "big.csv").write_bytes(b"url\n" + b"https://a.example/some/picture.jpg\n" * 400_000)
    serve = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        assert [row.url for row in open_list(f"{place}/list.csv.gz?token=x").rows()] == URLS
        for name, message in (
            ("none.csv", r"does not exist \(or may not"),
            ("big.csv", "sends no parts of a file; download"),
        ):
            with pytest.raises(ConfigError, match=message):
                open_list(f"{place}/{name}")
        server.shutdown()
