"""The training of VAE-GANs.

Source: Stutz et al., CVPR 2019, section 3.2 and supplement, after Larsen et al., ICML 2016.
"""

import logging
import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.acceleration.adam import Optimizer, adam, set_rate
from robustgen.data.split import Split, batches
from robustgen.errors import UserError
from robustgen.io.checkpoints import Checkpoint, gathered, restore
from robustgen.io.schemas import VAEGAN_CURVES, empty
from robustgen.jobs.runtime import progress
from robustgen.models.vaegan import VaeGan

log = logging.getLogger("robustgen")


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
        set_rate(optimizer, rate)
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
