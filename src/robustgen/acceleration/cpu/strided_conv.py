"""Strided convolutions with a fast gradient with respect to the input, on a CPU.

With stride s, the gradients at the s x s pixels of a block depend on the same few outputs. They are
computed as s x s channels of an image of blocks, by a convolution of stride 1, and then rearranged
to pixels (a polyphase, or sub-pixel, decomposition). This takes the same sums as PyTorch's gradient
in less time. `transposed_conv` uses this module. `benchmarks/passes.py` measures searches with it.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robustgen.acceleration.supported_layers import (
    Pair,
    stride_divides_kernel,
    to_channels_last,
)

T = TypeVar("T")

MIN_CHANNELS_FOR_NATIVE_GRAD = 16
"""Number of input channels from which PyTorch's input gradient is faster than this one, except with
AVX-512. With many channels the rearrangement costs more than it saves. A transposed convolution by
this module is faster than PyTorch's up to this number of output channels."""
SIMD_FLOATS = 16
"""Single-precision numbers in the widest vector register (AVX-512)."""


def supports(layer: nn.Conv2d) -> bool:
    """Whether `conv2d` supports the layer: a stride above 1 that divides the kernel's size."""
    return max(layer.stride) > 1 and stride_divides_kernel(layer)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int
) -> Tensor:
    """Compute `torch.nn.functional.conv2d`, differentiable once.

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
    output: Tensor = _StridedConv.apply(x, weight, bias, stride, padding, groups)
    return output


class _StridedConv(torch.autograd.Function):
    """PyTorch's convolution with the input gradient of this module."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        """Return the convolution, of the arguments of `conv2d`."""
        x, weight, bias, stride, padding, groups = args
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, groups
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        return F.conv2d(x, weight, bias, stride, padding, 1, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradients with respect to input, weight and bias that are needed."""
        x, weight = ctx.saved_tensors
        stride, padding, groups = ctx.geometry
        gradient = to_channels_last(gradient)
        input_grad = weight_grad = bias_grad = None
        if ctx.needs_input_grad[0]:
            compute_input_grad = PolyphaseInputGrad(weight, stride, padding, groups)
            input_grad = to_channels_last(compute_input_grad(gradient, x.shape[2:]))
        if any(ctx.needs_input_grad[1:3]):
            output_mask = False, *ctx.needs_input_grad[1:3]
            geometry = stride, padding, (1, 1), groups
            _, weight_grad, bias_grad = native_conv_grads(
                gradient, x, weight, ctx.bias_sizes, *geometry, output_mask
            )
        return input_grad, weight_grad, bias_grad, None, None, None


def native_conv_grads(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    output_mask: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return PyTorch's gradients of a convolution.

    Args:
        gradient: with respect to the output.
        x: the input.
        weight: `(G O, C, k, k)`.
        bias_sizes: shape of the bias, or None.
        stride: of the convolution.
        padding: of the convolution.
        dilation: of the convolution.
        groups: G.
        output_mask: which gradients to compute: with respect to input, weight and bias.
    """
    grads: tuple[Tensor | None, Tensor | None, Tensor | None]
    grads = torch.ops.aten.convolution_backward(
        gradient, x, weight, bias_sizes, stride, padding, dilation, False, (0, 0), groups,
        output_mask,
    )  # fmt: skip
    return grads


class PolyphaseInputGrad:
    """The gradient of a strided convolution with respect to its input, for a constant weight.

    The input is divided into blocks of b x b pixels, with b = n · stride. The gradient at a block
    depends on the n x n outputs whose windows begin in it, and on k / stride - 1 outputs before
    them in each direction. All blocks are one convolution over the outputs, with stride n and
    b · b · C output channels. n is 1 unless C · stride² is below `SIMD_FLOATS`, so that the
    channels of a block fill the vector registers.

    Attributes:
        groups, channels: G, number of groups, and C, input channels of a group.
        weight, stride, padding: those of the convolution.
        n: outputs along a side of a block whose windows begin in it.
        block: height and width of a block, in pixels.
        outputs_before: rows and columns of outputs above and to the left of these n x n outputs, on
            which a block depends too.
    """

    def __init__(self, weight: Tensor, stride: Pair, padding: Pair, groups: int) -> None:
        """Prepare the gradient of a convolution of G groups with `weight` `(G O, C, k, k)`."""
        self.groups, self.channels, self.padding = groups, weight.shape[1], padding
        self.weight, self.stride = weight, stride
        self.n = 1
        while self.channels * stride[0] * stride[1] * self.n**2 < SIMD_FLOATS:
            self.n += 1
        self.block = stride[0] * self.n, stride[1] * self.n
        self.outputs_before = (
            weight.shape[2] // stride[0] - 1,
            weight.shape[3] // stride[1] - 1,
        )

    @cached_property
    def kernel(self) -> Tensor:
        """The weight of the convolution that computes blocks, `(G b b C, O, *, *)`.

        b is the side of a block in pixels, and `*` the number of outputs on which it depends.
        """
        phases = self._phase_weights(self.weight, self.stride)
        phases = phases.reshape(self.groups, -1, *phases.shape[1:])
        kernel = phases.permute(0, 3, 5, 2, 1, 4, 6).flatten(0, 3)
        return kernel.contiguous(memory_format=torch.channels_last)

    def _phase_weights(self, weight: Tensor, stride: Pair) -> Tensor:
        """Return the weight of each pixel of a block in each output: `(G O, C, b, *, b, *)`."""
        sizes = list(zip(weight.shape[2:], stride, strict=True))
        if self.n == 1:  # a permutation of the weight
            (height, step_y), (width, step_x) = sizes
            taps = weight.reshape(
                *weight.shape[:2], height // step_y, step_y, width // step_x, step_x
            )
            return taps.transpose(2, 3).transpose(4, 5).flip(3, 5)
        rows, columns = (self._tap_indices(*size, weight.device) for size in sizes)
        padded_weight = F.pad(weight, (0, 1, 0, 1))  # the last index is a zero
        return padded_weight[..., rows[:, :, None, None], columns]

    def _tap_indices(self, size: int, stride: int, device: torch.device) -> Tensor:
        """Return, along one axis, the kernel index that connects each pixel with each output.

        Where none does, the index is `size`, which selects the padded zero.

        Returns:
            `(b, *)`, for the b pixels of a block and the outputs on which it depends.
        """
        outputs = torch.arange(1 - size // stride, self.n, device=device)
        pixels = torch.arange(stride * self.n, device=device)
        index = pixels[:, None] - stride * outputs
        is_inside = (index >= 0) & (index < size)
        return index.where(is_inside, torch.tensor(size, device=device))

    def __call__(self, gradient: Tensor, size: torch.Size) -> Tensor:
        """Return the gradient with respect to an input of `size` (H, W): `(B, G C, H, W)`.

        Args:
            gradient: with respect to the output, `(B, G O, H', W')`, fastest with channels last.
            size: height and width of the input.
        """
        return input_grad_per_group([self], [len(gradient)], gradient, size)

    def conv(self, x: Tensor) -> Tensor:
        """Return the convolution of images `(B, G C, H, W)` without a bias: `(B, G O, H', W')`."""
        return F.conv2d(x, self.weight, None, self.stride, self.padding, 1, self.groups)

    def padding_for(self, output_size: torch.Size, size: torch.Size) -> tuple[list[int], Pair]:
        """Return the padding of the outputs: asymmetric for `F.pad`, symmetric for `F.conv2d`."""
        rows, columns = (
            self._padding_along(axis, output_size[axis], size[axis]) for axis in range(2)
        )
        symmetric = max(0, min(rows)), max(0, min(columns))
        asymmetric = [count - symmetric[1] for count in columns]
        return asymmetric + [count - symmetric[0] for count in rows], symmetric

    def assemble_pixels(self, blocks: Tensor, size: torch.Size) -> Tensor:
        """Return the gradient `(B, G C, H, W)` from the output of the kernel, `(B, *, H', W')`."""
        pixels = self._pixel_shuffle(blocks.permute(0, 2, 3, 1).contiguous())
        row, col = (p % b for p, b in zip(self.padding, self.block, strict=True))
        pixels = pixels[..., row : row + size[0], col : col + size[1], :]
        # Pixels that the kernel does not reach have no gradient.
        uncovered = size[0] - pixels.shape[2], size[1] - pixels.shape[3]
        if any(uncovered):
            pixels = F.pad(pixels, (0, 0, 0, uncovered[1], 0, uncovered[0]))
        return pixels.permute(1, 0, 4, 2, 3).flatten(1, 2)

    def _padding_along(self, axis: int, outputs: int, size: int) -> Pair:
        """Count zeros before and after the outputs along an axis, so that all blocks have pixels.

        Negative numbers crop outputs that depend on padding only. The first `padding // block`
        blocks are in the padding and contain no pixels.
        """
        block, padding = self.block[axis], self.padding[axis]
        outputs_before = self.outputs_before[axis]
        blocks = min((outputs - 1 + outputs_before) // self.n + 1, -(-(size + padding) // block))
        return outputs_before - padding // block * self.n, blocks * self.n - outputs

    def _pixel_shuffle(self, blocks: Tensor) -> Tensor:
        """Rearrange blocks `(B, H', W', G b b C)` to pixels `(G, B, b H', b W', C)`.

        With few channels the groups are one after another in memory, like the images of several
        models. Otherwise the groups of a pixel are adjacent, like the activations between layers.
        """
        batch, height, width, _ = blocks.shape
        (block_height, block_width), channels = self.block, self.channels
        row_numbers = block_width * channels
        if self.n > 1 and blocks.dtype == torch.float32 and row_numbers % 4 == 0:
            # The pixels of a row of a block are adjacent: move four numbers at a time.
            quads = blocks.view(torch.complex128)
            quads = quads.view(batch, height, width, self.groups, block_height, -1)
            quads = quads.permute(3, 0, 1, 4, 2, 5).contiguous()
            shape = batch, block_height * height, block_width * width, channels
            return quads.view(torch.float32).view(-1, *shape)
        pixels = blocks.view(
            batch, height, width, self.groups, block_height, block_width, channels
        ).permute(0, 1, 4, 2, 5, 3, 6)
        return pixels.flatten(3, 4).flatten(1, 2).permute(3, 0, 1, 2, 4)


def input_grad_per_group(
    convs: Sequence[PolyphaseInputGrad], counts: list[int], gradient: Tensor, size: torch.Size
) -> Tensor:
    """Return input gradients of several convolutions of one shape, each for its own rows.

    Products are computed for one convolution after another, everything else for all together.

    Args:
        convs: the convolutions.
        counts: number of rows of each convolution, one after another; B in all.
        gradient: with respect to the output, `(B, G O, H', W')`, fastest with the channels last.
        size: height and width of the input.
    """
    first = convs[0]
    asymmetric, symmetric = first.padding_for(gradient.shape[2:], size)
    if any(asymmetric):
        gradient = F.pad(gradient, asymmetric)

    def compute_blocks(conv: PolyphaseInputGrad, rows: Tensor) -> Tensor:
        return F.conv2d(rows, conv.kernel, None, conv.n, symmetric, 1, conv.groups)

    return first.assemble_pixels(map_row_groups(compute_blocks, convs, counts, gradient), size)


def map_row_groups(
    fn: Callable[[T, Tensor], Tensor],
    arguments: Sequence[T],
    counts: list[int],
    x: Tensor,
) -> Tensor:
    """Concatenate `fn(argument, rows)` over groups of rows, each with an argument of its own."""
    if len(arguments) == 1:
        return fn(arguments[0], x)
    groups = zip(arguments, torch.split(x, counts), strict=True)
    return torch.cat([fn(argument, rows) for argument, rows in groups if len(rows)])
