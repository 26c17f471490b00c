"""Lists of URLs as Parquet: read in small batches, so that a list of one huge row group starts as fast as any other."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from .list_files import open_bytes

_BATCH_ROWS = 8192
_BUFFER_BYTES = 1 << 20  # without it pyarrow reads the whole column of a row group before its first value


@contextlib.contextmanager
def parquet_file(where: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file for reading in order."""
    with open_bytes(where) as file:
        source = file if "://" in where else where
        options = {"pre_buffer": False, "buffer_size": _BUFFER_BYTES, "page_checksum_verification": True}
        with pq.ParquetFile(source, **options) as found:
            yield found


def is_text(kind: pa.DataType) -> bool:
    """Say whether a column can hold URLs."""
    return _is_bytes(kind.value_type if pa.types.is_dictionary(kind) else kind)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that a column has in our tables: dictionaries decoded, nested values as JSON text."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_nested(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def read_values(where: str, columns: Sequence[str], start: int) -> Iterator[tuple[bytes | None, ...]]:
    """Read text columns as bytes, row by row from row `start` on (pyarrow does not check that text is UTF-8)."""
    for batch in _batches(where, columns, start):
        values = [_as_bytes(batch.column(name)).to_pylist() for name in columns]
        yield from zip(*values, strict=True)


def read_tables(where: str, columns: Sequence[str], schema: pa.Schema, start: int) -> Iterator[pa.Table]:
    """Read columns as `schema` has them (same order), from row `start` on, in tables of any length."""
    for batch in _batches(where, columns, start):
        arrays = [_plain(batch.column(name), field.type) for name, field in zip(columns, schema, strict=True)]
        yield pa.Table.from_arrays(arrays, schema=schema)


def _batches(where: str, columns: Sequence[str], start: int) -> Iterator[pa.RecordBatch]:
    with parquet_file(where) as file:
        lengths = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        ends = list(itertools.accumulate(lengths))
        groups = [group for group, end in enumerate(ends) if end > start]
        if not groups:
            return
        skip = start - (ends[groups[0]] - lengths[groups[0]])
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=list(columns), use_threads=False):
            if skip < batch.num_rows:
                yield batch.slice(skip)
            skip = max(0, skip - batch.num_rows)


def _is_bytes(kind: pa.DataType) -> bool:
    of_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    of_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_one(kind) for is_one in (*of_text, *of_bytes))


def _as_bytes(array: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.large_binary())


def _plain(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if isinstance(array.type, pa.BaseExtensionType):
        return _plain(array.storage, kind)
    if pa.types.is_dictionary(array.type):
        return _plain(array.dictionary_decode(), kind)
    if pa.types.is_nested(array.type):
        return pa.array([_as_json(scalar) for scalar in array], kind)
    return array if array.type == kind else array.cast(kind)


def _as_json(scalar: pa.Scalar) -> str | None:
    if not scalar.is_valid:
        return None
    return json.dumps(scalar.as_py(), ensure_ascii=True, default=_json_value)


def _json_value(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
