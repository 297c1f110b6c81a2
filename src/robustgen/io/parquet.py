"""Parquet tables of fixed schema, with a digest of the file in its footer."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robustgen.errors import UserError, remedy
from robustgen.io.atomic import atomic_write

_DIGEST_PREFIX = b"sha256:"
_DIGEST_PLACEHOLDER = _DIGEST_PREFIX + b"0" * 64
"""Text in the footer that the digest of the file replaces; the digest is taken with it in place."""

_Number = bool | int | float | None


def write_table(path: str | Path, rows: pa.Table | Mapping[str, Any], schema: pa.Schema) -> None:
    """Write a Parquet table with exactly the columns, types and metadata of `schema`.

    The file contains no time and no machine name, so that equal rows give equal bytes.

    Raises:
        ValueError: a number does not fit the type of its column, or a column that is not nullable
            has missing values.
        UserError: the file cannot be written.
    """
    if not isinstance(rows, pa.Table):
        columns = {field.name: _to_array(rows[field.name], field.type) for field in schema}
        rows = pa.table(columns, schema=schema)
    table = rows.select(schema.names)
    if not table.schema.equals(schema, check_metadata=True):
        table = table.cast(schema)
    for field in schema:
        if not field.nullable and table.column(field.name).null_count:
            raise ValueError(f"{path}: column {field.name} has missing values")
    stream = pa.BufferOutputStream()
    with pq.ParquetWriter(stream, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"robustgen": _DIGEST_PLACEHOLDER.decode()})
    content = stream.getvalue().to_pybytes()
    head, _, tail = content.rpartition(_DIGEST_PLACEHOLDER)
    with atomic_write(path) as temporary:
        temporary.write_bytes(head + _format_digest(content) + tail)


def _to_array(values: Any, dtype: pa.DataType) -> pa.Array:
    """Convert `values` to an Arrow array; numbers are taken from NumPy's memory.

    `pyarrow.array` would import pandas, which takes a tenth of the start of a job.
    """
    numpy_values = values
    if isinstance(values, list) and all(isinstance(value, _Number) for value in values):
        filled = [0 if value is None else value for value in values]
        numpy_values = np.ma.masked_array(filled, [value is None for value in values])
    is_numeric = (
        pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_boolean(dtype)
    )
    is_vector = (
        isinstance(numpy_values, np.ndarray)
        and numpy_values.ndim == 1
        and numpy_values.dtype.kind in "biuf"
    )
    if not (is_numeric and is_vector):
        return pa.array(values, dtype)
    is_missing, data = np.ma.getmaskarray(numpy_values), np.ma.getdata(numpy_values)
    present = data[~is_missing]
    cast = data.astype(dtype.to_pandas_dtype())
    may_round = data.dtype.kind == cast.dtype.kind == "f"  # other numbers must fit exactly
    if not may_round and not np.array_equal(cast[~is_missing].astype(data.dtype), present):
        raise ValueError(f"{present} do not fit {dtype}")
    content = _pack_bits(cast) if pa.types.is_boolean(dtype) else pa.py_buffer(cast)
    validity = _pack_bits(~is_missing) if is_missing.any() else None
    return pa.Array.from_buffers(dtype, len(cast), [validity, content])


def _pack_bits(flags: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def column_to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Convert a column without missing values; `column.to_numpy` would import pandas."""
    return np.concatenate([np.from_dlpack(chunk) for chunk in column.chunks])


def read_table(path: str | Path, *schemas: pa.Schema) -> pa.Table:
    """Read a Parquet table that `write_table` wrote with one of `schemas`.

    Raises:
        UserError: the file is missing, was changed after it was written, or has other columns.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    start = content.rfind(_DIGEST_PREFIX)
    end = start + len(_DIGEST_PLACEHOLDER)
    view = memoryview(content)  # slices of it are not copied
    if start < 0 or view[start:end] != _format_digest(
        view[:start], _DIGEST_PLACEHOLDER, view[end:]
    ):
        raise UserError(f"{path} is damaged: it was changed after it was written; {remedy(path)}")
    # `pq.read_table` would import pandas. Its threads have aborted processes that ended while they
    # were still running.
    table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    if not any(table.schema.equals(schema) for schema in schemas):
        names = " or ".join(str(schema.names) for schema in schemas)
        raise UserError(
            f"{path} must have the columns {names}, with the types of their schema; {remedy(path)}"
        )
    return table


def _format_digest(*parts: bytes | memoryview) -> bytes:
    """Return the digest of a file, given with `_DIGEST_PLACEHOLDER` in place of the digest."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return _DIGEST_PREFIX + digest.hexdigest().encode()
