"""Decoders: from coordinates on a manifold to images.

`warp` is the spatial transformer, which warps images by six parameters and is differentiable in
them. The parameters are t_x, t_y, shear_x, shear_y, scale and rotation, in this order. The 2x3
matrix maps output coordinates to input coordinates (Jaderberg et al., "Spatial Transformer
Networks", 2015), as in the supplement of Stutz et al. (CVPR 2019). Positive translations therefore
move the content left and up, and a scale above 1 makes it smaller.

`ClassDecoders` decodes codes of a learned manifold, each by the network of its class.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustgen.specs import PARAMETER_RANGES

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


def identity_parameters(template: Tensor) -> Tensor:
    """Return `IDENTITY` as a tensor `(6,)` of the type of `template`; do not modify it."""
    return _identity(template.dtype, template.device)


@dataclass(frozen=True)
class LearnedManifold:
    """Images of a data set, or a selection of them, on a learned manifold.

    Attributes:
        codes: `(..., D)` codes of the images, within `specs.LATENT_BOUND`.
        decoders: the decoders of the classes.
    """

    codes: Tensor
    decoders: "ClassDecoders"

    def select(self, index: Tensor | slice | tuple[slice, ...]) -> "LearnedManifold":
        """Return the manifold with the codes `codes[index]` and the same decoders."""
        return replace(self, codes=self.codes[index])

    def identity_tensors(self) -> list[Tensor]:
        """Return the codes and the weights of the decoders."""
        weights = (decoder.state_dict().values() for decoder in self.decoders.decoders)
        return [self.codes, *chain.from_iterable(weights)]


class ClassDecoders:
    """The decoders of all classes as one function of codes and classes.

    Attributes:
        decoders: one per class, or one for all classes; in eval mode.
    """

    def __init__(self, decoders: Sequence[nn.Module]) -> None:
        for decoder in decoders:
            if decoder.training:
                raise ValueError("a decoder is in train mode; call eval() before decoding")
        self.decoders = list(decoders)

    def __call__(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Decode codes `(..., D)` to images `(..., C, H, W)`, each by the decoder of its class.

        The codes may be in any order. They are sorted here by class, so that each layer of each
        decoder is called once.

        Args:
            codes: codes of any leading shape.
            labels: classes of the codes, of the leading shape.
        """
        if len(self.decoders) == 1:
            images: Tensor = self.decoders[0](codes.flatten(0, -2))
            return images.view(*labels.shape, *images.shape[1:])
        flat_codes, flat_labels = codes.flatten(0, -2), labels.flatten()
        order = flat_labels.argsort(stable=True)
        counts = torch.bincount(flat_labels, minlength=len(self.decoders)).tolist()
        images = apply_per_class(self.decoders, flat_codes[order], counts)[order.argsort()]
        return images.view(*labels.shape, *images.shape[1:])


def apply_per_class(modules: Sequence[nn.Module], x: Tensor, counts: list[int]) -> Tensor:
    """Apply modules of one architecture to `x`, each to the rows of its own class.

    A layer type with a method `apply_per_class` of its own computes all classes at once.

    Args:
        modules: one module per class, in the order of the rows.
        x: rows of all classes, one class after another.
        counts: number of rows of each class.
    """
    first = modules[0]
    if all(isinstance(module, nn.Sequential) for module in modules):
        for layers in zip(*modules, strict=True):
            x = apply_per_class(layers, x, counts)
        return x
    if not first.state_dict():  # modules without parameters are equal for all classes
        result: Tensor = first(x)
    elif apply_all := getattr(type(first), "apply_per_class", None):
        result = apply_all(modules, x, counts)
    else:
        parts = zip(modules, torch.split(x, counts), strict=True)
        result = torch.cat([module(part) for module, part in parts if len(part)])
    return result
