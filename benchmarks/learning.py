"""Epochs of training compared with plain loops over single models."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from searches import add_manifolds
from setting import (
    DEVICE,
    VAEGANS,
    Row,
    Variant,
    count_flop,
    load_letters,
    make_cohort,
    measure,
)
from torch import Tensor, nn

from robustgen.attacks.spaces import SPACES
from robustgen.backend import PLAIN, Backend
from robustgen.data.split import Split
from robustgen.models.vaegan import VaeGan
from robustgen.sampling import make_generator
from robustgen.specs import AdversarialTraining, SearchConfig, Threat, TrainConfig, VaeGanConfig
from robustgen.training.classifiers import Generators, train
from robustgen.training.vaegan import train_vaegan

IMAGES, MODELS, RADIUS, BATCH_SIZE = 1000, 3, 0.3, 100
EPOCH = TrainConfig(
    epochs=1, batch_size=BATCH_SIZE, learning_rate=0.01, learning_rate_decay=0.95, weight_decay=1e-4
)
METHODS = {"normal": None} | {
    name: AdversarialTraining(Threat(space, "linf", RADIUS), SearchConfig("signed", 0.04, steps))
    for name, space, steps in (
        ("adversarial", "image", 5),
        ("on the true manifold", "true_manifold", 5),
        ("on a learned manifold", "learned_manifold", 5),
        ("transformation", "transformation", 5),
        ("augmentation", "transformation", 0),
    )
}


def train_epoch(data: Split, method: AdversarialTraining | None, n_models: int = MODELS) -> None:
    """Train a cohort for one epoch."""
    batch_generators, attack_generators = (
        [make_generator(0, purpose, seed) for seed in range(n_models)]
        for purpose in ("batches", "attacks")
    )
    generators = Generators(batch_generators, attack_generators)
    train(make_cohort(n_models), data, EPOCH, method, generators)


def train_epoch_in_loop(data: Split, method: AdversarialTraining | None) -> None:
    """Train the models of a cohort for one epoch, one after another."""
    cohort = make_cohort(MODELS)
    for seed in range(MODELS):
        model, rng = cohort.member(seed), make_generator(0, "batches", seed)
        optimizer = torch.optim.Adam(model.parameters(), EPOCH.learning_rate, weight_decay=1e-4)
        for rows in torch.randperm(len(data), generator=rng).split(BATCH_SIZE):
            batch = data.select(rows)
            clean_count = len(batch) if method is None else len(batch) // 2
            x, y = batch.images(), batch.labels
            if method is not None:
                examples = attack_plainly(
                    model, batch.select(slice(clean_count, None)), method, rng
                )
                x = torch.cat([x[:clean_count], examples])
            losses = F.cross_entropy(model.train()(x), y, reduction="none")
            loss = (
                losses.mean()
                if method is None
                else (losses[:clean_count].mean() + losses[clean_count:].mean()) / 2
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def attack_plainly(
    model: nn.Module, batch: Split, method: AdversarialTraining, rng: torch.Generator
) -> Tensor:
    """Return the images with the highest loss of all signed steps."""
    space = SPACES[method.threat.space](batch.expand(1))
    codes = space.sample(method.threat, [rng])
    if not method.search.steps:
        return space.decode(codes)[0]
    best_loss = torch.full_like(batch.labels, -torch.inf, dtype=codes.dtype)
    best_codes = codes
    model.eval()
    for step in range(method.search.steps + 1):
        codes = codes.detach().requires_grad_()
        losses = F.cross_entropy(model(space.decode(codes)[0]), batch.labels, reduction="none")
        improves = (losses > best_loss)[None, :, *[None] * (codes.dim() - 2)]
        best_codes = torch.where(improves, codes.detach(), best_codes)
        best_loss = torch.maximum(best_loss, losses.detach())
        if step < method.search.steps:
            (gradient,) = torch.autograd.grad(losses.sum(), codes)
            codes = space.project(codes.detach() + 0.04 * gradient.sign(), method.threat)
    with torch.no_grad():
        return space.decode(best_codes)[0]


def train_vaegan_epoch(data: Split, backend: Backend, gamma: float) -> None:
    """Train a VAE-GAN for one epoch, with the layers of a backend."""
    model = VaeGan((1, 28, 28), VaeGanConfig(channels=(16, 32, 64), gamma=gamma, epochs=1))
    model.initialize(make_generator(0, "benchmark"))
    train_vaegan(model.to(DEVICE), data, make_generator(0, "training"), backend=backend)


def count_epoch_flop(data: Split, method: AdversarialTraining | None) -> float:
    """Count the FLOP of an epoch per image and model."""
    return count_flop(partial(train_epoch_in_loop, data, method)) / MODELS / len(data)


def compare_cohort_sizes(data: Split) -> list[Row]:
    """Measure epochs of adversarial training with 1, 5 and 20 models, per model."""
    data, method = data.select(slice(500)).materialize(), METHODS["adversarial"]
    variants = {
        f"cohort of {n_models}": Variant(
            partial(train_epoch, data, method, n_models), n_models * len(data)
        )
        for n_models in (1, 5, 20)
    }
    benchmark = "epoch of training, adversarial, per model"
    return measure(benchmark, variants, count_epoch_flop(data, method))


def compare_methods(data: Split, plain_data: Split) -> list[Row]:
    """Measure epochs of each method beside plain loops."""
    rows: list[Row] = []
    for name, method in METHODS.items():
        runs: dict[str, Callable[[], None]] = {
            "plain loop": partial(train_epoch_in_loop, plain_data, method),
            "robustgen": partial(train_epoch, data, method),
        }
        rows += measure(
            f"epoch of training, {name}, {MODELS} models",
            {variant: Variant(run, MODELS * IMAGES) for variant, run in runs.items()},
            count_epoch_flop(plain_data, method),
        )
    return rows


def compare_vaegans(data: Split) -> list[Row]:
    """Measure epochs of VAE-GANs with and without discriminator."""
    rows: list[Row] = []
    for gamma in (0.0, 1.0):
        runs = {
            "PyTorch's layers": partial(train_vaegan_epoch, data, PLAIN, gamma),
            "robustgen": partial(train_vaegan_epoch, data, VAEGANS, gamma),
        }
        rows += measure(
            f"epoch of a VAE-GAN {'with' if gamma else 'without'} discriminator",
            {variant: Variant(run, IMAGES) for variant, run in runs.items()},
            count_flop(runs["PyTorch's layers"]) / IMAGES,
        )
    return rows


def compare_sizes(data: Split, flop: float) -> list[Row]:
    """Measure epochs of adversarial training with more and more images."""
    method = METHODS["adversarial"]
    variants = {
        f"{size} images": Variant(
            partial(train_epoch, data.select(slice(size)).materialize(), method), MODELS * size
        )
        for size in (500, 2000, 10_000)
    }
    return measure("epoch of training, adversarial, over N", variants, flop, rounds=3)


def rows() -> list[Row]:
    """Measure all epochs, on images that are decoded in advance."""
    data = load_letters(train_images_per_glyph=10)["train"]
    manifold_data, plain_data = add_manifolds(data.select(slice(IMAGES)).materialize())
    flop = count_epoch_flop(manifold_data, METHODS["adversarial"])
    return [
        *compare_cohort_sizes(data),
        *compare_methods(manifold_data, plain_data),
        *compare_vaegans(manifold_data),
        *compare_sizes(data, flop),
    ]
