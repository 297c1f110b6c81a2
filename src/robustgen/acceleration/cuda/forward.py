"""The forward pass of M attacked models on a GPU: constant weights and one kernel per layer.

Between layers are `(M, B, H, W, C)`, with the models one after another, so that the numbers that a
kernel reads are adjacent. A ReLU is computed by the layer before it, and its gradient by the
backward pass of the layer after it. Equal to the models one by one up to rounding;
`benchmarks/gpu.py` measures the gain.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robustgen.acceleration.cuda import grouped_conv
from robustgen.acceleration.cuda.conv_geometry import ConvGeometry
from robustgen.acceleration.supported_layers import is_supported
from robustgen.backend import State


@dataclass
class FusedLayer:
    """A convolution or a linear layer of M models, with the ReLU that follows it, if any.

    Attributes:
        forward_weight: from `grouped_conv.pack_forward_weight`.
        backward_weight: from `grouped_conv.pack_backward_weight`.
        bias: `(M O,)` or None.
        geometry: of the layer.
        flatten_input: whether the input is flattened to one pixel before the layer.
        relu: whether a ReLU follows.
    """

    forward_weight: Tensor
    backward_weight: Tensor
    bias: Tensor | None
    geometry: ConvGeometry
    flatten_input: bool
    relu: bool = False


class FusedForward:
    """The forward pass through `layers`, images `(M, B, C, H, W)` to logits `(M, B, K)`."""

    def __init__(self, layers: list[FusedLayer]) -> None:
        self.layers = layers

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits `(M, B, K)` of images `(M, B, C, H, W)`."""
        logits: Tensor = _FusedForward.apply(self, images)
        return logits

    def to_input_layout(self, images: Tensor) -> Tensor:
        """Return images `(M, B, C, H, W)` as the first layer takes them.

        With the channels last, unless the first layer flattens them.
        """
        is_flat = self.layers[0].flatten_input
        return (images if is_flat else images.permute(0, 1, 3, 4, 2)).contiguous()


def build_fused_forward(model: nn.Module, state: State) -> FusedForward | None:
    """Return the forward pass of M models; None unless the kernels support every layer.

    Args:
        model: the architecture in eval mode, of convolutions, linear layers and ReLUs; its own
            parameters are not used.
        state: parameters of the models, `(M, ...)` by name, without batch normalization.
    """
    if model.training or not isinstance(model, nn.Sequential):
        return None
    layers: list[FusedLayer] = []
    is_flat = flatten_next = False  # flatten_next: the next layer is the first after flattening
    for name, module in model.named_children():
        weight = state.get(f"{name}.weight")
        if not is_supported(module) or getattr(module, "groups", 1) > 1:
            return None
        if isinstance(module, nn.Flatten):
            is_flat, flatten_next = True, flatten_next or not is_flat
        elif isinstance(module, nn.ReLU) and layers and not flatten_next:
            layers[-1].relu = True
        elif weight is not None and grouped_conv.supports(module, weight):
            if isinstance(module, nn.Linear) is not is_flat:
                return None
            channels = layers[-1].geometry.out_channels if flatten_next and layers else None
            bias = state.get(f"{name}.bias")
            layers.append(_make_layer(module, weight, bias, channels, flatten_next))
            flatten_next = False
        elif not isinstance(module, nn.Identity):
            return None
    return FusedForward(layers) if layers and is_flat and not flatten_next else None


def _make_layer(
    module: Any, weight: Tensor, bias: Tensor | None, channels: int | None, flatten_input: bool
) -> FusedLayer:
    """Pack the weights `(M, O, ...)` of a layer.

    Args:
        module: the convolution or linear layer.
        weight: of the M models.
        bias: of the M models, or None.
        channels: number of channels of the flattened images before a linear layer. PyTorch
            flattens them with the channels first, the kernels with the channels last. None if the
            order is the same.
        flatten_input: whether the input is flattened.
    """
    if isinstance(module, nn.Linear):
        if channels is not None:
            weight = weight.view(*weight.shape[:2], channels, -1).transpose(2, 3).flatten(2)
        weight = weight[..., None, None]
    geometry = ConvGeometry.from_layer(module, len(weight))
    flat_weight = weight.flatten(0, 1)
    return FusedLayer(
        grouped_conv.pack_forward_weight(flat_weight, geometry),
        grouped_conv.pack_backward_weight(flat_weight, geometry),
        None if bias is None else bias.flatten(),
        geometry,
        flatten_input,
    )


class _FusedForward(torch.autograd.Function):
    """The layers one after another, and their gradients with respect to the input."""

    @staticmethod
    def forward(ctx: Any, fused: FusedForward, images: Tensor) -> Tensor:
        """Return logits `(M, B, K)` of images `(M, B, C, H, W)`."""
        ctx.shape, ctx.layers, ctx.inputs = images.shape, fused.layers, []
        x = fused.to_input_layout(images)
        for layer in fused.layers:
            if layer.flatten_input:
                x = x.flatten(2)[:, :, None, None]
            ctx.inputs.append(x)
            x = grouped_conv.conv_forward(
                x, layer.forward_weight, layer.bias, layer.geometry, relu=layer.relu
            )
        ctx.relu_logits = x if fused.layers[-1].relu else None
        return x.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """Return the gradient with respect to the images."""
        x_grad = gradient.contiguous()[:, :, None, None]
        if ctx.relu_logits is not None:
            x_grad = x_grad * (ctx.relu_logits > 0)
        is_input_rectified = [False, *(layer.relu for layer in ctx.layers[:-1])]
        for layer, x, is_rectified in reversed(
            list(zip(ctx.layers, ctx.inputs, is_input_rectified, strict=True))
        ):
            size = x.shape[2:4]
            x_grad = x_grad.reshape(*x.shape[:2], *layer.geometry.output_size(size), -1)
            x_grad = grouped_conv.conv_input_grad(
                x_grad,
                layer.backward_weight,
                size,
                layer.geometry,
                relu_output=x if is_rectified else None,
            )
        if ctx.layers[0].flatten_input:
            return None, x_grad.view(ctx.shape)
        return None, x_grad.permute(0, 1, 4, 2, 3)
