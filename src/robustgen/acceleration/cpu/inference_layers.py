"""The layers of M models side by side, and how a gradient goes back through each to its input.

Weights are constants, as in an attack. Between layers lie `(B, M C, H, W)` with the channels last
in memory, or `(B, M C)`. A layer gives its output, and the way back from it: by hand where that is
faster than what autograd would do, else autograd's own.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustgen.acceleration.cpu import strided_conv as strided
from robustgen.acceleration.supported_layers import (
    BATCH_NORM_KEYS,
    State,
    is_supported,
    select_layer_state,
    to_channels_last,
)
from robustgen.device import WIDE

Pull = Callable[[Tensor], Tensor]
"""Takes the gradient to a layer's output back to its input."""
Layer = Callable[[Tensor], tuple[Tensor, Pull]]

FEW = 1 << 30 if WIDE else strided.MANY
"""Channels below which the gradient to the input of a strided convolution is that of `strided`.
With more channels it is torch's, unless outputs are so few that `winograd` applies."""


def chain(model: nn.Module, state: State) -> list[Layer] | None:
    """The layers of M models, or None unless they are a chain of known ones in eval mode.

    Args:
        model: the architecture, whose own parameters are not used.
        state: parameters and buffers of the models, `(M, ...)` by name.
    """
    known = isinstance(model, nn.Sequential) and all(is_supported(layer) for layer in model)
    if model.training or not known:
        return None
    members, rectifiable = len(next(iter(state.values()))), False
    layers: list[Layer] = []
    for name, layer in model.named_children():
        own = select_layer_state(state, name)
        if isinstance(layer, nn.ReLU) and rectifiable:
            layers[-1] = _rectified(layers[-1])
        elif not isinstance(layer, nn.Identity):
            layers.append(_MADE_OF.get(type(layer), _as_it_is)(layer, own, members))
            # What a flattening gives is what came in, and may be the caller's.
            rectifiable = type(layer) in _MADE_OF and not isinstance(layer, nn.Flatten)
    return layers


_threshold_backward = torch.ops.aten.threshold_backward.grad_input


def _rectified(layer: Layer) -> Layer:
    """The layer and a ReLU, for a layer that does not need its output for the way back."""

    def pass_on(x: Tensor) -> tuple[Tensor, Pull]:
        """The output, in the layer's own memory, and the way back."""
        y, pull = layer(x)
        y = y.relu_()

        def back(gradient: Tensor) -> Tensor:
            """The gradient where the output is positive, through the layer."""
            into = gradient if gradient.stride() == y.stride() else torch.empty_like(y)
            return pull(_threshold_backward(gradient, y, 0, grad_input=into))

        return y, back

    return pass_on


def _convolution(layer: nn.Conv2d, own: State, members: int) -> Layer:
    weight = to_channels_last(own["weight"].flatten(0, 1))
    bias = own["bias"].flatten() if "bias" in own else None
    stride, padding, groups = layer.stride, layer.padding, members * layer.groups
    how: Any = stride, padding, layer.dilation, groups
    to_input: Any = *how, (True, False, False)
    ours = strided.applies(layer) and weight.device.type == "cpu"
    fast = strided.InputGradient(weight, stride, padding, groups) if ours else None  # type: ignore[arg-type]
    few = layer.in_channels // layer.groups < FEW

    def back(gradient: Tensor, x: Tensor) -> Tensor:
        """The gradient to the input, which was `x`."""
        if fast and (few or fast.spares(gradient.shape[2:])):
            return fast(gradient, x.shape[2:])
        # `torch.nn.grad.conv2d_input` gives the same, but makes an input first.
        to_x, *_ = strided.gradients(gradient, x, weight, None, *to_input)
        assert to_x is not None
        return to_channels_last(to_x)

    return lambda x: (
        to_channels_last(F.conv2d(x, weight, bias, *how)),
        lambda gradient: back(gradient, x),
    )


def _normalization(layer: nn.BatchNorm1d | nn.BatchNorm2d, own: State, members: int) -> Layer:
    del members
    mean, variance, weight, bias = (own[k].flatten() if k in own else None for k in BATCH_NORM_KEYS)
    assert variance is not None
    scale = (variance + layer.eps).rsqrt() * (1 if weight is None else weight)
    return lambda x: (
        F.batch_norm(x, mean, variance, weight, bias, eps=layer.eps),
        lambda gradient: gradient * scale.view(-1, *[1] * (gradient.dim() - 2)),
    )


def _product(layer: nn.Linear, own: State, members: int) -> Layer:
    del layer
    weight = own["weight"]
    bias = own["bias"].unsqueeze(1) if "bias" in own else None

    def apart(x: Tensor) -> Tensor:
        return x.view(len(x), members, -1).transpose(0, 1)

    def multiply(x: Tensor) -> tuple[Tensor, Pull]:
        """The output of all members, and the way back."""
        rows, forth = apart(x), weight.transpose(1, 2)
        made = torch.bmm(rows, forth) if bias is None else torch.baddbmm(bias, rows, forth)
        return made.transpose(0, 1).flatten(1), (
            lambda gradient: torch.bmm(apart(gradient), weight).transpose(0, 1).flatten(1)
        )

    return multiply


def _flattening(layer: nn.Flatten, own: State, members: int) -> Layer:
    del layer, own, members
    return lambda x: (x.flatten(1), lambda gradient: to_channels_last(gradient.reshape(x.shape)))


def _as_it_is(layer: nn.Module, own: State, members: int) -> Layer:
    """A layer that treats each channel, or each number, on its own, with autograd's way back."""
    del own, members

    def pass_on(x: Tensor) -> tuple[Tensor, Pull]:
        """The output, and autograd's way back."""
        with torch.enable_grad():
            start = x.detach().requires_grad_()
            # What works in place must not overwrite what the layer before has kept.
            y = layer(start.clone() if getattr(layer, "inplace", False) else start)
        return to_channels_last(y.detach()), lambda gradient: to_channels_last(
            torch.autograd.grad(y, start, gradient)[0]
        )

    return pass_on


_MADE_OF: dict[type[nn.Module], Callable[[Any, State, int], Layer]] = {
    nn.Conv2d: _convolution,
    nn.Flatten: _flattening,
    nn.BatchNorm2d: _normalization,
    nn.BatchNorm1d: _normalization,
    nn.Linear: _product,
}
