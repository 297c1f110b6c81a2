"""The log of a job, and log messages with the remaining time."""

import logging
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar

log = logging.getLogger("robustgen")

T = TypeVar("T", covariant=True)


class _SizedIterable(Sized, Iterable[T], Protocol[T]):
    """An iterable with a length."""


def log_progress(steps: _SizedIterable[T], name: str, interval: float = 10.0) -> Iterator[T]:
    """Iterate over `steps`, and log the number of completed steps and the remaining time.

    Args:
        steps: the values to yield.
        name: the word for a step in the log.
        interval: least time between two log messages, in seconds.
    """
    start = last_logged = time.monotonic()
    for steps_done, step in enumerate(steps, 1):
        yield step
        current_time = time.monotonic()
        if current_time - last_logged >= interval or steps_done == len(steps):
            seconds_left = (current_time - start) / steps_done * (len(steps) - steps_done)
            log.info("%s %d/%d, %.0f s left", name, steps_done, len(steps), seconds_left)
            last_logged = current_time
