import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies
from torch import nn

from robustgen.acceleration.cpu import strided_conv as strided
from robustgen.acceleration.cpu import transposed_conv as transposed

CASES = {
    # kernel, stride, padding, height, width, groups
    "the paper's": ((4, 4), (2, 2), (1, 1), 28, 28, 3),
    "an odd size": ((4, 4), (2, 2), (1, 1), 7, 9, 2),
    "pixels no kernel reaches": ((4, 4), (4, 4), (0, 0), 11, 14, 1),
    "no overlap": ((2, 2), (2, 2), (0, 0), 8, 6, 2),
    "other each way": ((3, 4), (3, 2), (2, 0), 10, 12, 2),
    "wide padding": ((6, 6), (3, 3), (5, 4), 9, 7, 1),
    "one output": ((8, 8), (2, 2), (0, 0), 9, 9, 1),
}


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_output_and_gradients_are_those_of_conv2d(case, biased):
    kernel, stride, padding, height, width, groups = case
    rng = torch.Generator().manual_seed(0)
    like = {"generator": rng, "dtype": torch.float64}
    x = torch.randn(5, 3 * groups, height, width, **like).requires_grad_()
    weight = torch.randn(4 * groups, 3, *kernel, **like).requires_grad_()
    bias = torch.randn(4 * groups, **like).requires_grad_() if biased else None
    learnt = [x, weight, *([bias] if biased else [])]
    made = strided.conv2d(x, weight, bias, stride, padding, groups)
    expected = F.conv2d(x, weight, bias, stride, padding, 1, groups)
    torch.testing.assert_close(made, expected)
    towards = torch.randn(made.shape, **like)
    found = torch.autograd.grad(made, learnt, towards)
    for one, other in zip(found, torch.autograd.grad(expected, learnt, towards), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(28, 28), (9, 14)], ids=str)
def test_pixels_of_few_channels_in_single_precision(channels, groups, size):
    """They are laid out several numbers at a time."""
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(2, channels * groups, *size, generator=rng, requires_grad=True)
    weight = torch.rand(4 * groups, channels, 4, 4, generator=rng)
    made = strided.conv2d(x, weight, None, (2, 2), (1, 1), groups)
    expected = F.conv2d(x, weight, None, (2, 2), (1, 1), 1, groups)
    towards = torch.rand(made.shape, generator=rng)
    (found,) = torch.autograd.grad(made, x, towards)
    torch.testing.assert_close(found, torch.autograd.grad(expected, x, towards)[0])


TRANSPOSES = {
    # kernel, stride, padding, added, height, width
    "the paper's": ((6, 6), (2, 2), (2, 2), (0, 0), 7, 7),
    "to an odd size": ((6, 6), (2, 2), (2, 2), (1, 1), 3, 3),
    "other each way": ((6, 3), (2, 3), (2, 0), (1, 0), 3, 5),
    "kernel of 4": ((4, 4), (2, 2), (1, 1), (0, 1), 5, 4),
    "no overlap": ((2, 2), (2, 2), (0, 0), (0, 0), 4, 3),
    "pixels no kernel reaches": ((2, 2), (2, 2), (0, 0), (1, 1), 3, 4),
    "wide padding": ((6, 6), (3, 3), (5, 4), (2, 0), 6, 5),
    "padding beyond the kernel": ((4, 4), (2, 2), (5, 6), (1, 0), 9, 10),
    "one input": ((8, 8), (4, 4), (2, 3), (3, 0), 1, 1),
    "stride 1": ((3, 3), (1, 1), (1, 0), (0, 0), 5, 6),
}


def _random(*shape):
    rng = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("case", TRANSPOSES.values(), ids=TRANSPOSES.keys())
def test_output_and_gradients_are_those_of_conv_transpose2d(case, biased, channels, layout):
    kernel, stride, padding, added, height, width = case
    x, weight = _random(5, 3, height, width), _random(3, channels, *kernel)
    bias = _random(channels) if biased else None
    learnt = [x, weight, *([bias] if biased else [])]
    laid = [tensor.contiguous(memory_format=layout) for tensor in (x, weight)]
    made = transposed.conv_transpose2d(*laid, bias, stride, padding, added)
    expected = F.conv_transpose2d(x, weight, bias, stride, padding, added)
    torch.testing.assert_close(made, expected, atol=1e-10, rtol=1e-10)
    towards = _random(*made.shape).detach()
    found = torch.autograd.grad(made, learnt, towards)
    for one, other in zip(found, torch.autograd.grad(expected, learnt, towards), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("case", TRANSPOSES.values(), ids=TRANSPOSES.keys())
def test_several_weights_are_each_for_their_own_rows(case, biased, channels):
    kernel, stride, padding, added, height, width = case
    counts = [2, 0, 1, 3]
    x = _random(sum(counts), 3, height, width)
    weights = _random(len(counts), 3, channels, *kernel).detach()
    biases = _random(len(counts), channels).detach() if biased else None
    each = [strided.PolyphaseInputGrad(weight, stride, padding, 1) for weight in weights]
    made = transposed.conv_transpose2d_per_group(x, each, biases, counts, added)
    parts = zip(x.split(counts), weights, biases if biased else [None] * 4, strict=True)
    expected = torch.cat([F.conv_transpose2d(*part, stride, padding, added) for part in parts])
    torch.testing.assert_close(made, expected, atol=1e-10, rtol=1e-10)
    towards = _random(*made.shape).detach()
    found, wanted = (torch.autograd.grad(of, x, towards) for of in (made, expected))
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-10)


@settings(max_examples=60, deadline=None)
@given(data=strategies.data())
def test_any_geometry_agrees_with_torch(data):
    """Transposed and back: the convolution of the same geometry has the transpose as gradient."""
    draw = data.draw
    stride = [draw(strategies.integers(1, 3)) for _ in "hw"]
    kernel = [s * draw(strategies.integers(1, 3)) for s in stride]
    padding = [draw(strategies.integers(0, k + 1)) for k in kernel]
    added = [draw(strategies.integers(0, s - 1)) for s in stride]
    steps = [
        # enough for at least one pixel to be left
        draw(strategies.integers(1, 4)) + max(0, -(-(2 * p - k - a) // s) + 1)
        for s, k, p, a in zip(stride, kernel, padding, added, strict=True)
    ]
    x, weight, bias = _random(2, 2, *steps), _random(2, 3, *kernel), _random(3)
    how = tuple(stride), tuple(padding)
    made = transposed.conv_transpose2d(x, weight, bias, *how, tuple(added))
    expected = F.conv_transpose2d(x, weight, bias, *how, tuple(added))
    torch.testing.assert_close(made, expected, atol=1e-10, rtol=1e-10)
    towards = _random(*made.shape)
    found = torch.autograd.grad(made, (x, weight, bias), towards.detach())
    wanted = torch.autograd.grad(expected, (x, weight, bias), towards.detach())
    back = strided.conv2d(towards, weight, None, *how, 1)
    again = F.conv2d(towards, weight, None, *how)
    found += (back, *torch.autograd.grad(back, (towards, weight), x.detach()))
    wanted += (again, *torch.autograd.grad(again, (towards, weight), x.detach()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_gradients_of_the_transpose_are_those_of_differences():
    given = _random(2, 2, 3, 3), _random(2, 1, 6, 6), _random(1)
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: transposed.conv_transpose2d(
            x, weight, bias, (2, 2), (2, 2), (1, 0)
        ),
        given,
    )


def test_other_devices_take_torchs_own():
    """Without a GPU: tensors without values stand for those of another device."""
    x, weight = torch.empty(2, 3, 4, 4, device="meta"), torch.empty(3, 1, 6, 6, device="meta")
    weight.requires_grad_()
    made = transposed.conv_transpose2d(x, weight, None, (2, 2), (2, 2), (1, 1))
    assert made.shape == (2, 1, 9, 9)
    assert "ConvolutionBackward" in type(made.grad_fn).__name__
    back = strided.conv2d(made, weight, None, (2, 2), (2, 2), 1)
    assert back.shape == x.shape
    assert "ConvolutionBackward" in type(back.grad_fn).__name__


def test_gradients_only_where_they_are_asked_for():
    x, weight = torch.rand(2, 1, 8, 8), torch.rand(3, 1, 4, 4, requires_grad=True)
    strided.conv2d(x, weight, None, (2, 2), (1, 1), 1).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
    codes, kernel = torch.rand(2, 3, 4, 4, requires_grad=True), torch.rand(3, 1, 4, 4)
    transposed.conv_transpose2d(codes, kernel, None, (2, 2), (1, 1), (0, 0)).sum().backward()
    assert codes.grad is not None
    assert kernel.grad is None


@pytest.mark.parametrize(
    ("layer", "applies"),
    [
        (nn.Conv2d(1, 1, 4, 2, 1), True),
        (nn.Conv2d(1, 1, 4, (1, 2)), True),
        (nn.Conv2d(1, 1, 3, 2), False),
        (nn.Conv2d(1, 1, 4), False),
        (nn.Conv2d(1, 1, 4, padding="same"), False),
        (nn.Conv2d(1, 1, 4, 2, dilation=2), False),
    ],
)
def test_which_layers_it_applies_to(layer, applies):
    assert strided.supports(layer) == applies
