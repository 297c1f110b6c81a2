"""The forward pass of M models at once.

`vectorized` maps the architecture's own pass over the models. `stacked` is for attacks, which take
nearly all the time of a study: it computes a chain of common layers as one wide model, whose
channels are those of the M models side by side, convolutions in groups and linear layers as a
batched product. Both equal the models one by one up to rounding; `benchmarks/passes.py` measures
what is gained. Training keeps to the former, since batch statistics are less exact with the
channels last.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from robustgen import strided

State = Mapping[str, Tensor]
Pass = Callable[[Tensor], Tensor]


def vectorized(model: nn.Module, state: State) -> Pass:
    """The forward pass of M models: images `(M, B, C, H, W)` to logits `(M, B, K)`.

    Args:
        model: the architecture, in the mode of the pass; its own parameters are not used.
        state: parameters and buffers `(M, ...)` of the models by name. Batch normalization in
            train mode updates its buffers in place.
    """
    return partial(vmap(partial(_single, model)), dict(state))


def stacked(model: nn.Module, state: State) -> Pass:
    """As `vectorized`, but faster for a chain of known layers in eval mode."""
    if model.training or not _is_chain(model):
        return vectorized(model, state)
    members = len(next(iter(state.values())))
    steps = []
    for name, layer in model.named_children():
        own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
        make = _MADE_OF.get(type(layer))
        steps.append(layer if make is None else make(layer, own, members))
    return partial(_chain, members, steps)


def _single(model: nn.Module, state: dict[str, Tensor], images: Tensor) -> Tensor:
    logits: Tensor = functional_call(model, state, (images,))
    return logits


def _chain(members: int, steps: list[Pass], images: Tensor) -> Tensor:
    """The steps one after the other, on `(B, M C, H, W)` with the channels last in memory."""
    x = images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    for step in steps:
        x = step(x)
    return _members(x, members).transpose(0, 1)


def _members(x: Tensor, members: int) -> Tensor:
    """`(B, M C, ...)` as `(B, M, C, ...)`."""
    return x.reshape(len(x), members, -1, *x.shape[2:])


def _convolution(layer: nn.Conv2d, own: State, members: int) -> Pass:
    weight = own["weight"].flatten(0, 1).contiguous(memory_format=torch.channels_last)
    bias = own["bias"].flatten() if "bias" in own else None
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    groups = members * layer.groups
    if strided.applies(layer):
        return lambda x: _laid(strided.convolve(x, weight, bias, stride, padding, groups))  # type: ignore[arg-type]
    return lambda x: _laid(F.conv2d(x, weight, bias, stride, padding, dilation, groups))


def _laid(x: Tensor) -> Tensor:
    """With the channels last in memory, and so its gradient.

    A convolution of one channel forgets it, and so does the gradient of a flattening; what mixes
    both layouts takes ten times as long.
    """
    made: Tensor = _Laid.apply(x)
    return made


class _Laid(torch.autograd.Function):
    """The same numbers laid out with the channels last, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """`x` itself where it is laid out like this."""
        del ctx
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """As the images, so their gradient."""
        del ctx
        return gradient.contiguous(memory_format=torch.channels_last)


def _flattening(layer: nn.Flatten, own: State, members: int) -> Pass:
    del own, members
    return lambda x: layer(_laid(x) if x.dim() == 4 else x)


def _normalization(layer: nn.BatchNorm1d | nn.BatchNorm2d, own: State, members: int) -> Pass:
    del members
    mean, variance, weight, bias = (own[k].flatten() if k in own else None for k in _NORM)
    return lambda x: F.batch_norm(x, mean, variance, weight, bias, eps=layer.eps)


_NORM = ("running_mean", "running_var", "weight", "bias")


def _product(layer: nn.Linear, own: State, members: int) -> Pass:
    del layer
    weight = own["weight"].transpose(1, 2)
    bias = own["bias"].unsqueeze(1) if "bias" in own else None

    def multiply(x: Tensor) -> Tensor:
        rows = _members(x, members).transpose(0, 1)
        made = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias, rows, weight)
        return made.transpose(0, 1).flatten(1)

    return multiply


_MADE_OF: dict[type[nn.Module], Callable[[Any, State, int], Pass]] = {
    nn.Conv2d: _convolution,
    nn.Flatten: _flattening,
    nn.BatchNorm2d: _normalization,
    nn.BatchNorm1d: _normalization,
    nn.Linear: _product,
}
_AS_THEY_ARE = {
    nn.AvgPool2d,
    nn.GELU,
    nn.Identity,
    nn.LeakyReLU,
    nn.MaxPool2d,
    nn.ReLU,
    nn.SiLU,
    nn.Tanh,
}
"""Layers that treat each channel, or each number, on its own."""


def _is_chain(model: nn.Module) -> bool:
    """Whether the model is a chain of layers that are known here."""
    return isinstance(model, nn.Sequential) and all(_is_known(layer) for layer in model)


def _is_known(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return False
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and not layer.track_running_stats:
        return False
    if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) != (1, -1):
        return False
    return type(layer) in _MADE_OF or type(layer) in _AS_THEY_ARE
