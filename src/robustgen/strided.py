"""Strided convolutions with a fast gradient to the input, for CPUs.

The gradient at the s x s pixels of a block depends on the same few outputs. It is computed as s x s
channels of an image of blocks, by a convolution of stride 1, and then laid out as pixels: the same
sums as those of `torch.nn.functional.conv2d`, in less time; `benchmarks/passes.py` measures
searches that rest on it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Pair = tuple[int, int]


def applies(layer: nn.Conv2d) -> bool:
    """Whether `convolve` can compute the layer: stride above 1, which divides the kernel's size."""
    size, step = layer.kernel_size, layer.stride
    return (
        max(step) > 1
        and all(k % s == 0 for k, s in zip(size, step, strict=True))
        and layer.dilation == (1, 1)
        and not isinstance(layer.padding, str)
    )


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int
) -> Tensor:
    """As `torch.nn.functional.conv2d`, differentiable once.

    Args:
        x: `(B, G C, H, W)`, fastest with the channels last.
        weight: `(G O, C, k, k)`.
        bias: `(G O,)` or None.
        stride: divides the kernel's size.
        padding: zeros on each side.
        groups: G.
    """
    if x.device.type != "cpu":
        return F.conv2d(x, weight, bias, stride, padding, 1, groups)
    made: Tensor = _Strided.apply(x, weight, bias, stride, padding, groups)
    return made


class _Strided(torch.autograd.Function):
    """The convolution as torch has it, and the gradients."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        """The convolution, of the arguments of `convolve`."""
        x, weight, bias, stride, padding, groups = args
        ctx.save_for_backward(x, weight)
        ctx.how = stride, padding, groups
        ctx.biased = None if bias is None else list(bias.shape)
        return F.conv2d(x, weight, bias, stride, padding, 1, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The gradients that are asked for, to input, weight and bias."""
        x, weight = ctx.saved_tensors
        stride, padding, groups = ctx.how
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = _to_input(gradient, x.shape, weight, stride, padding, groups)
        if any(ctx.needs_input_grad[1:3]):
            _, to_weight, to_bias = torch.ops.aten.convolution_backward(
                gradient,
                x,
                weight,
                ctx.biased,
                stride,
                padding,
                dilation=(1, 1),
                transposed=False,
                output_padding=(0, 0),
                groups=groups,
                output_mask=(False, *ctx.needs_input_grad[1:3]),
            )
        return to_x, to_weight, to_bias, None, None, None


def _to_input(
    gradient: Tensor, shape: torch.Size, weight: Tensor, stride: Pair, padding: Pair, groups: int
) -> Tensor:
    """The gradient to the input, of `shape`, given that to the output."""
    (sh, sw), (kh, kw) = stride, weight.shape[2:]
    made_of, channels = weight.shape[0] // groups, weight.shape[1]
    blocks = weight.reshape(groups, made_of, channels, kh // sh, sh, kw // sw, sw)
    kernel = blocks.permute(0, 4, 6, 2, 1, 3, 5).flatten(0, 3)
    kernel = kernel.flip(2, 3).contiguous(memory_format=torch.channels_last)
    made = F.conv2d(gradient, kernel, None, 1, (kh // sh - 1, kw // sw - 1), 1, groups)
    made = made.permute(0, 2, 3, 1)
    made = made.reshape(*made.shape[:3], groups, sh, sw, channels)
    height, width = shape[2:]
    held = _blank(gradient, stride, padding, (kh, kw), (height, width), (groups, channels))
    for i in range(sh):
        rows, of_rows = _pixels(i, sh, padding[0], height, made.shape[1])
        for j in range(sw):
            columns, of_columns = _pixels(j, sw, padding[1], width, made.shape[2])
            held[:, rows, columns] = made[:, of_rows, of_columns, :, i, j]
    return held.flatten(3).permute(0, 3, 1, 2)


def _blank(
    gradient: Tensor, stride: Pair, padding: Pair, kernel: Pair, size: Pair, channels: Pair
) -> Tensor:
    """`(B, H, W, *channels)`, of zeros where the kernel does not reach every pixel."""
    reached = [
        (steps - 1) * s + k - p
        for steps, s, k, p in zip(gradient.shape[2:], stride, kernel, padding, strict=True)
    ]
    whole = all(r >= wanted for r, wanted in zip(reached, size, strict=True))
    new = gradient.new_empty if whole else gradient.new_zeros
    return new(len(gradient), *size, *channels)


def _pixels(phase: int, stride: int, padding: int, size: int, blocks: int) -> tuple[slice, slice]:
    """Pixels that are number `phase` of their blocks, and these blocks."""
    first = max(0, -((phase - padding) // stride))
    last = min(blocks, -((phase - padding - size) // stride))
    start = stride * first + phase - padding
    return slice(start, start + stride * (last - first), stride), slice(first, last)
