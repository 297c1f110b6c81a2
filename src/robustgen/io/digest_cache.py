"""A cache of what is known about the user's files, so that each start need not read them again.

As in git, a file counts as unchanged if its size, times and inode are equal to the recorded ones.
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

DIGEST_CACHE = Path(".snakemake/robustgen")
"""The folder of the cache, relative to the working directory."""
MTIME_RESOLUTION_S = 2.0
"""Least age of a change, in seconds, from which a further change surely gets another time stamp."""


def read_stamp(file: Path) -> list[int]:
    """Return size, times and inode of a file.

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
    return time.time() - stamp[2] / 1e9 > MTIME_RESOLUTION_S


def read_entry(path: Path) -> dict[str, Any]:
    """Return the cached entry of a file or folder; empty if there is none."""
    with suppress(OSError, ValueError):
        entry = json.loads(_entry_path(path).read_text(encoding="utf-8"))
        return entry if isinstance(entry, dict) else {}
    return {}


def write_entry(path: Path, entry: dict[str, Any]) -> None:
    """Cache an entry about a file or folder.

    The cache only saves time. If it cannot be written, the next start reads the files again.
    """
    with suppress(UserError), atomic_write(_entry_path(path)) as temporary:
        temporary.write_text(json.dumps(entry), encoding="utf-8")


def _entry_path(path: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return DIGEST_CACHE / f"{digest[:16]}.json"
