"""The slim Adam equals PyTorch's, and does not import PyTorch's compiler."""

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
    weight_decay=st.sampled_from([0.0, 1e-4, 0.1]),
    lr=st.floats(1e-4, 1.0),
    seed=st.integers(0, 2**31),
    channels_last=st.booleans(),
)
def test_steps_equal_pytorchs_bit_for_bit(weight_decay, lr, seed, channels_last):
    """With a changing learning rate, a missing gradient, and both memory layouts."""
    rng = torch.Generator().manual_seed(seed)
    shapes = [(3, 4, 2, 2), (5,), (2, 3)]
    values = [torch.randn(shape, generator=rng) for shape in shapes]
    if channels_last:
        values[0] = values[0].contiguous(memory_format=torch.channels_last)
    parameters, expected_parameters = (
        [nn.Parameter(value.clone()) for value in values] for _ in range(2)
    )
    optimizer = SlimAdam(parameters, lr, weight_decay)
    expected_optimizer = torch.optim.Adam(expected_parameters, lr, weight_decay=weight_decay)
    pairs = list(zip(parameters, expected_parameters, strict=True))
    for step in range(12):
        for adam in (optimizer, expected_optimizer):
            adam.zero_grad()
            adam.param_groups[0]["lr"] = lr * 0.9**step
        for position, (parameter, expected) in enumerate(pairs):
            assert parameter.grad is None
            if (position, step) != (1, 5):
                gradient = torch.randn(parameter.shape, generator=rng) * 10.0 ** (step - 8)
                parameter.grad, expected.grad = gradient, gradient.clone()
        optimizer.step()
        expected_optimizer.step()
        for parameter, expected in pairs:
            assert torch.equal(parameter, expected)
    for parameter, expected in pairs:
        for name, tensor in expected_optimizer.state[expected].items():
            assert torch.equal(optimizer.state[parameter][name], tensor), name


def test_pytorchs_compiler_is_not_imported():
    code = (
        "import sys, torch; from robustgen.acceleration.adam import make_fast_adam;"
        "p = torch.nn.Parameter(torch.ones(2));"
        "o = make_fast_adam([p], 0.1); o.zero_grad(); p.sum().backward(); o.step();"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("device", "optimizer_type"), [("cpu", SlimAdam), ("meta", torch.optim.Adam)]
)
def test_pytorchs_adam_is_used_on_other_devices(device, optimizer_type):
    parameter = nn.Parameter(torch.zeros(2, device=device))
    assert type(make_fast_adam([parameter], 0.1, weight_decay=0.5)) is optimizer_type
