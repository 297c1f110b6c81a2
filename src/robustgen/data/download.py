"""Downloads of public data sets: fetched once, checked, and stored outside the results."""

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
from robustgen.io.paths import expand_home, is_url, require_file, working_directory_note

log = logging.getLogger("robustgen")

STALL_TIMEOUT_S = 30.0
"""Seconds without a byte after which a download is given up."""
MIN_BYTES_PER_S = 10_000
"""Rate below which a download is given up, measured over `STALL_TIMEOUT_S` seconds."""
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class PublicFile:
    """A file that can be downloaded.

    Attributes:
        relative_path: path in the data folder and in a mirror, e.g. `emnist/gzip.zip`.
        md5: MD5 checksum.
        urls: its URLs, in the order in which they are tried.
        installed: path at which a package of the operating system installs the file, if one does.
            It is not checked, because the package manager has checked it.
    """

    relative_path: str
    md5: str
    urls: tuple[str, ...]
    installed: Path | None = None


class _ChecksumError(Exception):
    """The downloaded file has another checksum."""


def fetch(files: Sequence[PublicFile], folder: str | Path, mirror: str | None = None) -> list[Path]:
    """Return the paths of `files` on this machine; download those that are missing.

    A file is taken from the data folder, from a package of the operating system, from the mirror or
    from the internet, in this order. Downloaded files are stored in the data folder. A file that is
    already there is never changed or removed, because the user may have put it there.

    Args:
        files: the files that are needed.
        folder: the data folder; `~` is the home folder.
        mirror: a folder or an http(s) URL that has the files at their relative paths.

    Raises:
        UserError: a file in the data folder has a wrong checksum or cannot be read, or no source
            has a file. The message says what to do.
    """
    data_folder = expand_home(folder)
    paths = [_find_local(file, data_folder) for file in files]
    for index, file in enumerate(files):
        if paths[index] is None:
            path, failures = _try_sources(file, data_folder, mirror)
            if path is None:
                missing = [
                    missing_file.relative_path
                    for missing_file, known_path in zip(files, paths, strict=True)
                    if known_path is None
                ]
                raise UserError(
                    f"{file.relative_path} could not be downloaded ({'; '.join(failures)}): put "
                    f"{', '.join(missing)} into the folder {data_folder.absolute()}, or name a "
                    "folder or URL that has them as downloads.mirror"
                    f"{working_directory_note(folder)}"
                )
            paths[index] = path
    return [path for path in paths if path is not None]


def _find_local(file: PublicFile, folder: Path) -> Path | None:
    """Return the path of a file in the data folder or as installed; None if it is in neither.

    Raises:
        UserError: the file in the data folder has a wrong checksum or cannot be read.
    """
    path = folder / file.relative_path
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


def _try_sources(
    file: PublicFile, folder: Path, mirror: str | None
) -> tuple[Path | None, list[str]]:
    """Download a file from the first source that has it.

    Returns:
        The path of the file, or None if all sources failed; and why the sources failed that were
        tried.
    """
    path = folder / file.relative_path
    failures: list[str] = []
    for source in (*_mirror_sources(file, mirror), *file.urls):
        log.info("downloading %s", source)
        try:
            with atomic_write(path) as temporary:
                _download(source, temporary)
                if not check_integrity(temporary, file.md5):
                    raise _ChecksumError("its checksum is wrong: it is incomplete or another file")
        except (OSError, HTTPException, ValueError, _ChecksumError) as error:
            if isinstance(error, UserError):
                raise
            failures.append(f"{source}: {_describe_failure(error)}")
            log.warning("%s", failures[-1])
        else:
            return path, failures
    return None, failures


def _mirror_sources(file: PublicFile, mirror: str | None) -> list[str]:
    if mirror is None:
        return []
    if is_url(mirror):
        return [f"{mirror.rstrip('/')}/{file.relative_path}"]
    return [str(expand_home(mirror).absolute() / file.relative_path)]


def _describe_failure(error: Exception) -> str:
    """Return the reason of an error on one line."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return " ".join(str(cause).split()) or type(cause).__name__


def _download(source: str, target: Path) -> None:
    """Copy a URL or a file to `target`.

    Raises:
        TimeoutError: the server stalls or is slower than `MIN_BYTES_PER_S`.
        OSError, HTTPException, ValueError: the source cannot be read.
    """
    with target.open("wb") as target_stream:
        if not is_url(source):
            with Path(source).open("rb") as source_stream:
                shutil.copyfileobj(source_stream, target_stream)
            return
        request = Request(source, headers={"User-Agent": USER_AGENT})
        with closing(urlopen(request, timeout=STALL_TIMEOUT_S)) as response:
            _copy_at_min_rate(response, target_stream)


def _copy_at_min_rate(response: IO[bytes], target: IO[bytes]) -> None:
    """Copy a response; the rate is measured over each `STALL_TIMEOUT_S` seconds.

    Raises:
        TimeoutError: the rate is below `MIN_BYTES_PER_S`.
    """
    start, received = time.monotonic(), 0
    while chunk := response.read1(_CHUNK_BYTES):  # type: ignore[attr-defined]
        target.write(chunk)
        received += len(chunk)
        seconds = time.monotonic() - start
        if seconds > STALL_TIMEOUT_S:
            if received < seconds * MIN_BYTES_PER_S:
                raise TimeoutError(f"it sends only {received / seconds:.0f} bytes per second")
            start, received = time.monotonic(), 0
