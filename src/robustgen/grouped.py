"""Convolutions in many small groups, one for each model of a cohort, on a GPU.

The libraries that PyTorch calls are made for few large groups: they take three to ten times as long
(`benchmarks/gpu.py`). Here each is one Triton kernel over all groups, of the arithmetic of single
precision; sums are taken in a fixed order. Where there is no Triton, PyTorch's own are used.
"""

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Pair = tuple[int, int]

log = logging.getLogger("robustgen")

PRECISION = "tf32x3"
"""Products on tensor cores of three parts of each number, as exact as single precision."""
ROWS_OF_PART = 256
"""Output pixels whose gradients to the weight are one sum."""


@dataclass(frozen=True)
class How:
    """How a convolution goes: of G groups of C channels to O, each `(kernel, stride, padding)`."""

    groups: int
    channels: int
    to_channels: int
    kernel: Pair
    stride: Pair
    padding: Pair

    @classmethod
    def of(cls, layer: nn.Conv2d | nn.Linear, members: int) -> "How":
        """That of `members` models side by side; the images of a linear layer have one pixel."""
        if isinstance(layer, nn.Linear):
            return cls(members, layer.in_features, layer.out_features, (1, 1), (1, 1), (0, 0))
        groups = layer.groups
        return cls(
            members * groups,
            layer.in_channels // groups,
            layer.out_channels // groups,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
        )

    def size(self, x: Tensor) -> tuple[int, int]:
        """Height and width of the output for an input `x`."""
        height, width = (
            (side + 2 * p - k) // s + 1
            for side, k, s, p in zip(
                x.shape[2:], self.kernel, self.stride, self.padding, strict=True
            )
        )
        return height, width

    @property
    def constants(self) -> tuple[int, ...]:
        """As the kernels take them."""
        return (self.channels, self.to_channels, *self.kernel, *self.stride, *self.padding)


def applies(layer: nn.Module, weight: Tensor) -> bool:
    """Whether the kernels can compute a layer with weights like these, here."""
    known = isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv2d)
        and all(k % s == 0 for k, s in zip(layer.kernel_size, layer.stride, strict=True))
        and layer.dilation == (1, 1)
        and not isinstance(layer.padding, str)
    )
    return known and weight.is_cuda and weight.dtype == torch.float32 and _works()


@cache
def _works() -> bool:
    """Whether kernels can be compiled here: Triton needs a C compiler, for one."""
    try:
        x = torch.ones(1, 1, 4, 4, device="cuda")
        layer = nn.Conv2d(1, 1, 2, 2)
        how = How.of(layer, 1)
        return bool(forward(x, ones(x, how), None, how, rectified=False).eq(4).all())
    except Exception as error:  # whatever a compiler says
        log.warning("no Triton here, so convolutions are PyTorch's and slower: %s", error)
        return False


def ones(x: Tensor, how: How) -> Tensor:
    """Weights of ones, as `forward` takes them."""
    return x.new_ones(how.groups, how.kernel[0] * how.kernel[1] * how.channels, how.to_channels)


def rows_by_outputs(weight: Tensor, how: How) -> Tensor:
    """`weight` `(G O, C, KH, KW)` as `forward` takes it: `(G, KH KW C, O)`."""
    parts = weight.reshape(how.groups, how.to_channels, how.channels, *how.kernel)
    return parts.permute(0, 3, 4, 2, 1).flatten(1, 3).contiguous()


def outputs_by_pixels(weight: Tensor, how: How) -> Tensor:
    """`weight` `(G O, C, KH, KW)` as `to_input` takes it: `(G, KH/SH KW/SW O, SH SW C)`."""
    (kh, kw), (sh, sw) = how.kernel, how.stride
    shape = how.groups, how.to_channels, how.channels, kh // sh, sh, kw // sw, sw
    return weight.reshape(shape).permute(0, 3, 5, 1, 4, 6, 2).flatten(4).flatten(1, 3).contiguous()


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, how: How, *, rectified: bool) -> Tensor:
    """The convolution, and a ReLU after it if `rectified`.

    Args:
        x: `(B, G C, H, W)` with the channels last in memory.
        weight: of `rows_by_outputs`.
        bias: `(G O,)` or None.
        how: of the convolution.
        rectified: whether negative outputs become 0.

    Returns:
        `(B, G O, H', W')`, channels last.
    """
    from robustgen import kernels

    size = how.size(x)
    y = _empty(x, how.groups * how.to_channels, size)
    if max(x.numel(), y.numel()) > 2**31:
        raise ValueError(f"{max(x.numel(), y.numel())} numbers at once, but 2^31 are the most")
    rows = len(x) * size[0] * size[1]
    taps = how.kernel[0] * how.kernel[1] * how.channels
    grid, tile = _tiles(rows, how.groups, how.to_channels, taps)
    kernels.forward[grid](
        _flat(x), weight, bias, _flat(y), rows, how.groups, *x.shape[2:], *size, *how.constants,
        bias is not None, rectified, *tile, PRECISION,
    )  # fmt: skip
    return y


def to_input(
    gradient: Tensor, y: Tensor | None, weight: Tensor, size: torch.Size, how: How
) -> Tensor:
    """The gradient to the convolution's input.

    Args:
        gradient: to the output, `(B, G O, H', W')`, channels last.
        y: the output, if it was rectified.
        weight: of `outputs_by_pixels`.
        size: `(H, W)` of the input.
        how: of the convolution.

    Returns:
        `(B, G C, H, W)`, channels last.
    """
    from robustgen import kernels

    x = _empty(gradient, how.groups * how.channels, size)
    blocks = [
        (side - 1 + p) // s + 1 for side, p, s in zip(size, how.padding, how.stride, strict=True)
    ]
    rows = len(gradient) * blocks[0] * blocks[1]
    (kh, kw), (sh, sw) = how.kernel, how.stride
    taps = kh // sh * (kw // sw) * how.to_channels
    grid, tile = _tiles(rows, how.groups, sh * sw * how.channels, taps)
    kernels.to_input[grid](
        _flat(gradient), None if y is None else _flat(y), weight, _flat(x), rows, how.groups,
        *size, *gradient.shape[2:], *how.constants, y is not None, *tile, PRECISION,
    )  # fmt: skip
    return x


def to_weight(gradient: Tensor, x: Tensor, how: How) -> Tensor:
    """The gradient to the convolution's weight, `(G O, C, KH, KW)`.

    Args:
        gradient: to the output, `(B, G O, H', W')`, channels last.
        x: the input, `(B, G C, H, W)`, channels last.
        how: of the convolution.
    """
    from robustgen import kernels

    size, taps = how.size(x), how.kernel[0] * how.kernel[1] * how.channels
    rows = len(x) * size[0] * size[1]
    many = -(-rows // ROWS_OF_PART)
    parts = x.new_empty(many, how.groups, taps, how.to_channels)
    tap, column = _power(taps, 64), _power(how.to_channels, 64)
    tiles = -(-taps // tap)
    kernels.to_weight[many * tiles, how.groups, -(-how.to_channels // column)](
        _flat(gradient), _flat(x), parts, rows, how.groups, ROWS_OF_PART, *x.shape[2:], *size,
        *how.constants, 32, column, tap, tiles, PRECISION,
    )  # fmt: skip
    made = parts.sum(0).view(how.groups, *how.kernel, how.channels, how.to_channels)
    return made.permute(0, 4, 3, 1, 2).flatten(0, 1)


def _tiles(
    rows: int, groups: int, columns: int, taps: int
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The grid of programs; rows, columns and taps at once of each.

    As measured: large tiles read less, but only many programs keep a GPU busy.
    """
    wide = _power(columns, 32)
    across = -(-columns // wide)
    programs = {high: -(-rows // high) * groups * across for high in (16, 32, 64, 128)}
    many = {16: 0, 32: BUSY, 64: BUSY, 128: 16 * BUSY}
    high = max(high for high in programs if programs[high] >= many[high])
    return (-(-rows // high), groups, across), (high, wide, _power(taps, 64 if high < 64 else 32))


BUSY = 132
"""Programs that keep a GPU busy: one for each multiprocessor of those it was measured on."""


def _power(number: int, most: int) -> int:
    """The power of 2 that holds `number`, within what a product needs and `most`."""
    return min(most, max(16, 1 << (number - 1).bit_length()))


def _empty(like: Tensor, channels: int, size: tuple[int, ...]) -> Tensor:
    return like.new_empty(len(like), *size, channels).permute(0, 3, 1, 2)


def _flat(x: Tensor) -> Tensor:
    """As it lies in memory."""
    return x.permute(0, 2, 3, 1).contiguous()


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
        return forward(x, rows_by_outputs(weight, how), bias, how, rectified=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The gradients that are asked for."""
        x, weight = ctx.saved_tensors
        to_x = to_w = to_bias = None
        if ctx.needs_input_grad[0]:
            ways = outputs_by_pixels(weight, ctx.how)
            to_x = to_input(gradient, None, ways, x.shape[2:], ctx.how)
        if ctx.needs_input_grad[1]:
            to_w = to_weight(gradient, x, ctx.how)
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum((0, 2, 3))
        return to_x, to_w, to_bias, None
