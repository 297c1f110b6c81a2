"""Gradients of strided convolutions to their input where outputs are few, by fewer products.

Along an axis, a kernel of r strides that gives m outputs reaches m + r - 1 blocks of s pixels. The
gradient at these blocks is a product of two polynomials: the coefficients of one are the gradients
to the m outputs, those of the other the r parts of the kernel. Both are evaluated at m + r - 1
points and multiplied there, and the coefficients of the product follow from its values. That takes
(m + r - 1)^2 products of matrices, where the convolution of blocks in `strided` takes r^2 times as
many: Winograd's minimal filtering (Lavin & Gray, CVPR 2016), transposed. `benchmarks/passes.py`
measures it in classifiers, `benchmarks/vaegan.py` in decoders.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]

POINTS = (0.0, 1.0, -1.0, 2.0)
"""Where polynomials are evaluated, besides infinity: at the first of these, as many as are needed.
Values at three of them are sums and differences, whose errors are 3e-7, like those of torch's own
way; the factors at the fourth are larger, and errors 1e-6."""


def applies(outputs: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether there are points enough, and fewer products than in `strided`.

    Args:
        outputs: (H', W') of the convolution.
        kernel: its height and width, which `stride` divides.
        stride: of the convolution.
    """
    parts = [k // s for k, s in zip(kernel, stride, strict=True)]
    few = all(m + r - 2 <= len(POINTS) for m, r in zip(outputs, parts, strict=True))
    return few and min(parts) > 1


class InputGradient:
    """The gradient of a strided convolution to its input, from weights that are evaluated once."""

    def __init__(
        self, weight: Tensor, stride: Pair, padding: Pair, groups: int, outputs: torch.Size
    ) -> None:
        """Evaluate `weight` `(G O, C, k, k)` of a convolution of G groups for its `outputs`."""
        (sh, sw), (height, width) = stride, weight.shape[2:]
        self.groups, self.stride, self.padding = groups, stride, padding
        parts, (rows, columns) = (height // sh, width // sw), outputs
        self.blocks = rows + parts[0] - 1, columns + parts[1] - 1
        of_parts = _evaluation(self.blocks, parts).to(weight)
        self.evaluation = _evaluation(self.blocks, (rows, columns)).to(weight)
        self.interpolation = _interpolation(self.blocks).to(weight)
        apart = weight.reshape(groups, -1, weight.shape[1], parts[0], sh, parts[1], sw)
        apart = apart.permute(3, 5, 0, 1, 4, 6, 2).flatten(0, 1)
        held = (of_parts @ apart.flatten(1)).view(-1, *apart.shape[1:])
        self.kernel = held.flatten(0, 1).flatten(2)  # (points G, O, s s C)

    def __call__(
        self,
        gradient: Tensor,
        size: torch.Size,
        products: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The gradient to an input of `size` (H, W), `(B, G C, H, W)`, with the channels last.

        Args:
            gradient: to the output, `(B, G O, H', W')`, fastest with the channels last.
            size: of the input.
            products: in place of its own, where weights are not the same for all rows.
        """
        many, (sh, sw) = len(gradient), self.stride
        apart = gradient.reshape(many, self.groups, -1, *gradient.shape[2:])
        outputs = apart.permute(3, 4, 1, 0, 2).flatten(0, 1)  # (H' W', G, B, O)
        at_points = (self.evaluation @ outputs.flatten(1)).view(-1, *outputs.shape[2:])
        made = (products or self.products)(at_points)
        blocks = self.interpolation @ made.view(len(self.interpolation), -1)
        blocks = blocks.view(*self.blocks, self.groups, many, sh, sw, -1)
        pixels = blocks.permute(3, 0, 4, 1, 5, 2, 6).flatten(5).flatten(3, 4).flatten(1, 2)
        top, left = self.padding
        pixels = pixels[:, top : top + size[0], left : left + size[1]]
        missed = size[0] - pixels.shape[1], size[1] - pixels.shape[2]  # by the kernel: no gradient
        if any(missed):
            pixels = F.pad(pixels, (0, 0, 0, missed[1], 0, missed[0]))
        return pixels.permute(0, 3, 1, 2)

    def products(self, at_points: Tensor) -> Tensor:
        """Of the outputs' values with those of the weights, `(points G, B, s s C)`."""
        return torch.bmm(at_points, self.kernel)


@cache
def _evaluation(points: Pair, coefficients: Pair) -> Tensor:
    """Of polynomials in two variables, at as many points for each: `(points, coefficients)`."""
    rows, columns = (_values(*of) for of in zip(points, coefficients, strict=True))
    return torch.kron(rows, columns)


@cache
def _interpolation(points: Pair) -> Tensor:
    """From the values of a polynomial to its coefficients."""
    made: Tensor = torch.linalg.inv(_evaluation(points, points))
    return made


def _values(points: int, coefficients: int) -> Tensor:
    """What each coefficient adds at each point; at infinity, the last one is the value."""
    finite = torch.tensor(POINTS[: points - 1], dtype=torch.float64)
    at_infinity = torch.zeros(1, coefficients, dtype=torch.float64)
    at_infinity[:, -1] = 1
    return torch.cat([finite[:, None] ** torch.arange(coefficients), at_infinity])
