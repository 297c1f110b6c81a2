"""The networks of a VAE-GAN (Stutz et al., CVPR 2019, supplement; Larsen et al., ICML 2016)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from robustgen.errors import UserError

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""


class Encoder(nn.Module):
    """Images `(B, C, H, W)` to the mean and the log variance of their codes, each `(B, D)`.

    Convolutions of 4x4 and stride 2, each with batch normalization and ReLU, and a linear layer.
    """

    def __init__(self, shape: Shape, latent_dim: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.features = _make_convolutions(shape, channels, kernel=4, padding=1)
        self.ends = nn.Linear(_count_features(shape, channels), 2 * latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance."""
        mean, log_variance = self.ends(self.features(images)).chunk(2, dim=1)
        return mean, log_variance


class Decoder(nn.Module):
    """Codes `(B, D)` to images `(B, C, H, W)` in [0, 1].

    A linear layer, and transposed convolutions of 6x6 and stride 2 back through the image sizes of
    the encoder. Batch normalization and ReLU follow each layer except the last, which a sigmoid
    follows.
    """

    def __init__(self, shape: Shape, latent_dim: int, channels: Sequence[int]) -> None:
        super().__init__()
        sizes = _image_sizes(shape, len(channels))
        features = _count_features(shape, channels)
        self.start = nn.Sequential(
            nn.Linear(latent_dim, features, bias=False),
            nn.BatchNorm1d(features),
            nn.ReLU(),
            nn.Unflatten(1, (channels[-1], *sizes[-1])),
        )
        layers: list[nn.Module] = []
        widths = [shape[0], *channels]
        for i in reversed(range(len(channels))):
            output_padding = tuple(
                larger - 2 * smaller for larger, smaller in zip(sizes[i], sizes[i + 1], strict=True)
            )
            is_last = i == 0
            layers.append(
                nn.ConvTranspose2d(
                    widths[i + 1],
                    widths[i],
                    kernel_size=6,
                    stride=2,
                    padding=2,
                    output_padding=output_padding,  # type: ignore[arg-type]
                    bias=is_last,
                )
            )
            layers += [nn.Sigmoid()] if is_last else [nn.BatchNorm2d(widths[i]), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, codes: Tensor) -> Tensor:
        """Return the images."""
        images: Tensor = self.layers(self.start(codes))
        return images


class Discriminator(nn.Module):
    """Images `(B, C, H, W)` to the logits `(B,)` of the probability that they are real.

    Convolutions of 6x6 and stride 2, each with batch normalization and ReLU, and a linear layer.
    """

    def __init__(self, shape: Shape, channels: Sequence[int]) -> None:
        super().__init__()
        self.features = _make_convolutions(shape, channels, kernel=6, padding=2)
        self.end = nn.Linear(_count_features(shape, channels), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.end(self.features(images))
        return logits[:, 0]


def _make_convolutions(
    shape: Shape, channels: Sequence[int], kernel: int, padding: int
) -> nn.Sequential:
    """Build strided convolutions with batch normalization and ReLU, and a flattening."""
    layers: list[nn.Module] = []
    for in_channels, out_channels in pairwise([shape[0], *channels]):
        layers += [
            nn.Conv2d(in_channels, out_channels, kernel, stride=2, padding=padding, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Flatten())


def _image_sizes(shape: Shape, halvings: int) -> list[tuple[int, int]]:
    """Return height and width of the image, and after each halving.

    Raises:
        UserError: the image is too small for so many halvings.
    """
    _, height, width = shape
    if min(height, width) < 2**halvings:
        smallest = 2**halvings
        raise UserError(
            f"images of {height}x{width} are too small to be halved {halvings} times, once for "
            f"each of a manifold's channels: they need at least {smallest}x{smallest} pixels"
        )
    return [(height >> i, width >> i) for i in range(halvings + 1)]


def _count_features(shape: Shape, channels: Sequence[int]) -> int:
    """Count the numbers of an image after all convolutions."""
    height, width = _image_sizes(shape, len(channels))[-1]
    return channels[-1] * height * width
