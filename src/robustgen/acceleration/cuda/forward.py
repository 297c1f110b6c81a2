"""The pass of M models on a GPU as they are attacked: with constant weights, a kernel per layer.

Between layers lie `(M, B, H, W, C)`: models apart, so that what a kernel reads lies together. A
ReLU is part of the layer before it; its gradient, of the way back through the layer after it. Equal
to the models one by one up to rounding; `benchmarks/gpu.py` measures what is gained.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robustgen.acceleration.cuda import grouped_conv as grouped
from robustgen.acceleration.cuda.conv_geometry import How
from robustgen.acceleration.supported_layers import State, is_supported


@dataclass
class Product:
    """A convolution or a linear layer of all models, and whether a ReLU follows."""

    forth: Tensor
    back: Tensor
    bias: Tensor | None
    how: How
    flattens: bool
    rectified: bool = False


class Chain:
    """The pass of products one after the other, `(M, B, C, H, W)` to `(M, B, K)`."""

    def __init__(self, products: list[Product]) -> None:
        self.products = products

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `(M, B, K)` of images `(M, B, C, H, W)`."""
        made: Tensor = _Chain.apply(self.products, images)
        return made


def chain(model: nn.Module, state: State) -> Chain | None:
    """The pass, `(M, B, C, H, W)` to `(M, B, K)`; None unless the kernels can compute it.

    Args:
        model: the architecture in eval mode, of convolutions, linear layers and ReLUs; its own
            parameters are not used.
        state: parameters of the models, `(M, ...)` by name, without batch normalization.
    """
    if model.training or not isinstance(model, nn.Sequential):
        return None
    products: list[Product] = []
    rows = flattens = False  # whether a layer takes rows of numbers, and is the first to
    for name, layer in model.named_children():
        weight = state.get(f"{name}.weight")
        if not is_supported(layer) or getattr(layer, "groups", 1) > 1:
            return None
        if isinstance(layer, nn.Flatten):
            rows, flattens = True, flattens or not rows
        elif isinstance(layer, nn.ReLU) and products and not flattens:
            products[-1].rectified = True
        elif weight is not None and grouped.applies(layer, weight):
            if isinstance(layer, nn.Linear) is not rows:
                return None
            channels = products[-1].how.to_channels if flattens and products else None
            bias = state.get(f"{name}.bias")
            products.append(_product(layer, weight, bias, channels, flattens))
            flattens = False
        elif not isinstance(layer, nn.Identity):
            return None
    return Chain(products) if products and rows and not flattens else None


def _product(
    layer: Any, weight: Tensor, bias: Tensor | None, channels: int | None, flattens: bool
) -> Product:
    """A layer; one that follows a flattening of so many channels takes them last, as they lie."""
    if isinstance(layer, nn.Linear):
        if channels is not None:
            weight = weight.view(*weight.shape[:2], channels, -1).transpose(2, 3).flatten(2)
        weight = weight[..., None, None]
    how, flat = How.of(layer, len(weight)), weight.flatten(0, 1)
    forth, back = grouped.taps_of_outputs(flat, how), grouped.taps_of_inputs(flat, how)
    return Product(forth, back, None if bias is None else bias.flatten(), how, flattens)


class _Chain(torch.autograd.Function):
    """Products one after the other, and back."""

    @staticmethod
    def forward(ctx: Any, products: list[Product], images: Tensor) -> Tensor:
        """Logits `(M, B, K)` of images `(M, B, C, H, W)`."""
        ctx.shape, ctx.products, ctx.inputs = images.shape, products, []
        x = (images if products[0].flattens else images.permute(0, 1, 3, 4, 2)).contiguous()
        for product in products:
            if product.flattens:
                x = x.flatten(2)[:, :, None, None]  # in the order in which it lies
            ctx.inputs.append(x)
            given = x, product.forth, product.bias, product.how
            x = grouped.forward(*given, rectified=product.rectified)
        ctx.last = x if products[-1].rectified else None
        return x.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """The gradient to the images."""
        x = gradient.contiguous()[:, :, None, None]
        if ctx.last is not None:
            x = x * (ctx.last > 0)
        before = [False, *(product.rectified for product in ctx.products)]
        for product, kept, rectified in reversed(
            list(zip(ctx.products, ctx.inputs, before[:-1], strict=True))
        ):
            x = x.reshape(*kept.shape[:2], *product.how.size(kept.shape[2:4]), -1)
            given = x, product.back, kept.shape[2:4], product.how
            masked = kept if rectified else None
            x = grouped.to_input(*given, kept=masked)
        if ctx.products[0].flattens:
            return None, x.view(ctx.shape)
        return None, x.permute(0, 1, 4, 2, 3)
