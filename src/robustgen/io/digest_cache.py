"""Notes on the user's files, so that unchanged files are not read again at every start.

As in git, a file counts as unchanged if its size, its times and its inode are those that were
noted.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from robustgen.errors import UserError
from robustgen.io.atomic import atomic_write

FOLDER = Path(".snakemake/robustgen")
"""Where notes are kept, below the working directory."""
SETTLED = 2.0
"""Seconds since its last change after which a file is noted: its time stamp will differ if it is
changed again."""


def file_stamp(file: Path) -> list[int]:
    """Size, times and inode of a file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def is_settled(stamp: list[int]) -> bool:
    """Whether the stamp of a file will differ if the file is changed again."""
    return time.time() - stamp[2] / 1e9 > SETTLED


def read_notes(path: Path) -> dict[str, Any]:
    """The notes on a file or folder; empty if there are none."""
    with suppress(OSError, ValueError):
        notes = json.loads(_place(path).read_text(encoding="utf-8"))
        return notes if isinstance(notes, dict) else {}
    return {}


def write_notes(path: Path, notes: dict[str, Any]) -> None:
    """Keep the notes on a file or folder.

    Notes only save time: where they cannot be written, files are read again at the next start.
    """
    with suppress(UserError), atomic_write(_place(path)) as partial:
        partial.write_text(json.dumps(notes), encoding="utf-8")


def _place(path: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return FOLDER / f"{digest[:16]}.json"
