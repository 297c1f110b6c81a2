"""Layers of M models in eval mode computed as one, each with its vector-Jacobian product (VJP).

Weights are constant, as in an attack, and VJPs are with respect to the input. Between layers are
`(B, M C, H, W)` with the channels last in memory, or `(B, M C)`. VJPs are hand-written where this
is faster than autograd.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustgen.acceleration.cpu.strided_conv import (
    MIN_CHANNELS_FOR_NATIVE_GRAD,
    PolyphaseInputGrad,
    native_conv_grads,
)
from robustgen.acceleration.cpu.strided_conv import supports as supports_strided
from robustgen.acceleration.supported_layers import (
    BATCH_NORM_KEYS,
    is_supported,
    select_layer_state,
    to_channels_last,
)
from robustgen.backend import State
from robustgen.device import HAS_AVX512

VJP = Callable[[Tensor], Tensor]
"""From the gradient with respect to a layer's output to that with respect to its input."""
Layer = Callable[[Tensor], tuple[Tensor, VJP]]
"""From the input of a layer to its output and its VJP."""

MAX_CHANNELS_FOR_STRIDED_GRAD = 1 << 30 if HAS_AVX512 else MIN_CHANNELS_FOR_NATIVE_GRAD
"""Number of input channels below which `strided_conv` computes the gradient of a strided
convolution. With more it is PyTorch's."""


def build_layers(model: nn.Module, state: State) -> list[Layer] | None:
    """Build the layers of M models; None unless the model is a sequence of supported layers.

    Args:
        model: the architecture in eval mode, whose own parameters are not used.
        state: parameters and buffers of the models, `(M, ...)` by name.
    """
    is_sequence = isinstance(model, nn.Sequential) and all(map(is_supported, model))
    if model.training or not is_sequence:
        return None
    n_models, can_fuse_relu = len(next(iter(state.values()))), False
    layers: list[Layer] = []
    for name, module in model.named_children():
        if isinstance(module, nn.ReLU) and can_fuse_relu:
            layers[-1] = _with_relu(layers[-1])
        elif not isinstance(module, nn.Identity):
            build = _BUILDERS.get(type(module), _autograd_layer)
            layers.append(build(module, select_layer_state(state, name), n_models))
            # A ReLU in place must not change the output of a flattening, which is its input.
            can_fuse_relu = type(module) in _BUILDERS and not isinstance(module, nn.Flatten)
    return layers


_threshold_backward = torch.ops.aten.threshold_backward.grad_input


def _with_relu(layer: Layer) -> Layer:
    """Return the layer and a ReLU in place, for a layer whose VJP does not need its output."""

    def forward_with_vjp(x: Tensor) -> tuple[Tensor, VJP]:
        """Return the output and its VJP."""
        y, layer_vjp = layer(x)
        y = y.relu_()

        def vjp(gradient: Tensor) -> Tensor:
            """Return the gradient where the output is positive, through the layer."""
            relu_grad = gradient if gradient.stride() == y.stride() else torch.empty_like(y)
            return layer_vjp(_threshold_backward(gradient, y, 0, grad_input=relu_grad))

        return y, vjp

    return forward_with_vjp


def _conv(layer: nn.Conv2d, params: State, n_models: int) -> Layer:
    """Return M convolutions of inputs `(B, M C, H, W)`, with the fastest input gradient."""
    weight = to_channels_last(params["weight"].flatten(0, 1))
    bias = params["bias"].flatten() if "bias" in params else None
    stride, padding, groups = layer.stride, layer.padding, n_models * layer.groups
    geometry: Any = stride, padding, layer.dilation, groups
    to_input: Any = *geometry, (True, False, False)
    has_few_channels = layer.in_channels // layer.groups < MAX_CHANNELS_FOR_STRIDED_GRAD
    strided_grad = None
    if has_few_channels and supports_strided(layer) and weight.device.type == "cpu":
        strided_grad = PolyphaseInputGrad(weight, stride, padding, groups)  # type: ignore[arg-type]

    def vjp(gradient: Tensor, x: Tensor) -> Tensor:
        """Return the gradient with respect to the input `x`."""
        if strided_grad:
            return strided_grad(gradient, x.shape[2:])
        # `torch.nn.grad.conv2d_input` returns the same, but allocates an input first.
        input_grad, *_ = native_conv_grads(gradient, x, weight, None, *to_input)
        assert input_grad is not None
        return to_channels_last(input_grad)

    return lambda x: (
        to_channels_last(F.conv2d(x, weight, bias, *geometry)),
        lambda gradient: vjp(gradient, x),
    )


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, params: State, n_models: int) -> Layer:
    """Return batch normalization of `(B, M C, ...)` with the running statistics of M models."""
    del n_models
    mean, variance, weight, bias = (
        params[key].flatten() if key in params else None for key in BATCH_NORM_KEYS
    )
    assert variance is not None
    scale = (variance + layer.eps).rsqrt() * (1 if weight is None else weight)
    return lambda x: (
        F.batch_norm(x, mean, variance, weight, bias, eps=layer.eps),
        lambda gradient: gradient * scale.view(-1, *[1] * (gradient.dim() - 2)),
    )


def _linear(layer: nn.Linear, params: State, n_models: int) -> Layer:
    """Return M linear layers, `(B, M I)` to `(B, M O)`."""
    del layer
    weight = params["weight"]
    bias = params["bias"].unsqueeze(1) if "bias" in params else None

    def split_members(x: Tensor) -> Tensor:
        return x.view(len(x), n_models, -1).transpose(0, 1)

    def forward_with_vjp(x: Tensor) -> tuple[Tensor, VJP]:
        """Return the output of all models and its VJP."""
        rows, weight_t = split_members(x), weight.transpose(1, 2)
        product = torch.bmm if bias is None else partial(torch.baddbmm, bias)
        output = product(rows, weight_t)
        return output.transpose(0, 1).flatten(1), (
            lambda gradient: torch.bmm(split_members(gradient), weight).transpose(0, 1).flatten(1)
        )

    return forward_with_vjp


def _flatten(layer: nn.Flatten, params: State, n_models: int) -> Layer:
    """Return the flattening of `(B, M C, H, W)` to `(B, M C H W)`."""
    del layer, params, n_models
    return lambda x: (x.flatten(1), lambda gradient: to_channels_last(gradient.reshape(x.shape)))


def _autograd_layer(layer: nn.Module, params: State, n_models: int) -> Layer:
    """Return an elementwise layer, whose VJP is autograd's."""
    del params, n_models

    def forward_with_vjp(x: Tensor) -> tuple[Tensor, VJP]:
        """Return the output and its VJP."""
        with torch.enable_grad():
            start = x.detach().requires_grad_()
            # An in-place layer must not overwrite what the previous layer saved.
            y = layer(start.clone() if getattr(layer, "inplace", False) else start)

        def vjp(gradient: Tensor) -> Tensor:
            """Return the gradient with respect to the input, by autograd."""
            return to_channels_last(torch.autograd.grad(y, start, gradient)[0])

        return to_channels_last(y.detach()), vjp

    return forward_with_vjp


_BUILDERS: dict[type[nn.Module], Callable[[Any, State, int], Layer]] = {
    nn.Conv2d: _conv,
    nn.Flatten: _flatten,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.Linear: _linear,
}
