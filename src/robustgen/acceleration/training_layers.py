"""The forward pass of M models side by side that learn: with gradients to their weights.

The layers are those of `layers`, in train mode. Equal to the models one by one up to rounding;
`benchmarks/learning.py` measures epochs beside plain loops over them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustgen.acceleration.cpu.batch_norm import normalize
from robustgen.acceleration.cuda import grouped_conv as grouped
from robustgen.acceleration.cuda.conv_geometry import How
from robustgen.acceleration.supported_layers import (
    BATCH_NORM_KEYS,
    State,
    is_supported,
    select_layer_state,
    to_channels_last,
)

Step = Callable[[Tensor], Tensor]


def chain(model: nn.Module, state: State) -> Step | None:
    """The pass of M models, `(M, B, C, H, W)` to `(M, B, K)`; None if it is not for them.

    Args:
        model: the architecture in train mode: a chain of known layers.
        state: parameters and buffers of the models, `(M, ...)` by name. The buffers of batch
            normalization are updated in place.
    """
    first = next(iter(state.values()))
    if not (isinstance(model, nn.Sequential) and all(map(_is_trainable, model)) and model.training):
        return None
    if first.device.type != "cpu" and not _all_grouped(model, first):
        return None
    steps: list[Callable[..., Tensor]] = []
    normalized = False
    for name, layer in model.named_children():
        own = select_layer_state(state, name)
        if isinstance(layer, nn.ReLU) and normalized:
            steps[-1] = partial(steps[-1], rectified=True)
        else:
            steps.append(partial(_STEPS.get(type(layer), _as_it_is), layer, own))
        normalized = isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
    return partial(_pass, len(first), steps)


def _all_grouped(model: nn.Sequential, like: Tensor) -> bool:
    """Whether there are fast kernels for all products; with PyTorch's own this is the slow way."""
    products = [layer for layer in model if isinstance(layer, nn.Conv2d | nn.Linear)]
    return all(grouped.applies(layer, like) for layer in products)


def _is_trainable(layer: nn.Module) -> bool:
    averaged = isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.momentum is None
    return is_supported(layer) and not averaged


def _pass(members: int, steps: Sequence[Step], images: Tensor) -> Tensor:
    x = to_channels_last(images.transpose(0, 1).flatten(1, 2))
    for step in steps:
        x = step(x)
    return x.reshape(len(x), members, -1, *x.shape[2:]).transpose(0, 1)


class _Laid(torch.autograd.Function):
    """The same numbers with the channels last in memory, forward and backward.

    A convolution of one channel forgets it, and so does the gradient of a flattening; what mixes
    both layouts takes ten times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """`x` itself where it is laid out like this."""
        del ctx
        return to_channels_last(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """As the images, so their gradient."""
        del ctx
        return to_channels_last(gradient)


def _convolution(layer: nn.Conv2d, own: State, x: Tensor) -> Tensor:
    weight = own["weight"].flatten(0, 1)
    bias = own["bias"].flatten() if "bias" in own else None
    if grouped.applies(layer, weight):
        return grouped.convolve(x, weight, bias, How.of(layer, len(own["weight"])))
    weight = to_channels_last(weight)
    groups = len(own["weight"]) * layer.groups
    how: Any = layer.stride, layer.padding, layer.dilation, groups
    laid: Tensor = _Laid.apply(F.conv2d(x, weight, bias, *how))
    return laid


def _normalization(
    layer: nn.BatchNorm1d | nn.BatchNorm2d, own: State, x: Tensor, rectified: bool = False
) -> Tensor:
    if x.device.type != "cpu":
        own["num_batches_tracked"].add_(1)
        mean, variance, weight, bias = (
            own[k].flatten() if k in own else None for k in BATCH_NORM_KEYS
        )
        how = {"training": True, "momentum": layer.momentum, "eps": layer.eps}
        made = F.batch_norm(x, mean, variance, weight, bias, **how)  # type: ignore[arg-type]
        return made.relu() if rectified else made
    rows = x.movedim(1, -1).flatten(0, -2)
    ones = rows.new_ones(rows.shape[1])
    weight = own["weight"].flatten() if "weight" in own else ones
    bias = own["bias"].flatten() if "bias" in own else torch.zeros_like(ones)
    made, mean, variance = normalize(rows, weight, bias, layer.eps, rectified)
    unbiased = variance * (len(rows) / (len(rows) - 1))
    share = layer.momentum or 0.0
    own["running_mean"].view(-1).lerp_(mean, share)
    own["running_var"].view(-1).lerp_(unbiased, share)
    own["num_batches_tracked"].add_(1)
    return made.view(len(x), *x.shape[2:], -1).movedim(-1, 1)


def _product(layer: nn.Linear, own: State, x: Tensor) -> Tensor:
    if grouped.applies(layer, own["weight"]):
        of_a_pixel = own["weight"].flatten(0, 1)[..., None, None]
        bias = own["bias"].flatten() if "bias" in own else None
        how = How.of(layer, len(own["weight"]))
        return grouped.convolve(x[..., None, None], of_a_pixel, bias, how).flatten(1)
    weight = own["weight"].transpose(1, 2)
    rows = x.view(len(x), len(weight), -1).transpose(0, 1)
    bias = own.get("bias")
    made = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias[:, None], rows, weight)
    return made.transpose(0, 1).flatten(1)


def _flattening(layer: nn.Flatten, own: State, x: Tensor) -> Tensor:
    del layer, own
    laid: Tensor = _Laid.apply(x)
    return laid.flatten(1)


def _as_it_is(layer: nn.Module, own: State, x: Tensor) -> Tensor:
    del own
    # What works in place must not overwrite what the layer before has kept, nor the caller's.
    made: Tensor = layer(x.clone() if getattr(layer, "inplace", False) else x)
    return made


_STEPS: Mapping[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _normalization,
    nn.BatchNorm2d: _normalization,
    nn.Linear: _product,
    nn.Flatten: _flattening,
}
