"""Batch normalization in train mode equals PyTorch's, and is exact where PyTorch's is not."""

import pytest
import torch
import torch.nn.functional as F

from robustgen.acceleration.cpu.batch_norm import batch_norm_train
from robustgen.sampling import make_generator


def make_inputs(n_rows, channels, mean=0.3):
    """Rows, weight and bias, and a gradient with respect to the output."""
    rng = make_generator(0, "normalization", n_rows, channels)
    rows = torch.randn(n_rows, channels, generator=rng) + mean
    weight, bias = (torch.rand(channels, generator=rng) - 0.2 for _ in range(2))
    return rows, weight, bias, torch.randn(n_rows, channels, generator=rng)


def normalize_by_pytorch(rows, weight, bias, relu):
    """PyTorch's output, the mean and the biased variance."""
    output = F.batch_norm(rows, None, None, weight, bias, training=True, eps=1e-5)
    output = output.relu() if relu else output
    return output, rows.mean(0), rows.var(0, unbiased=False)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("n_rows", "channels"),
    [(2, 3), (101, 5), (2 * 101, 1), (100, 100), (30 * 49, 16), (5 * 7 * 11, 48), (64 * 50, 7)],
)
def test_output_statistics_and_gradients_equal_pytorchs(n_rows, channels, relu):
    *values, upstream = make_inputs(n_rows, channels)
    inputs = [value.clone().requires_grad_() for value in values]
    exact_inputs = [value.double().requires_grad_() for value in values]
    results = batch_norm_train(*inputs, 1e-5, relu)
    exact_results = normalize_by_pytorch(*exact_inputs, relu)
    for result, exact in zip(results, exact_results, strict=True):
        torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(results[0], inputs, upstream)
    exact_gradients = torch.autograd.grad(exact_results[0], exact_inputs, upstream.double())
    for gradient, exact in zip(gradients, exact_gradients, strict=True):
        atol = 1e-5 * (1 + exact.abs().max().item())
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("n_rows", [100 * 14 * 14, 19_603, 101 * 67 * 67])
def test_sums_of_many_rows_are_exact(n_rows):
    """PyTorch's with the channels last have ten times the error or more; 19,603 is a prime."""
    *values, upstream = make_inputs(n_rows, 16, mean=3)
    inputs = [value.requires_grad_() for value in values]
    output, *results = batch_norm_train(*inputs, 1e-5, False)
    exact_inputs = [value.detach().double().requires_grad_() for value in values]
    exact_output, *exact_results = normalize_by_pytorch(*exact_inputs, False)
    results += torch.autograd.grad(output, inputs[1:], upstream)
    exact_results += torch.autograd.grad(exact_output, exact_inputs[1:], upstream.double())
    # The gradients with respect to weight and bias are sums of random numbers.
    scales = [*exact_results[:2], *[2 * n_rows**0.5] * 2]
    for result, exact, scale in zip(results, exact_results, scales, strict=True):
        assert result.dtype == torch.float32
        assert ((result.double() - exact) / scale).abs().max() < 5e-7


@pytest.mark.parametrize("n_rows", [0, 1])
def test_fewer_than_two_rows_are_refused(n_rows):
    with pytest.raises(ValueError, match=f"needs at least 2 rows, not {n_rows}"):
        batch_norm_train(torch.zeros(n_rows, 3), torch.ones(3), torch.zeros(3), 1e-5, True)


def test_gradients_equal_finite_differences():
    inputs = [value.double().requires_grad_() for value in make_inputs(12, 3)[:3]]
    assert torch.autograd.gradcheck(
        lambda rows, weight, bias: batch_norm_train(rows, weight, bias, 1e-5, True)[0], inputs
    )


def test_neither_the_inputs_nor_the_upstream_gradient_are_modified():
    *values, upstream = make_inputs(98, 4)
    copies = [value.clone() for value in (*values, upstream)]
    inputs = [value.requires_grad_() for value in values]
    output, *_ = batch_norm_train(*inputs, 1e-5, True)
    torch.autograd.grad(output, inputs, upstream)
    assert all(map(torch.equal, copies, (*values, upstream)))
