"""Atomic writes: a file is complete, or it does not exist."""

import errno
import fcntl
import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from robustgen.errors import UserError

_DISK_FULL_MESSAGES = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
"""Texts by which a full disk is recognized, because each library raises an error of its own."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`, which replaces `path` if the block raises no error.

    The temporary file has the suffix of `path`, from which some writers choose the format.

    Raises:
        UserError: the folder cannot be created or written, or the disk is full.
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
    temporary = Path(name)
    try:
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # with mkstemp's 0600 a group could not read results
        temporary.replace(path)
    except Exception as error:
        reason = next((text for text in _DISK_FULL_MESSAGES if text in str(error)), None)
        if reason is None:
            raise
        raise UserError(
            f"{path} cannot be written: {reason}; free some space and run again"
        ) from error
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of killed writers of `path`; a live writer holds a lock."""
    name, suffix = glob.escape(path.name), glob.escape(path.suffix)
    pattern = f".{name}.{'?' * 8}{suffix}"  # the names that `tempfile.mkstemp` gives
    for temporary in path.parent.glob(pattern):
        with suppress(OSError), temporary.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()
