"""The provenance of a result: versions, commit, device and backend, for its header."""

import os
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("robustgen", "torch", "numpy", "pyarrow", "pillow", "safetensors")
"""Packages whose versions are recorded."""


@cache
def provenance(device: object, backend: str = "") -> dict[str, str]:
    """Return the versions of `PACKAGES`, the commit of this package, the device and the backend.

    The commit is "none" outside a git repository, and has the suffix "+changed" if tracked files
    differ from it.

    Args:
        device: the device of the computation.
        backend: the name of the backend; empty if none was used.
    """
    record: dict[str, str] = {}
    for package in PACKAGES:
        try:
            record[package] = version(package)
        except ModuleNotFoundError:
            record[package] = "not installed"
    record |= {"commit": _read_commit(Path(__file__)), "device": str(device)}
    return {**record, "backend": backend} if backend else record


def _read_commit(file: Path) -> str:
    """Return the commit of the git repository that tracks a file; "none" if no repository does.

    A repository that contains the file but does not track it belongs to another project.
    """
    if not _run_git(file.parent, "ls-files", "--error-unmatch", "--", file.name):
        return "none"
    options = ("--always", "--abbrev=40", "--exclude=*", "--dirty=+changed")
    return _run_git(file.parent, "describe", *options) or "none"


def _run_git(folder: Path, *arguments: str) -> str:
    """Return the output of git in a folder; empty if git fails or is not installed.

    The environment variables of git are removed, because they may select another repository.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        process = subprocess.run(
            ["git", "-C", str(folder), *arguments], env=environment, capture_output=True, text=True
        )
    except OSError:
        return ""
    return process.stdout.strip() if process.returncode == 0 else ""
