"""Classifier architectures by name. To add one, write a function that builds it, and list it."""

from collections.abc import Callable

from torch import nn

CHANNELS = (16, 32, 64)
"""Output channels of the convolutions of `build_convnet`."""


def build_convnet(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build the paper's classifier (Stutz et al., CVPR 2019, section 4 and supplement).

    Three strided convolutions and two linear layers map images `(B, C, H, W)` to logits `(B, K)`.

    Each convolution (4x4, stride 2, padding 1) and the first linear layer (10 K units) is
    followed by batch normalization and ReLU, and has no bias: batch normalization cancels a bias,
    and Adam would change it by rounding noise.

    Raises:
        ValueError: an image side has fewer than 8 pixels, too few for three halvings.
    """
    channels, height, width = shape
    if min(height, width) < 8:
        raise ValueError(f"images of {height}x{width} are too small: they need at least 8x8 pixels")
    layers: list[nn.Module] = []
    for out_channels in CHANNELS:
        layers += [
            nn.Conv2d(channels, out_channels, 4, 2, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        ]
        channels, height, width = out_channels, height // 2, width // 2
    hidden_units = 10 * classes
    layers += [nn.Flatten(), nn.Linear(channels * height * width, hidden_units, bias=False)]
    layers += [nn.BatchNorm1d(hidden_units), nn.ReLU(), nn.Linear(hidden_units, classes)]
    return nn.Sequential(*layers)


ARCHITECTURES: dict[str, Callable[[tuple[int, int, int], int], nn.Module]] = {
    "convnet": build_convnet,
}


def build(architecture: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build a classifier of images of `shape` (C, H, W) into `classes`, without initialization."""
    return ARCHITECTURES[architecture](shape, classes)
