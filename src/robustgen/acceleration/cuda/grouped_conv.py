"""Convolutions in many small groups, one for each model of a cohort, on a GPU.

The libraries that PyTorch calls are made for few large groups: they take three to ten times as long
(`benchmarks/gpu.py`). Here each is one Triton kernel over all groups, of the arithmetic of single
precision; sums are taken in a fixed order. Where there is no Triton, PyTorch's own are used.
"""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robustgen.acceleration.cuda.conv_geometry import How, power, tiles

log = logging.getLogger("robustgen")

ROWS_OF_PART = 256
"""Output pixels whose gradients to the weight are one sum."""


def applies(layer: nn.Module, weight: Tensor) -> bool:
    """Whether the kernels can compute a layer with weights like these, here."""
    known = isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv2d)
        and all(k % s == 0 for k, s in zip(layer.kernel_size, layer.stride, strict=True))
        and layer.dilation == (1, 1)
        and not isinstance(layer.padding, str)
    )
    return known and weight.is_cuda and weight.dtype == torch.float32 and works()


@cache
def works() -> bool:
    """Whether kernels can be compiled here: Triton needs a C compiler, for one."""
    try:
        x, how = torch.ones(1, 1, 4, 4, 1, device="cuda"), How(1, 1, 1, (2, 2), (2, 2), (0, 0))
        made = forward(x, x.view(1, 4, 4)[:, :, :1].contiguous(), None, how)
        if not made.eq(4).all():
            raise RuntimeError(f"sums of four ones are {made.flatten().tolist()}")
        return True
    except Exception as error:  # whatever a compiler says
        log.warning("no Triton here, so convolutions are PyTorch's and slower: %s", error)
        return False


def taps_of_outputs(weight: Tensor, how: How) -> Tensor:
    """`weight` `(G O, C, KH, KW)` as `forward` takes it: `(G, O, KH KW C)`."""
    parts = weight.reshape(how.groups, how.to_channels, how.channels, *how.kernel)
    return parts.permute(0, 1, 3, 4, 2).flatten(2).contiguous()


def taps_of_inputs(weight: Tensor, how: How) -> Tensor:
    """`weight` `(G O, C, KH, KW)` as `to_input` takes it.

    Returns:
        `(G, SH SW C, KH/SH KW/SW O)`, for pixels of a block, and outputs that see any of them;
        with larger blocks some of these see only some of those.
    """
    (sh, sw), wider = how.stride, how.block - 1
    parts = weight.reshape(how.groups, how.to_channels, how.channels, *how.kernel)
    if wider:
        parts = F.pad(parts, [wider * sw] * 2 + [wider * sh] * 2)
    seen = parts.unfold(3, how.block * sh, sh).unfold(4, how.block * sw, sw)
    return seen.permute(0, 5, 6, 2, 3, 4, 1).flatten(4).flatten(1, 3).contiguous()


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    how: How,
    *,
    rectified: bool = False,
    beside: bool = False,
) -> Tensor:
    """The convolution, and a ReLU after it if `rectified`.

    Args:
        x: `(G, B, H, W, C)`; see `grouped_conv_kernels` for the memory layout.
        weight: of `taps_of_outputs`.
        bias: `(G O,)` or None.
        how: of the convolution.
        rectified: whether negative outputs become 0.
        beside: whether groups of the output lie beside one another in memory.

    Returns:
        `(G, B, H', W', O)`.
    """
    from robustgen.acceleration.cuda import grouped_conv_kernels as kernels

    size = how.size(x.shape[2:4])
    y = _empty(x, size, how.to_channels, beside)
    rows = x.shape[1] * size[0] * size[1]
    taps = how.kernel[0] * how.kernel[1] * how.channels
    grid, tile, warps = tiles(rows, how.groups, how.to_channels, taps)
    kernels.forward[grid](
        x, weight, bias, y, rows, *_strides(x), *_strides(y),
        (how.constants(x.shape[2:4], size),), bias is not None, rectified, *tile,
        num_warps=warps,
    )  # fmt: skip
    return y


def to_input(
    gradient: Tensor,
    weight: Tensor,
    size: Sequence[int],
    how: How,
    *,
    kept: Tensor | None = None,
    beside: bool = False,
) -> Tensor:
    """The gradient to the convolution's input.

    Args:
        gradient: to the output, `(G, B, H', W', O)`.
        weight: of `taps_of_inputs`.
        size: `(H, W)` of the input.
        how: of the convolution.
        kept: the input, if it had been rectified: no gradient goes to what is 0. It lies in memory
            as the result is to lie.
        beside: whether groups of the result lie beside one another in memory.

    Returns:
        `(G, B, H, W, C)`.
    """
    from robustgen.acceleration.cuda import grouped_conv_kernels as kernels

    x = _empty(gradient, size, how.channels, beside)
    down, across = how.blocks(size)
    rows, (columns, taps) = x.shape[1] * down * across, weight.shape[1:]
    grid, tile, warps = tiles(rows, how.groups, columns, taps)
    kernels.to_input[grid](
        gradient, weight, kept, x, rows, columns * taps, *_strides(x), *_strides(gradient),
        (how.constants(size, gradient.shape[2:4]),), kept is not None, *tile,
        num_warps=warps,
    )  # fmt: skip
    return x


def to_weight(gradient: Tensor, x: Tensor, how: How) -> Tensor:
    """The gradient to the convolution's weight, `(G O, C, KH, KW)`.

    Args:
        gradient: to the output, `(G, B, H', W', O)`.
        x: the input, `(G, B, H, W, C)`.
        how: of the convolution.
    """
    from robustgen.acceleration.cuda import grouped_conv_kernels as kernels

    size, taps = how.size(x.shape[2:4]), how.kernel[0] * how.kernel[1] * how.channels
    rows = x.shape[1] * size[0] * size[1]
    many = -(-rows // ROWS_OF_PART)
    parts = x.new_empty(many, how.groups, how.to_channels, taps)
    tap, column = power(taps, 64), power(how.to_channels, 64)
    tiles = -(-taps // tap)
    kernels.to_weight[many * tiles, how.groups, -(-how.to_channels // column)](
        gradient, x, parts, rows, how.groups, ROWS_OF_PART, *_strides(x), *_strides(gradient),
        (how.constants(x.shape[2:4], size),), 32, column, tap, tiles,
    )  # fmt: skip
    return parts.sum(0).view(-1, how.channels, *how.kernel)


def _empty(like: Tensor, size: Sequence[int], channels: int, beside: bool) -> Tensor:
    groups, many = like.shape[:2]
    if max(groups * many * size[0] * size[1] * channels, like.numel()) >= 2**31:
        raise ValueError(f"{many} images of {groups} models are too many at once for the kernels")
    if beside:
        return like.new_empty(many, *size, groups, channels).permute(3, 0, 1, 2, 4)
    return like.new_empty(groups, many, *size, channels)


def _strides(x: Tensor) -> tuple[int, int]:
    """From group to group, and from pixel to pixel."""
    pixels = {3: 1, 2: x.shape[3], 1: x.shape[2] * x.shape[3]}  # between neighbours on an axis
    known = {x.stride(axis) / n for axis, n in pixels.items() if x.shape[axis] > 1}
    if len(known) > 1 or (x.shape[4] > 1 and x.stride(4) != 1):
        raise ValueError(f"images {tuple(x.shape)} lie in memory with strides {x.stride()}")
    return x.stride(0), int(known.pop()) if known else x.shape[4]


def apart(x: Tensor, groups: int) -> Tensor:
    """`(B, G C, H, W)` or `(B, G C)` as `(G, B, H, W, C)`, of groups beside one another."""
    images = x if x.dim() == 4 else x[:, :, None, None]
    lies = images.permute(0, 2, 3, 1).contiguous()
    return lies.view(*lies.shape[:3], groups, -1).permute(3, 0, 1, 2, 4)


def together(x: Tensor) -> Tensor:
    """The reverse of `apart`, where groups lie beside one another: `(B, G C, H, W)`."""
    return x.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, how: How) -> Tensor:
    """As `torch.nn.functional.conv2d`, differentiable once in all three.

    Args:
        x: `(B, G C, H, W)`.
        weight: `(G O, C, KH, KW)`.
        bias: `(G O,)` or None.
        how: of the convolution.
    """
    made: Tensor = _Convolved.apply(x, weight, bias, how)
    return made


class _Convolved(torch.autograd.Function):
    """The convolution and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: How) -> Tensor:
        """The convolution."""
        ctx.save_for_backward(x, weight)
        ctx.how = how
        ways = taps_of_outputs(weight, how)
        return together(forward(apart(x, how.groups), ways, bias, how, beside=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The gradients that are asked for."""
        x, weight = ctx.saved_tensors
        how, upstream = ctx.how, apart(gradient, ctx.how.groups)
        to_x = to_w = to_bias = None
        if ctx.needs_input_grad[0]:
            ways = taps_of_inputs(weight, how)
            to_x = together(to_input(upstream, ways, x.shape[2:], how, beside=True))
        if ctx.needs_input_grad[1]:
            to_w = to_weight(upstream, apart(x, how.groups), how)
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum((0, 2, 3))
        return to_x, to_w, to_bias, None
