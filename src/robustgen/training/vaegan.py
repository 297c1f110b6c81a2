"""The training of VAE-GANs (Stutz et al., CVPR 2019, supplement; Larsen et al., ICML 2016)."""

import logging
import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.backend import PLAIN, Backend, Optimizer, set_learning_rate
from robustgen.data.split import Split, shuffle_into_batches
from robustgen.errors import UserError
from robustgen.io.checkpoints import Checkpoint
from robustgen.io.schemas import VAEGAN_CURVES, empty
from robustgen.models.vaegan import VaeGan
from robustgen.progress import log_progress
from robustgen.training.resumable import load_state_tensors, state_tensors

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
    discriminator is trained to distinguish images from reconstructions (Stutz et al., supplement).
    With gamma 0 the discriminator is not trained, and the two curves about it are empty.

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
    optimizers = _make_optimizers(model, backend)
    state = backend.prepare(model).train().state_dict()
    curves = _resume(checkpoint, state, optimizers, generator)
    for epoch in log_progress(range(len(curves["epoch"]) + 1, config.epochs + 1), "epoch"):
        lr = config.learning_rate * config.learning_rate_decay ** (epoch - 1)
        means = _train_epoch(model, optimizers, lr, data, generator)
        _append_epoch(curves, epoch, lr, means)
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
    """Run `train_vaegan`, or read the same trained model from a file if there is one.

    A data set to which a class is added has new files, but the images of its other classes are the
    same. This function reuses the VAE-GANs of those classes.

    Args:
        model, data, generator, checkpoint, backend: as for `train_vaegan`.
        finished: the file of the trained model and its learning curves, read and written here.

    Returns:
        Learning curves, as `train_vaegan` does.
    """
    saved = finished.read()
    if saved is None:
        curves = train_vaegan(model, data, generator, checkpoint, backend)
        finished.write(model.state_dict(), {"curves": curves})
        return curves
    log.info("reused: the VAE-GAN was trained before with the same images, settings and code")
    tensors = {f"state.{name}": tensor for name, tensor in saved[0].items()}
    load_state_tensors(tensors, model.state_dict(), [], [])
    model.eval()
    return dict(saved[1]["curves"])


def _make_optimizers(model: VaeGan, backend: Backend) -> list[Optimizer]:
    """Return optimizers of encoder, decoder and, unless gamma is 0, discriminator."""
    config = model.config
    networks = [model.encoder, model.decoder, *([model.discriminator] if config.gamma else [])]
    return [
        backend.make_adam(network.parameters(), config.learning_rate, config.weight_decay)
        for network in networks
    ]


def _resume(
    checkpoint: Checkpoint | None,
    state: dict[str, Tensor],
    optimizers: Sequence[Optimizer],
    generator: torch.Generator,
) -> dict[str, list[Any]]:
    """Return the learning curves of a checkpoint; empty ones without a checkpoint.

    With a checkpoint, `state`, `optimizers` and `generator` are restored from it.
    """
    saved = checkpoint.read() if checkpoint else None
    if saved is None:
        return empty(VAEGAN_CURVES)
    tensors, metadata = saved
    load_state_tensors(tensors, state, optimizers, [generator])
    curves: dict[str, list[Any]] = metadata["curves"]
    log.info("resuming after epoch %d", len(curves["epoch"]))
    return curves


def _append_epoch(
    curves: dict[str, list[Any]], epoch: int, lr: float, means: Sequence[float]
) -> None:
    """Append a finished epoch to `curves`; without a discriminator two columns get None.

    Args:
        curves: columns of `schemas.VAEGAN_CURVES`.
        epoch: number of the epoch, from 1.
        lr: learning rate of the epoch.
        means: as returned by `_train_epoch`.

    Raises:
        UserError: one of `means` is not finite.
    """
    if not all(map(math.isfinite, means)):
        raise UserError(
            f"training of the VAE-GAN diverged: a loss is not finite in epoch {epoch} at "
            f"learning rate {lr:.3g}; set a lower learning_rate in the block manifolds"
        )
    for column, value in zip_longest(curves.values(), (epoch, lr, *means)):
        column.append(value)
    log.info("epoch %d: L1 distance %.2f, KL divergence %.2f nat", epoch, means[1], means[0])


def _train_epoch(
    model: VaeGan,
    optimizers: Sequence[Optimizer],
    lr: float,
    data: Split,
    generator: torch.Generator,
) -> list[float]:
    """Train on all images once, at learning rate `lr`.

    Returns:
        The means over all batches of the numbers that `_update` returns.
    """
    for optimizer in optimizers:
        set_learning_rate(optimizer, lr)
    sums = torch.zeros(4 if model.config.gamma else 2, dtype=torch.float64)
    epoch_batches = shuffle_into_batches(len(data), model.config.batch_size, [generator])
    for rows in epoch_batches:
        images = data.select(rows[0].to(data.labels.device)).images()
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
        Mean Kullback-Leibler divergence (nat) and mean L1 distance. Unless gamma is 0, also the
        mean adversarial loss of the decoder and the mean loss of the discriminator (nat).
    """
    config = model.config
    mean, log_variance = model.encoder(images)
    noise = torch.randn(mean.shape, generator=generator).to(mean)
    reconstructions = model.decoder(mean + (log_variance / 2).exp() * noise)
    divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum(1).mean() / 2
    distance = (reconstructions - images).abs().flatten(1).sum(1).mean()
    loss, losses = divergence + config.beta * distance, [divergence, distance]
    if config.gamma:
        model.discriminator.requires_grad_(False)  # its own loss updates it below
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
