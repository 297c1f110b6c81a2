"""How a convolution in groups goes, and in what tiles its kernels compute it."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

Pair = tuple[int, int]

SHORT = 16
"""The shortest row that tensor cores multiply."""
BUSY = 1000
"""Programs that keep a GPU busy: eight for each multiprocessor of those it was measured on."""


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

    def size(self, of: Sequence[int]) -> tuple[int, int]:
        """Height and width of the output for an input of a height and width."""
        height, width = (
            (side + 2 * p - k) // s + 1
            for side, k, s, p in zip(of, self.kernel, self.stride, self.padding, strict=True)
        )
        return height, width

    def constants(self, size: Sequence[int], to_size: Sequence[int]) -> tuple[int, ...]:
        """As the kernels take them, for images of `size` and outputs of `to_size`."""
        moves = *self.kernel, *self.stride, *self.padding
        return (*size, *to_size, self.channels, self.to_channels, *moves, self.block)

    @property
    def block(self) -> int:
        """Strides on a side of the block of pixels whose gradient is a row of a product.

        Two where a row of one would be shorter than the shortest that tensor cores multiply.
        """
        return 2 if 4 * self.stride[0] * self.stride[1] * self.channels <= SHORT else 1

    def blocks(self, size: Sequence[int]) -> tuple[int, int]:
        """Blocks of an image of a height and width."""
        down, across = (
            (side - 1 + p) // (s * self.block) + 1
            for side, s, p in zip(size, self.stride, self.padding, strict=True)
        )
        return down, across


def tiles(
    rows: int, groups: int, columns: int, taps: int
) -> tuple[tuple[int, int, int], tuple[int, int, int], int]:
    """The grid of programs; rows, columns and taps at once of each, and its warps.

    As measured: large tiles read less, but only many programs keep a GPU busy.
    """
    few = -(-rows // 16) * groups * -(-columns // 32) < BUSY
    high, wide, most, warps = 64, power(columns, 128), 32, 4
    if few:
        high, wide, most = 16, power(columns, 32), 64
    elif wide < 64:
        most, warps = 64 if wide == 16 else 32, 2
    elif -(-rows // high) * groups * -(-columns // wide) < BUSY // 4:
        high, wide = 32, 64
    across = -(-columns // wide)
    return (-(-rows // high), groups, across), (high, wide, power(taps, most)), warps


def power(number: int, most: int) -> int:
    """The power of 2 that holds `number`, within what a product needs and `most`."""
    return min(most, max(16, 1 << (number - 1).bit_length()))
