"""Transposed strided convolutions on a CPU: with one weight, or with one for each group of rows.

A transposed convolution is the gradient of a convolution with respect to its input, which
`strided_conv` computes. `benchmarks/vaegan.py` measures VAE-GANs and searches with it.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from robustgen.acceleration.cpu.strided_conv import (
    PolyphaseInputGrad,
    input_grad_per_group,
    map_row_groups,
    native_conv_grads,
)
from robustgen.acceleration.supported_layers import Pair, to_channels_last


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    prepared: PolyphaseInputGrad | None = None,
) -> Tensor:
    """Compute `torch.nn.functional.conv_transpose2d`, differentiable once.

    Args:
        x: `(B, C, H, W)`, fastest with the channels last.
        weight: `(C, O, k, k)`.
        bias: `(O,)` or None.
        stride: divides the kernel's size.
        padding: pixels left out on each side.
        output_padding: pixels added at the bottom and at the right, fewer than the stride.
        prepared: the gradient of the convolution of weight, stride and padding, if it is prepared.
    """
    if x.device.type != "cpu":
        return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)
    if prepared is None:
        with torch.no_grad():
            prepared = PolyphaseInputGrad(weight, stride, padding, 1)
    output: Tensor = _TransposedConv.apply(x, weight, bias, output_padding, [prepared], [len(x)])
    return output


def conv_transpose2d_per_group(
    x: Tensor,
    convs: Sequence[PolyphaseInputGrad],
    biases: Tensor | None,
    counts: list[int],
    output_padding: Pair,
) -> Tensor:
    """Apply transposed convolutions of one shape and constant weights, each to its own rows.

    Args:
        x: `(B, C, H, W)`, fastest with the channels last.
        convs: the K convolutions.
        biases: `(K, O)` or None.
        counts: number of rows of each convolution, one after another; B in all.
        output_padding: as for `conv_transpose2d`.
    """
    if biases is not None:
        biases = biases.repeat_interleave(torch.tensor(counts), dim=0)
    output: Tensor = _TransposedConv.apply(x, None, biases, output_padding, convs, counts)
    return output


class _TransposedConv(torch.autograd.Function):
    """Input gradients of strided convolutions, and their gradients."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        """Return the transposed convolutions.

        `weight` is needed only for its gradient, with one convolution. The bias is `(O,)`, or
        `(B, O)` with several convolutions.
        """
        x, weight, bias, output_padding, convs, counts = args
        ctx.save_for_backward(*(x, weight) if ctx.needs_input_grad[1] else ())
        ctx.groups = convs, counts
        geometry = convs[0].weight.shape[2:], convs[0].stride, convs[0].padding
        size = torch.Size(
            (length - 1) * step + kernel - 2 * padding + extra
            for length, kernel, step, padding, extra in zip(
                x.shape[2:], *geometry, output_padding, strict=True
            )
        )
        output = input_grad_per_group(convs, counts, to_channels_last(x), size)
        output = to_channels_last(output)
        return output if bias is None else output.add_(bias[..., None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradients with respect to input, weight and bias that are needed."""
        convs, counts = ctx.groups
        gradient = to_channels_last(gradient)
        input_grad = weight_grad = bias_grad = None
        if ctx.needs_input_grad[0]:
            input_grad = map_row_groups(PolyphaseInputGrad.conv, convs, counts, gradient)
        if ctx.needs_input_grad[1]:
            x, weight = ctx.saved_tensors
            geometry = None, convs[0].stride, convs[0].padding, (1, 1), 1
            output_mask = (False, True, False)
            _, weight_grad, _ = native_conv_grads(x, gradient, weight, *geometry, output_mask)
        if ctx.needs_input_grad[2]:
            bias_grad = gradient.sum((0, 2, 3))
        return input_grad, weight_grad, bias_grad, None, None, None
