"""Batch normalization in train mode on a CPU, with the channels last in memory, and a ReLU.

With this memory layout PyTorch sums the numbers of a channel one by one in single precision, which
is too inexact for training. Here the rows are divided into runs that are treated as further
channels: PyTorch's kernels then take short sums, which are summed afterwards.
`benchmarks/passes.py` measures updates with it.
"""

from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_SUM_ROWS = 4096
"""Rows of the longest run. Longer sums, as for a prime number of rows, use double precision."""


def batch_norm_train(
    rows: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize columns to mean 0 and variance 1, scale and shift (Ioffe and Szegedy, ICML 2015).

    Differentiable once, in rows, weight and bias.

    Args:
        rows: `(R, C)`.
        weight: `(C,)`.
        bias: `(C,)`.
        eps: added to the variance.
        relu: whether a ReLU follows.

    Returns:
        The output, and the mean and the biased variance of the columns, `(C,)`.

    Raises:
        ValueError: there are fewer than two rows, which have no variance.
    """
    if len(rows) < 2:
        raise ValueError(f"batch normalization in training needs at least 2 rows, not {len(rows)}")
    inputs, dtype = (rows.contiguous(), weight, bias), rows.dtype
    if len(_fold_rows_into_channels(inputs[0])[0]) > MAX_SUM_ROWS:
        inputs = rows.double().contiguous(), weight.double(), bias.double()
    output, mean, variance = _BatchNormTrain.apply(*inputs, eps, relu)
    return output.to(dtype), mean.to(dtype), variance.to(dtype)


class _BatchNormTrain(torch.autograd.Function):
    """The normalized columns, and the gradients with respect to rows, weight and bias."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, mean and variance, of the arguments of `batch_norm_train`."""
        rows, weight, bias, eps, relu = args
        wide, runs = _fold_rows_into_channels(rows)
        means, variances = torch.batch_norm_update_stats(wide, None, None, 0.0)
        means, variances = means.view(runs, -1), variances.view(runs, -1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square_().mean(0)
        inv_std = (variance + eps).rsqrt()
        scale = weight * inv_std
        output = torch.addcmul((bias - mean * scale).repeat(runs), wide, scale.repeat(runs))
        output = (output.relu_() if relu else output).view_as(rows)
        ctx.save_for_backward(rows, weight, mean, inv_std, *[output] * relu)
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Return the gradients, including those through mean and variance."""
        rows, weight, mean, inv_std, *relu_output = ctx.saved_tensors
        gradient = gradient.contiguous()
        if relu_output:
            gradient = torch.ops.aten.threshold_backward(gradient, relu_output[0], 0)
        wide, runs = _fold_rows_into_channels(rows)
        grad_wide = gradient.view_as(wide)
        # Both sums per run, with the mean and the standard deviation of all rows.
        statistics = None, None, None, mean.repeat(runs), inv_std.repeat(runs)
        _, weight_grad, bias_grad = torch.ops.aten.native_batch_norm_backward(
            grad_wide, wide, *statistics, True, 0.0, (False, True, True)
        )
        weight_grad, bias_grad = weight_grad.view(runs, -1).sum(0), bias_grad.view(runs, -1).sum(0)
        scale = weight * inv_std
        slope = -weight_grad * inv_std * scale / len(rows)
        offset = -bias_grad * scale / len(rows) - mean * slope
        rows_grad = torch.addcmul(offset.repeat(runs), grad_wide, scale.repeat(runs))
        rows_grad = rows_grad.addcmul_(wide, slope.repeat(runs)).view_as(rows)
        return rows_grad, weight_grad, bias_grad, None, None


def _fold_rows_into_channels(rows: Tensor) -> tuple[Tensor, int]:
    """Return rows `(R, C)` as `(R / n, n C)`, and n: the largest divisor of R up to sqrt(R)."""
    runs = next(n for n in range(isqrt(len(rows)), 0, -1) if len(rows) % n == 0)
    return rows.view(len(rows) // runs, -1), runs
