"""Paths that a user gives: checks of files and folders, and lists of the files in a folder."""

import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from robustgen.errors import UserError

IMAGES_PURPOSE, FONTS_PURPOSE = "to take images from", "to take fonts from"
INSTALLED = "installed"
"""The value of `font_source` that means the installed font packages instead of a folder."""
_MAX_PATH_CHARACTERS = 200
"""Characters of a path that a message shows."""


def is_url(location: str) -> bool:
    """Whether a location is a URL; otherwise it is a path."""
    return "://" in location


def expand_home(path: str | Path) -> Path:
    """Replace `~` or `~user` at the start of a path by the home folder.

    Raises:
        UserError: the home folder is not known on this machine, or the path cannot be one.
    """
    text = str(path)
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise UserError("a path must be UTF-8 without control characters")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"no home folder is known for {Path(path).parts[0]}: write the path in full"
        ) from None


def working_directory_note(path: str | Path) -> str:
    """Return the end of a message that names the base of a relative path; empty for others."""
    if expand_home(path).is_absolute():
        return ""
    return (
        f"; {_shorten(path)} is relative to the working directory, which snakemake's --directory "
        "sets"
    )


def require_folder(path: str | Path, purpose: str) -> Path:
    """Expand the path of a folder, and check that it is one.

    Args:
        path: the path as the user wrote it.
        purpose: what the folder is for, e.g. `IMAGES_PURPOSE`.

    Raises:
        UserError: there is no such folder, or it cannot be read.
    """
    return _require(path, purpose, "folder", stat.S_ISDIR)


def require_file(path: str | Path, purpose: str) -> Path:
    """Expand the path of a file, and check that it is a regular one.

    Args:
        path: the path as the user wrote it.
        purpose: what the file is for, e.g. `IMAGES_PURPOSE`.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    return _require(path, purpose, "file", stat.S_ISREG)


def _require(path: str | Path, purpose: str, kind: str, is_kind: Callable[[int], bool]) -> Path:
    """Expand a path, and check with `is_kind` that its mode is that of a `kind`."""
    mode = _read_mode(path, f"{kind} {_absolute(path)} {purpose}")
    if not is_kind(mode):
        raise UserError(
            f"{_absolute(path)} is {_describe_kind(mode)}, but must be a {kind} {purpose}"
            f"{working_directory_note(path)}"
        )
    return expand_home(path)


def _describe_kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a file" if stat.S_ISREG(mode) else "neither a file nor a folder"


def _read_mode(path: str | Path, description: str) -> int:
    """Return the mode of a file or folder; links are followed.

    Raises:
        UserError: it does not exist or cannot be read.
    """
    expanded, note = expand_home(path), working_directory_note(path)
    try:
        return expanded.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if expanded.is_symlink():
            raise UserError(f"{_describe_broken_link(expanded.absolute())}{note}") from None
        raise UserError(f"there is no {description}{note}") from None
    except OSError as error:
        raise UserError(f"{_absolute(path)} cannot be read: {error.strerror}{note}") from error


def _absolute(path: str | Path) -> str:
    return _shorten(expand_home(path).absolute())


def _shorten(path: str | Path) -> str:
    text = str(path)
    if len(text) <= _MAX_PATH_CHARACTERS:
        return text
    return f"{text[: _MAX_PATH_CHARACTERS - 3]}..."


def _describe_broken_link(path: Path) -> str:
    return f"{path} is a link to {path.readlink()}, which does not exist: fix or remove the link"


def list_folder(folder: Path) -> list[Path]:
    """List the files and folders in a folder, ordered by name, without hidden ones.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror}") from error


def walk_files(folder: Path) -> list[Path]:
    """List all files in a folder and its subfolders, ordered by relative path, without hidden ones.

    Links are followed, but not to a folder that contains `folder`. A folder with several paths is
    entered once, by a path without links if there is one.

    Raises:
        UserError: a folder cannot be read, the target of a link does not exist, or there is a pipe,
            a socket or a device.
    """
    files: list[Path] = []
    entered = set(folder.resolve().parents)
    folders: list[Path] = [folder]
    linked_folders: list[Path] = []
    while folders or linked_folders:
        current = folders.pop() if folders else linked_folders.pop(0)
        if current.resolve() in entered:
            continue
        entered.add(current.resolve())
        for path in list_folder(current):
            if is_folder(path):
                (linked_folders if path.is_symlink() else folders).append(path)
            else:
                files.append(path)
    return sorted(files, key=lambda file: file.relative_to(folder).parts)


def is_folder(path: Path) -> bool:
    """Whether a path in a folder of the user is a folder; otherwise it is a regular file.

    Raises:
        UserError: it is neither.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UserError(_describe_broken_link(path)) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        return stat.S_ISDIR(mode)
    raise UserError(f"{path} is neither a file nor a folder: remove it from this folder")


def count_suffixes(files: Iterable[Path]) -> str:
    """Count the files with each suffix, e.g. "3 .heic, 1 .txt, 1 without suffix"."""
    counts = Counter(file.suffix.lower() or "without suffix" for file in files)
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
