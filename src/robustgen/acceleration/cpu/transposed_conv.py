"""Transposed strided convolutions, for CPUs: of one weight, or of several, each of its own rows.

A transposed convolution is the gradient of a convolution to its input, which `strided` has.
`benchmarks/vaegan.py` measures VAE-GANs and searches that rest on it.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from robustgen.acceleration.cpu.strided_conv import (
    InputGradient,
    Pair,
    gradients,
    of_each,
    of_rows,
)
from robustgen.acceleration.supported_layers import to_channels_last


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    rearranged: InputGradient | None = None,
) -> Tensor:
    """As `torch.nn.functional.conv_transpose2d`, differentiable once.

    Args:
        x: `(B, C, H, W)`, fastest with the channels last.
        weight: `(C, O, k, k)`.
        bias: `(O,)` or None.
        stride: divides the kernel's size.
        padding: pixels left out on each side.
        output_padding: pixels added below and to the right, less than the stride.
        rearranged: of weight, stride and padding, if it is at hand.
    """
    if x.device.type != "cpu":
        return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)
    if rearranged is None:
        with torch.no_grad():
            rearranged = InputGradient(weight, stride, padding, 1)
    made: Tensor = _Transposed.apply(x, weight, bias, output_padding, [rearranged], [len(x)])
    return made


def convolve_each(
    x: Tensor,
    each: Sequence[InputGradient],
    biases: Tensor | None,
    counts: list[int],
    output_padding: Pair,
) -> Tensor:
    """Transposed convolutions of one shape and constant weights, each of its own rows.

    Args:
        x: `(B, C, H, W)`, fastest with the channels last.
        each: the K convolutions.
        biases: `(K, O)` or None.
        counts: how many rows each has, one after another; B in all.
        output_padding: that of `convolve`.
    """
    if biases is not None:
        biases = biases.repeat_interleave(torch.tensor(counts), dim=0)
    made: Tensor = _Transposed.apply(x, None, biases, output_padding, each, counts)
    return made


class _Transposed(torch.autograd.Function):
    """Gradients of strided convolutions to their input, and the gradients of that."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        """The transposed convolutions of each, of so many rows; weights are those of the only one.

        The bias is `(O,)`, or `(B, O)` where there are several.
        """
        x, weight, bias, output_padding, each, counts = args
        ctx.save_for_backward(*(x, weight) if ctx.needs_input_grad[1] else ())
        ctx.of = each, counts
        of = each[0].weight.shape[2:], each[0].stride, each[0].padding
        size = torch.Size(
            (steps - 1) * s + k - 2 * p + more
            for steps, k, s, p, more in zip(x.shape[2:], *of, output_padding, strict=True)
        )
        made = to_channels_last(of_each(each, counts, to_channels_last(x), size))
        return made if bias is None else made.add_(bias[..., None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The gradients that are asked for, to input, weight and bias."""
        each, counts = ctx.of
        gradient = to_channels_last(gradient)
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = of_rows(InputGradient.adjoint, each, counts, gradient)
        if ctx.needs_input_grad[1]:
            x, weight = ctx.saved_tensors
            how = None, each[0].stride, each[0].padding, (1, 1), 1
            _, to_weight, _ = gradients(x, gradient, weight, *how, (False, True, False))
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum((0, 2, 3))
        return to_x, to_weight, to_bias, None, None, None
