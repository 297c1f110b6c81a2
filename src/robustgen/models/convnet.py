"""The paper's classifier (Stutz et al., CVPR 2019, section 4 and supplement)."""

from torch import nn

CHANNELS = (16, 32, 64)
"""Output channels of the convolutions."""


def build(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build three strided convolutions and two linear layers, `(B, C, H, W)` to logits `(B, K)`.

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
