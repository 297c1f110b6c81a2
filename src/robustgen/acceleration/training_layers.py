"""The forward pass of M models in train mode, differentiable with respect to their weights.

Equal to the models one by one up to rounding; `benchmarks/learning.py` compares epochs with plain
loops over single models.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustgen.acceleration.cpu.batch_norm import batch_norm_train
from robustgen.acceleration.cuda import grouped_conv
from robustgen.acceleration.cuda.conv_geometry import ConvGeometry
from robustgen.acceleration.supported_layers import (
    BATCH_NORM_KEYS,
    is_supported,
    select_layer_state,
    to_channels_last,
)
from robustgen.backend import ForwardFn, State

LayerFn = Callable[[Tensor], Tensor]
"""The output of a layer of M models, `(B, M C, ...)` to `(B, M O, ...)`."""


def build_training_forward(model: nn.Module, state: State) -> ForwardFn | None:
    """Return the forward pass of M models, `(M, B, C, H, W)` to `(M, B, K)`; None if not supported.

    Args:
        model: the architecture in train mode: a sequence of supported layers.
        state: parameters and buffers of the models, `(M, ...)` by name. The buffers of batch
            normalization are updated in place.
    """
    first = next(iter(state.values()))
    if not (isinstance(model, nn.Sequential) and all(map(_is_trainable, model)) and model.training):
        return None
    if first.device.type != "cpu" and not _kernels_available(model, first):
        return None
    layers: list[partial[Tensor]] = []
    can_fuse_relu = False
    for name, module in model.named_children():
        if isinstance(module, nn.ReLU) and can_fuse_relu:
            layers[-1] = partial(layers[-1], relu=True)
        else:
            function = _LAYERS.get(type(module), _elementwise)
            layers.append(partial(function, module, select_layer_state(state, name)))
        can_fuse_relu = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    return partial(_forward, len(first), layers)


def _kernels_available(model: nn.Sequential, template: Tensor) -> bool:
    """Whether kernels support all layers with weights; PyTorch's grouped ones are slow on a GPU."""
    layers = [layer for layer in model if isinstance(layer, nn.Conv2d | nn.Linear)]
    return all(grouped_conv.supports(layer, template) for layer in layers)


def _is_trainable(layer: nn.Module) -> bool:
    """Whether this module can compute the layer in train mode."""
    is_norm = isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
    return is_supported(layer) and not (is_norm and layer.momentum is None)


def _forward(n_models: int, layers: Sequence[LayerFn], images: Tensor) -> Tensor:
    """Return logits `(M, B, K)` of images `(M, B, C, H, W)`."""
    x = to_channels_last(images.transpose(0, 1).flatten(1, 2))
    for layer in layers:
        x = layer(x)
    return x.reshape(len(x), n_models, -1, *x.shape[2:]).transpose(0, 1)


class _ChannelsLast(torch.autograd.Function):
    """Convert images to channels-last, and their gradients too.

    The output of a convolution with one channel and the gradient of a flattening have another
    memory layout. Mixing both layouts takes ten times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return `x` with the channels last: `x` itself if it has this layout."""
        del ctx
        return to_channels_last(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradient with the channels last."""
        del ctx
        return to_channels_last(gradient)


def _conv(layer: nn.Conv2d, params: State, x: Tensor) -> Tensor:
    """Return the outputs `(B, M O, H', W')` of M convolutions of inputs `(B, M C, H, W)`."""
    weight = params["weight"].flatten(0, 1)
    bias = params["bias"].flatten() if "bias" in params else None
    if grouped_conv.supports(layer, weight):
        geometry = ConvGeometry.from_layer(layer, len(params["weight"]))
        return grouped_conv.grouped_conv2d(x, weight, bias, geometry)
    weight = to_channels_last(weight)
    groups = len(params["weight"]) * layer.groups
    options: Any = layer.stride, layer.padding, layer.dilation, groups
    y: Tensor = _ChannelsLast.apply(F.conv2d(x, weight, bias, *options))
    return y


def _batch_norm(
    layer: nn.BatchNorm1d | nn.BatchNorm2d, params: State, x: Tensor, relu: bool = False
) -> Tensor:
    """Return inputs `(B, M C, ...)` normalized per channel, and update the running statistics.

    With `relu`, a ReLU follows.
    """
    if x.device.type != "cpu":
        params["num_batches_tracked"].add_(1)
        mean, variance, weight, bias = (
            params[key].flatten() if key in params else None for key in BATCH_NORM_KEYS
        )
        options = {"training": True, "momentum": layer.momentum, "eps": layer.eps}
        y = F.batch_norm(x, mean, variance, weight, bias, **options)  # type: ignore[arg-type]
        return y.relu() if relu else y
    rows = x.movedim(1, -1).flatten(0, -2)
    ones = rows.new_ones(rows.shape[1])
    weight = params["weight"].flatten() if "weight" in params else ones
    bias = params["bias"].flatten() if "bias" in params else torch.zeros_like(ones)
    y, mean, variance = batch_norm_train(rows, weight, bias, layer.eps, relu)
    unbiased_variance = variance * (len(rows) / (len(rows) - 1))
    momentum = layer.momentum or 0.0
    params["running_mean"].view(-1).lerp_(mean, momentum)
    params["running_var"].view(-1).lerp_(unbiased_variance, momentum)
    params["num_batches_tracked"].add_(1)
    return y.view(len(x), *x.shape[2:], -1).movedim(-1, 1)


def _linear(layer: nn.Linear, params: State, x: Tensor) -> Tensor:
    """Return the outputs `(B, M O)` of M linear layers for inputs `(B, M I)`."""
    if grouped_conv.supports(layer, params["weight"]):
        weight_1x1 = params["weight"].flatten(0, 1)[..., None, None]
        flat_bias = params["bias"].flatten() if "bias" in params else None
        geometry = ConvGeometry.from_layer(layer, len(params["weight"]))
        images = x[..., None, None]
        return grouped_conv.grouped_conv2d(images, weight_1x1, flat_bias, geometry).flatten(1)
    weight_t = params["weight"].transpose(1, 2)
    rows = x.view(len(x), len(weight_t), -1).transpose(0, 1)
    bias = params.get("bias")
    if bias is not None:
        return torch.baddbmm(bias[:, None], rows, weight_t).transpose(0, 1).flatten(1)
    return torch.bmm(rows, weight_t).transpose(0, 1).flatten(1)


def _flatten(layer: nn.Flatten, params: State, x: Tensor) -> Tensor:
    """Return inputs `(B, M C, H, W)` as `(B, M C H W)`; their gradients get the channels last."""
    del layer, params
    y: Tensor = _ChannelsLast.apply(x)
    return y.flatten(1)


def _elementwise(layer: nn.Module, params: State, x: Tensor) -> Tensor:
    """Return the output of a layer without parameters, which may work in place."""
    del params
    # An in-place layer must not overwrite what the previous layer saved, nor the caller's images.
    y: Tensor = layer(x.clone() if getattr(layer, "inplace", False) else x)
    return y


_LAYERS: Mapping[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv2d: _conv,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Linear: _linear,
    nn.Flatten: _flatten,
}
