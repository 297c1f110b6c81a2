"""Starts of searches equal those of `sample_unit_ball`, drawn batch after batch."""

import pytest
import torch

from robustgen.acceleration.random_starts import sample_starts_in_threads
from robustgen.sampling import make_generator, sample_starts, sample_unit_ball

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
