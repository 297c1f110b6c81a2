"""How fast a machine does what a study asks of it, measured in some seconds on random images."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from pydantic import BaseModel

from robustgen import affine
from robustgen.attack import Search, search
from robustgen.cohort import Cohort
from robustgen.datasets import Split
from robustgen.distance import to_manifold
from robustgen.manifolds import Decoders, Learned
from robustgen.manifolds.training import train as train_vaegan
from robustgen.manifolds.vaegan import Recipe, VaeGan
from robustgen.seeding import generator
from robustgen.settings import LEARNED
from robustgen.spaces import SPACES, Threat
from robustgen.study import MANIFOLDS, Study
from robustgen.training import Generators, Schedule, train

BATCH, BATCHES, STEPS = 100, 3, 5


class OnDataset(BaseModel):
    """Speeds with images of the shape of a data set's.

    Attributes:
        learned: seconds to learn from an image, per model.
        searched: seconds of an iteration with an image, per model, by the space.
        vaegan: seconds to train a VAE-GAN with an image; 0 where there is none.
        approached: seconds of an iteration towards a manifold, per example, by the space.
    """

    learned: float
    searched: dict[str, float]
    vaegan: float = 0.0
    approached: dict[str, float] = {}


class Speeds(BaseModel):
    """Speeds of a machine for a study.

    Attributes:
        machine: its device.
        start: seconds to start and end a job.
        datasets: by data set.
    """

    machine: str
    start: float
    datasets: dict[str, OnDataset]


def measure(study: Study, device: torch.device) -> Speeds:
    """The speeds of the machine at hand for a study."""
    command = [sys.executable, "-c", "import robustgen.evaluation, robustgen.training"]
    start = _seconds(lambda: subprocess.run(command, check=True))
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one core per job"
    datasets = {name: _on_dataset(study, name, device) for name in study.datasets}
    return Speeds(machine=named, start=start, datasets=datasets)


def _on_dataset(study: Study, dataset: str, device: torch.device) -> OnDataset:
    of = study.datasets[dataset]
    data = _random(of.shape, of.classes, device)
    vaegan = 0.0
    if dataset in study.manifolds:
        recipe = Recipe.of(study.manifold_part(dataset, "all")["recipe"])
        model, once = VaeGan(of.shape, recipe), replace(recipe, epochs=1)
        model.initialize(generator(0, "plan"))
        model.to(device).recipe = once
        vaegan = _seconds(lambda: train_vaegan(model, data, generator(0, "plan"))) / len(data)
        codes = torch.zeros(len(data), recipe.latent, device=device)
        decoders = Decoders([model.decoder.requires_grad_(False).folded()] * of.classes)
        data = replace(data, learned={name: Learned(codes, decoders) for name in LEARNED})
    first, last = study.cohorts()[0]
    cohort = Cohort("convnet", of.shape, of.classes, range(first, last + 1)).to(device)
    rngs = [generator(0, "plan", seed) for seed in cohort.seeds]
    cohort.initialize(rngs)
    schedule = Schedule(1, study.classifier.batch_size, 1e-3, 1.0, 0.0)
    learn = _seconds(lambda: train(cohort, data, schedule, None, Generators(rngs, rngs)))
    used = {threat.space for threat in study.threats.values()}
    spaces = [space for space in used if study.has(dataset, space)]
    near = [space for space in MANIFOLDS if study.has(dataset, space)]
    return OnDataset(
        learned=learn / len(data) / len(rngs),
        searched={space: _search(cohort, data, space, rngs) for space in spaces},
        vaegan=vaegan,
        approached={space: _approach(data, space) for space in near},
    )


def _random(shape: tuple[int, int, int], classes: int, device: torch.device) -> Split:
    """Random images, each warped by the identity."""
    rows = torch.arange(BATCH * BATCHES, device=device)
    return Split(
        bank=torch.rand(len(rows), *shape, generator=generator(0, "plan")).to(device),
        source=rows,
        labels=rows % classes,
        codes=torch.tensor(affine.IDENTITY, device=device).expand(len(rows), 6),
        ranges=affine.bounds("hard", device),
        classes=tuple(map(str, range(classes))),
    ).keep()


def _search(cohort: Cohort, data: Split, space: str, rngs: list[torch.Generator]) -> float:
    """Seconds of an iteration with an image, per model."""
    rows = torch.arange(BATCH, device=data.labels.device)
    batch = data.take(rows.expand(len(rngs), -1))
    settings = Search("adam", 1e-3, STEPS)

    def run() -> None:
        around = SPACES[space](batch)
        threat = Threat(space, "linf", 0.1)
        search(cohort, around, batch.labels, threat, settings, rngs, stop_at_success=False)

    return _seconds(run) / (len(rngs) * BATCH * (STEPS + 1))


def _approach(data: Split, space: str) -> float:
    """Seconds of an iteration towards a manifold, per example, of both descents."""
    some = data.take(slice(BATCH))
    examples = some.images()
    return (
        _seconds(lambda: to_manifold(examples, some, space, steps=STEPS, step_size=0.01))
        / BATCH
        / (STEPS + 1)
    )


def _seconds(run: Callable[[], object]) -> float:
    """The least of three runs after a first: other work on the machine only adds to it."""
    run()
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)
