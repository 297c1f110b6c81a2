import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustgen.acceleration.adam import SlimAdam, make_fast_adam


@settings(max_examples=20, deadline=None)
@given(
    decay=st.sampled_from([0.0, 1e-4, 0.1]),
    rate=st.floats(1e-4, 1.0),
    seed=st.integers(0, 2**31),
    last=st.booleans(),
)
def test_steps_are_those_of_torch_to_the_bit(decay, rate, seed, last):
    """With a rate that changes, a gradient that is missing, and any layout of memory."""
    rng = torch.Generator().manual_seed(seed)
    shapes = [(3, 4, 2, 2), (5,), (2, 3)]
    start = [torch.randn(shape, generator=rng) for shape in shapes]
    if last:
        start[0] = start[0].contiguous(memory_format=torch.channels_last)
    ours, theirs = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    one, other = SlimAdam(ours, rate, decay), torch.optim.Adam(theirs, rate, weight_decay=decay)
    for step in range(12):
        for optimizer in (one, other):
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = rate * 0.9**step
        for place, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
            assert mine.grad is None
            if (place, step) != (1, 5):
                mine.grad = torch.randn(mine.shape, generator=rng) * 10.0 ** (step - 8)
                its.grad = mine.grad.clone()
        one.step()
        other.step()
        for mine, its in zip(ours, theirs, strict=True):
            assert torch.equal(mine, its)
    for mine, its in zip(ours, theirs, strict=True):
        for name, held in other.state[its].items():
            assert torch.equal(one.state[mine][name], held), name


def test_the_compiler_is_not_imported():
    code = (
        "import sys, torch; from robustgen.acceleration.adam import make_fast_adam;"
        "p = torch.nn.Parameter(torch.ones(2));"
        "o = make_fast_adam([p], 0.1); o.zero_grad(); p.sum().backward(); o.step();"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(("device", "kind"), [("cpu", SlimAdam), ("meta", torch.optim.Adam)])
def test_other_devices_have_torchs_own(device, kind):
    made = make_fast_adam([nn.Parameter(torch.zeros(2, device=device))], 0.1, weight_decay=0.5)
    assert type(made) is kind
