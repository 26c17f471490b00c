"""Lists of URLs as text: one URL a line, CSV and TSV with a header, JSON Lines. One record per row, in order."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import re
from collections import deque
from collections.abc import Iterator, Sequence

from ..core.errors import ConfigError
from .list_files import MAX_LINE_BYTES, byte_lines, format_of, shown

_log = logging.getLogger(__name__)

Record = tuple[str, Sequence[str | None]]
"""Why the row cannot be read, or ""; then one value per column, none with a fault."""

TXT_COLUMNS = ("url",)
MAX_FIELD_CHARS = 4 << 20  # csv stops at 128 KiB by itself; a quote that is never closed must not fill the memory
JSON_ROWS_LOOKED_AT = 1000  # for the names of the columns
_SURROGATES = re.compile("[\ud800-\udfff]")


def read_columns(where: str) -> tuple[str, ...]:
    """Name the columns: the header, or for JSON Lines the keys of the first JSON_ROWS_LOOKED_AT objects.

    Raises:
        ConfigError: no header, or not one object.
    """
    kind = _kind(where)
    if kind == "txt":
        return TXT_COLUMNS
    if kind in ("csv", "tsv"):
        return _header(where, _Lines(byte_lines(where)))
    lines = itertools.islice((line for line in byte_lines(where) if line.strip()), JSON_ROWS_LOOKED_AT)
    found = [_json_object(line) for line in lines]
    names = dict.fromkeys(name for _, value in found for name in value)
    if not names and found:
        raise ConfigError(f"list {shown(where)} holds no JSON object: {found[0][0]}; wanted one on every line")
    return tuple(names)


def read_records(where: str, columns: Sequence[str]) -> Iterator[Record]:
    """Read every row; `columns` are those of `read_columns`. A row that cannot be read is a record with a fault."""
    kind = _kind(where)
    if kind == "txt":
        return _txt_records(where)
    if kind in ("csv", "tsv"):
        return _csv_records(where, len(columns))
    return _json_records(where, columns)


def whole(text: str) -> str:
    """Put U+FFFD where bytes were not UTF-8."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def is_whole(text: str) -> bool:
    """Say whether all bytes were UTF-8."""
    return text.isascii() or not _SURROGATES.search(text)


def _kind(where: str) -> str:
    found = format_of(where)
    assert found is not None, "open_list asks first"
    return found[0]


def _txt_records(where: str) -> Iterator[Record]:
    for line in byte_lines(where):
        if len(line) > MAX_LINE_BYTES:
            yield f"has more than {MAX_LINE_BYTES >> 20} MiB in one line", ()
        elif text := line.decode("utf-8", "surrogateescape").strip():
            yield "", (text,)


class _Lines:
    """Lines for `csv.reader`; remembers those of the row at hand, so that they can be read again."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._again: deque[str | None] = deque()
        self.taken: list[str | None] = []  # None: longer than MAX_LINE_BYTES
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._decoded()
        self.number += 1
        self.taken.append(line)
        if line is None:
            raise csv.Error(f"more than {MAX_LINE_BYTES >> 20} MiB in one line")
        return line

    def _decoded(self) -> str | None:
        line = next(self._lines)
        return line.decode("utf-8", "surrogateescape") if len(line) <= MAX_LINE_BYTES else None

    def put_back(self) -> None:
        """Read all lines of this row but its first again."""
        self._again.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1


def _reader(where: str, lines: _Lines) -> Iterator[list[str]]:
    # The limit is the process's, not the reader's: only ever raise it. `strict` tells of a stray quote instead of
    # joining the lines up to the next one.
    if csv.field_size_limit() < MAX_FIELD_CHARS:
        csv.field_size_limit(MAX_FIELD_CHARS)
    return csv.reader(lines, delimiter="\t" if _kind(where) == "tsv" else ",", strict=True)


def _header(where: str, lines: _Lines) -> tuple[str, ...]:
    try:
        names = next((fields for fields in _reader(where, lines) if fields), [])
    except csv.Error as error:
        raise ConfigError(f"list {shown(where)}: its header cannot be read: {error}") from error
    if any(name.strip().startswith(("http://", "https://")) for name in names):
        raise ConfigError(
            f"list {shown(where)} begins with a URL, not with a header; add a line with the columns' names, "
            "or name it .txt if it holds nothing but one URL a line"
        )
    return tuple(whole(name).strip() or f"column_{place}" for place, name in enumerate(names))


def _csv_records(where: str, num_columns: int) -> Iterator[Record]:
    lines = _Lines(byte_lines(where))
    _header(where, lines)
    reader = _reader(where, lines)
    while True:
        lines.taken.clear()
        first = lines.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines.put_back()  # a quote that nobody closed costs one row, not all rows up to the next quote
            yield f"(line {first}) cannot be read: {error}; quotes inside a quoted field are doubled", ()
            continue
        if len(fields) == num_columns:
            yield "", fields
        elif fields:
            last = f"-{lines.number}" if lines.number > first else ""
            quoted = "tabs" if _kind(where) == "tsv" else "commas"
            what = f"has {len(fields)} fields, the header has {num_columns}: quote what holds {quoted}"
            yield f"(line {first}{last}) {what}", ()


def _json_records(where: str, columns: Sequence[str]) -> Iterator[Record]:
    known, warned = frozenset(columns), False
    for line in byte_lines(where):
        if not line.strip():
            continue
        fault, value = _json_object(line)
        if fault:
            yield fault, ()
            continue
        if not warned and not known.issuperset(value):
            warned = True
            names = ", ".join(sorted(value.keys() - known))
            _log.warning(
                "list %s: keys that none of the first %d rows has are left out: %s",
                shown(where), JSON_ROWS_LOOKED_AT, names,
            )  # fmt: skip
        yield "", [_as_text(value.get(name)) for name in columns]


def _json_object(line: bytes) -> tuple[str, dict[str, object]]:
    if len(line) > MAX_LINE_BYTES:
        return f"has more than {MAX_LINE_BYTES >> 20} MiB in one line", {}
    try:
        value = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}", {}
    if not isinstance(value, dict):
        return f"is a JSON {type(value).__name__}, wanted an object", {}
    return "", {whole(name): item for name, item in value.items()}


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
