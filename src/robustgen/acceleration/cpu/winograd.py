"""Input gradients of strided convolutions with few outputs, with fewer products.

Along an axis, a kernel of r strides with m outputs reaches m + r - 1 blocks of s pixels. The
gradient at these blocks is a product of two polynomials: the coefficients of one are the gradients
with respect to the m outputs, those of the other are the r taps of the kernel. Both polynomials are
evaluated at m + r - 1 points and multiplied there; the coefficients of the product are interpolated
from its values. This takes (m + r - 1)^2 matrix products, where the convolution of blocks in
`strided_conv` takes r^2 times as many: Winograd's minimal filtering (Lavin and Gray, CVPR 2016),
transposed. `benchmarks/passes.py` measures it in classifiers, `benchmarks/vaegan.py` in decoders.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.acceleration.supported_layers import Pair

INTERPOLATION_POINTS = (0.0, 1.0, -1.0, 2.0)
"""Points at which polynomials are evaluated, besides infinity; only as many as are needed are used.
With the first three, values are sums and differences, with relative errors of 3e-7 like those of
PyTorch. The fourth has larger factors, with errors of 1e-6."""


def prefers_winograd(
    output_size: Sequence[int], kernel_size: Sequence[int], stride: Sequence[int]
) -> bool:
    """Whether `WinogradInputGrad` has enough points and fewer products than `strided_conv`.

    Args:
        output_size: (H', W') of the convolution's output.
        kernel_size: height and width, which `stride` divides.
        stride: of the convolution.
    """
    taps = [size // step for size, step in zip(kernel_size, stride, strict=True)]
    has_points = all(
        outputs + count - 2 <= len(INTERPOLATION_POINTS)
        for outputs, count in zip(output_size, taps, strict=True)
    )
    return has_points and min(taps) > 1


class WinogradInputGrad:
    """The gradient of a strided convolution with respect to its input, for a constant weight."""

    def __init__(
        self, weight: Tensor, stride: Pair, padding: Pair, groups: int, output_size: torch.Size
    ) -> None:
        """Transform `weight` `(G O, C, k, k)` of a convolution of G groups."""
        (step_y, step_x), (height, width) = stride, weight.shape[2:]
        self.groups, self.stride, self.padding = groups, stride, padding
        tap_counts, (rows, columns) = (height // step_y, width // step_x), output_size
        self.blocks = rows + tap_counts[0] - 1, columns + tap_counts[1] - 1
        weight_transform = _evaluation_matrix(self.blocks, tap_counts).to(weight)
        self.evaluation = _evaluation_matrix(self.blocks, (rows, columns)).to(weight)
        self.interpolation = _interpolation_matrix(self.blocks).to(weight)
        shape = weight.shape[1], tap_counts[0], step_y, tap_counts[1], step_x
        taps = weight.reshape(groups, -1, *shape).permute(3, 5, 0, 1, 4, 6, 2).flatten(0, 1)
        transformed = (weight_transform @ taps.flatten(1)).view(-1, *taps.shape[1:])
        self.kernel = transformed.flatten(0, 1).flatten(2)  # (points G, O, s s C)

    def __call__(
        self,
        gradient: Tensor,
        size: torch.Size,
        products: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return the gradient with respect to an input of `size` (H, W): `(B, G C, H, W)`.

        It has the channels last in memory.

        Args:
            gradient: with respect to the output, `(B, G O, H', W')`, fastest with channels last.
            size: height and width of the input.
            products: replaces `pointwise_products` where rows have different weights.
        """
        batch, (step_y, step_x) = len(gradient), self.stride
        outputs = gradient.reshape(batch, self.groups, -1, *gradient.shape[2:])
        outputs = outputs.permute(3, 4, 1, 0, 2).flatten(0, 1)  # (H' W', G, B, O)
        values = (self.evaluation @ outputs.flatten(1)).view(-1, *outputs.shape[2:])
        value_products = (products or self.pointwise_products)(values)
        blocks = self.interpolation @ value_products.view(len(self.interpolation), -1)
        blocks = blocks.view(*self.blocks, self.groups, batch, step_y, step_x, -1)
        pixels = blocks.permute(3, 0, 4, 1, 5, 2, 6).flatten(5).flatten(3, 4).flatten(1, 2)
        row, col = self.padding
        pixels = pixels[:, row : row + size[0], col : col + size[1]]
        # Pixels that the kernel does not reach have no gradient.
        uncovered = size[0] - pixels.shape[1], size[1] - pixels.shape[2]
        if any(uncovered):
            pixels = F.pad(pixels, (0, 0, 0, uncovered[1], 0, uncovered[0]))
        return pixels.permute(0, 3, 1, 2)

    def pointwise_products(self, values: Tensor) -> Tensor:
        """Return the product of output values and weight at each point: `(points G, B, s s C)`.

        Args:
            values: values `(points G, B, O)` of the polynomials of the outputs.
        """
        return torch.bmm(values, self.kernel)


@cache
def _evaluation_matrix(points: Pair, coefficients: Pair) -> Tensor:
    """Return the matrix `(points, coefficients)` that evaluates polynomials in two variables."""
    rows, columns = (_vandermonde(*counts) for counts in zip(points, coefficients, strict=True))
    return torch.kron(rows, columns)


@cache
def _interpolation_matrix(points: Pair) -> Tensor:
    """Return the matrix that computes the coefficients of a polynomial from its values."""
    matrix: Tensor = torch.linalg.inv(_evaluation_matrix(points, points))
    return matrix


def _vandermonde(points: int, coefficients: int) -> Tensor:
    """Return the powers of the points, `(points, coefficients)`.

    The value of a polynomial at infinity is its last coefficient.
    """
    finite = torch.tensor(INTERPOLATION_POINTS[: points - 1], dtype=torch.float64)
    at_infinity = torch.zeros(1, coefficients, dtype=torch.float64)
    at_infinity[:, -1] = 1
    return torch.cat([finite[:, None] ** torch.arange(coefficients), at_infinity])
