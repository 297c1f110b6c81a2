"""The log of a job, and progress with the time left."""

import logging
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar

log = logging.getLogger("robustgen")

T = TypeVar("T", covariant=True)


class _SizedIterable(Sized, Iterable[T], Protocol[T]):
    """An iterable with a length."""


def log_progress(steps: _SizedIterable[T], name: str, interval: float = 10.0) -> Iterator[T]:
    """Iterate over `steps`, and log the number of steps done and the time left.

    Args:
        steps: what to iterate over.
        name: what a step is called in the log.
        interval: least time between two lines, in seconds.
    """
    start = last_logged = time.monotonic()
    for done, step in enumerate(steps, 1):
        yield step
        now = time.monotonic()
        if now - last_logged >= interval or done == len(steps):
            seconds_left = (now - start) / done * (len(steps) - done)
            log.info("%s %d/%d, %.0f s left", name, done, len(steps), seconds_left)
            last_logged = now
