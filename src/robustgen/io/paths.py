"""Paths that a user gives: home folders, missing files and folders, and what is in a folder."""

import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from robustgen.errors import UserError

IMAGES_PURPOSE, FONTS_PURPOSE = "to take images from", "to take fonts from"
INSTALLED = "installed"
"""Stands for the installed font packages where else a folder of fonts is named."""
_LONGEST = 200
"""Characters of a path that a sentence shows."""


def is_address(place: str) -> bool:
    """Whether a place is an address on the internet; else it is a path."""
    return "://" in place


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
    """Say from where a relative path is taken, to end a sentence with; empty for others."""
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
    """The type of a file or folder, which exists; links are followed."""
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
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _describe_broken_link(path: Path) -> str:
    return f"{path} is a link to {path.readlink()}, which does not exist: mend or remove the link"


def list_folder(folder: Path) -> list[Path]:
    """The files and folders in a folder, ordered by name; hidden ones are left out.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror}") from error


def walk_files(folder: Path) -> list[Path]:
    """All files in a folder and below, ordered by relative path; hidden names are left out.

    Links are followed, but not to a folder that contains `folder`. A folder that can be reached on
    several ways is entered once, if possible on a way without links.

    Raises:
        UserError: a folder cannot be read, a link leads nowhere, or there is a pipe, a socket or a
            device.
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
    """Whether a path in a folder of the user's is a folder; else it is a regular file.

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
    """How many files have each suffix, e.g. "3 .heic, 1 .txt, 1 without suffix"."""
    counts = Counter(file.suffix.lower() or "without suffix" for file in files)
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
