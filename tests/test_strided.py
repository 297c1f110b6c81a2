"""Strided and transposed convolutions on a CPU, and their gradients, against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies
from torch import nn

from robustgen.acceleration.cpu import strided_conv, transposed_conv
from robustgen.acceleration.cpu.strided_conv import PolyphaseInputGrad

CONVOLUTIONS = {
    # kernel size, stride, padding, height, width, groups
    "the paper's": ((4, 4), (2, 2), (1, 1), 28, 28, 3),
    "an odd size": ((4, 4), (2, 2), (1, 1), 7, 9, 2),
    "pixels no kernel reaches": ((4, 4), (4, 4), (0, 0), 11, 14, 1),
    "no overlap": ((2, 2), (2, 2), (0, 0), 8, 6, 2),
    "other height than width": ((3, 4), (3, 2), (2, 0), 10, 12, 2),
    "wide padding": ((6, 6), (3, 3), (5, 4), 9, 7, 1),
    "one output": ((8, 8), (2, 2), (0, 0), 9, 9, 1),
}
TRANSPOSED_CONVOLUTIONS = {
    # kernel size, stride, padding, output padding, height, width
    "the paper's": ((6, 6), (2, 2), (2, 2), (0, 0), 7, 7),
    "to an odd size": ((6, 6), (2, 2), (2, 2), (1, 1), 3, 3),
    "other height than width": ((6, 3), (2, 3), (2, 0), (1, 0), 3, 5),
    "kernel of 4": ((4, 4), (2, 2), (1, 1), (0, 1), 5, 4),
    "no overlap": ((2, 2), (2, 2), (0, 0), (0, 0), 4, 3),
    "pixels no kernel reaches": ((2, 2), (2, 2), (0, 0), (1, 1), 3, 4),
    "wide padding": ((6, 6), (3, 3), (5, 4), (2, 0), 6, 5),
    "padding beyond the kernel": ((4, 4), (2, 2), (5, 6), (1, 0), 9, 10),
    "one input": ((8, 8), (4, 4), (2, 3), (3, 0), 1, 1),
    "stride 1": ((3, 3), (1, 1), (1, 0), (0, 0), 5, 6),
}
TOLERANCE = dict(atol=1e-10, rtol=1e-10)


def make_random(*shape):
    """Random numbers in double precision, which depend on the shape only."""
    rng = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()


def assert_all_close(results, expected_results, **tolerance):
    for result, expected in zip(results, expected_results, strict=True):
        torch.testing.assert_close(result, expected, **tolerance)


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_a_convolution_and_its_gradients_equal_pytorchs(case, has_bias):
    kernel_size, stride, padding, height, width, groups = case
    rng = torch.Generator().manual_seed(0)
    options = {"generator": rng, "dtype": torch.float64}
    x = torch.randn(5, 3 * groups, height, width, **options).requires_grad_()
    weight = torch.randn(4 * groups, 3, *kernel_size, **options).requires_grad_()
    bias = torch.randn(4 * groups, **options).requires_grad_() if has_bias else None
    inputs = [x, weight, *([bias] if has_bias else [])]
    output = strided_conv.conv2d(x, weight, bias, stride, padding, groups)
    expected = F.conv2d(x, weight, bias, stride, padding, 1, groups)
    torch.testing.assert_close(output, expected)
    upstream = torch.randn(output.shape, **options)
    gradients = torch.autograd.grad(output, inputs, upstream)
    assert_all_close(gradients, torch.autograd.grad(expected, inputs, upstream))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(28, 28), (9, 14)], ids=str)
def test_gradients_of_few_channels_equal_pytorchs_in_single_precision(channels, groups, size):
    """Pixels of few channels are rearranged several numbers at a time."""
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(2, channels * groups, *size, generator=rng, requires_grad=True)
    weight = torch.rand(4 * groups, channels, 4, 4, generator=rng)
    output = strided_conv.conv2d(x, weight, None, (2, 2), (1, 1), groups)
    expected = F.conv2d(x, weight, None, (2, 2), (1, 1), 1, groups)
    upstream = torch.rand(output.shape, generator=rng)
    (gradient,) = torch.autograd.grad(output, x, upstream)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x, upstream)[0])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    "case", TRANSPOSED_CONVOLUTIONS.values(), ids=TRANSPOSED_CONVOLUTIONS.keys()
)
def test_a_transposed_convolution_and_its_gradients_equal_pytorchs(
    case, has_bias, channels, layout
):
    kernel_size, stride, padding, output_padding, height, width = case
    x, weight = make_random(5, 3, height, width), make_random(3, channels, *kernel_size)
    bias = make_random(channels) if has_bias else None
    inputs = [x, weight, *([bias] if has_bias else [])]
    x_in_layout, weight_in_layout = (
        tensor.contiguous(memory_format=layout) for tensor in (x, weight)
    )
    output = transposed_conv.conv_transpose2d(
        x_in_layout, weight_in_layout, bias, stride, padding, output_padding
    )
    expected = F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)
    torch.testing.assert_close(output, expected, **TOLERANCE)
    upstream = make_random(*output.shape).detach()
    gradients = torch.autograd.grad(output, inputs, upstream)
    assert_all_close(gradients, torch.autograd.grad(expected, inputs, upstream), **TOLERANCE)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    "case", TRANSPOSED_CONVOLUTIONS.values(), ids=TRANSPOSED_CONVOLUTIONS.keys()
)
def test_each_transposed_convolution_is_applied_to_its_own_rows(case, has_bias, channels):
    kernel_size, stride, padding, output_padding, height, width = case
    counts = [2, 0, 1, 3]
    x = make_random(sum(counts), 3, height, width)
    weights = make_random(len(counts), 3, channels, *kernel_size).detach()
    biases = make_random(len(counts), channels).detach() if has_bias else None
    convs = [PolyphaseInputGrad(weight, stride, padding, 1) for weight in weights]
    output = transposed_conv.conv_transpose2d_per_group(x, convs, biases, counts, output_padding)
    row_groups = zip(x.split(counts), weights, biases if has_bias else [None] * 4, strict=True)
    expected = torch.cat(
        [F.conv_transpose2d(*group, stride, padding, output_padding) for group in row_groups]
    )
    torch.testing.assert_close(output, expected, **TOLERANCE)
    upstream = make_random(*output.shape).detach()
    gradients = torch.autograd.grad(output, x, upstream)
    assert_all_close(gradients, torch.autograd.grad(expected, x, upstream), **TOLERANCE)


@settings(max_examples=60, deadline=None)
@given(data=strategies.data())
def test_convolutions_of_any_geometry_equal_pytorchs(data):
    """The transposed convolution, and the convolution of the same geometry back."""
    draw = data.draw
    stride = [draw(strategies.integers(1, 3)) for _ in "hw"]
    kernel_size = [s * draw(strategies.integers(1, 3)) for s in stride]
    padding = [draw(strategies.integers(0, k + 1)) for k in kernel_size]
    output_padding = [draw(strategies.integers(0, s - 1)) for s in stride]
    input_size = [
        # large enough for an output of at least one pixel
        draw(strategies.integers(1, 4)) + max(0, -(-(2 * p - k - extra) // s) + 1)
        for s, k, p, extra in zip(stride, kernel_size, padding, output_padding, strict=True)
    ]
    x, bias = make_random(2, 2, *input_size), make_random(3)
    weight = make_random(2, 3, *kernel_size)
    geometry = tuple(stride), tuple(padding)
    inputs = x, weight, bias
    output = transposed_conv.conv_transpose2d(*inputs, *geometry, tuple(output_padding))
    expected = F.conv_transpose2d(*inputs, *geometry, tuple(output_padding))
    torch.testing.assert_close(output, expected, **TOLERANCE)
    images = make_random(*output.shape)
    gradients = torch.autograd.grad(output, inputs, images.detach())
    expected_gradients = torch.autograd.grad(expected, inputs, images.detach())
    assert_all_close(gradients, expected_gradients, **TOLERANCE)
    output = strided_conv.conv2d(images, weight, None, *geometry, 1)
    expected = F.conv2d(images, weight, None, *geometry)
    torch.testing.assert_close(output, expected, **TOLERANCE)
    gradients = torch.autograd.grad(output, (images, weight), x.detach())
    expected_gradients = torch.autograd.grad(expected, (images, weight), x.detach())
    assert_all_close(gradients, expected_gradients, **TOLERANCE)


def test_gradients_of_a_transposed_convolution_equal_finite_differences():
    inputs = make_random(2, 2, 3, 3), make_random(2, 1, 6, 6), make_random(1)
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: transposed_conv.conv_transpose2d(
            x, weight, bias, (2, 2), (2, 2), (1, 0)
        ),
        inputs,
    )


def test_pytorchs_own_convolutions_are_used_on_other_devices():
    """Tensors on the meta device stand for those on another device, such as a GPU."""
    x, weight = torch.empty(2, 3, 4, 4, device="meta"), torch.empty(3, 1, 6, 6, device="meta")
    weight.requires_grad_()
    images = transposed_conv.conv_transpose2d(x, weight, None, (2, 2), (2, 2), (1, 1))
    assert images.shape == (2, 1, 9, 9)
    assert "ConvolutionBackward" in type(images.grad_fn).__name__
    output = strided_conv.conv2d(images, weight, None, (2, 2), (2, 2), 1)
    assert output.shape == x.shape
    assert "ConvolutionBackward" in type(output.grad_fn).__name__


def test_only_gradients_that_are_needed_are_computed():
    x, weight = torch.rand(2, 1, 8, 8), torch.rand(3, 1, 4, 4, requires_grad=True)
    strided_conv.conv2d(x, weight, None, (2, 2), (1, 1), 1).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
    x, weight = torch.rand(2, 3, 4, 4, requires_grad=True), torch.rand(3, 1, 4, 4)
    transposed_conv.conv_transpose2d(x, weight, None, (2, 2), (1, 1), (0, 0)).sum().backward()
    assert x.grad is not None
    assert weight.grad is None


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(1, 1, 4, 2, 1), True),
        (nn.Conv2d(1, 1, 4, (1, 2)), True),
        (nn.Conv2d(1, 1, 3, 2), False),
        (nn.Conv2d(1, 1, 4), False),
        (nn.Conv2d(1, 1, 4, padding="same"), False),
        (nn.Conv2d(1, 1, 4, 2, dilation=2), False),
    ],
)
def test_supported_layers_have_a_stride_that_divides_the_kernel_size(layer, expected):
    assert strided_conv.supports(layer) == expected
