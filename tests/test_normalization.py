"""Batch normalization in train mode is torch's, and exact where torch's is not."""

import pytest
import torch
import torch.nn.functional as F

from robustgen.normalization import RUNS, normalize
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
    [(2, 3), (101, 5), (2 * 101, 1), (100, 100), (30 * 49, 16), (5 * 7 * 11, 48), (RUNS * 50, 7)],
)
def test_it_is_torchs_with_its_gradients(rows, channels, rectified):
    *given, gradient = of(rows, channels)
    ours = [x.clone().requires_grad_() for x in given]
    exact = [x.double().requires_grad_() for x in given]
    made, mean, variance = normalize(*ours, 1e-5, rectified)
    expected = plain(*exact, rectified)
    for got, of_double in zip((made, mean, variance), expected, strict=True):
        torch.testing.assert_close(got.double(), of_double, rtol=1e-5, atol=1e-5)
    to_ours = torch.autograd.grad(made, ours, gradient)
    to_exact = torch.autograd.grad(expected[0], exact, gradient.double())
    for got, of_double in zip(to_ours, to_exact, strict=True):
        size = of_double.abs().max().item()
        torch.testing.assert_close(got.double(), of_double, rtol=1e-4, atol=1e-5 * (1 + size))


def test_sums_of_many_rows_are_exact():
    """Those of torch with the channels last are ten times as wrong: 2e-6 here."""
    rows, weight, bias, _ = of(100 * 14 * 14, 16, at=3)
    _, mean, variance = normalize(rows, weight, bias, 1e-5, False)
    exact = rows.double().mean(0), rows.double().var(0, unbiased=False)
    for got, of_double in zip((mean, variance), exact, strict=True):
        assert (got.double() / of_double - 1).abs().max() < 5e-7


def test_neither_what_is_given_nor_its_gradient_is_written_to():
    *given, gradient = of(98, 4)
    kept = [x.clone() for x in (*given, gradient)]
    made, *_ = normalize(*(x.requires_grad_() for x in given), 1e-5, True)
    torch.autograd.grad(made, given, gradient)
    assert all(map(torch.equal, kept, (*given, gradient)))
