"""What every job does around its one call: a log, progress with time left, clear failures."""

import gc
import logging
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from robustgen.errors import UserError

log = logging.getLogger("robustgen")

T = TypeVar("T", covariant=True)


class _Listing(Sized, Iterable[T], Protocol[T]):
    """Something with a length to go through."""


@contextmanager
def job(logfile: str | Path) -> Iterator[None]:
    """Log to `logfile`, and end with one sentence and exit status 1 on a `UserError`.

    A job that is told to stop, as a cluster does when its time is over, clears up behind itself.
    """
    # What was imported is no garbage: looking through PyTorch for some takes half a second at exit.
    gc.freeze()
    before = signal.signal(signal.SIGTERM, _stopped)
    handler = logging.FileHandler(logfile, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
        log.info("done")
    except UserError as error:
        log.error("%s", error)
        sys.exit(f"robustgen: {error}")
    except Exception as error:
        if _lacks_memory(error):
            log.exception("out of memory")
            sys.exit(f"robustgen: there is not enough memory: {error}; see {logfile}")
        log.exception("failed")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        log.removeHandler(handler)
        handler.close()


def _stopped(number: int, _frame: object) -> None:
    """End by an exception, on whose way files that are not whole are removed."""
    log.error("stopped by signal %d", number)
    sys.exit(128 + number)


def _lacks_memory(error: Exception) -> bool:
    """Whether there was no memory left, as Python, torch's allocator or a GPU's says it."""
    words = ("can't allocate memory", "CUDA out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(of in str(error) for of in words)
    )


def progress(steps: _Listing[T], what: str, every: float = 10.0) -> Iterator[T]:
    """Go through `steps` and log about every `every` seconds how far it is and the time left."""
    start = said = time.monotonic()
    for done, step in enumerate(steps, 1):
        yield step
        now = time.monotonic()
        if now - said >= every or done == len(steps):
            left = (now - start) / done * (len(steps) - done)
            log.info("%s %d/%d, %.0f s left", what, done, len(steps), left)
            said = now
