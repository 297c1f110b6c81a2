"""The paper's classifier (Stutz et al., CVPR 2019, section 4 and supplement)."""

from torch import nn

CHANNELS = (16, 32, 64)


def build(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Three strided convolutions and two linear layers, `(B, C, H, W)` to logits `(B, K)`.

    Each convolution (4x4, stride 2, padding 1) and the first linear layer (10 K units) is
    followed by batch normalization and ReLU.

    These have no bias: batch normalization cancels it, and Adam would move it by rounding noise.

    Raises:
        ValueError: an image side is under 8 pixels, so that nothing is left after three halvings.
    """
    channels, height, width = shape
    if min(height, width) < 8:
        raise ValueError(f"images of {height}x{width} are too small: 8x8 at least")
    layers: list[nn.Module] = []
    for wider in CHANNELS:
        layers += [
            nn.Conv2d(channels, wider, 4, 2, 1, bias=False),
            nn.BatchNorm2d(wider),
            nn.ReLU(),
        ]
        channels, height, width = wider, height // 2, width // 2
    hidden = 10 * classes
    layers += [nn.Flatten(), nn.Linear(channels * height * width, hidden, bias=False)]
    layers += [nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers)
