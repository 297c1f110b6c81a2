"""Batch normalization in eval mode, folded into the layer before it.

In eval mode it is an affine map with fixed coefficients. The folded models equal the plain ones up
to rounding; `benchmarks/passes.py` measures the gain.
"""

from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from typing import TypeGuard

import torch
from torch import Tensor, nn


def fold_batch_norm(
    model: nn.Module, state: Mapping[str, Tensor]
) -> tuple[nn.Module, dict[str, Tensor]]:
    """`model` without its batch normalizations, and its stacked state `(M, ...)` without theirs.

    Only an `nn.Sequential` is folded; another model comes back as it is.

    Args:
        model: the architecture, whose own parameters are not used.
        state: parameters and buffers of M models by name.
    """
    state = {name: tensor.detach() for name, tensor in state.items()}
    if not isinstance(model, nn.Sequential):
        return model, state
    layers = OrderedDict(model.named_children())
    names = list(layers)
    for name, following in pairwise(names):
        layer, norm = layers[name], layers[following]
        if _is_norm(norm) and isinstance(layer, nn.Conv2d | nn.Linear):
            layers[name] = _biased(layer)
            layers[following] = nn.Identity()
            _fold(state, name, following, norm.eps)
    return nn.Sequential(layers).eval(), state


def _is_norm(layer: nn.Module) -> TypeGuard[nn.BatchNorm1d | nn.BatchNorm2d]:
    return isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.track_running_stats


def _biased(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """The same kind of layer with a bias."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features, device="meta")
    return nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        layer.groups,
        padding_mode=layer.padding_mode,
        device="meta",
    )


def _fold(state: dict[str, Tensor], layer: str, norm: str, eps: float) -> None:
    """Move the normalization's state into the layer's weight and bias."""
    own = {
        key: state.pop(f"{norm}.{key}")
        for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        if f"{norm}.{key}" in state
    }
    mean, scale = own["running_mean"], (own["running_var"] + eps).rsqrt()
    if "weight" in own:
        scale = scale * own["weight"]
    weight = state[f"{layer}.weight"]
    bias = state.get(f"{layer}.bias", torch.zeros_like(mean))
    state[f"{layer}.weight"] = weight * scale.view(*scale.shape, *[1] * (weight.dim() - 2))
    state[f"{layer}.bias"] = (bias - mean) * scale + own.get("bias", torch.zeros_like(mean))
