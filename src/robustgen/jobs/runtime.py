"""What every job does around its one call: a log, a check of its code, clear failures."""

import atexit
import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol

from robustgen.errors import UserError
from robustgen.progress import log


class Script(Protocol):
    """The attributes of Snakemake's script object that a job uses."""

    rule: str
    scriptdir: str
    params: Any


@contextmanager
def job(logfile: str | Path, script: Script | None = None) -> Iterator[None]:
    """Log to `logfile`, and end with one sentence and exit status 1 on a `UserError`.

    On SIGTERM, which a cluster sends when the time of a job is over, partial files are removed. A
    job fails if its code changed after it was planned: its results would otherwise be recorded as
    those of the former code.

    Args:
        logfile: path of the log, which is overwritten.
        script: Snakemake's script object, with the fingerprint of the job's code as `params.code`.
            The process ends with the job.
    """
    if script is not None:
        gc.freeze()  # imported modules are not garbage
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
        if not _lacks_memory(error):
            log.exception("failed")
            raise
        log.exception("out of memory")
        failure = f"robustgen: there is not enough memory: {error}; see {logfile}"
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
        log.removeHandler(handler)
        handler.close()
    if script is not None:
        _exit_now(failure)
    if failure:
        sys.exit(failure)


def _exit_now(failure: str) -> NoReturn:
    """Print the `failure`, if there is one, and end the process at once.

    Python needs a tenth of a job's start to unload PyTorch, and after an error the libraries below
    it print messages about objects that were not freed.
    """
    if failure:
        print(failure, file=sys.stderr)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(1 if failure else 0)


def _on_sigterm(number: int, _frame: object) -> None:
    """Raise SystemExit, so that context managers remove partial files."""
    log.error("stopped by signal %d", number)
    sys.exit(128 + number)


def _require_planned_code(script: Script) -> None:
    """Raise a `UserError` if the code that was imported is not what it was at planning.

    Files older than the plan are not read, which saves a third of a second. A script without a file
    here, as in a workflow that Snakemake fetched, is not checked: nobody edits it.
    """
    planned = float(os.environ.get("ROBUSTGEN_PLANNED", "inf"))
    script_file = Path(script.scriptdir, f"{script.rule}.py")
    modules = [module for name, module in sys.modules.items() if name.startswith("robustgen.")]
    files = [script_file, *(Path(module.__file__) for module in modules if module.__file__)]
    newer = [file for file in files if file.exists() and file.stat().st_mtime > planned]
    if not newer or not script_file.exists():
        return
    # Imported by name, because the results of a job do not depend on this check.
    fingerprint = importlib.import_module("robustgen.jobs.fingerprint").fingerprint
    planned_code, _, excluded = script.params.code.partition(" without ")
    if fingerprint(script_file, excluded.split()) != planned_code:
        raise UserError(
            f"the code of this job was changed after it was planned, in {newer[0]}; run again"
        )


def _lacks_memory(error: Exception) -> bool:
    """Whether memory ran out, by the errors of Python, PyTorch's allocator or a GPU."""
    phrases = ("can't allocate memory", "CUDA out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)
    )
