"""VAE-GANs: a manifold learned from images, one model per class or one for all of them.

Source: Stutz et al., CVPR 2019, section 3.2 and supplement, after Larsen et al., ICML 2016.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustgen.adam import Optimizer, adam
from robustgen.checkpoints import Checkpoint, gathered, restore
from robustgen.datasets import Split, batches
from robustgen.errors import UserError
from robustgen.job import progress
from robustgen.manifolds import BOUND, Decoders, Learned
from robustgen.networks.vaegan import Decoder, Discriminator, Encoder, Shape
from robustgen.tables import VAEGAN_CURVES, empty
from robustgen.tensors import load_tensors, save_tensors

log = logging.getLogger("robustgen")

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
    """`data` with its codes on a learned manifold, if there are files of one.

    Args:
        files: none, or the codes (named by the space) and then the VAE-GAN of each class.
        data: the first rows of `split`.
        split: "train" or "test".
    """
    if not files:
        return data
    device = data.labels.device
    codes, about = load_tensors(files[0], device)
    decoders = Decoders([VaeGan.load(path, device).decoder.folded() for path in files[1:]])
    return replace(data, learned={about["space"]: Learned(codes[split][: len(data)], decoders)})


def train(
    model: VaeGan, data: Split, rng: torch.Generator, checkpoint: Checkpoint | None = None
) -> dict[str, list[Any]]:
    """Train an initialized VAE-GAN in place on all images of `data`, and leave it in eval mode.

    Encoder and decoder lower the Kullback-Leibler divergence of the posterior from the standard
    normal prior, plus beta times the L1 distance of the reconstruction, plus gamma times the
    cross-entropy of the discriminator's answer to the reconstruction and "real"; the discriminator
    tells images from reconstructions (Stutz et al., supplement). With gamma 0 the discriminator has
    no say: it is left as it is, and its two curves are empty.

    Args:
        model: initialized by `VaeGan.initialize`.
        data: the images of the class, or of all of them.
        rng: a CPU generator of the order of images, and of the noise.
        checkpoint: where an interrupted run is gone on with, and the state is written at ends of
            epochs; the caller removes it.

    Returns:
        Learning curves, columns of `tables.VAEGAN_CURVES`.

    Raises:
        UserError: a loss is no longer finite.
    """
    recipe = model.recipe
    parts = [model.encoder, model.decoder, *([model.discriminator] if recipe.gamma else [])]
    optimizers = [adam(part.parameters(), recipe.rate, recipe.weight_decay) for part in parts]
    curves = empty(VAEGAN_CURVES)
    state = model.channels_last().train().state_dict()
    if checkpoint and (known := checkpoint.read()):
        restore(known[0], state, optimizers, [rng])
        curves = known[1]["curves"]
        log.info("going on after epoch %d", len(curves["epoch"]))
    for epoch in progress(range(len(curves["epoch"]) + 1, recipe.epochs + 1), "epoch"):
        rate = recipe.rate * recipe.rate_decay ** (epoch - 1)
        means = _epoch(model, optimizers, rate, data, rng)
        if not all(map(math.isfinite, means)):
            raise UserError(
                f"training of the VAE-GAN diverged: a loss is not finite in epoch {epoch} at "
                f"learning rate {rate:.3g}; set a lower rate"
            )
        for column, value in zip_longest(curves.values(), (epoch, rate, *means)):
            column.append(value)
        log.info("epoch %d: L1 %.2f, divergence %.2f", epoch, means[1], means[0])
        if checkpoint:
            checkpoint.write(gathered(state, optimizers, [rng]), {"curves": curves})
    model.eval()
    return curves


def _epoch(
    model: VaeGan,
    optimizers: Sequence[Optimizer],
    rate: float,
    data: Split,
    rng: torch.Generator,
) -> list[float]:
    """One pass over the images; the means of what `_update` returns."""
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = rate
    sums = torch.zeros(4 if model.recipe.gamma else 2, dtype=torch.float64)
    every = batches(len(data), model.recipe.batch_size, [rng])
    for rows in every:
        images = data.take(rows[0].to(data.labels.device)).images()
        sums += torch.tensor(_update(model, optimizers, images, rng))
    return [float(mean) for mean in sums / len(every)]


def train_once(
    model: VaeGan,
    data: Split,
    rng: torch.Generator,
    checkpoint: Checkpoint,
    finished: Checkpoint,
) -> dict[str, list[Any]]:
    """As `train`, but what was trained before in the same way is taken from `finished`.

    A data set that gains a class has other files, but the same images of the classes it had: their
    VAE-GANs are found again.

    Args:
        model, data, rng, checkpoint: those of `train`.
        finished: where the trained model and its curves are kept.
    """
    known = finished.read()
    if known is None:
        curves = train(model, data, rng, checkpoint)
        finished.write(model.state_dict(), {"curves": curves})
        return curves
    log.info("trained before on the same images in the same way")
    restore({f"state.{name}": held for name, held in known[0].items()}, model.state_dict(), [], [])
    model.eval()
    return dict(known[1]["curves"])


def _update(
    model: VaeGan,
    optimizers: Sequence[Optimizer],
    images: Tensor,
    rng: torch.Generator,
) -> list[float]:
    """One step of each network.

    Returns:
        Divergence, L1, and with a discriminator the decoder's and its own loss: means, nat.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    mean, log_variance = model.encoder(images)
    noise = torch.randn(mean.shape, generator=rng).to(mean)
    made = model.decoder(mean + (log_variance / 2).exp() * noise)
    divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum(1).mean() / 2
    distance = (made - images).abs().flatten(1).sum(1).mean()
    loss, losses = divergence + model.recipe.beta * distance, [divergence, distance]
    if model.recipe.gamma:
        model.discriminator.requires_grad_(False)  # its own step comes below
        fooled = F.softplus(-model.discriminator(made)).mean()
        loss = loss + model.recipe.gamma * fooled
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    optimizers[0].step()
    optimizers[1].step()
    if model.recipe.gamma:
        model.discriminator.requires_grad_(True)
        real, fake = model.discriminator(images), model.discriminator(made.detach())
        told = F.softplus(-real).mean() + F.softplus(fake).mean()
        told.backward()  # type: ignore[no-untyped-call]
        optimizers[2].step()
        losses += [fooled, told]
    return [term.item() for term in losses]
