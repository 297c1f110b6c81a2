"""Batch normalization in eval mode, folded into the layer before it.

In eval mode batch normalization is an affine map with fixed coefficients. The folded models equal
the plain ones up to rounding; `benchmarks/passes.py` measures the gain.
"""

from collections import OrderedDict
from itertools import chain, pairwise
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from robustgen.acceleration.supported_layers import BATCH_NORM_KEYS
from robustgen.backend import State


def fold_batch_norm(model: nn.Module, state: State) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the model and its state without the batch normalization that can be folded.

    This is batch normalization after convolutions and linear layers of an `nn.Sequential`. Other
    models are returned unchanged.

    Args:
        model: the architecture, whose own parameters are not used.
        state: parameters and buffers of M models by name, each `(M, ...)`.
    """
    folded_state = {name: tensor.detach() for name, tensor in state.items()}
    if not isinstance(model, nn.Sequential):
        return model, folded_state
    layers = OrderedDict(model.named_children())
    for name, norm_name in pairwise(list(layers)):
        layer, norm = layers[name], layers[norm_name]
        if _is_foldable(norm) and isinstance(layer, nn.Conv2d | nn.Linear):
            layers[name] = _with_bias(layer)
            layers[norm_name] = nn.Identity()
            _fold(folded_state, name, norm_name, norm.eps)
    return nn.Sequential(layers).eval(), folded_state


def fold_decoder(decoder: nn.Module) -> nn.Module:
    """Return the decoder of a VAE-GAN without batch normalization, as one sequence of layers.

    The result is in eval mode and has constant weights. `models.vaegan.Decoder` is not
    imported, so that a change of it does not concern jobs without a learned manifold.

    Raises:
        ValueError: the decoder is in train mode.
    """
    if decoder.training:
        raise ValueError("a decoder in train mode cannot be folded; call eval() first")
    layers: list[nn.Module] = []
    parts = (decoder.get_submodule(name).children() for name in ("start", "layers"))
    for layer in chain.from_iterable(parts):
        if isinstance(layer, nn.BatchNorm1d):
            layers[-1] = fuse_linear_bn_eval(layers[-1], layer)  # type: ignore[type-var]
        elif isinstance(layer, nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer, transpose=True)  # type: ignore[type-var]
        else:
            layers.append(layer)
    return nn.Sequential(*layers).eval().requires_grad_(False)


def _is_foldable(layer: nn.Module) -> TypeGuard[nn.BatchNorm1d | nn.BatchNorm2d]:
    """Whether a layer is batch normalization with running statistics."""
    return isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.track_running_stats


def _with_bias(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """Return a layer of the same geometry with a bias."""
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
    """Move the state of the normalization into weight and bias of the layer before it."""
    norm_state = {
        key: state.pop(f"{norm}.{key}")
        for key in (*BATCH_NORM_KEYS, "num_batches_tracked")
        if f"{norm}.{key}" in state
    }
    mean = norm_state["running_mean"]
    scale = (norm_state["running_var"] + eps).rsqrt()
    if "weight" in norm_state:
        scale = scale * norm_state["weight"]
    weight = state[f"{layer}.weight"]
    bias = state.get(f"{layer}.bias", torch.zeros_like(mean))
    shift = norm_state.get("bias", torch.zeros_like(mean))
    state[f"{layer}.weight"] = weight * scale.view(*scale.shape, *[1] * (weight.dim() - 2))
    state[f"{layer}.bias"] = (bias - mean) * scale + shift
