"""Random starts of searches on a GPU, drawn by one CPU thread per model.

One CPU thread cannot draw the noise for twenty models as fast as a GPU finishes a training step.
The starts equal those of `sampling.sample_starts`: bit for bit in an L-infinity ball, up to
rounding in an L2 ball.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import torch
from torch import Tensor

from robustgen.sampling import sample_unit_ball


def sample_starts_in_threads(
    norm: str,
    batch_sizes: Sequence[int],
    shape: Sequence[int],
    restarts: int,
    generators: Sequence[torch.Generator],
    device: torch.device,
) -> Iterable[Tensor]:
    """Sample the starts of `sampling.sample_starts` by one thread per model.

    Batches before the last one must have equal sizes. The noise of all batches and restarts is
    copied to the device at once.
    """
    point_numbers = torch.Size(shape).numel()
    numbers = restarts * sum(batch_sizes) * point_numbers
    noise = torch.empty(len(generators), numbers, pin_memory=device.type == "cuda")
    fill = _fill_uniform if norm == "linf" else partial(_fill, norm, batch_sizes, shape, restarts)
    map_members = map if len(noise) == 1 else _threads().map
    list(map_members(fill, noise, generators))
    noise = noise.to(device, non_blocking=True)
    if norm == "linf":
        noise.mul_(2).sub_(1)  # as `sample_unit_ball` does; both are exact
    full_batches, last_batch = batch_sizes[:-1], batch_sizes[-1]
    last_start = numbers - restarts * last_batch * point_numbers
    full_shape = len(noise), len(full_batches), restarts, batch_sizes[0], *shape
    full = noise[:, :last_start].view(full_shape)
    last = noise[:, last_start:].view(len(noise), restarts, last_batch, *shape)
    return [torch.cat([full[:, :, r].flatten(1, 2), last[:, r]], 1) for r in range(restarts)]


def _fill(
    norm: str,
    batch_sizes: Sequence[int],
    shape: Sequence[int],
    restarts: int,
    noise: Tensor,
    generator: torch.Generator,
) -> None:
    """Write the starts that one model draws to `noise`, batch after batch."""
    start = 0
    for size in batch_sizes:
        for _ in range(restarts):
            end = start + size * torch.Size(shape).numel()
            points = noise[start:end].view(1, size, *shape)
            sample_unit_ball(norm, points.shape[1:], [generator], points)
            start = end


def _fill_uniform(noise: Tensor, generator: torch.Generator) -> None:
    """Fill `noise` with uniform numbers in [0, 1).

    One call draws the same numbers as several calls for parts of `noise`.
    """
    noise.uniform_(generator=generator)


@cache
def _threads() -> ThreadPoolExecutor:
    """Return the threads that draw starts, one per CPU of the machine; one pool per process."""
    return ThreadPoolExecutor(os.cpu_count(), "starts")
