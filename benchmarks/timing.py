"""Timing of functions."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def seconds_of(function: Callable[[], object]) -> float:
    """Measure the seconds of one call, including its work on a GPU."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(
    benchmark: str, variants: Mapping[str, Callable[[], object]], rounds: int, work: int = 1
) -> None:
    """Print the median time of each variant per unit of `work`, and its speedup over the first one.

    In each round, all variants take turns.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            seconds[name].append(seconds_of(variant))
    reference = median(next(iter(seconds.values())))
    for name, times in seconds.items():
        time_us = median(times) / work * 1e6
        speedup = reference / median(times)
        print(f"{benchmark}, {name}: {time_us:.1f} µs, {speedup:.2f} times as fast")
