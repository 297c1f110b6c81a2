"""How times are taken."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def seconds_of(run: Callable[[], object]) -> float:
    """How long it takes once."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(
    what: str, ways: Mapping[str, Callable[[], object]], rounds: int, work: int = 1
) -> None:
    """Print how long each way takes, in turns, for a piece of `work`, and how it compares."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(seconds_of(way))
    first = median(next(iter(seconds.values())))
    for name, taken in seconds.items():
        of = median(taken)
        print(f"{what}, {name}: {of / work * 1e6:.1f} µs, {first / of:.2f} times as fast")
