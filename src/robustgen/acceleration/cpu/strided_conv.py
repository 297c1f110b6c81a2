"""Strided convolutions with a fast gradient to the input, for CPUs.

The gradient at the s x s pixels of a block depends on the same few outputs. It is computed as s x s
channels of an image of blocks, by a convolution of stride 1, and then laid out as pixels: the same
sums as those of `torch.nn.functional.conv2d`, in less time. Where outputs are few, fewer products
give them (`winograd`). `transposed` rests on it. `benchmarks/passes.py` measures searches with it.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robustgen.acceleration.cpu import winograd
from robustgen.acceleration.supported_layers import to_channels_last

Pair = tuple[int, int]
Of = TypeVar("Of")

MANY = 16
"""Channels of pixels from which torch's own gradient to them is faster than that of `convolve`,
unless vectors are wide (`layers.FEW`): what is spared weighs less than what laying them out costs.
Transposed convolutions gain up to here, and beyond where `winograd` applies."""


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
        gradient = to_channels_last(gradient)
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = to_channels_last(
                InputGradient(weight, stride, padding, groups)(gradient, x.shape[2:])
            )
        if any(ctx.needs_input_grad[1:3]):
            wanted = False, *ctx.needs_input_grad[1:3]
            how = stride, padding, (1, 1), groups
            _, to_weight, to_bias = gradients(gradient, x, weight, ctx.biased, *how, wanted)
        return to_x, to_weight, to_bias, None, None, None


def gradients(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    biased: list[int] | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Torch's own gradients of a convolution of `x`, given that to the output.

    Args:
        gradient: to the output.
        x: the input.
        weight: `(G O, C, k, k)`.
        biased: the shape of the bias, or None.
        stride: of the convolution.
        padding: of the convolution.
        dilation: of the convolution.
        groups: G.
        wanted: which are: those to input, weight and bias.
    """
    made: tuple[Tensor | None, Tensor | None, Tensor | None]
    made = torch.ops.aten.convolution_backward(
        gradient, x, weight, biased, stride, padding, dilation, False, (0, 0), groups, wanted
    )
    return made


class InputGradient:
    """The gradient of a strided convolution to its input, from weights that are rearranged once.

    Pixels are computed in blocks, each from the n x n outputs that begin in it and those before
    them: a convolution of stride n, with a channel for each pixel of a block. n is 1 unless pixels
    have few channels: so many must be computed at once that the processor's vectors are filled.
    Where outputs are few `winograd` spares products.
    """

    def __init__(self, weight: Tensor, stride: Pair, padding: Pair, groups: int) -> None:
        """For a convolution of G groups with `weight` `(G O, C, k, k)`."""
        self.groups, self.channels, self.padding = groups, weight.shape[1], padding
        self.weight, self.stride = weight, stride
        self.n = 1
        while self.channels * stride[0] * stride[1] * self.n**2 < VECTOR:
            self.n += 1
        self.block = stride[0] * self.n, stride[1] * self.n
        self.before = weight.shape[2] // stride[0] - 1, weight.shape[3] // stride[1] - 1
        self._by_points: dict[torch.Size, winograd.InputGradient] = {}

    def spares(self, outputs: torch.Size) -> bool:
        """Whether the gradient from outputs of this size `(H', W')` takes fewer products."""
        return self.n == 1 and winograd.applies(outputs, self.weight.shape[2:], self.stride)

    @cached_property
    def kernel(self) -> Tensor:
        """The rearranged weights, `(G b b C, O, *, *)`."""
        ways = self._ways(self.weight, self.stride)
        ways = ways.reshape(self.groups, -1, *ways.shape[1:])
        kernel = ways.permute(0, 3, 5, 2, 1, 4, 6).flatten(0, 3)
        return kernel.contiguous(memory_format=torch.channels_last)

    def _ways(self, weight: Tensor, stride: Pair) -> Tensor:
        """The weight between each pixel of a block and each output: `(G O, C, b, *, b, *)`."""
        sizes = list(zip(weight.shape[2:], stride, strict=True))
        if self.n == 1:  # all of them, in another order
            (height, sh), (width, sw) = sizes
            parts = weight.reshape(*weight.shape[:2], height // sh, sh, width // sw, sw)
            return parts.transpose(2, 3).transpose(4, 5).flip(3, 5)
        rows, columns = (self._positions(*of, weight.device) for of in sizes)
        padded = F.pad(weight, (0, 1, 0, 1))  # at the last position there is no weight
        return padded[..., rows[:, :, None, None], columns]

    def _positions(self, size: int, stride: int, device: torch.device) -> Tensor:
        """For each pixel of a block and each output: the weight between them, of `size`."""
        outputs = torch.arange(1 - size // stride, self.n, device=device)
        pixels = torch.arange(stride * self.n, device=device)
        at = pixels[:, None] - stride * outputs
        return at.where((at >= 0) & (at < size), torch.tensor(size, device=device))

    def __call__(self, gradient: Tensor, size: torch.Size) -> Tensor:
        """The gradient to an input of `size` (H, W), `(B, G C, H, W)`.

        Args:
            gradient: to the output, `(B, G O, H', W')`, fastest with the channels last.
        """
        return of_each([self], [len(gradient)], gradient, size)

    def adjoint(self, x: Tensor) -> Tensor:
        """The convolution itself, of images `(B, G C, H, W)`."""
        return F.conv2d(x, self.weight, None, self.stride, self.padding, 1, self.groups)

    def by_points(self, outputs: torch.Size) -> winograd.InputGradient:
        """The way that takes fewer products, from outputs of this size."""
        if outputs not in self._by_points:
            of = self.weight, self.stride, self.padding, self.groups, outputs
            self._by_points[outputs] = winograd.InputGradient(*of)
        return self._by_points[outputs]

    def around(self, outputs: torch.Size, size: torch.Size) -> tuple[list[int], Pair]:
        """Zeros to add around outputs of this size: as `pad` takes them, and as a convolution."""
        rows, columns = (self._added(outputs[axis], size[axis], axis) for axis in range(2))
        even = max(0, min(rows)), max(0, min(columns))
        return [n - even[1] for n in columns] + [n - even[0] for n in rows], even

    def pixels(self, made: Tensor, size: torch.Size) -> Tensor:
        """The gradient `(B, G C, H, W)` of the blocks that the kernel gives, `(B, *, H', W')`."""
        pixels = self._laid_out(made.permute(0, 2, 3, 1).contiguous())
        top, left = (p % b for p, b in zip(self.padding, self.block, strict=True))
        pixels = pixels[..., top : top + size[0], left : left + size[1], :]
        missed = size[0] - pixels.shape[2], size[1] - pixels.shape[3]  # by the kernel: no gradient
        if any(missed):
            pixels = F.pad(pixels, (0, 0, 0, missed[1], 0, missed[0]))
        return pixels.permute(1, 0, 4, 2, 3).flatten(1, 2)

    def _added(self, outputs: int, size: int, axis: int) -> Pair:
        """Zeros to add before and after the outputs so that only blocks with pixels are computed.

        Less than none where outputs see nothing but padding. The first `padding // block` blocks
        have no pixels: they lie in the padding.
        """
        before, block, padding = self.before[axis], self.block[axis], self.padding[axis]
        blocks = min((outputs - 1 + before) // self.n + 1, -(-(size + padding) // block))
        return before - padding // block * self.n, blocks * self.n - outputs

    def _laid_out(self, made: Tensor) -> Tensor:
        """Blocks `(B, H', W', G b b C)` as pixels `(G, B, b H', b W', C)`.

        In memory, groups lie apart where pixels have few channels, as in the images of several
        models; else the groups of a pixel lie together, as in what layers pass on.
        """
        many, height, width, _ = made.shape
        (bh, bw), run = self.block, self.channels
        if self.n > 1 and made.dtype == torch.float32 and bw * run % 4 == 0:
            # The pixels of a block's row lie together, and are moved four numbers at a time.
            wide = made.view(torch.complex128).view(many, height, width, self.groups, bh, -1)
            wide = wide.permute(3, 0, 1, 4, 2, 5).contiguous()
            return wide.view(torch.float32).view(-1, many, bh * height, bw * width, run)
        apart = made.view(many, height, width, self.groups, bh, bw, run)
        together = apart.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)
        return together.permute(3, 0, 1, 2, 4)


def of_each(
    each: Sequence[InputGradient], counts: list[int], gradient: Tensor, size: torch.Size
) -> Tensor:
    """As each of some convolutions of one shape gives it, of its own rows of the gradient.

    Products are taken one after another, and all else at once.

    Args:
        each: the convolutions.
        counts: how many rows each has, one after another; B in all.
        gradient: to the output, `(B, G O, H', W')`, fastest with the channels last.
        size: of the input (H, W).
    """
    one, outputs = each[0], gradient.shape[2:]
    if one.spares(outputs):
        by_points = [of.by_points(outputs) for of in each]
        return by_points[0](
            gradient,
            size,
            lambda at: of_rows(winograd.InputGradient.products, by_points, counts, at, dim=1),
        )
    odd, even = one.around(outputs, size)
    padded = F.pad(gradient, odd) if any(odd) else gradient

    def blocks(of: InputGradient, rows: Tensor) -> Tensor:
        return F.conv2d(rows, of.kernel, None, of.n, even, 1, of.groups)

    return one.pixels(of_rows(blocks, each, counts, padded), size)


def of_rows(
    way: Callable[[Of, Tensor], Tensor],
    each: Sequence[Of],
    counts: list[int],
    x: Tensor,
    dim: int = 0,
) -> Tensor:
    """What each makes of its own rows, together."""
    if len(each) == 1:
        return way(each[0], x)
    parts = zip(each, torch.split(x, counts, dim), strict=True)
    return torch.cat([way(of, part) for of, part in parts if part.shape[dim]], dim)


VECTOR = 16
"""Numbers in a vector of the processors with the widest ones."""
