"""Starts of searches equal those of `sample_unit_ball`, drawn batch after batch."""

import pytest
import torch

from robustgen.acceleration.random_starts import sample_starts_in_threads
from robustgen.sampling import (
    hash_points,
    make_generator,
    sample_starts,
    sample_uniforms,
    sample_unit_ball,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("sample", [sample_starts, sample_starts_in_threads])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(
    ("batch_sizes", "restarts"), [([7], 1), ([1], 2), ([20, 20, 3], 2), ([5, 5], 3)]
)
def test_starts_equal_those_drawn_batch_after_batch(sample, norm, members, batch_sizes, restarts):
    shape = (1, 4, 5)
    generators, expected_generators = (
        [make_generator(0, "start", i) for i in range(members)] for _ in range(2)
    )
    starts = list(sample(norm, batch_sizes, shape, restarts, generators, CPU))
    expected_batches = [
        [sample_unit_ball(norm, (size, *shape), expected_generators) for _ in range(restarts)]
        for size in batch_sizes
    ]
    assert len(starts) == restarts
    for restart, points in enumerate(starts):
        expected = torch.cat([batch[restart] for batch in expected_batches], 1)
        if norm == "linf":
            assert torch.equal(points, expected)
        torch.testing.assert_close(points, expected, atol=0, rtol=1e-6)
    assert starts[0].abs().max() <= 1
    # The generators continue with the same numbers.
    for rng, expected_rng in zip(generators, expected_generators, strict=True):
        assert torch.equal(rng.get_state(), expected_rng.get_state())


def split_mix_64(number: int) -> int:
    """The output function of SplitMix64 with Python's integers."""
    mask = 2**64 - 1
    number = (number + 0x9E3779B97F4A7C15) & mask
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & mask
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & mask
    return number ^ (number >> 31)


def test_numbers_of_a_counter_are_those_of_split_mix_64():
    keys, step, count = torch.tensor([[5, -7], [2**62, 0]]), 3, 6
    numbers = sample_uniforms(keys, step, count)
    assert numbers.shape == (2, 2, count)
    for index, key in ((i, keys[i].item()) for i in [(0, 0), (0, 1), (1, 0), (1, 1)]):
        for position in range(count):
            mixed = split_mix_64(key + split_mix_64(position + (step << 32)))
            assert numbers[index][position].item() == (mixed >> 40) / 2**24


def test_numbers_of_a_counter_are_uniform_and_independent():
    points = torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(0))
    keys = hash_points(points)
    assert len(keys.unique()) == 100
    numbers = torch.cat([sample_uniforms(keys, step, 20) for step in range(20)], -1).flatten(0, 1)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, 10, 0, 1)
    assert ((counts - 4000).abs() < 5 * 60).all()  # standard deviation 60
    correlations = torch.corrcoef(numbers)
    assert correlations.fill_diagonal_(0).abs().max() < 5 / 400**0.5


def test_keys_depend_on_every_coordinate_and_on_their_order():
    point = torch.tensor([[[0.25, 0.5, 0.75]]])
    changed_points = [
        point.flip(2),
        point + torch.tensor([0, 0, 1e-7]),
        point * torch.tensor([1, -1, 1]),
    ]
    assert all(hash_points(changed_point) != hash_points(point) for changed_point in changed_points)
    assert hash_points(point.double()) == hash_points(point)
