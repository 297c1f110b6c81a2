"""Input gradients with fewer products, against PyTorch's, in single and double precision."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies
from torch import nn

from robustgen.acceleration.cpu import inference_layers, winograd
from robustgen.acceleration.cpu.vaegan_layers import StridedConvTranspose2d
from robustgen.acceleration.cpu.winograd import WinogradInputGrad
from robustgen.acceleration.supported_layers import to_channels_last


def compute_gradients(dtype, output_size, taps, stride, padding, uncovered, groups):
    """The Winograd gradient and PyTorch's.

    Args:
        dtype: precision.
        output_size: height and width of the output.
        taps: strides in the kernel size, along each axis.
        stride: along each axis.
        padding: along each axis.
        uncovered: pixels at the end of each axis that the kernel does not reach.
        groups: of the convolution.
    """
    rng = torch.Generator().manual_seed(0)
    kernel_size = [r * s for r, s in zip(taps, stride, strict=True)]
    size = [
        (m - 1) * s + k - 2 * p + rest
        for m, k, s, p, rest in zip(
            output_size, kernel_size, stride, padding, uncovered, strict=True
        )
    ]
    x = torch.zeros(5, 3 * groups, *size, dtype=dtype, requires_grad=True)
    weight = torch.randn(4 * groups, 3, *kernel_size, generator=rng, dtype=dtype)
    output = F.conv2d(x, weight, None, stride, padding, 1, groups)
    assert list(output.shape[2:]) == list(output_size)
    upstream = torch.randn(output.shape, generator=rng, dtype=dtype)
    (expected,) = torch.autograd.grad(output, x, upstream)
    input_grad = WinogradInputGrad(weight, stride, padding, groups, output.shape[2:])
    return input_grad(to_channels_last(upstream), x.shape[2:]), expected


@settings(max_examples=80, deadline=None)
@given(data=strategies.data())
def test_gradients_of_any_geometry_equal_pytorchs(data):
    draw = data.draw
    taps = [draw(strategies.integers(1, 3)) for _ in "hw"]
    output_size = [
        draw(strategies.integers(1, len(winograd.INTERPOLATION_POINTS) + 2 - r)) for r in taps
    ]
    stride = [draw(strategies.integers(1, 3)) for _ in "hw"]
    uncovered = [draw(strategies.integers(0, s - 1)) for s in stride]
    padding = [
        draw(strategies.integers(0, min(r * s, ((m - 1 + r) * s - 1) // 2)))
        for m, r, s in zip(output_size, taps, stride, strict=True)
    ]
    groups = draw(strategies.integers(1, 3))
    gradient, expected = compute_gradients(
        torch.float64, output_size, taps, stride, padding, uncovered, groups
    )
    torch.testing.assert_close(gradient, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("taps", "output_length", "max_ratio"), [(2, 1, 2), (2, 3, 2), (2, 4, 8), (3, 3, 8)], ids=str
)
def test_errors_in_single_precision_are_at_most_a_few_times_pytorchs(
    taps, output_length, max_ratio
):
    """With the paper's numbers of channels."""
    rng = torch.Generator().manual_seed(0)
    kernel_length, padding = 2 * taps, taps - 1
    weight = torch.randn(64, 32, kernel_length, kernel_length, generator=rng)
    upstream = torch.randn(20, 64, output_length, output_length, generator=rng)
    size = torch.Size([2 * output_length] * 2)

    def compute(dtype):
        input_grad = WinogradInputGrad(
            weight.to(dtype), (2, 2), (padding, padding), 1, upstream.shape[2:]
        )
        pytorchs = F.conv_transpose2d(upstream.to(dtype), weight.to(dtype), None, 2, padding)
        return input_grad(upstream.to(dtype), size), pytorchs

    gradient, pytorchs = compute(torch.float32)
    exact, exact_pytorchs = compute(torch.float64)
    torch.testing.assert_close(exact, exact_pytorchs, atol=1e-10, rtol=1e-10)
    assert (gradient - exact).norm() < max_ratio * (pytorchs - exact).norm()
    assert (gradient - exact).norm() < 2e-6 * exact.norm()


@pytest.mark.parametrize(
    ("output_size", "kernel_length", "stride", "expected"),
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
def test_winograd_is_preferred_for_few_outputs(output_size, kernel_length, stride, expected):
    kernel_size, strides = (kernel_length, kernel_length), (stride, stride)
    assert winograd.prefers_winograd(output_size, kernel_size, strides) == expected


@pytest.fixture
def winograd_calls(monkeypatch):
    """A list with an element for each gradient that `WinogradInputGrad` computes."""
    calls, call = [], WinogradInputGrad.__call__

    def record_call(self, *args):
        calls.append(1)
        return call(self, *args)

    monkeypatch.setattr(WinogradInputGrad, "__call__", record_call)
    return calls


def test_a_transposed_convolution_with_many_channels_uses_winograd(winograd_calls):
    torch.manual_seed(0)
    arguments = 32, 20, 6, 2, 2, 1
    layer = StridedConvTranspose2d(*arguments).double()
    pytorchs = nn.ConvTranspose2d(*arguments).double()
    pytorchs.load_state_dict(layer.state_dict())
    x = torch.randn(4, 32, 3, 3, dtype=torch.float64).requires_grad_()
    output, expected = layer(x), pytorchs(x)
    assert winograd_calls == [1]
    torch.testing.assert_close(output, expected)
    upstream = torch.randn_like(output)
    gradients = torch.autograd.grad(output, [x, *layer.parameters()], upstream)
    expected_gradients = torch.autograd.grad(expected, [x, *pytorchs.parameters()], upstream)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("max_channels", [0, 1 << 30], ids=["else PyTorch's", "else polyphase"])
@pytest.mark.parametrize("size", [7, 14])
def test_a_layer_of_an_attacked_cohort_uses_winograd_for_few_outputs(
    max_channels, size, monkeypatch, winograd_calls
):
    monkeypatch.setattr(inference_layers, "MAX_CHANNELS_FOR_STRIDED_GRAD", max_channels)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 8, 4, 2, 1)).double().eval()
    state = {
        name: torch.randn(3, *tensor.shape).double() for name, tensor in model.state_dict().items()
    }
    (layer,) = inference_layers.build_layers(model, state)
    x = torch.randn(5, 3 * 16, size, size, dtype=torch.float64).requires_grad_()
    output, vjp = layer(to_channels_last(x.detach()))
    upstream = torch.randn_like(output)
    gradient = vjp(upstream)
    assert winograd_calls == ([1] if size == 7 else [])
    weight, bias = state["0.weight"].flatten(0, 1), state["0.bias"].flatten()
    expected = F.conv2d(x, weight, bias, 2, 1, 1, 3)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x, upstream)[0])
