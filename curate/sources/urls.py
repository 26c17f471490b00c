"""Lists of URLs: what `build-shards` and `download` read instead of a folder. Nothing is held but the rows at hand.

A list is text (one URL a line, CSV, TSV, JSON Lines) or Parquet; text also as .gz or .zst; on disk or wherever fsspec reads.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from ..core.errors import ConfigError
from .list_files import DAMAGE, PARQUET, WANTED, blame, damaged, fingerprint, format_of, shown
from .list_parquet import is_text, parquet_file, plain_type, read_tables, read_values
from .list_text import TXT_COLUMNS, Record, is_whole, read_columns, read_records, whole

Item = TypeVar("Item")
EXTRA_PREFIX = "list_"
_URL_NAMES = frozenset({
    "url", "imageurl", "imgurl", "pictureurl", "imagelink", "link", "uri",
    "originalurl",  # Open Images
    "photoimageurl",  # Unsplash, whose photo_url is a web page
})  # fmt: skip
_HASH_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRow:
    """One row of a list.

    Attributes:
        index: its number, from 0; a header, and the blank lines of a text, are no rows.
        url: as it stands in the list, without white space around it; None if the row has none.
        hashes: (algorithm, hex in lower case) that the list promises, from its columns md5, sha1, sha256, sha512.
        fault: why the row cannot be read; else "".
    """

    index: int
    url: str | None
    hashes: tuple[tuple[str, str], ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlList:
    """An opened list; holds names and counts, no file handle and no row, and can be pickled.

    Attributes:
        where: path or fsspec URL.
        url_column: the column that holds the URLs.
        columns: all columns, in the list's order.
        num_rows: from a Parquet footer; None where it would have to be counted.
        schema: of the other columns, each named `list_NAME`. Parquet keeps its types, but nested values are JSON text;
            those of other lists are strings (a value of a JSON Lines row that is no string is JSON text).
        fingerprint: sha256 over the size, the first and the last MiB, and the Parquet footer.
    """

    where: str
    url_column: str
    columns: tuple[str, ...]
    num_rows: int | None
    schema: pa.Schema
    fingerprint: str

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """All columns but the URL's, as the list names them; in the order of `schema`."""
        return tuple(name for name in self.columns if name != self.url_column)

    def rows(self, start: int = 0) -> Iterator[ListRow]:
        """Read the rows in order from row `start` on; Parquet skips whole row groups.

        Raises:
            ConfigError: the list is damaged; says after which row.
        """
        fields = zip(self.extra_columns, self.schema, strict=True)
        of_hashes = [name for name, field in fields if name.lower() in _HASH_DIGITS and _can_hash(field.type)]
        algorithms = [name.lower() for name in of_hashes]
        names = [self.url_column, *of_hashes]
        records = self._values(names, start) if self._is_parquet else self._texts(names, start)
        for index, (fault, values) in enumerate(_read(self.where, records, start), start):
            yield _row(index, fault, algorithms, values)

    def extras(self, start: int = 0, num: int = 4096) -> Iterator[pa.Table]:
        """Read the other columns in order, in tables of `num` rows (the last is shorter), one row for each ListRow.

        Raises:
            ConfigError: the list is damaged; says after which row.
        """
        if not self.schema:
            counted = range(start, self.num_rows) if self.num_rows is not None else self._texts((), start)
            for chunk in _chunks(_read(self.where, iter(counted), start), num):
                yield pa.table({"": pa.nulls(len(chunk))}).select([])
        elif self._is_parquet:
            tables = read_tables(self.where, self.extra_columns, self.schema, start)
            yield from _of_length(_read(self.where, tables, start), num, self.schema)
        else:
            for records in _chunks(_read(self.where, self._texts(self.extra_columns, start), start), num):
                rows = [values or (None,) * len(self.schema) for _, values in records]
                columns = [
                    [value if value is None else whole(value) for value in column] for column in zip(*rows, strict=True)
                ]
                yield pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], schema=self.schema)

    @property
    def _is_parquet(self) -> bool:
        return self.num_rows is not None

    def _texts(self, names: Sequence[str], start: int) -> Iterator[Record]:
        places = [self.columns.index(name) for name in names]
        for fault, values in itertools.islice(read_records(self.where, self.columns), start, None):
            yield fault, [values[place] for place in places] if values else ()

    def _values(self, names: Sequence[str], start: int) -> Iterator[Record]:
        for url, *hashes in read_values(self.where, names, start):
            digits = [_digits(name.lower(), value) for name, value in zip(names[1:], hashes, strict=True)]
            yield "", [url if url is None else url.decode("utf-8", "surrogateescape"), *digits]


def is_list(where: str) -> bool:
    """Say by the suffix whether `where` is a list of URLs."""
    return format_of(where) is not None


def open_list(where: str, *, url_column: str = "") -> UrlList:
    """Look at a list: its columns, which of them holds the URLs, and whether it holds a row.

    Args:
        where: path or fsspec URL.
        url_column: the column that holds the URLs; "": the only one with a usual name (url, image_url, link, ...).

    Raises:
        ConfigError: no such file, empty, damaged at its start, two columns of one name, or no column for the URL.
        MissingDependencyError: its file system needs a package that is not installed.
    """
    if not is_list(where):
        raise ConfigError(f"{shown(where)} is no list of URLs by its name; wanted {WANTED}")
    digest = fingerprint(where)
    if (format_of(where) or ("",))[0] == PARQUET:
        with blame(where), parquet_file(where) as file:
            types, num_rows = file.schema_arrow, file.metadata.num_rows
        names = tuple(types.names)
    else:
        with blame(where):
            names, num_rows = read_columns(where), None
        types = None
    column = _choose(where, names, url_column)
    if types is not None and not is_text(types.field(column).type):
        raise ConfigError(f"list {shown(where)}: column {column!r} holds {types.field(column).type}, wanted text")
    fields = [(EXTRA_PREFIX + name, pa.string() if types is None else plain_type(types.field(name).type))
              for name in names if name != column]  # fmt: skip
    found = UrlList(
        where=where, url_column=column, columns=names, num_rows=num_rows, schema=pa.schema(fields), fingerprint=digest
    )
    if next(found.rows(), None) is None:
        raise ConfigError(f"list {shown(where)} holds no row; wanted at least one URL")
    return found


def _can_hash(kind: pa.DataType) -> bool:
    return is_text(kind) or pa.types.is_fixed_size_binary(kind)


def _digits(algorithm: str, value: bytes | None) -> str | None:
    """Return a hash of a Parquet column as hex; it may hold the digits or the bytes."""
    if value is None or 2 * len(value) == _HASH_DIGITS[algorithm]:
        return None if value is None else value.hex()
    return value.decode("utf-8", "surrogateescape")


def _choose(where: str, names: tuple[str, ...], wanted: str) -> str:
    if not names:
        raise ConfigError(f"list {shown(where)} is empty; wanted at least one URL")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"list {shown(where)} has more than one column {', '.join(twice)}; rename all but one")
    has = f"it has {', '.join(names)}"
    if wanted:
        if wanted not in names:
            raise ConfigError(f"list {shown(where)} has no column {wanted!r}; {has} (--url-column)")
        if names is TXT_COLUMNS:
            raise ConfigError(f"list {shown(where)} is one URL a line and has no columns; leave out --url-column")
        return wanted
    usual = [name for name in names if re.sub(r"[\s_-]", "", name.lower()) in _URL_NAMES]
    if len(usual) != 1:
        why = (
            f"more than one column may hold the URL ({', '.join(usual)})" if usual else "no column looks like the URL's"
        )
        raise ConfigError(f"list {shown(where)}: {why}; {has}: name it with --url-column")
    return usual[0]


def _row(index: int, fault: str, algorithms: Sequence[str], values: Sequence[str | None]) -> ListRow:
    if fault:
        return ListRow(index=index, url=None, fault=f"row {index} {fault}")
    url = (values[0] or "").strip() or None
    if url and not is_whole(url):
        return ListRow(index=index, url=None, fault=f"row {index} has a URL that is not UTF-8")
    hashes = []
    for algorithm, value in zip(algorithms, values[1:], strict=True):
        digits = (value or "").strip().lower()
        if digits and not re.fullmatch(rf"[0-9a-f]{{{_HASH_DIGITS[algorithm]}}}", digits):
            wanted = f"{_HASH_DIGITS[algorithm]} hex digits"
            return ListRow(index=index, url=url, fault=f"row {index} has no {algorithm} of {wanted}: {digits[:20]!r}")
        if digits:
            hashes.append((algorithm, digits))
    return ListRow(index=index, url=url, hashes=tuple(hashes))


def _read(where: str, items: Iterable[Item], start: int) -> Iterator[Item]:
    """Yield `items`; of damage on the way say after which row it lies."""
    num = start
    try:
        for item in items:
            num += item.num_rows if isinstance(item, pa.Table) else 1
            yield item
    except DAMAGE as error:
        raise damaged(where, error, f" after row {num - 1}" if num else "") from error


def _chunks(items: Iterator[Item], num: int) -> Iterator[list[Item]]:
    while chunk := list(itertools.islice(items, num)):
        yield chunk


def _of_length(tables: Iterable[pa.Table], num: int, schema: pa.Schema) -> Iterator[pa.Table]:
    rest = schema.empty_table()
    for table in tables:
        rest = pa.concat_tables([rest, table])
        while rest.num_rows >= num:
            yield rest.slice(0, num)
            rest = rest.slice(num)
    if rest.num_rows:
        yield rest
