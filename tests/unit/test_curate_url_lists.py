"""Lists of URLs: every format and compression, rows that cannot be read, and what is said about lists that cannot."""

import csv
import gzip
import io
import json
import logging
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.core.errors import ConfigError
from curate.sources import list_files, list_text
from curate.sources.urls import ListRow, UrlList, is_list, open_list

ROWS = [
    ("https://a.example/1.jpg", "one, two", "10"),
    ('https://a.example/b c,"d".jpg', "a\nline", "20"),
    ("https://b.example/ü.jpg?x=1&y=2", "", "30"),
    ("https://b.example/4.jpg", 'says "hello"', "40"),
    ("https://c.example/5.jpg", "gefüllt", "50"),
]
TXT_SUFFIXES = [
    f".{kind}{compression}" for kind in ("txt", "csv", "tsv", "jsonl") for compression in ("", ".gz", ".zst")
]


def table_text(
    delimiter: str, rows: list[tuple[str, ...]] = ROWS, header: tuple[str, ...] = ("url", "caption", "width")
) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter).writerows([header, *rows])
    return out.getvalue().encode()


def as_bytes(suffix: str) -> bytes:
    kind = suffix.split(".")[1]
    if kind == "txt":
        data = "".join(f"{url}\n" for url, _, _ in ROWS).encode()
    elif kind == "jsonl":
        data = "".join(json.dumps({"url": u, "caption": c, "width": int(w)}) + "\n" for u, c, w in ROWS).encode()
    else:
        data = table_text("\t" if kind == "tsv" else ",")
    return compressed(data, suffix)


def compressed(data: bytes, suffix: str) -> bytes:
    """Compress in two parts, as a list that was appended to."""
    half = len(data) // 2
    if suffix.endswith(".gz"):
        return gzip.compress(data[:half]) + gzip.compress(data[half:])
    if suffix.endswith(".zst"):
        return b"".join(zstandard.ZstdCompressor().compress(part) for part in (data[:half], data[half:]))
    return data


def write(folder: Path, name: str, data: bytes | str) -> str:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def write_parquet(folder: Path, columns: dict[str, object], **options: object) -> str:
    pq.write_table(pa.table(columns), folder / "list.parquet", **options)
    return str(folder / "list.parquet")


def extras(found: UrlList, start: int = 0, num: int = 4096) -> list[dict[str, object]]:
    tables = list(found.extras(start, num))
    assert all(table.num_rows == num for table in tables[:-1])
    assert all(table.schema.equals(found.schema) for table in tables)
    return [row for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize("suffix", [*TXT_SUFFIXES, ".CSV.GZ"])
def test_text_lists(tmp_path: Path, suffix: str) -> None:
    found = open_list(write(tmp_path, f"list{suffix}", as_bytes(suffix.lower())))
    assert list(found.rows()) == [ListRow(index=i, url=row[0]) for i, row in enumerate(ROWS)]
    assert found.num_rows is None and found.url_column == "url"
    assert [row.index for row in found.rows(3)] == [3, 4] and list(found.rows(5)) == []
    if suffix.startswith(".txt"):
        assert len(found.schema) == 0 and [t.num_rows for t in found.extras(1, 3)] == [3, 1]
    else:
        wanted = [{"list_caption": caption, "list_width": width} for _, caption, width in ROWS]
        assert extras(found) == wanted and extras(found, 1, 3) == wanted[1:]
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize("group_rows", [1, 2, 100])
def test_parquet(tmp_path: Path, group_rows: int) -> None:
    urls, captions, widths = zip(*ROWS, strict=True)
    columns = {
        "caption": captions,
        "URL": urls,
        "width": pa.array(map(int, widths), pa.int32()),
        "tags": [["a"], None, [], ["b", "c"], [None]],
    }
    found = open_list(write_parquet(tmp_path, columns, row_group_size=group_rows))
    assert found.num_rows == 5 and found.url_column == "URL"
    assert found.schema == pa.schema(
        [("list_caption", pa.string()), ("list_width", pa.int32()), ("list_tags", pa.string())]
    )
    for start in range(7):
        assert list(found.rows(start)) == [ListRow(index=i, url=urls[i]) for i in range(start, 5)]
        rows = extras(found, start, 2)
        assert [row["list_width"] for row in rows] == [10, 20, 30, 40, 50][start:]
        assert [row["list_tags"] for row in rows] == ['["a"]', None, "[]", '["b", "c"]', "[null]"][start:]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.string_view(),
    ],
    ids=str,
)
def test_parquet_url_types(tmp_path: Path, kind: pa.DataType) -> None:
    values = ["https://a.example/ü", None, " https://b.example ", "https://a.example/ü", "  "]
    found = open_list(write_parquet(tmp_path, {"url": pa.array(values, pa.string()).cast(kind)}))
    assert [row.url for row in found.rows()] == [
        "https://a.example/ü",
        None,
        "https://b.example",
        "https://a.example/ü",
        None,
    ]
    assert [table.num_rows for table in found.extras(1, 3)] == [3, 1]


def test_parquet_of_other_types(tmp_path: Path) -> None:
    columns = {
        "url": ["https://a.example"], "name": pa.array(["x"]).dictionary_encode(), "raw": [b"\xff"],
        "place": [{"at": b"\x01", "n": 1}], "when": pa.array([0], pa.timestamp("us", "UTC")),
    }  # fmt: skip
    assert extras(open_list(write_parquet(tmp_path, columns)))[0] == {
        "list_name": "x", "list_raw": b"\xff", "list_place": '{"at": "01", "n": 1}',
        "list_when": pa.scalar(0, pa.timestamp("us", "UTC")).as_py(),
    }  # fmt: skip
    with pytest.raises(ConfigError, match="'url' holds int64, wanted text"):
        open_list(write_parquet(tmp_path, {"url": [1]}))
    found = open_list(write_parquet(tmp_path, {"url": [b"https://\xff", b"https://a.example"]}))
    assert [row.fault for row in found.rows()] == ["row 0 has a URL that is not UTF-8", ""]


def test_txt_is_taken_line_by_line(tmp_path: Path) -> None:
    text = (
        b'\xef\xbb\xbfhttps://a.example/1,2 "3".jpg\r\n\r\n   \n  https://b.example/\xc3\xbc  \nhttps://\xff\xfe\nlast'
    )
    found = open_list(write(tmp_path, "list.txt", text))
    urls = ['https://a.example/1,2 "3".jpg', "https://b.example/ü", None, "last"]
    assert [(row.index, row.url) for row in found.rows()] == list(enumerate(urls))
    assert [bool(row.fault) for row in found.rows()] == [False, False, True, False]
    assert [table.num_rows for table in found.extras()] == [4]


def test_long_lines_are_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (list_files, list_text):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 64)
    lines = ["a" * 60, "b" * 65, "c" * 200, "d" * 60, "e" * 130]
    for end in ("", "\n"):
        found = open_list(write(tmp_path, "list.txt", "\n".join(lines) + end))
        assert [row.url and row.url[0] for row in found.rows()] == [
            "a",
            None,
            None,
            "d",
            None,
        ]
    found = open_list(
        write(tmp_path, "list.csv", "url,caption\nx,1\ny," + "z" * 100 + '\nw,"\n' + "v" * 100 + "\nu,5\n")
    )
    assert [row.url for row in found.rows()] == ["x", None, None, None, "u"]
    assert "more than 0 MiB in one line" in next(found.rows(1)).fault


def test_csv_rows_that_cannot_be_read(tmp_path: Path) -> None:
    text = 'url,caption\n\na,1\nb,2,3\nc\n"d",4\ne,"5 says "x""\nf,"never closed\ng,6\n"h,i",7\n'
    found = open_list(write(tmp_path, "list.csv", text))
    rows = list(found.rows())
    assert [row.url for row in rows] == ["a", None, None, "d", None, None, "g", "h,i"]
    assert [row.index for row in rows] == list(range(8))
    assert rows[1].fault == "row 1 (line 4) has 3 fields, the header has 2: quote what holds commas"
    assert rows[4].fault.startswith("row 4 (line 7) cannot be read: ")
    assert [row["list_caption"] for row in extras(found)] == ["1", None, None, "4", None, None, "6", "7"]
    assert [row.url for row in found.rows(6)] == ["g", "h,i"]


def test_long_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_list(write(tmp_path, "list.csv", f"url,caption\na,{'x' * 300_000}\nb,2\n"))
    assert [row.url for row in found.rows()] == ["a", "b"]
    assert len(str(extras(found)[0]["list_caption"])) == 300_000
    before = csv.field_size_limit(5000)
    try:
        monkeypatch.setattr(list_text, "MAX_FIELD_CHARS", 5000)
        assert [(row.url, bool(row.fault)) for row in found.rows()] == [(None, True), ("b", False)]
    finally:
        csv.field_size_limit(before)


def test_bytes_that_are_not_utf8_cost_a_caption_not_its_row(tmp_path: Path) -> None:
    found = open_list(write(tmp_path, "list.csv", b"url,caption\na,caf\xe9\nb\xe9,ok\n"))
    assert [(row.url, row.fault) for row in found.rows()] == [("a", ""), (None, "row 1 has a URL that is not UTF-8")]
    assert [row["list_caption"] for row in extras(found)] == ["caf\ufffd", "ok"]


def test_json_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_text, "JSON_ROWS_LOOKED_AT", 3)
    lines = ['{"url": "a", "n": 1.5}', "", "[1]", '{"n": {"x": [null, "\\ud800"]}, "link_text": true}', '{"url": ',
             "[" * 100_000, '{"url": 5, "late": 1}', '{"url": null, "late": 2}']  # fmt: skip
    found = open_list(write(tmp_path, "list.ndjson", "\n".join(lines)))
    rows = list(found.rows())
    assert [row.url for row in rows] == ["a", None, None, None, None, "5", None]
    assert [bool(row.fault) for row in rows] == [False, True, False, True, True, False, False]
    assert found.columns == ("url", "n", "link_text")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert [row["list_n"] for row in extras(found)] == [
            "1.5",
            None,
            '{"x": [null, "\ufffd"]}',
            None,
            None,
            None,
            None,
        ]
    assert caplog.text.count("late") == 1


def test_hashes(tmp_path: Path) -> None:
    sha256, md5 = "AB" * 32, "cd" * 16
    text = f"url,SHA256,md5,sha1\na,{sha256},{md5},\nb,,, {'ef' * 20} \nc,xyz,,\n"
    rows = list(open_list(write(tmp_path, "list.csv", text)).rows())
    assert rows[0].hashes == (("sha256", "ab" * 32), ("md5", md5))
    assert rows[1].hashes == (("sha1", "ef" * 20),)
    assert rows[2].hashes == () and rows[2].fault == "row 2 has no sha256 of 64 hex digits: 'xyz'"
    columns = {
        "url": ["a", "b"],
        "sha256": pa.array([bytes.fromhex(sha256), None], pa.binary(32)),
        "md5": [md5, None],
        "sha1": [1, 2],
    }
    rows = list(open_list(write_parquet(tmp_path, columns)).rows())
    assert [row.hashes for row in rows] == [(("sha256", "ab" * 32), ("md5", md5)), ()]


@pytest.mark.parametrize(
    ("header", "wanted", "column"),
    [
        ("caption,Image_URL", "", "Image_URL"), ("key,link", "", "link"), ("photo_url,photo_image_url", "", "photo_image_url"),
        ("OriginalURL,Thumbnail", "", "OriginalURL"), ("url,link", "link", "link"), ("caption,pic", "pic", "pic"),
    ],
)  # fmt: skip
def test_url_column(tmp_path: Path, header: str, wanted: str, column: str) -> None:
    assert open_list(write(tmp_path, "list.csv", f"{header}\nx,y\n"), url_column=wanted).url_column == column


def test_fingerprint_sees_both_ends_and_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_files, "_ENDS_BYTES", 10)
    texts = ["x" * 40, "y" + "x" * 39, "x" * 39 + "y", "x" * 41]
    found = [open_list(write(tmp_path, "list.txt", text)).fingerprint for text in texts]
    assert len(set(found)) == 4
    middle = write_parquet(tmp_path, {"url": ["a", "b"], "n": [1, 2]})
    before = open_list(middle).fingerprint
    assert (
        before != open_list(write_parquet(tmp_path, {"url": ["a", "b"], "n": [1, 3]})).fingerprint
    )  # footer: min, max


def test_is_list() -> None:
    yes = ["a.txt", "s3://b/a.tsv.zst", "A.JSONL.GZ", "https://h/list.csv?token=1", "x/y.parquet"]
    no = ["photos", "a.gz", "a.parquet.zst", ".csv.d/a", "a.csv.bz2", "https://h/list?x=a.csv", "csv"]
    assert [is_list(where) for where in yes + no] == [True] * len(yes) + [False] * len(no)


_TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=8), delimiter=st.sampled_from(",\t"))
def test_any_csv_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str
) -> None:
    kind = "csv" if delimiter == "," else "tsv"
    where = write(tmp_path_factory.mktemp("csv"), f"list.{kind}", table_text(delimiter, rows, ("url", "caption")))
    found = open_list(where)
    assert [(row.url or "", row.fault) for row in found.rows()] == [(url.strip(), "") for url, _ in rows]
    assert [row["list_caption"] for row in extras(found, num=3)] == [caption for _, caption in rows]


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_rows_or_one_clear_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for name, start in (
        ("a.txt", b""),
        ("a.csv", b"url,n\n"),
        ("a.jsonl", b'{"url": "a"}\n'),
        ("a.csv.gz", b""),
        ("a.parquet", b""),
    ):
        try:
            found = open_list(write(folder, name, start + data))
            num_rows = len(list(found.rows()))
        except ConfigError as error:
            assert "\n" not in str(error)
        else:
            assert num_rows == sum(table.num_rows for table in found.extras(num=2)) > 0
