"""Convolutions in many small groups, one for each model of a cohort, on a GPU.

The libraries that PyTorch calls are optimized for few large groups and take three to ten times as
long for many small ones (`benchmarks/gpu.py`). Here each convolution is one Triton kernel over all
groups, about as exact as in single precision; sums are taken in a fixed order. Where Triton is not
available, PyTorch's own convolutions are used.
"""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robustgen.acceleration.cuda.conv_geometry import (
    ConvGeometry,
    clamped_power_of_2,
    launch_config,
)
from robustgen.acceleration.supported_layers import stride_divides_kernel

log = logging.getLogger("robustgen")

PIXELS_PER_PART = 256
"""Output pixels over which a program sums the weight gradient. The parts are summed at the end."""


def supports(layer: nn.Module, weight: Tensor) -> bool:
    """Whether the kernels support a layer with weights like `weight` on this machine."""
    is_known = isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv2d) and stride_divides_kernel(layer)
    )
    return is_known and weight.is_cuda and weight.dtype == torch.float32 and is_triton_available()


@cache
def is_triton_available() -> bool:
    """Whether Triton can compile and run a kernel here, for which it needs a C compiler."""
    try:
        x = torch.ones(1, 1, 4, 4, 1, device="cuda")
        geometry = ConvGeometry(1, 1, 1, (2, 2), (2, 2), (0, 0))
        sums = conv_forward(x, x.view(1, 4, 4)[:, :, :1].contiguous(), None, geometry)
        if not sums.eq(4).all():
            raise RuntimeError(f"a test kernel returned {sums.flatten().tolist()} instead of 4")
        return True
    # Triton, its C compiler and the driver raise errors of many types, which all mean the same.
    except Exception as error:
        log.warning("Triton is not available, so PyTorch's slower convolutions are used: %s", error)
        return False


def pack_forward_weight(weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return `weight` `(G O, C, KH, KW)` as `conv_forward` takes it: `(G, O, KH KW C)`."""
    grouped = weight.reshape(
        geometry.groups, geometry.out_channels, geometry.in_channels, *geometry.kernel_size
    )
    return grouped.permute(0, 1, 3, 4, 2).flatten(2).contiguous()


def pack_backward_weight(weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return `weight` `(G O, C, KH, KW)` as `conv_input_grad` takes it.

    Returns:
        `(G, SH SW C, KH/SH KW/SW O)`: the weight between each number of a block of input pixels
        and each output that depends on the block. In blocks of several strides, an output may
        depend on a part of the block only; the other weights are 0.
    """
    (stride_y, stride_x), extra_strides = geometry.stride, geometry.block - 1
    grouped = weight.reshape(
        geometry.groups, geometry.out_channels, geometry.in_channels, *geometry.kernel_size
    )
    if extra_strides:
        grouped = F.pad(grouped, [extra_strides * stride_x] * 2 + [extra_strides * stride_y] * 2)
    windows = grouped.unfold(3, geometry.block * stride_y, stride_y)
    windows = windows.unfold(4, geometry.block * stride_x, stride_x)
    return windows.permute(0, 5, 6, 2, 3, 4, 1).flatten(4).flatten(1, 3).contiguous()


def conv_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    *,
    relu: bool = False,
    interleaved: bool = False,
) -> Tensor:
    """Return the convolution, and a ReLU after it if `relu`.

    Args:
        x: `(G, B, H, W, C)`; see `grouped_conv_kernels` for the memory layout.
        weight: from `pack_forward_weight`.
        bias: `(G O,)` or None.
        geometry: of the convolution.
        relu: whether negative outputs become 0.
        interleaved: whether the groups of the output are interleaved in memory.

    Returns:
        `(G, B, H', W', O)`.

    Raises:
        ValueError: the images are too many for one call, or have another memory layout.
    """
    from robustgen.acceleration.cuda import grouped_conv_kernels as kernels

    output_size = geometry.output_size(x.shape[2:4])
    y = _allocate_images(x, output_size, geometry.out_channels, interleaved)
    n_pixels = x.shape[1] * output_size[0] * output_size[1]
    grid, blocks, num_warps = launch_config(
        n_pixels, geometry.groups, geometry.out_channels, geometry.taps
    )
    kernels.forward_kernel[grid](
        x, weight, bias, y, n_pixels, *_group_and_pixel_strides(x), *_group_and_pixel_strides(y),
        (geometry.kernel_constants(x.shape[2:4], output_size),), bias is not None, relu, *blocks,
        num_warps=num_warps,
    )  # fmt: skip
    return y


def conv_input_grad(
    gradient: Tensor,
    weight: Tensor,
    size: Sequence[int],
    geometry: ConvGeometry,
    *,
    relu_output: Tensor | None = None,
    interleaved: bool = False,
) -> Tensor:
    """Return the gradient with respect to the convolution's input.

    Args:
        gradient: with respect to the output, `(G, B, H', W', O)`.
        weight: from `pack_backward_weight`.
        size: `(H, W)` of the input.
        geometry: of the convolution.
        relu_output: the input, if it is the output of a ReLU: the gradient is 0 where it is 0. It
            has the memory layout of the result.
        interleaved: whether the groups of the result are interleaved in memory.

    Returns:
        `(G, B, H, W, C)`.

    Raises:
        ValueError: the images are too many for one call, or have another memory layout.
    """
    from robustgen.acceleration.cuda import grouped_conv_kernels as kernels

    x_grad = _allocate_images(gradient, size, geometry.in_channels, interleaved)
    vertical_blocks, horizontal_blocks = geometry.block_counts(size)
    n_blocks = x_grad.shape[1] * vertical_blocks * horizontal_blocks
    columns, taps = weight.shape[1:]
    grid, blocks, num_warps = launch_config(n_blocks, geometry.groups, columns, taps)
    kernels.input_grad_kernel[grid](
        gradient, weight, relu_output, x_grad, n_blocks, columns * taps,
        *_group_and_pixel_strides(x_grad), *_group_and_pixel_strides(gradient),
        (geometry.kernel_constants(size, gradient.shape[2:4]),), relu_output is not None, *blocks,
        num_warps=num_warps,
    )  # fmt: skip
    return x_grad


def conv_weight_grad(gradient: Tensor, x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the gradient with respect to the convolution's weight, `(G O, C, KH, KW)`.

    Args:
        gradient: with respect to the output, `(G, B, H', W', O)`.
        x: the input, `(G, B, H, W, C)`.
        geometry: of the convolution.

    Raises:
        ValueError: the images have another memory layout.
    """
    from robustgen.acceleration.cuda import grouped_conv_kernels as kernels

    output_size, taps = geometry.output_size(x.shape[2:4]), geometry.taps
    n_pixels = x.shape[1] * output_size[0] * output_size[1]
    n_parts = -(-n_pixels // PIXELS_PER_PART)
    parts = x.new_empty(n_parts, geometry.groups, geometry.out_channels, taps)
    block_k = clamped_power_of_2(taps, 64)
    block_n = clamped_power_of_2(geometry.out_channels, 64)
    tiles = -(-taps // block_k)
    grid = n_parts * tiles, geometry.groups, -(-geometry.out_channels // block_n)
    kernels.weight_grad_kernel[grid](
        gradient, x, parts, n_pixels, geometry.groups, PIXELS_PER_PART,
        *_group_and_pixel_strides(x), *_group_and_pixel_strides(gradient),
        (geometry.kernel_constants(x.shape[2:4], output_size),), 32, block_n, block_k, tiles,
    )  # fmt: skip
    return parts.sum(0).view(-1, geometry.in_channels, *geometry.kernel_size)


def _allocate_images(
    template: Tensor, size: Sequence[int], channels: int, interleaved: bool
) -> Tensor:
    """Allocate uninitialized images `(G, B, H, W, C)` of `size` (H, W), of the type of `template`.

    Args:
        template: `(G, B, ...)`, whose groups and number of images the result has.
        size: height and width.
        channels: C.
        interleaved: whether the memory layout is `(B, H, W, G, C)`, as the next layer reads it.

    Raises:
        ValueError: these images or the template have too many numbers for the kernels' offsets.
    """
    groups, count = template.shape[:2]
    if max(groups * count * size[0] * size[1] * channels, template.numel()) >= 2**31:
        raise ValueError(
            f"{count} images in {groups} groups are too many for one call: "
            "the kernels address up to 2^31 numbers"
        )
    if interleaved:
        return template.new_empty(count, *size, groups, channels).permute(3, 0, 1, 2, 4)
    return template.new_empty(groups, count, *size, channels)


def _group_and_pixel_strides(x: Tensor) -> tuple[int, int]:
    """Return the strides of `x` `(G, B, H, W, C)` between groups, and between pixels.

    Raises:
        ValueError: the pixels of a group are not equally far apart, or channels not adjacent.
    """
    pixels_between = {3: 1, 2: x.shape[3], 1: x.shape[2] * x.shape[3]}  # neighbours along an axis
    pixel_strides = {
        x.stride(axis) / count for axis, count in pixels_between.items() if x.shape[axis] > 1
    }
    if len(pixel_strides) > 1 or (x.shape[4] > 1 and x.stride(4) != 1):
        raise ValueError(
            f"images of shape {tuple(x.shape)} have strides {x.stride()}; the kernels need "
            "adjacent channels and one stride between pixels"
        )
    return x.stride(0), int(pixel_strides.pop()) if pixel_strides else x.shape[4]


def to_grouped(x: Tensor, groups: int) -> Tensor:
    """Return `(B, G C, H, W)` or `(B, G C)` as `(G, B, H, W, C)`, with interleaved groups."""
    images = x if x.dim() == 4 else x[:, :, None, None]
    channels_last = images.permute(0, 2, 3, 1).contiguous()
    return channels_last.view(*channels_last.shape[:3], groups, -1).permute(3, 0, 1, 2, 4)


def from_grouped(x: Tensor) -> Tensor:
    """Return the inverse of `to_grouped`, for interleaved groups: `(B, G C, H, W)`."""
    return x.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)


def grouped_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry
) -> Tensor:
    """Compute `torch.nn.functional.conv2d`, differentiable once in input, weight and bias.

    Args:
        x: `(B, G C, H, W)`.
        weight: `(G O, C, KH, KW)`.
        bias: `(G O,)` or None.
        geometry: of the convolution.
    """
    y: Tensor = _GroupedConv2d.apply(x, weight, bias, geometry)
    return y


class _GroupedConv2d(torch.autograd.Function):
    """The convolution and its gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry
    ) -> Tensor:
        """Return the convolution."""
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        packed = pack_forward_weight(weight, geometry)
        grouped = to_grouped(x, geometry.groups)
        return from_grouped(conv_forward(grouped, packed, bias, geometry, interleaved=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to input, weight and bias that are needed."""
        x, weight = ctx.saved_tensors
        geometry = ctx.geometry
        upstream = to_grouped(gradient, geometry.groups)
        input_grad = weight_grad = bias_grad = None
        if ctx.needs_input_grad[0]:
            packed = pack_backward_weight(weight, geometry)
            input_grad = from_grouped(
                conv_input_grad(upstream, packed, x.shape[2:], geometry, interleaved=True)
            )
        if ctx.needs_input_grad[1]:
            weight_grad = conv_weight_grad(upstream, to_grouped(x, geometry.groups), geometry)
        if ctx.needs_input_grad[2]:
            bias_grad = gradient.sum((0, 2, 3))
        return input_grad, weight_grad, bias_grad, None
