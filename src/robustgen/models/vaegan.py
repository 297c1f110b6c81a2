"""VAE-GANs, which learn the manifold of a data set, one model per class or one for all classes.

Source: Stutz et al., CVPR 2019, section 3.2 and supplement, after Larsen et al., ICML 2016.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustgen.backend import PLAIN, Backend
from robustgen.data.decoders import ClassDecoders, LearnedManifold
from robustgen.data.split import Split
from robustgen.errors import UserError
from robustgen.io.tensors import load_tensors, save_tensors
from robustgen.specs import LATENT_BOUND, VaeGanConfig

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""
IMAGES_PER_CHUNK = 1000
"""Images that are encoded or decoded together without gradients, to bound the memory."""


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


class VaeGan(nn.Module):
    """Encoder, decoder and discriminator for images of one shape.

    Attributes:
        shape: channels, height and width of an image.
        config: settings of the networks and of training.
    """

    def __init__(self, shape: Shape, config: VaeGanConfig) -> None:
        super().__init__()
        self.shape, self.config = shape, config
        self.encoder = Encoder(shape, config.latent_dim, config.channels)
        self.decoder = Decoder(shape, config.latent_dim, config.channels)
        self.discriminator = Discriminator(shape, config.channels)

    def initialize(self, generator: torch.Generator) -> None:
        """Set Glorot-uniform weights (Glorot and Bengio 2010) and zero biases."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter, generator=generator)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.ConvTranspose2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return codes `(B, D)` of images `(B, C, H, W)`: means of the posterior, in eval mode."""
        return torch.cat(
            [self.encoder(chunk)[0] for chunk in torch.split(images, IMAGES_PER_CHUNK)]
        )

    def save(self, path: str | Path, settings: dict[str, Any], provenance: dict[str, str]) -> None:
        """Write the weights as one safetensors file, with settings and provenance in its header."""
        header = {
            "shape": self.shape,
            "recipe": asdict(self.config),
            "settings": settings,
            "provenance": provenance,
        }
        save_tensors(path, dict(self.state_dict()), header)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: torch.device | str = "cpu",
        backend: Backend = PLAIN,
    ) -> "VaeGan":
        """Load a saved VAE-GAN, in eval mode and with constant weights.

        Args:
            path: a file that `save` wrote.
            device: device of the weights.
            backend: prepares the layers.

        Raises:
            UserError: the file is missing or damaged.
        """
        state, header = load_tensors(path, device)
        config = VaeGanConfig.from_mapping(header["recipe"])
        with torch.device("meta"):
            model = cls(tuple(header["shape"]), config)
        model.load_state_dict(state, assign=True)
        backend.prepare(model)
        return model.eval().requires_grad_(False)


def encode(models: Sequence[VaeGan], data: Split) -> Tensor:
    """Return codes `(N, D)` of all images of `data`, from the model of their class or the only one.

    Codes are clamped to `specs.LATENT_BOUND`, as attacks clamp them.
    """
    shape = len(data), models[0].config.latent_dim
    codes = data.source_images.new_empty(shape, dtype=torch.float32)
    for label, model in enumerate(models):
        rows = torch.arange(len(data), device=codes.device)
        if len(models) > 1:
            rows = torch.nonzero(data.labels == label)[:, 0]
        for chunk in torch.split(rows, IMAGES_PER_CHUNK):
            codes[chunk] = model.encode(data.select(chunk).images())
    return codes.clamp_(-LATENT_BOUND, LATENT_BOUND)


def load_manifold(files: Sequence[str], data: Split, split: str, backend: Backend = PLAIN) -> Split:
    """Load a learned manifold: `data` with its codes and the decoders.

    Args:
        files: the file of the codes, which names the space, and the VAE-GAN of each class.
        data: the whole split, or its first rows; select rows afterwards with `select`.
        split: "train" or "test".
        backend: prepares the decoders.

    Raises:
        UserError: a file is missing or damaged, the first one has no codes, or there are neither
            one VAE-GAN nor one for each class.
    """
    if len(files) < 2:
        raise UserError("a learned manifold has a file of codes and one or more VAE-GANs")
    device = data.labels.device
    codes, header = load_tensors(files[0], device)
    if "space" not in header or split not in codes:
        raise UserError(f"{files[0]} has no codes of the split {split!r} on a learned manifold")
    if len(files) - 1 not in (1, len(data.classes)):
        raise UserError(
            f"there are {len(files) - 1} VAE-GANs, but there must be one, or one for each of the "
            f"{len(data.classes)} classes"
        )
    decoders = [backend.prepare_decoder(VaeGan.load(path, device).decoder) for path in files[1:]]
    manifold = LearnedManifold(codes[split][: len(data)], ClassDecoders(decoders))
    return replace(data, learned={header["space"]: manifold})
