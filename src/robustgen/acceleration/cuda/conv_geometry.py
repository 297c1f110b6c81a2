"""Geometry of grouped convolutions, and the tiles in which the GPU kernels compute them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from robustgen.acceleration.supported_layers import Pair

MIN_DOT_SIZE = 16
"""Smallest side of a matrix that tensor cores multiply."""
MIN_PROGRAMS = 1000
"""Programs that keep a GPU busy: eight for each multiprocessor of the GPUs that were measured."""


@dataclass(frozen=True)
class ConvGeometry:
    """Geometry of a convolution in groups.

    Attributes:
        groups: G, the groups of all models together.
        in_channels: C, input channels of a group.
        out_channels: O, output channels of a group.
        kernel_size: height and width.
        stride: vertical and horizontal.
        padding: zeros above and below, and to the left and right.
    """

    groups: int
    in_channels: int
    out_channels: int
    kernel_size: Pair
    stride: Pair
    padding: Pair

    @classmethod
    def from_layer(cls, layer: nn.Conv2d | nn.Linear, n_models: int) -> "ConvGeometry":
        """Return the geometry of a layer of `n_models` models.

        A linear layer is a convolution of images with one pixel.
        """
        if isinstance(layer, nn.Linear):
            return cls(n_models, layer.in_features, layer.out_features, (1, 1), (1, 1), (0, 0))
        return cls(
            n_models * layer.groups,
            layer.in_channels // layer.groups,
            layer.out_channels // layer.groups,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
        )

    def output_size(self, size: Sequence[int]) -> Pair:
        """Return height and width of the output for an input of `size` (H, W)."""
        height, width = (
            (length + 2 * padding - kernel) // stride + 1
            for length, kernel, stride, padding in zip(
                size, self.kernel_size, self.stride, self.padding, strict=True
            )
        )
        return height, width

    @property
    def taps(self) -> int:
        """Products that are summed for one output."""
        return self.kernel_size[0] * self.kernel_size[1] * self.in_channels

    @property
    def block(self) -> int:
        """Side, in strides, of the block of pixels whose gradients are one row of a product.

        It is 2 where the row of a block of one stride would be shorter than `MIN_DOT_SIZE`.
        """
        row_length = 4 * self.stride[0] * self.stride[1] * self.in_channels
        return 2 if row_length <= MIN_DOT_SIZE else 1

    def block_counts(self, size: Sequence[int]) -> Pair:
        """Count blocks along the height and the width of an image of `size` (H, W)."""
        vertical, horizontal = (
            (length - 1 + padding) // (stride * self.block) + 1
            for length, stride, padding in zip(size, self.stride, self.padding, strict=True)
        )
        return vertical, horizontal

    def kernel_constants(self, size: Sequence[int], output_size: Sequence[int]) -> tuple[int, ...]:
        """Return the layer constants of `grouped_conv_kernels`, for images of `size` (H, W)."""
        channels = self.in_channels, self.out_channels
        return (
            *size,
            *output_size,
            *channels,
            *self.kernel_size,
            *self.stride,
            *self.padding,
            self.block,
        )


def launch_config(
    rows: int, groups: int, columns: int, taps: int
) -> tuple[tuple[int, int, int], tuple[int, int, int], int]:
    """Return the launch of a kernel for a product `(rows, taps) @ (taps, columns)` in each group.

    Measured: large tiles read less memory, but only many programs keep a GPU busy.

    Returns:
        The grid of programs; BLOCK_M, BLOCK_N and BLOCK_K, which are the rows and columns of a
        tile and the taps that are multiplied at a time; the warps of a program.
    """
    has_few_programs = -(-rows // 16) * groups * -(-columns // 32) < MIN_PROGRAMS
    block_m, block_n, max_block_k, num_warps = 64, clamped_power_of_2(columns, 128), 32, 4
    if has_few_programs:
        block_m, block_n, max_block_k = 16, clamped_power_of_2(columns, 32), 64
    elif block_n < 64:
        max_block_k, num_warps = 64 if block_n == 16 else 32, 2
    elif -(-rows // block_m) * groups * -(-columns // block_n) < MIN_PROGRAMS // 4:
        block_m, block_n = 32, 64
    grid = -(-rows // block_m), groups, -(-columns // block_n)
    return grid, (block_m, block_n, clamped_power_of_2(taps, max_block_k)), num_warps


def clamped_power_of_2(number: int, maximum: int) -> int:
    """Return the smallest power of 2 that is not below `number`, at least `MIN_DOT_SIZE`.

    The result is at most `maximum`.
    """
    return min(maximum, max(MIN_DOT_SIZE, 1 << (number - 1).bit_length()))
