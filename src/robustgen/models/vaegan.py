"""VAE-GANs: a manifold learned from images, one model per class or one for all of them.

Source: Stutz et al., CVPR 2019, section 3.2 and supplement, after Larsen et al., ICML 2016.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from robustgen.data.learned_manifold import BOUND, Decoders, Learned
from robustgen.data.split import Split
from robustgen.io.tensors import load_tensors, save_tensors
from robustgen.models.vaegan_networks import Decoder, Discriminator, Encoder, Shape

AT_ONCE = 1000
"""Images encoded or decoded at once where nothing is learned: bounds the memory."""


@dataclass(frozen=True)
class Recipe:
    """How a VAE-GAN is built and trained; the defaults are the paper's for FONTS.

    Attributes:
        latent: D, numbers in a code.
        channels: of the convolutions, from the image inwards.
        beta: weight of the L1 reconstruction loss, which is summed over an image.
        gamma: weight of the decoder's loss against the discriminator; with 0 there is none, and
            this is a VAE (Kingma & Welling, ICLR 2014).
        epochs: passes over the images.
        batch_size: images per update.
        rate: Adam's learning rate in the first epoch.
        rate_decay: factor on the rate after each epoch.
        weight_decay: L2 penalty.
    """

    latent: int = 10
    channels: tuple[int, ...] = (64, 128, 256)
    beta: float = 3.0
    gamma: float = 1.0
    epochs: int = 10
    batch_size: int = 100
    rate: float = 0.005
    rate_decay: float = 0.9
    weight_decay: float = 1e-4

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """From a mapping, whose channels may be a list as in a file."""
        return cls(**{**settings, "channels": tuple(settings["channels"])})


class VaeGan(nn.Module):
    """Encoder, decoder and discriminator for images of one shape."""

    def __init__(self, shape: Shape, recipe: Recipe) -> None:
        super().__init__()
        self.shape, self.recipe = shape, recipe
        self.encoder = Encoder(shape, recipe.latent, recipe.channels)
        self.decoder = Decoder(shape, recipe.latent, recipe.channels)
        self.discriminator = Discriminator(shape, recipe.channels)

    def initialize(self, rng: torch.Generator) -> None:
        """Glorot-uniform weights (Glorot & Bengio 2010), zero biases."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter, generator=rng)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.ConvTranspose2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def channels_last(self) -> "VaeGan":
        """This, with its convolutions laid out as they are fastest.

        A copy, since of a single channel every layout is also the other one: torch then takes the
        one it was made in, and all layers after that one would mix both.
        """
        for weight in self.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.clone(memory_format=torch.channels_last)
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Codes `(B, D)`, the means of the posterior, of images `(B, C, H, W)`; in eval mode."""
        return torch.cat([self.encoder(part)[0] for part in torch.split(images, AT_ONCE)])

    def save(self, path: str | Path, settings: dict[str, Any], provenance: dict[str, str]) -> None:
        """Write weights, and in the header what made them, as one safetensors file."""
        about = {
            "shape": self.shape,
            "recipe": asdict(self.recipe),
            "settings": settings,
            "provenance": provenance,
        }
        save_tensors(path, dict(self.state_dict()), about)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "VaeGan":
        """A VAE-GAN as saved, in eval mode, with constant weights.

        Raises:
            UserError: the file is missing or damaged.
        """
        state, about = load_tensors(path, device)
        recipe = Recipe.of(about["recipe"])
        with torch.device("meta"):
            model = cls(tuple(about["shape"]), recipe)
        model.load_state_dict(state, assign=True)
        return model.channels_last().eval().requires_grad_(False)


def encode(models: Sequence[VaeGan], data: Split) -> Tensor:
    """The codes `(N, D)` of all of `data`, by the model of each image's class, or by the only one.

    Codes beyond `BOUND` are moved to it, where attacks would move them.
    """
    codes = data.bank.new_empty((len(data), models[0].recipe.latent), dtype=torch.float32)
    for label, model in enumerate(models):
        rows = torch.arange(len(data), device=codes.device)
        if len(models) > 1:
            rows = torch.nonzero(data.labels == label)[:, 0]
        for some in torch.split(rows, AT_ONCE):
            codes[some] = model.encode(data.take(some).images())
    return codes.clamp_(-BOUND, BOUND)


def learned(files: Sequence[str], data: Split, split: str) -> Split:
    """`data` with its codes on a learned manifold.

    Args:
        files: the codes (named by the space) and then the VAE-GAN of each class.
        data: the first rows of `split`.
        split: "train" or "test".
    """
    device = data.labels.device
    codes, about = load_tensors(files[0], device)
    decoders = Decoders([VaeGan.load(path, device).decoder.folded() for path in files[1:]])
    return replace(data, learned={about["space"]: Learned(codes[split][: len(data)], decoders)})
