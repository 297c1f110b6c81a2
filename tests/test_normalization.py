"""Batch normalization in train mode is torch's, and exact where torch's is not."""

import pytest
import torch
import torch.nn.functional as F

from robustgen.acceleration.cpu.batch_norm import batch_norm_train
from robustgen.seeding import generator


def of(rows, channels, at=0.3):
    """Rows, weight, bias and the gradient to what is made."""
    rng = generator(0, "normalization", rows, channels)
    given = torch.randn(rows, channels, generator=rng) + at
    weight, bias = (torch.rand(channels, generator=rng) - 0.2 for _ in range(2))
    return given, weight, bias, torch.randn(rows, channels, generator=rng)


def plain(rows, weight, bias, rectified):
    """What torch makes in double precision, mean and variance."""
    made = F.batch_norm(rows, None, None, weight, bias, training=True, eps=1e-5)
    made = made.relu() if rectified else made
    return made, rows.mean(0), rows.var(0, unbiased=False)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(
    ("rows", "channels"),
    [(2, 3), (101, 5), (2 * 101, 1), (100, 100), (30 * 49, 16), (5 * 7 * 11, 48), (64 * 50, 7)],
)
def test_it_is_torchs_with_its_gradients(rows, channels, rectified):
    *given, gradient = of(rows, channels)
    ours = [x.clone().requires_grad_() for x in given]
    exact = [x.double().requires_grad_() for x in given]
    made, mean, variance = batch_norm_train(*ours, 1e-5, rectified)
    expected = plain(*exact, rectified)
    for got, of_double in zip((made, mean, variance), expected, strict=True):
        torch.testing.assert_close(got.double(), of_double, rtol=1e-5, atol=1e-5)
    to_ours = torch.autograd.grad(made, ours, gradient)
    to_exact = torch.autograd.grad(expected[0], exact, gradient.double())
    for got, of_double in zip(to_ours, to_exact, strict=True):
        size = of_double.abs().max().item()
        torch.testing.assert_close(got.double(), of_double, rtol=1e-4, atol=1e-5 * (1 + size))


@pytest.mark.parametrize("rows", [100 * 14 * 14, 19_603, 101 * 67 * 67])
def test_sums_of_many_rows_are_exact(rows):
    """Those of torch with the channels last are ten times as wrong, or more; 19,603 is a prime."""
    *given, gradient = of(rows, 16, at=3)
    made, *found = batch_norm_train(*(x.requires_grad_() for x in given), 1e-5, False)
    exact = [x.detach().double().requires_grad_() for x in given]
    of_double, *expected = plain(*exact, False)
    found += torch.autograd.grad(made, given[1:], gradient)
    expected += torch.autograd.grad(of_double, exact[1:], gradient.double())
    sizes = [*expected[:2], *[2 * rows**0.5] * 2]  # the gradients are sums of random numbers
    for got, wanted, size in zip(found, expected, sizes, strict=True):
        assert got.dtype == torch.float32
        assert ((got.double() - wanted) / size).abs().max() < 5e-7


@pytest.mark.parametrize("rows", [0, 1])
def test_a_row_alone_has_no_variance(rows):
    with pytest.raises(ValueError, match=f"needs 2 rows at least, not {rows}"):
        batch_norm_train(torch.zeros(rows, 3), torch.ones(3), torch.zeros(3), 1e-5, True)


def test_gradients_are_those_of_differences():
    given = [x.double().requires_grad_() for x in of(12, 3)[:3]]
    assert torch.autograd.gradcheck(lambda *of: batch_norm_train(*of, 1e-5, True)[0], given)


def test_neither_what_is_given_nor_its_gradient_is_written_to():
    *given, gradient = of(98, 4)
    kept = [x.clone() for x in (*given, gradient)]
    made, *_ = batch_norm_train(*(x.requires_grad_() for x in given), 1e-5, True)
    torch.autograd.grad(made, given, gradient)
    assert all(map(torch.equal, kept, (*given, gradient)))
