"""Files of public data sets: fetched once, checked, and kept in a folder outside the results."""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.request import Request, urlopen

from torchvision.datasets.utils import USER_AGENT, check_integrity

from robustgen.errors import UserError
from robustgen.io.atomic import atomic_write
from robustgen.io.paths import expand_home, is_address, require_file, working_directory_note

log = logging.getLogger("robustgen")

SILENCE = 30.0
"""Seconds without a byte after which a server is given up."""
SLOWEST = 10_000
"""Bytes per second below which it is given up too, over as many seconds."""
_CHUNK = 1 << 18


@dataclass(frozen=True)
class PublicFile:
    """A file that everyone can get."""

    place: str
    """Where it is in the data folder and in a mirror, e.g. `emnist/gzip.zip`."""
    md5: str
    addresses: tuple[str, ...]
    """Where it is on the internet."""
    installed: Path | None = None
    """Where a package of the system puts it, which has checked it."""


class _WrongError(Exception):
    """What was fetched is not the file."""


def fetch(files: Sequence[PublicFile], folder: str | Path, mirror: str | None = None) -> list[Path]:
    """Where `files` lie on this machine, after fetching those that do not.

    Each is looked for in the data folder, where the system's packages install it, in the mirror
    and on the internet, in this order. What is fetched stays in the folder. A file in the folder
    is never changed or removed, because the user may have put it there.

    Args:
        files: what is needed.
        folder: the data folder; `~` is the home folder.
        mirror: a folder, or an http(s) address, with the files at their places.

    Raises:
        UserError: a file in the data folder has a wrong checksum or cannot be read; or a file is
            nowhere, or no source gives it whole. The sentence says what to do.
    """
    data_folder = expand_home(folder)
    paths = [_find_locally(file, data_folder) for file in files]
    for index, file in enumerate(files):
        if paths[index] is None:
            fetched, failures = _fetch_one(file, data_folder, mirror)
            if fetched is None:
                missing = [f.place for f, path in zip(files, paths, strict=True) if path is None]
                raise UserError(
                    f"{file.place} could not be fetched ({'; '.join(failures)}): put "
                    f"{', '.join(missing)} into the folder {data_folder.absolute()}, or name a "
                    "folder or address that has them as downloads.mirror"
                    f"{working_directory_note(folder)}"
                )
            paths[index] = fetched
    return [path for path in paths if path is not None]


def _find_locally(file: PublicFile, folder: Path) -> Path | None:
    """The file in the data folder, or else as installed.

    Raises:
        UserError: the file in the data folder has a wrong checksum or cannot be read.
    """
    path = folder / file.place
    if not os.path.lexists(path):
        installed = file.installed
        return installed if installed is not None and installed.is_file() else None
    require_file(path, "of a public data set")
    try:
        with path.open("rb") as stream:
            md5 = hashlib.file_digest(stream, "md5").hexdigest()
    except OSError as error:
        raise UserError(f"{path.absolute()} cannot be read: {error.strerror}") from error
    if md5 != file.md5:
        raise UserError(
            f"{path.absolute()} has the MD5 checksum {md5}, but must have {file.md5}: remove or "
            "replace the file"
        )
    return path


def _fetch_one(file: PublicFile, folder: Path, mirror: str | None) -> tuple[Path | None, list[str]]:
    """The file as fetched from the first source that gives it whole; why the others did not."""
    failures: list[str] = []
    for source in (*_mirror_sources(file, mirror), *file.addresses):
        log.info("fetching %s", source)
        try:
            with atomic_write(folder / file.place) as partial:
                _copy(source, partial)
                if not check_integrity(partial, file.md5):
                    raise _WrongError("it is cut short or another file, by its checksum")
        except (OSError, HTTPException, ValueError, _WrongError) as error:
            if isinstance(error, UserError):
                raise
            failures.append(f"{source}: {_reason(error)}")
            log.warning("%s", failures[-1])
        else:
            return folder / file.place, failures
    return None, failures


def _mirror_sources(file: PublicFile, mirror: str | None) -> list[str]:
    if mirror is None:
        return []
    if is_address(mirror):
        return [f"{mirror.rstrip('/')}/{file.place}"]
    return [str(expand_home(mirror).absolute() / file.place)]


def _reason(error: Exception) -> str:
    """Why a source failed, in words on one line."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return " ".join(str(cause).split()) or type(cause).__name__


def _copy(source: str, place: Path) -> None:
    """Copy an address or a file to `place`, at a bearable pace."""
    with place.open("wb") as copy:
        if not is_address(source):
            with Path(source).open("rb") as original:
                shutil.copyfileobj(original, copy)
            return
        request = Request(source, headers={"User-Agent": USER_AGENT})
        with closing(urlopen(request, timeout=SILENCE)) as answer:
            _receive(answer, copy)


def _receive(answer: IO[bytes], copy: IO[bytes]) -> None:
    """Take what is sent; the pace counts anew every `SILENCE` seconds."""
    since, received = time.monotonic(), 0
    while chunk := answer.read1(_CHUNK):  # type: ignore[attr-defined]
        copy.write(chunk)
        received += len(chunk)
        seconds = time.monotonic() - since
        if seconds > SILENCE:
            if received < seconds * SLOWEST:
                raise TimeoutError(f"it sends only {received / seconds:.0f} bytes per second")
            since, received = time.monotonic(), 0
