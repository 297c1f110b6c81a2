"""Random starts of searches, which a GPU gets as the CPU would draw them for itself.

In an L-infinity ball they are the same to the bit, in an L2 ball up to rounding. Members draw in
threads of their own, each in a single call: a GPU ends an update of training sooner than one thread
draws the starts of twenty models for the next.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import torch
from torch import Tensor

from robustgen.attacks.spaces import draw


def starts(
    norm: str,
    batches: Sequence[int],
    shape: Sequence[int],
    restarts: int,
    generators: Sequence[torch.Generator],
    device: torch.device,
) -> Iterable[Tensor]:
    """For each restart `(M, B, *D)` of `spaces.draw`, on the device.

    Args:
        norm: "linf" or "l2".
        batches: sizes of the batches that are drawn for one after the other, B in all; those
            before the last are equal.
        shape: `(*D,)`.
        restarts: how many.
        generators: one per member.
        device: where they go. Those of a single batch for a CPU are drawn when they are asked for.
    """
    if device.type == "cpu" and len(batches) == 1:
        return (draw(norm, (*batches, *shape), generators) for _ in range(restarts))
    numbers = torch.Size(shape).numel()
    size = restarts * sum(batches) * numbers
    held = torch.empty(len(generators), size, pin_memory=device.type == "cuda")
    fill = _uniform if norm == "linf" else partial(_fill, norm, batches, shape, restarts)
    each = map if len(held) == 1 else _threads().map
    list(each(fill, held, generators))
    there = held.to(device, non_blocking=True)
    if norm == "linf":
        there.mul_(2).sub_(1)  # as `draw` does; both are exact
    whole, rest = batches[:-1], batches[-1]
    before = size - restarts * rest * numbers
    first = there[:, :before].view(len(held), len(whole), restarts, batches[0], *shape)
    last = there[:, before:].view(len(held), restarts, rest, *shape)
    return [torch.cat([first[:, :, r].flatten(1, 2), last[:, r]], 1) for r in range(restarts)]


def _fill(
    norm: str,
    batches: Sequence[int],
    shape: Sequence[int],
    restarts: int,
    held: Tensor,
    rng: torch.Generator,
) -> None:
    """All that a member draws, one batch after the other."""
    start = 0
    for size in batches:
        for _ in range(restarts):
            part = held[start : start + size * torch.Size(shape).numel()].view(1, size, *shape)
            draw(norm, part.shape[1:], [rng], part)
            start += part.numel()


def _uniform(held: Tensor, rng: torch.Generator) -> None:
    """Numbers from 0 to 1, which are the same if all are drawn at once."""
    held.uniform_(generator=rng)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "starts")
