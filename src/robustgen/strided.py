"""Strided convolutions with a fast gradient to the input, and their transposes, for CPUs.

The gradient at the s x s pixels of a block depends on the same few outputs. It is computed as s x s
channels of an image of blocks, by a convolution of stride 1, and then laid out as pixels: the same
sums as those of `torch.nn.functional.conv2d`, in less time. A transposed convolution is this
gradient. `benchmarks/passes.py` measures searches that rest on it, `benchmarks/vaegan.py` VAE-GANs.
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


def transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
) -> Tensor:
    """As `torch.nn.functional.conv_transpose2d`, differentiable once.

    Args:
        x: `(B, C, H, W)`, fastest with the channels last.
        weight: `(C, O, k, k)`.
        bias: `(O,)` or None.
        stride: divides the kernel's size.
        padding: pixels left out on each side.
        output_padding: pixels added below and to the right, less than the stride.
    """
    if x.device.type != "cpu":
        return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)
    made: Tensor = _Transposed.apply(x, weight, bias, stride, padding, output_padding)
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
            wanted = ctx.needs_input_grad[1:3]
            to_weight, to_bias = _to_weight(
                gradient, x, weight, ctx.biased, stride, padding, groups, wanted
            )
        return to_x, to_weight, to_bias, None, None, None


class _Transposed(torch.autograd.Function):
    """The gradient of a strided convolution to its input, and the gradients of that."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        """The transposed convolution, of the arguments of `transposed`."""
        x, weight, bias, stride, padding, output_padding = args
        ctx.save_for_backward(x, weight)
        ctx.how = stride, padding
        size = [
            (steps - 1) * s + k - 2 * p + more
            for steps, s, k, p, more in zip(
                x.shape[2:], stride, weight.shape[2:], padding, output_padding, strict=True
            )
        ]
        shape = torch.Size((len(x), weight.shape[1], *size))
        outputs = x.contiguous(memory_format=torch.channels_last)
        made = _to_input(outputs, shape, weight, stride, padding, 1)
        return made if bias is None else made.add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The gradients that are asked for, to input, weight and bias."""
        x, weight = ctx.saved_tensors
        stride, padding = ctx.how
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = F.conv2d(gradient, weight, None, stride, padding)
        if ctx.needs_input_grad[1]:
            to_weight, _ = _to_weight(x, gradient, weight, None, stride, padding, 1, (True, False))
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum((0, 2, 3))
        return to_x, to_weight, to_bias, None, None, None


def _to_weight(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    biased: list[int] | None,
    stride: Pair,
    padding: Pair,
    groups: int,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients to weight and bias of a convolution of `x`, given that to the output."""
    _, to_weight, to_bias = torch.ops.aten.convolution_backward(
        gradient,
        x,
        weight,
        biased,
        stride,
        padding,
        dilation=(1, 1),
        transposed=False,
        output_padding=(0, 0),
        groups=groups,
        output_mask=(False, *wanted),
    )
    return to_weight, to_bias


def _to_input(
    gradient: Tensor, shape: torch.Size, weight: Tensor, stride: Pair, padding: Pair, groups: int
) -> Tensor:
    """The gradient to the input, of `shape`, given that to the output."""
    (sh, sw), (kh, kw) = stride, weight.shape[2:]
    made_of, channels = weight.shape[0] // groups, weight.shape[1]
    blocks = weight.reshape(groups, made_of, channels, kh // sh, sh, kw // sw, sw)
    kernel = blocks.permute(0, 4, 6, 2, 1, 3, 5).flatten(0, 3)
    kernel = kernel.flip(2, 3).contiguous(memory_format=torch.channels_last)
    height, width = shape[2:]
    rows_added = _added(gradient.shape[2], height, kh, sh, padding[0])
    columns_added = _added(gradient.shape[3], width, kw, sw, padding[1])
    even = max(0, min(rows_added)), max(0, min(columns_added))
    odd = [n - even[1] for n in columns_added] + [n - even[0] for n in rows_added]
    outputs = F.pad(gradient, odd) if any(odd) else gradient
    made = F.conv2d(outputs, kernel, None, 1, even, 1, groups).permute(0, 2, 3, 1)
    made = made.reshape(*made.shape[:3], groups, sh, sw, channels)
    pixels = made.permute(0, 1, 4, 2, 5, 3, 6).reshape(
        len(made), sh * made.shape[1], sw * made.shape[2], groups * channels
    )
    top, left = padding[0] % sh, padding[1] % sw
    pixels = pixels[:, top : top + height, left : left + width]
    missed = width - pixels.shape[2], height - pixels.shape[1]  # by the kernel: no gradient
    if any(missed):
        pixels = F.pad(pixels, (0, 0, 0, missed[0], 0, missed[1]))
    return pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _added(outputs: int, size: int, kernel: int, stride: int, padding: int) -> Pair:
    """Zeros to add before and after the outputs so that only blocks with pixels are computed.

    Less than none where outputs see nothing but padding. The first `padding // stride` blocks have
    no pixels: they lie in the padding.
    """
    over = kernel // stride - 1
    last = min(outputs + over, -(-(size + padding) // stride))
    return over - padding // stride, last - outputs
