"""Starts that are drawn by threads are those that the CPU draws one after another."""

import pytest
import torch

from robustgen.acceleration.random_starts import sample_starts_in_threads
from robustgen.sampling import sample_unit_ball
from robustgen.seeding import generator

CPU = torch.device("cpu")


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(("batches", "restarts"), [([7], 1), ([20, 20, 3], 2), ([5, 5], 3)])
def test_they_are_those_of_one_batch_after_another(norm, members, batches, restarts):
    shape, rngs = (1, 4, 5), [generator(0, "start", i) for i in range(members)]
    made = list(sample_starts_in_threads(norm, batches, shape, restarts, rngs, CPU))
    twins = [generator(0, "start", i) for i in range(members)]
    drawn = [
        [sample_unit_ball(norm, (size, *shape), twins) for _ in range(restarts)] for size in batches
    ]
    for restart, found in enumerate(made):
        wanted = torch.cat([of[restart] for of in drawn], 1)
        if norm == "linf":
            assert torch.equal(found, wanted)
        torch.testing.assert_close(found, wanted, atol=0, rtol=1e-6)
    for one, other in zip(rngs, twins, strict=True):  # and what comes next is the same
        assert torch.equal(one.get_state(), other.get_state())
    assert made[0].abs().max() <= 1
