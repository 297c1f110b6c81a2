"""Epochs of training beside plain loops over single models."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from searches import with_manifold
from setting import COHORTS, HERE, LETTERS, VAEGANS, Row, Way, letters, measured, operations
from torch import Tensor, nn

from robustgen.attacks.spaces import SPACES
from robustgen.backend import PLAIN
from robustgen.data.split import Split
from robustgen.models.cohort import Cohort
from robustgen.models.vaegan import VaeGan
from robustgen.seeding import generator
from robustgen.specs import AdversarialTraining, SearchConfig, Threat, TrainConfig, VaeGanConfig
from robustgen.training.classifiers import Generators, train
from robustgen.training.vaegan import train_vaegan

IMAGES, MODELS, RADIUS, BATCH = 1000, 3, 0.3, 100
EPOCH = TrainConfig(
    epochs=1, batch_size=BATCH, learning_rate=0.01, learning_rate_decay=0.95, weight_decay=1e-4
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


def fresh(models: int) -> Cohort:
    """A cohort that has not learned."""
    cohort = Cohort("convnet", (1, 28, 28), len(LETTERS), range(models), COHORTS).to(HERE)
    cohort.initialize([generator(0, "initialization", seed) for seed in range(models)])
    return cohort


def ours(data: Split, method: AdversarialTraining | None, models: int = MODELS) -> None:
    """An epoch of a cohort."""
    rngs = [[generator(0, what, seed) for seed in range(models)] for what in ("batches", "attacks")]
    train(fresh(models), data, EPOCH, method, Generators(*rngs))


def plain_loop(data: Split, method: AdversarialTraining | None) -> None:
    """An epoch of as many single models."""
    cohort = fresh(MODELS)
    for seed in range(MODELS):
        model, rng = cohort.member(seed), generator(0, "batches", seed)
        optimizer = torch.optim.Adam(model.parameters(), EPOCH.learning_rate, weight_decay=1e-4)
        for rows in torch.randperm(len(data), generator=rng).split(BATCH):
            batch = data.take(rows)
            split = len(batch) if method is None else len(batch) // 2
            x, y = batch.images(), batch.labels
            if method is not None:
                made = attacked(model, batch.take(slice(split, None)), method, rng)
                x = torch.cat([x[:split], made])
            losses = F.cross_entropy(model.train()(x), y, reduction="none")
            loss = (
                losses.mean()
                if method is None
                else (losses[:split].mean() + losses[split:].mean()) / 2
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def attacked(
    model: nn.Module, batch: Split, method: AdversarialTraining, rng: torch.Generator
) -> Tensor:
    """The images of the highest loss that signed steps meet."""
    space = SPACES[method.threat.space](batch.expand(1))
    codes = space.sample(method.threat, [rng])
    if not method.search.steps:
        return space.decode(codes)[0]
    best, kept = torch.full_like(batch.labels, -torch.inf, dtype=codes.dtype), codes
    model.eval()
    for step in range(method.search.steps + 1):
        codes = codes.detach().requires_grad_()
        losses = F.cross_entropy(model(space.decode(codes)[0]), batch.labels, reduction="none")
        better = (losses > best)[None, :, *[None] * (codes.dim() - 2)]
        kept, best = torch.where(better, codes.detach(), kept), torch.maximum(best, losses.detach())
        if step < method.search.steps:
            (gradient,) = torch.autograd.grad(losses.sum(), codes)
            codes = space.project(codes.detach() + 0.04 * gradient.sign(), method.threat)
    with torch.no_grad():
        return space.decode(kept)[0]


def vaegan(images: Split, plain: bool, gamma: float) -> None:
    """An epoch of a VAE-GAN, with torch's own strided layers or ours."""
    model = VaeGan((1, 28, 28), VaeGanConfig(channels=(16, 32, 64), gamma=gamma, epochs=1))
    model.initialize(generator(0, "benchmark"))
    backend = PLAIN if plain else VAEGANS
    train_vaegan(model.to(HERE), images, generator(0, "training"), backend=backend)


def each(data: Split, method: AdversarialTraining | None) -> float:
    """Operations of an epoch for an image of a model."""
    return operations(partial(plain_loop, data, method)) / MODELS / len(data)


def cohorts(data: Split) -> list[Row]:
    """More and more models on as many images; a model alone is what counts."""
    some, method = data.take(slice(500)).materialize(), METHODS["adversarial"]
    ways = {
        f"cohort of {models}": Way(partial(ours, some, method, models), models * len(some))
        for models in (1, 5, 20)
    }
    return measured("epoch of training, adversarial, per model", ways, each(some, method))


def rows() -> list[Row]:
    """All methods, from images that are decoded before, and VAE-GANs."""
    data = letters(train_draws=10)["train"]
    some, plain = with_manifold(data.take(slice(IMAGES)).materialize())
    made = cohorts(data)
    for name, method in METHODS.items():
        ways: dict[str, Callable[[], None]] = {
            "plain loop": partial(plain_loop, plain, method),
            "robustgen": partial(ours, some, method),
        }
        made += measured(
            f"epoch of training, {name}, {MODELS} models",
            {way: Way(run, MODELS * IMAGES) for way, run in ways.items()},
            each(plain, method),
        )
    for gamma in (0.0, 1.0):
        ways = {
            "torch's layers": partial(vaegan, some, True, gamma),
            "robustgen": partial(vaegan, some, False, gamma),
        }
        named = "with" if gamma else "without"
        made += measured(
            f"epoch of a VAE-GAN {named} discriminator",
            {way: Way(run, IMAGES) for way, run in ways.items()},
            operations(ways["torch's layers"]) / IMAGES,
        )
    over = {
        f"{many} images": Way(
            partial(ours, data.take(slice(many)).materialize(), METHODS["adversarial"]),
            MODELS * many,
        )
        for many in (500, 2000, 10_000)
    }
    flop = each(some, METHODS["adversarial"])
    return made + measured("epoch of training, adversarial, over N", over, flop, rounds=3)
