"""The gradient of few outputs by fewer products: torch's own, in single and double precision."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies
from torch import nn

from robustgen.acceleration.cpu import inference_layers as layers
from robustgen.acceleration.cpu import winograd
from robustgen.acceleration.cpu.vaegan_layers import StridedConvTranspose2d
from robustgen.acceleration.cpu.winograd import WinogradInputGrad


def _size(outputs, kernel, stride, padding, missed):
    return [
        (m - 1) * s + k - 2 * p + more
        for m, k, s, p, more in zip(outputs, kernel, stride, padding, missed, strict=True)
    ]


def _both(dtype, outputs, parts, stride, padding, missed, groups):
    """Our gradient and torch's."""
    rng = torch.Generator().manual_seed(0)
    kernel = [r * s for r, s in zip(parts, stride, strict=True)]
    size = _size(outputs, kernel, stride, padding, missed)
    x = torch.zeros(5, 3 * groups, *size, dtype=dtype, requires_grad=True)
    weight = torch.randn(4 * groups, 3, *kernel, generator=rng, dtype=dtype)
    made = F.conv2d(x, weight, None, stride, padding, 1, groups)
    assert list(made.shape[2:]) == list(outputs)
    towards = torch.randn(made.shape, generator=rng, dtype=dtype)
    (expected,) = torch.autograd.grad(made, x, towards)
    ours = WinogradInputGrad(weight, stride, padding, groups, made.shape[2:])
    laid = towards.contiguous(memory_format=torch.channels_last)
    return ours(laid, x.shape[2:]), expected


@settings(max_examples=80, deadline=None)
@given(data=strategies.data())
def test_any_geometry_agrees_with_torch(data):
    draw = data.draw
    parts = [draw(strategies.integers(1, 3)) for _ in "hw"]
    outputs = [
        draw(strategies.integers(1, len(winograd.INTERPOLATION_POINTS) + 2 - r)) for r in parts
    ]
    stride = [draw(strategies.integers(1, 3)) for _ in "hw"]
    missed = [draw(strategies.integers(0, s - 1)) for s in stride]
    padding = [
        draw(strategies.integers(0, min(r * s, ((m - 1 + r) * s - 1) // 2)))
        for m, r, s in zip(outputs, parts, stride, strict=True)
    ]
    groups = draw(strategies.integers(1, 3))
    ours, torchs = _both(torch.float64, outputs, parts, stride, padding, missed, groups)
    torch.testing.assert_close(ours, torchs, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("parts", "outputs", "times"), [(2, 1, 2), (2, 3, 2), (2, 4, 8), (3, 3, 8)], ids=str
)
def test_errors_of_single_precision_are_a_few_times_torchs(parts, outputs, times):
    """With the paper's numbers of channels."""
    rng = torch.Generator().manual_seed(0)
    kernel, pad = 2 * parts, parts - 1
    weight = torch.randn(64, 32, kernel, kernel, generator=rng)
    towards = torch.randn(20, 64, outputs, outputs, generator=rng)
    size = torch.Size([2 * outputs] * 2)

    def errors(dtype):
        ours = WinogradInputGrad(weight.to(dtype), (2, 2), (pad, pad), 1, towards.shape[2:])
        torchs = F.conv_transpose2d(towards.to(dtype), weight.to(dtype), None, 2, pad)
        return ours(towards.to(dtype), size), torchs

    (ours, torchs), (exact, also) = errors(torch.float32), errors(torch.float64)
    torch.testing.assert_close(exact, also, atol=1e-10, rtol=1e-10)
    assert (ours - exact).norm() < times * (torchs - exact).norm()
    assert (ours - exact).norm() < 2e-6 * exact.norm()


@pytest.mark.parametrize(
    ("outputs", "kernel", "stride", "expected"),
    [
        ((3, 3), 4, 2, True),
        ((1, 3), 4, 2, True),
        ((1, 1), 4, 2, True),
        ((4, 4), 4, 2, True),
        ((5, 3), 4, 2, False),
        ((3, 5), 4, 2, False),
        ((3, 3), 6, 2, True),
        ((4, 3), 6, 2, False),
        ((3, 3), 2, 2, False),
    ],
)
def test_where_it_applies(outputs, kernel, stride, expected):
    assert winograd.prefers_winograd(outputs, (kernel, kernel), (stride, stride)) == expected


def test_a_wide_transposed_convolution_takes_it_and_equals_torchs(monkeypatch):
    torch.manual_seed(0)
    how = 32, 20, 6, 2, 2, 1
    ours, torchs = StridedConvTranspose2d(*how).double(), nn.ConvTranspose2d(*how).double()
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 32, 3, 3, dtype=torch.float64).requires_grad_()
    asked = _counted(monkeypatch)
    made, expected = ours(x), torchs(x)
    assert asked == [1]
    torch.testing.assert_close(made, expected)
    towards = torch.randn_like(made)
    found = torch.autograd.grad(made, [x, *ours.parameters()], towards)
    for one, other in zip(
        found, torch.autograd.grad(expected, [x, *torchs.parameters()], towards), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("few", [0, 1 << 30], ids=["torch's else", "ours else"])
@pytest.mark.parametrize("size", [7, 14])
def test_the_layers_of_an_attacked_cohort_take_it_where_outputs_are_few(few, size, monkeypatch):
    monkeypatch.setattr(layers, "MAX_CHANNELS_FOR_STRIDED_GRAD", few)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 8, 4, 2, 1)).double().eval()
    state = {
        name: torch.randn(3, *held.shape).double() for name, held in model.state_dict().items()
    }
    (layer,) = layers.build_layers(model, state)
    x = torch.randn(5, 3 * 16, size, size, dtype=torch.float64).requires_grad_()
    asked = _counted(monkeypatch)
    made, back = layer(layers.to_channels_last(x.detach()))
    towards = torch.randn_like(made)
    found = back(towards)
    assert asked == ([1] if size == 7 else [])
    weight, bias = state["0.weight"].flatten(0, 1), state["0.bias"].flatten()
    expected = F.conv2d(x, weight, bias, 2, 1, 1, 3)
    torch.testing.assert_close(made, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, x, towards)[0])


def _counted(monkeypatch):
    """A list that grows by 1 with each gradient that is taken this way."""
    asked, plain = [], WinogradInputGrad.__call__

    def counting(self, *args):
        asked.append(1)
        return plain(self, *args)

    monkeypatch.setattr(WinogradInputGrad, "__call__", counting)
    return asked
