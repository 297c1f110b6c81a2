"""Whole files or none, tables of fixed schema, and where a file comes from."""

import errno
import fcntl
import glob
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robustgen.errors import UserError, remedy

_FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
"""What every writer says of a full disk, though by errors of its own."""


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A place to write to beside `path`, renamed to it when the block ends without an error.

    The name keeps the suffix of `path`, which some writers go by.

    Raises:
        UserError: the folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix
        )
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written: {error.strerror}") from error
    partial = Path(name)
    try:
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # mkstemp's 0600 would hide results from a group
        partial.replace(path)
    except Exception as error:
        full = next((words for words in _FULL if words in str(error)), None)
        if full is None:
            raise
        raise UserError(f"{path} cannot be written: {full}; free some and run again") from error
    finally:
        os.close(handle)
        partial.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove what a killed writer of `path` left; whoever still writes holds a lock."""
    name, suffix = glob.escape(path.name), glob.escape(path.suffix)
    for left in path.parent.glob(f".{name}.{'?' * 8}{suffix}"):  # as `tempfile.mkstemp` names it
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


@cache
def provenance(device: object, backend: str = "") -> dict[str, str]:
    """What made a file: package versions, git commit of the package (if any), device and backend.

    The commit is suffixed with "+changed" where tracked files differ from it.

    Args:
        device: the device of the computation.
        backend: the name of the backend, if one was used.
    """
    packages = ("robustgen", "torch", "numpy", "pyarrow", "pillow", "safetensors")
    record: dict[str, str] = {}
    for package in packages:
        try:
            record[package] = version(package)
        except ModuleNotFoundError:
            record[package] = "not installed"
    record |= {"commit": _read_commit(Path(__file__)), "device": str(device)}
    return {**record, "backend": backend} if backend else record


def _read_commit(file: Path) -> str:
    """The commit of the git repository that tracks a file; "none" if there is none.

    A repository that does not track the file is another project's, inside which this one lies.
    """
    if not _run_git(file.parent, "ls-files", "--error-unmatch", "--", file.name):
        return "none"
    options = ("--always", "--abbrev=40", "--exclude=*", "--dirty=+changed")
    return _run_git(file.parent, "describe", *options) or "none"


def _run_git(folder: Path, *arguments: str) -> str:
    """What git prints about the repository in which a folder is; empty if git fails or is missing.

    Variables of git are left out, because they may name another repository.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        process = subprocess.run(
            ["git", "-C", str(folder), *arguments], env=environment, capture_output=True, text=True
        )
    except OSError:
        return ""
    return process.stdout.strip() if process.returncode == 0 else ""


def write_table(path: str | Path, rows: pa.Table | Mapping[str, Any], schema: pa.Schema) -> None:
    """Write a Parquet table with exactly the columns, types and metadata of `schema`.

    The file holds no time and no machine, so that equal rows give equal bytes.
    """
    if not isinstance(rows, pa.Table):
        columns = {field.name: _array(rows[field.name], field.type) for field in schema}
        rows = pa.table(columns, schema=schema)
    table = rows.select(schema.names)
    if not table.schema.equals(schema, check_metadata=True):
        table = table.cast(schema)
    for field in schema:
        if not field.nullable and table.column(field.name).null_count:
            raise ValueError(f"{path}: column {field.name} has empty values")
    made = pa.BufferOutputStream()
    with pq.ParquetWriter(made, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"robustgen": _BLANK.decode()})
    content = made.getvalue().to_pybytes()
    before, _, after = content.rpartition(_BLANK)
    with whole(path) as partial:
        partial.write_bytes(before + _digest_of(content) + after)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    """`values` as Arrow has them: numbers straight from NumPy's memory.

    pyarrow's own way imports pandas, which takes a tenth of a job's start.
    """
    given = values
    if isinstance(values, list) and all(isinstance(of, _Number) for of in values):
        filled = [0 if of is None else of for of in values]
        given = np.ma.masked_array(filled, [of is None for of in values])
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    plain = isinstance(given, np.ndarray) and given.ndim == 1 and given.dtype.kind in "biuf"
    if not (number and plain):
        return pa.array(values, kind)
    missing, data = np.ma.getmaskarray(given), np.ma.getdata(given)
    held = data.astype(kind.to_pandas_dtype())
    rounded = data.dtype.kind == held.dtype.kind == "f"  # anything else must fit
    if not rounded and not np.array_equal(held.astype(data.dtype)[~missing], data[~missing]):
        raise ValueError(f"{data[~missing]} do not fit {kind}")
    content = _bits(held) if pa.types.is_boolean(kind) else pa.py_buffer(held)
    validity = _bits(~missing) if missing.any() else None
    return pa.Array.from_buffers(kind, len(held), [validity, content])


_Number = bool | int | float | None


def _bits(flags: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column without empty values as NumPy has it; pyarrow's own way imports pandas."""
    return np.concatenate([np.from_dlpack(part) for part in column.chunks])


def read_table(path: str | Path, *schemas: pa.Schema) -> pa.Table:
    """A Parquet table as `write_table` wrote it, of one of `schemas`.

    Raises:
        UserError: the file is missing, has changed since it was written or has other columns.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    at = content.rfind(_SCHEME)
    end = at + len(_BLANK)
    held = memoryview(content)  # of which nothing is copied
    if at < 0 or held[at:end] != _digest_of(held[:at], _BLANK, held[end:]):
        raise UserError(f"{path} is damaged: it is not as it was written; {remedy(path)}")
    # `read_table` would import pandas. Threads of it that are still at work as the process ends
    # have been seen to abort it.
    table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    if not any(table.schema.equals(schema) for schema in schemas):
        names = " or ".join(str(schema.names) for schema in schemas)
        raise UserError(
            f"{path} has other columns than {names} of fixed types and meanings; {remedy(path)}"
        )
    return table


def _digest_of(*parts: bytes | memoryview) -> bytes:
    """What the footer of a table says of the file, in which `_BLANK` stands for it."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return _SCHEME + digest.hexdigest().encode()


_SCHEME = b"sha256:"
_BLANK = _SCHEME + b"0" * 64
