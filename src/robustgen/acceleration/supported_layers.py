"""The layer types that can be computed for M models at once, and what their computation shares."""

import torch
from torch import Tensor, nn

from robustgen.backend import State

Pair = tuple[int, int]
"""A vertical and a horizontal number, such as a kernel size."""
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
"""Layers that compute each channel or number independently, and so are the same for M models."""


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


def stride_divides_kernel(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether the stride divides the kernel size; False with dilation or padding by name."""
    is_divisible = all(
        size % stride == 0 for size, stride in zip(layer.kernel_size, layer.stride, strict=True)
    )
    return is_divisible and layer.dilation == (1, 1) and not isinstance(layer.padding, str)


def select_layer_state(state: State, name: str) -> dict[str, Tensor]:
    """Return the parameters and buffers of the layer `name`, by their names within the layer."""
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)
    }


def to_channels_last(x: Tensor) -> Tensor:
    """Return images with the channels last in memory, and other tensors unchanged.

    Mixing both memory layouts takes ten times as long.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
