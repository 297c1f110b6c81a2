"""The training of VAE-GANs (Stutz et al., CVPR 2019, supplement; Larsen et al., ICML 2016)."""

import logging
import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.backend import PLAIN, Backend
from robustgen.data.split import Split, batches
from robustgen.errors import UserError
from robustgen.io.checkpoints import Checkpoint, load_state_tensors, state_tensors
from robustgen.io.schemas import VAEGAN_CURVES, empty
from robustgen.models.vaegan import VaeGan
from robustgen.optimizers import Optimizer, set_learning_rate
from robustgen.progress import log_progress

log = logging.getLogger("robustgen")


def train_vaegan(
    model: VaeGan,
    data: Split,
    generator: torch.Generator,
    checkpoint: Checkpoint | None = None,
    backend: Backend = PLAIN,
) -> dict[str, list[Any]]:
    """Train an initialized VAE-GAN in place on all images of `data`, and leave it in eval mode.

    Encoder and decoder minimize the Kullback-Leibler divergence of the posterior from the standard
    normal prior, plus beta times the L1 distance of the reconstruction, plus gamma times the
    cross-entropy of the discriminator's output for the reconstruction and the label "real". The
    discriminator learns to tell images from reconstructions (Stutz et al., supplement). With gamma
    0 the discriminator is not trained, and its two curves are empty.

    Args:
        model: initialized by `VaeGan.initialize`.
        data: the images of one class, or of all classes.
        generator: a CPU generator for the order of the images and the noise of the codes.
        checkpoint: read to resume an interrupted run, and written after epochs. The caller deletes
            it.
        backend: prepares the layers and makes the optimizers.

    Returns:
        Learning curves, columns of `schemas.VAEGAN_CURVES`.

    Raises:
        UserError: a loss is no longer finite.
    """
    config = model.config
    networks = [model.encoder, model.decoder, *([model.discriminator] if config.gamma else [])]
    optimizers = [
        backend.make_adam(network.parameters(), config.learning_rate, config.weight_decay)
        for network in networks
    ]
    curves = empty(VAEGAN_CURVES)
    state = backend.prepare(model).train().state_dict()
    if checkpoint and (saved := checkpoint.read()):
        load_state_tensors(saved[0], state, optimizers, [generator])
        curves = saved[1]["curves"]
        log.info("going on after epoch %d", len(curves["epoch"]))
    for epoch in log_progress(range(len(curves["epoch"]) + 1, config.epochs + 1), "epoch"):
        lr = config.learning_rate * config.learning_rate_decay ** (epoch - 1)
        means = _train_epoch(model, optimizers, lr, data, generator)
        if not all(map(math.isfinite, means)):
            raise UserError(
                f"training of the VAE-GAN diverged: a loss is not finite in epoch {epoch} at "
                f"learning rate {lr:.3g}; set a lower learning_rate"
            )
        for column, value in zip_longest(curves.values(), (epoch, lr, *means)):
            column.append(value)
        log.info("epoch %d: L1 %.2f, divergence %.2f", epoch, means[1], means[0])
        if checkpoint:
            checkpoint.write(state_tensors(state, optimizers, [generator]), {"curves": curves})
    model.eval()
    return curves


def train_vaegan_once(
    model: VaeGan,
    data: Split,
    generator: torch.Generator,
    checkpoint: Checkpoint,
    finished: Checkpoint,
    backend: Backend = PLAIN,
) -> dict[str, list[Any]]:
    """Run `train_vaegan`, unless a file has the same model, trained in the same way before.

    A data set that gains a class has other files, but the same images of its previous classes.
    Their VAE-GANs are not trained again.

    Args:
        model, data, generator, checkpoint, backend: as for `train_vaegan`.
        finished: the file of the trained model and its learning curves.
    """
    saved = finished.read()
    if saved is None:
        curves = train_vaegan(model, data, generator, checkpoint, backend)
        finished.write(model.state_dict(), {"curves": curves})
        return curves
    log.info("trained before on the same images in the same way")
    tensors = {f"state.{name}": tensor for name, tensor in saved[0].items()}
    load_state_tensors(tensors, model.state_dict(), [], [])
    model.eval()
    return dict(saved[1]["curves"])


def _train_epoch(
    model: VaeGan,
    optimizers: Sequence[Optimizer],
    lr: float,
    data: Split,
    generator: torch.Generator,
) -> list[float]:
    """One pass over the images; returns the means of what `_update` returns."""
    for optimizer in optimizers:
        set_learning_rate(optimizer, lr)
    sums = torch.zeros(4 if model.config.gamma else 2, dtype=torch.float64)
    epoch_batches = batches(len(data), model.config.batch_size, [generator])
    for rows in epoch_batches:
        images = data.take(rows[0].to(data.labels.device)).images()
        sums += torch.tensor(_update(model, optimizers, images, generator))
    return [float(mean) for mean in sums / len(epoch_batches)]


def _update(
    model: VaeGan,
    optimizers: Sequence[Optimizer],
    images: Tensor,
    generator: torch.Generator,
) -> list[float]:
    """Update encoder, decoder and, unless gamma is 0, discriminator.

    Returns:
        Mean divergence (nat) and L1 distance; with a discriminator also the mean losses (nat) of
        the decoder against it and of the discriminator.
    """
    config = model.config
    mean, log_variance = model.encoder(images)
    noise = torch.randn(mean.shape, generator=generator).to(mean)
    reconstructions = model.decoder(mean + (log_variance / 2).exp() * noise)
    divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum(1).mean() / 2
    distance = (reconstructions - images).abs().flatten(1).sum(1).mean()
    loss, losses = divergence + config.beta * distance, [divergence, distance]
    if config.gamma:
        model.discriminator.requires_grad_(False)  # it is updated below, by its own loss
        decoder_loss = F.softplus(-model.discriminator(reconstructions)).mean()
        loss = loss + config.gamma * decoder_loss
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    optimizers[0].step()
    optimizers[1].step()
    if config.gamma:
        model.discriminator.requires_grad_(True)
        real_logits = model.discriminator(images)
        fake_logits = model.discriminator(reconstructions.detach())
        discriminator_loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        discriminator_loss.backward()  # type: ignore[no-untyped-call]
        optimizers[2].step()
        losses += [decoder_loss, discriminator_loss]
    return [term.item() for term in losses]
