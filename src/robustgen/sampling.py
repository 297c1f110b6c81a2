"""Random numbers: generators, and points of unit balls, at which searches start.

This is the only module that makes the generators of a study.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from robustgen.specs import NORMS, require_name


def make_generator(study_seed: int, purpose: str, *names: str | int) -> torch.Generator:
    """Make a CPU generator that depends only on the arguments.

    Numbers are drawn on the CPU and copied, so that they are equal for every device. Nothing in the
    package draws from global state. Neither the order of jobs, nor the number of cores, nor the
    other models of a cohort can change a result.

    Args:
        study_seed: the `seed` of the study.
        purpose: the kind of the random numbers, e.g. "codes" or "initialization".
        names: what the numbers depend on beside these, e.g. data set, method, N and seed.
            Initialization and batch order do not depend on the method, so that methods are compared
            on equal draws.
    """
    key = json.dumps([study_seed, purpose, *names]).encode()
    seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big")
    return torch.Generator().manual_seed(seed)


def sample_unit_ball(
    norm: str,
    shape: Sequence[int],
    generators: Sequence[torch.Generator],
    buffer: Tensor | None = None,
) -> Tensor:
    """Sample points uniformly from the unit ball of a norm.

    Args:
        norm: "linf" or "l2".
        shape: `(B, *D)`, examples and shape of a point.
        generators: M CPU generators. Member i draws only from generator i, so that its points do
            not depend on other members.
        buffer: `(M, B, *D)` tensor that receives the points; None allocates it.

    Returns:
        `(M, B, *D)` points on the CPU.

    Raises:
        ValueError: the norm is neither "linf" nor "l2".
    """
    require_name("norm", norm, NORMS)
    points = torch.empty(len(generators), *shape) if buffer is None else buffer
    if norm == "linf":
        for member_points, generator in zip(points, generators, strict=True):
            member_points.uniform_(generator=generator)
        return points.mul_(2).sub_(1)
    for member_points, generator in zip(points, generators, strict=True):
        member_points.normal_(generator=generator)
    # A uniform point has a uniform direction and a radius whose D-th power is uniform.
    volumes = torch.stack([torch.rand(shape[0], generator=rng) for rng in generators])
    dimension = points[0, 0].numel()
    norms = points.flatten(2).norm(dim=2).clamp_min(1e-12)
    return points.mul_(expand_trailing_dims(volumes ** (1 / dimension) / norms, points))


def sample_starts(
    norm: str,
    batch_sizes: Sequence[int],
    shape: Sequence[int],
    restarts: int,
    generators: Sequence[torch.Generator],
    device: torch.device,
) -> Iterable[Tensor]:
    """Sample the starts of every restart of a search, in units of the radius.

    Numbers are drawn batch by batch, for all restarts of a batch. A batch therefore gets the same
    numbers whether it is attacked alone or together with others.

    Args:
        norm: "linf" or "l2".
        batch_sizes: sizes of the batches that are attacked together; B is their sum.
        shape: `(*D,)`, shape of a point.
        restarts: number of random starts of each example.
        generators: M CPU generators, one per member.
        device: device of the result.

    Returns:
        For each restart `(M, B, *D)`. To save memory, a single batch is sampled restart by restart,
        while the caller iterates.
    """
    if len(batch_sizes) == 1:
        shapes = [(*batch_sizes, *shape)] * restarts
        return (sample_unit_ball(norm, size, generators).to(device) for size in shapes)
    batches = [
        [sample_unit_ball(norm, (size, *shape), generators) for _ in range(restarts)]
        for size in batch_sizes
    ]
    return (torch.cat(parts, 1).to(device) for parts in zip(*batches, strict=True))


def hash_points(points: Tensor) -> Tensor:
    """Return an integer `(M, B)` for each of the points `(M, B, *D)`, as keys of random numbers.

    Points that differ in a bit have unrelated keys. A point has the same key on every device.
    """
    bits = points.detach().float().contiguous().view(torch.int32).flatten(2).long()
    positions = torch.arange(1, bits.shape[2] + 1, device=bits.device)
    return _mix(bits + (positions << 32)).sum(2)


def sample_uniforms(keys: Tensor, step: int, count: int) -> Tensor:
    """Return random numbers in [0, 1) that depend only on a key, a step and their position.

    Numbers of an example therefore do not depend on the other examples, and are the same on every
    device. They come from a counter that SplitMix64 mixes (Steele et al., OOPSLA 2014).

    Args:
        keys: `(M, B)` integers, int64.
        step: number of the step, for which numbers are drawn.
        count: numbers of each key.

    Returns:
        `(M, B, count)` floats.
    """
    positions = torch.arange(count, device=keys.device)
    counters = _mix(keys[..., None] + _mix(positions + (step << 32)))
    return ((counters >> 40) & 0xFFFFFF).float() / 2**24


def _mix(numbers: Tensor) -> Tensor:
    """Mix the bits of integers as SplitMix64 does; products wrap around."""
    numbers = numbers + _as_int64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ _shift_right(numbers, shift)) * _as_int64(factor)
    return numbers ^ _shift_right(numbers, 31)


def _shift_right(numbers: Tensor, bits: int) -> Tensor:
    """Shift the bits of int64 numbers to the right and fill up with zeros."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def _as_int64(number: int) -> int:
    """Return the signed number of 64 bits with the same bits as an unsigned one."""
    return number - 2**64 if number >= 2**63 else number


def expand_trailing_dims(values: Tensor, template: Tensor) -> Tensor:
    """Append axes of length 1 to `values` `(M, B)`, so that it broadcasts to `(M, B, ...)`."""
    return values.reshape(*values.shape, *[1] * (template.dim() - values.dim()))
