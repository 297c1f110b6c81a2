"""The spatial transformer: images warped by six parameters, differentiable in the parameters.

The parameters are t_x, t_y, shear_x, shear_y, scale and rotation, in this order. The 2x3 matrix
maps output coordinates to input coordinates (Jaderberg et al., "Spatial Transformer Networks",
2015), as in the supplement of Stutz et al. (CVPR 2019). Positive translations therefore move the
content left and up, and a scale above 1 makes it smaller.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.specs import PARAMETER_RANGES as PARAMETER_RANGES

IDENTITY = (0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""Parameters that do not change an image."""


def parameter_bounds(name: str, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds, each `(6,)`, of the range `name` in `PARAMETER_RANGES`."""
    lower, upper = PARAMETER_RANGES[name]
    return torch.tensor(lower, device=device), torch.tensor(upper, device=device)


def affine_matrices(parameters: Tensor) -> Tensor:
    """Return the matrices `(..., 2, 3)` of parameters `(..., 6)` (Stutz et al., supplement)."""
    t_x, t_y, shear_x, shear_y, scale, rotation = parameters.unbind(-1)
    cos, sin = rotation.cos(), rotation.sin()
    row_x = [scale * (cos - shear_x * sin), scale * (shear_x * cos - sin), t_x]
    row_y = [scale * (shear_y * cos + sin), scale * (cos - shear_y * sin), t_y]
    return torch.stack([torch.stack(row_x, -1), torch.stack(row_y, -1)], -2)


def warp(images: Tensor, parameters: Tensor) -> Tensor:
    """Warp `images` `(..., C, H, W)` by `parameters` `(..., 6)` of the same leading shape.

    Sampling is bilinear, with zeros outside the image and corners aligned: the coordinates -1 and 1
    are the centres of the outermost pixels.
    """
    flat_images = images.reshape(-1, *images.shape[-3:])
    grid = _sampling_grid(affine_matrices(parameters.reshape(-1, 6)), *flat_images.shape[2:])
    warped = F.grid_sample(flat_images, grid, "bilinear", "zeros", align_corners=True)
    return warped.reshape(images.shape)


def _sampling_grid(matrices: Tensor, height: int, width: int) -> Tensor:
    """Return the input coordinates `(B, H, W, 2)` of output pixels, with corners aligned.

    The result is that of `F.affine_grid` for sides of two pixels or more. One matrix product
    computes it for all images. PyTorch's product per image takes as long as half a forward pass of
    a classifier (`benchmarks/passes.py`).
    """
    coordinates = matrices.flatten(0, 1) @ _homogeneous_grid(
        height, width, matrices.dtype, matrices.device
    )
    return coordinates.view(-1, 2, height, width).permute(0, 2, 3, 1)


@cache
def _homogeneous_grid(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the homogeneous coordinates x, y and 1 of each pixel, `(3, H W)`."""
    options: Any = {"dtype": dtype, "device": device}
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, **options),
        torch.linspace(-1, 1, width, **options),
        indexing="ij",
    )
    return torch.stack([x, y, torch.ones_like(x)]).flatten(1)


@cache
def _identity(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(IDENTITY, dtype=dtype, device=device)


def identity(template: Tensor) -> Tensor:
    """Return `IDENTITY` as a tensor `(6,)` of the type of `template`; do not modify it."""
    return _identity(template.dtype, template.device)
