"""What every job does around its one call: a log, progress with time left, clear failures."""

import logging
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
    """Log to `logfile`, and end with one sentence and exit status 1 on a `UserError`."""
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
    except MemoryError as error:
        log.exception("out of memory")
        sys.exit(f"robustgen: there is not enough memory: {error}; see {logfile}")
    except Exception:
        log.exception("failed")
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


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
