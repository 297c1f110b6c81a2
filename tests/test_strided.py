import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustgen import strided

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
    given = [x, weight, *([bias] if biased else [])]
    made = strided.convolve(x, weight, bias, stride, padding, groups)
    expected = F.conv2d(x, weight, bias, stride, padding, 1, groups)
    torch.testing.assert_close(made, expected)
    towards = torch.randn(made.shape, **like)
    found = torch.autograd.grad(made, given, towards)
    for one, other in zip(found, torch.autograd.grad(expected, given, towards), strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_only_where_they_are_asked_for():
    x, weight = torch.rand(2, 1, 8, 8), torch.rand(3, 1, 4, 4, requires_grad=True)
    strided.convolve(x, weight, None, (2, 2), (1, 1), 1).sum().backward()
    assert x.grad is None
    assert weight.grad is not None


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
    assert strided.applies(layer) == applies
