"""The layer types that can be computed for M models at once."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]
"""Parameters and buffers of M models by name, each `(M, ...)`."""
BATCH_NORM_KEYS = ("running_mean", "running_var", "weight", "bias")
"""The state of batch normalization, in the order in which `F.batch_norm` takes it."""

BATCHED_LAYERS = {nn.Conv2d, nn.Flatten, nn.BatchNorm2d, nn.BatchNorm1d, nn.Linear}
"""Layers whose computation for M models differs from that for one."""
ELEMENTWISE_LAYERS = {
    nn.AvgPool2d,
    nn.GELU,
    nn.Identity,
    nn.LeakyReLU,
    nn.MaxPool2d,
    nn.ReLU,
    nn.SiLU,
    nn.Tanh,
}
"""Layers that treat each channel or each number on its own, and need not know of M models."""


def is_supported(layer: nn.Module) -> bool:
    """Whether a layer type is supported. Subclasses are not, since they may override `forward`."""
    if type(layer) not in BATCHED_LAYERS | ELEMENTWISE_LAYERS:
        return False
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return layer.track_running_stats
    if isinstance(layer, nn.Flatten):
        return (layer.start_dim, layer.end_dim) == (1, -1)
    return True


def select_layer_state(state: State, name: str) -> dict[str, Tensor]:
    """The state of the layer called `name`, by the names that the layer gives it."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def to_channels_last(x: Tensor) -> Tensor:
    """Images with the channels last in memory: mixing both layouts takes ten times as long."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
