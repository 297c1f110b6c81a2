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
    """What Snakemake tells a script, of which this is needed."""

    rule: str
    scriptdir: str
    params: Any


@contextmanager
def job(logfile: str | Path, script: Script | None = None) -> Iterator[None]:
    """Log to `logfile`, and end with one sentence and exit status 1 on a `UserError`.

    A job that is told to stop, as a cluster does when its time is over, clears up behind itself.
    One whose code was changed between its planning and its start fails, or its results would count
    as made by the code that was there before.

    Args:
        logfile: written anew.
        script: Snakemake's, with the fingerprint of the job's code as `params.code`. The process
            is the job's own, and ends with it.
    """
    if script is not None:
        gc.freeze()  # what was imported is no garbage
        logging.raiseExceptions = False  # a full disk must not hide what else is said
    previous_handler = signal.signal(signal.SIGTERM, _stopped)
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
        _end_process(failure)
    if failure:
        sys.exit(failure)


def _end_process(failure: str) -> NoReturn:
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


def _stopped(number: int, _frame: object) -> None:
    """End by an exception, on whose way files that are not whole are removed."""
    log.error("stopped by signal %d", number)
    sys.exit(128 + number)


def _require_planned_code(script: Script) -> None:
    """Raise a `UserError` if the code that was imported is not what it was at planning.

    Files that are older are not looked into, which would take a third of a second. Nor is a script
    that is no file here, as those of a workflow that Snakemake fetched: nobody edits these.
    """
    planned = float(os.environ.get("ROBUSTGEN_PLANNED", "inf"))
    own = Path(script.scriptdir, f"{script.rule}.py")
    ours = [held for name, held in sys.modules.items() if name.startswith("robustgen.")]
    files = [own, *(Path(held.__file__) for held in ours if held.__file__)]
    newer = [file for file in files if file.exists() and file.stat().st_mtime > planned]
    if not newer or not own.exists():
        return
    # Imported by name, since a job's results do not depend on how its code is looked at.
    fingerprint = importlib.import_module("robustgen.jobs.fingerprint").fingerprint
    found, _, without = script.params.code.partition(" without ")
    if fingerprint(own, without.split()) != found:
        raise UserError(
            f"the code of this job was changed after it was planned, in {newer[0]}; run again"
        )


def _lacks_memory(error: Exception) -> bool:
    """Whether there was no memory left, as Python, torch's allocator or a GPU's says it."""
    words = ("can't allocate memory", "CUDA out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(of in str(error) for of in words)
    )
