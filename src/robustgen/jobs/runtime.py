"""The frame of every job: log, error messages, check of its code, and provenance of its results."""

import atexit
import gc
import importlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, Protocol

from robustgen.errors import UserError
from robustgen.progress import log


class SnakemakeScript(Protocol):
    """The attributes of Snakemake's script object that this module uses."""

    rule: str
    scriptdir: str
    params: Any


@contextmanager
def run_job(logfile: str | Path, script: SnakemakeScript | None = None) -> Iterator[None]:
    """Log to `logfile`, and on a `UserError` print one sentence and exit with status 1.

    On SIGTERM, which a cluster sends when the time of a job is over, partial files are removed. A
    job fails if its code was changed after Snakemake planned it, because its results would be
    recorded as results of the old code.

    Args:
        logfile: path of the log, which is overwritten.
        script: Snakemake's script object, with the fingerprint of the job's code as `params.code`.
            If it is given, the process ends with the job.
    """
    if script is not None:
        gc.freeze()  # imported modules are never garbage
        logging.raiseExceptions = False  # a full disk must not hide the error of the job
    previous_handler = signal.signal(signal.SIGTERM, _on_sigterm)
    handler = logging.FileHandler(logfile, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    failure = ""
    try:
        if script is not None:
            _require_planned_code(script)
        yield
        log.info("done")
    except UserError as error:
        log.error("%s", error)
        failure = f"robustgen: {error}"
    except Exception as error:
        if not _is_out_of_memory(error):
            log.exception("the job failed with this error")
            raise
        log.exception("out of memory")
        failure = f"robustgen: not enough memory: {error}; run fewer jobs at a time, see {logfile}"
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
        log.removeHandler(handler)
        handler.close()
    if script is not None:
        _exit_now(failure)
    if failure:
        sys.exit(failure)


def _exit_now(failure: str) -> NoReturn:
    """Print the message `failure` unless it is empty, and end the process at once.

    A normal exit unloads PyTorch, which takes a tenth of the time that a job needs to start. After
    an error, libraries of PyTorch would print messages about objects that were not freed.
    """
    if failure:
        print(failure, file=sys.stderr)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(1 if failure else 0)


def _on_sigterm(signal_number: int, _frame: object) -> None:
    """Raise SystemExit, so that context managers remove partial files."""
    log.error("stopped by signal %d; run again to continue", signal_number)
    sys.exit(128 + signal_number)


def _require_planned_code(script: SnakemakeScript) -> None:
    """Check that the imported code is the code for which Snakemake planned the job.

    Files older than the plan are not read, which saves a third of a second. A script without a
    local file, as in a workflow that Snakemake fetched, is not checked, because nobody edits it.

    Raises:
        UserError: the code was changed after the plan.
    """
    plan_time = float(os.environ.get("ROBUSTGEN_PLANNED", "inf"))
    script_file = Path(script.scriptdir, f"{script.rule}.py")
    modules = [module for name, module in sys.modules.items() if name.startswith("robustgen.")]
    files = [script_file, *(Path(module.__file__) for module in modules if module.__file__)]
    newer_files = [file for file in files if file.exists() and file.stat().st_mtime > plan_time]
    if not newer_files or not script_file.exists():
        return
    # Imported by a string, so that this check is no part of the fingerprint of every job.
    fingerprint = importlib.import_module("robustgen.jobs.fingerprint").fingerprint
    planned_code, _, excluded = script.params.code.partition(" without ")
    if fingerprint(script_file, excluded.split()) != planned_code:
        raise UserError(
            f"the code of this job was changed after it was planned, in {newer_files[0]}; run again"
        )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python, of PyTorch's allocator or of a GPU means that memory ran out."""
    phrases = ("can't allocate memory", "CUDA out of memory")
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in phrases)


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
