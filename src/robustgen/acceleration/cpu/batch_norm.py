"""Batch normalization in train mode on a CPU, with the channels last in memory, and the ReLU after.

Of such images torch's own sums the numbers of a channel one by one in single precision, too
inexactly to follow a training. Here equal runs of rows stand side by side as if they were further
channels: torch's kernels then take short sums, whose sums are taken after that, and what they do to
rows they do to a few long ones. `benchmarks/passes.py` measures updates with it.
"""

from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LONGEST = 4096
"""Rows of a run. Sums of more, as where runs do not divide the rows, are in double precision."""


def normalize(
    rows: Tensor, weight: Tensor, bias: Tensor, eps: float, rectified: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of mean 0 and variance 1, times a weight, plus a bias (Ioffe & Szegedy, ICML 2015).

    Differentiable once, in rows, weight and bias.

    Args:
        rows: `(R, C)`.
        weight: `(C,)`.
        bias: `(C,)`.
        eps: added to the variance.
        rectified: whether a ReLU follows.

    Returns:
        What is made, and the mean and the biased variance of the columns, `(C,)`.

    Raises:
        ValueError: there are fewer than two rows, which have no variance.
    """
    if len(rows) < 2:
        raise ValueError(f"batch normalization in training needs 2 rows at least, not {len(rows)}")
    given, kind = (rows.contiguous(), weight, bias), rows.dtype
    if len(_side_by_side(given[0])[0]) > LONGEST:
        given = rows.double().contiguous(), weight.double(), bias.double()
    made, mean, variance = _Normalized.apply(*given, eps, rectified)
    return made.to(kind), mean.to(kind), variance.to(kind)


class _Normalized(torch.autograd.Function):
    """The columns, and the gradients to what they are made of."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Of the arguments of `normalize`."""
        rows, weight, bias, eps, rectified = args
        wide, runs = _side_by_side(rows)
        means, variances = torch.batch_norm_update_stats(wide, None, None, 0.0)
        means, variances = means.view(runs, -1), variances.view(runs, -1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square_().mean(0)
        inverse = (variance + eps).rsqrt()
        scale = weight * inverse
        made = torch.addcmul((bias - mean * scale).repeat(runs), wide, scale.repeat(runs))
        made = (made.relu_() if rectified else made).view_as(rows)
        ctx.save_for_backward(rows, weight, mean, inverse, *[made] * rectified)
        ctx.mark_non_differentiable(mean, variance)
        return made, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """To rows, whose mean and deviation were taken, weight and bias."""
        rows, weight, mean, inverse, *rectified = ctx.saved_tensors
        gradient = gradient.contiguous()
        if rectified:
            gradient = torch.ops.aten.threshold_backward(gradient, rectified[0], 0)
        wide, runs = _side_by_side(rows)
        to_wide = gradient.view_as(wide)
        # Each run's part of the two sums, with the mean and the deviation of all.
        known = None, None, None, mean.repeat(runs), inverse.repeat(runs)
        _, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            to_wide, wide, *known, True, 0.0, (False, True, True)
        )
        to_weight, to_bias = to_weight.view(runs, -1).sum(0), to_bias.view(runs, -1).sum(0)
        scale = weight * inverse
        slope = -to_weight * inverse * scale / len(rows)
        offset = -to_bias * scale / len(rows) - mean * slope
        made = torch.addcmul(offset.repeat(runs), to_wide, scale.repeat(runs))
        made = made.addcmul_(wide, slope.repeat(runs)).view_as(rows)
        return made, to_weight, to_bias, None, None


def _side_by_side(rows: Tensor) -> tuple[Tensor, int]:
    """Rows `(R, C)` as `(R / n, n C)`, and n: runs are no shorter than there are of them."""
    runs = next(n for n in range(isqrt(len(rows)), 0, -1) if len(rows) % n == 0)
    return rows.view(len(rows) // runs, -1), runs
