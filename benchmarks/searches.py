"""Our search beside plain loops over single models, and as models and images grow in number."""

import os
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from setting import (
    COHORTS,
    HERE,
    LETTERS,
    VAEGANS,
    Row,
    Way,
    letters,
    look,
    measured,
    operations,
    trained,
)
from torch import nn

from robustgen.attacks.search import run_search
from robustgen.attacks.spaces import SPACES
from robustgen.data.learned_manifold import ClassDecoders, LearnedManifold
from robustgen.data.split import Split
from robustgen.evaluation.attacks import attack_cohort
from robustgen.io.checkpoints import Checkpoint
from robustgen.models.cohort import Cohort
from robustgen.models.vaegan import VaeGan, encode
from robustgen.seeding import generator
from robustgen.specs import BOUND, SearchConfig, Threat, VaeGanConfig
from robustgen.training.vaegan import train_vaegan

STEPS, BATCH, MODELS, RADIUS = 40, 100, 3, 0.3
SAME = 0.03
"""Success rates of the same search from the same starts differ by less: rounding moves a few."""


def with_manifold(data: Split) -> tuple[Split, Split]:
    """`data` with a learned manifold, of decoders that were trained a little: as ours, and plain.

    Plain decoders have PyTorch's own layers, and their batch normalization.
    """
    models = []
    for label in range(len(LETTERS)):
        model = VaeGan((1, 28, 28), VaeGanConfig(channels=(16, 32, 64), gamma=0.0, epochs=2))
        model.initialize(generator(0, "benchmark", label))
        model.to(HERE)
        train_vaegan(model, data.select_class(label), generator(0, label))
        models.append(model.eval().requires_grad_(False))
    codes, plain = encode(models, data), [deepcopy(model.decoder) for model in models]
    ours = [VAEGANS.prepare(model.decoder.fold_batch_norm()) for model in models]
    made, other = (
        replace(data, learned={"learned_manifold": LearnedManifold(codes, ClassDecoders(decoders))})
        for decoders in (ours, plain)
    )
    return made, other


def ours(cohort: Cohort, data: Split, space: str) -> float:
    """Success of the search for a whole cohort, all steps."""
    wrong, members = 0, len(cohort.seeds)
    for at in range(0, len(data), BATCH):
        batch = data.take(slice(at, at + BATCH)).expand(members)
        found = run_search(
            cohort,
            SPACES[space](batch),
            batch.labels,
            Threat(space, "linf", RADIUS),
            SearchConfig("signed", RADIUS / 30, STEPS),
            [generator(0, "start", seed) for seed in cohort.seeds],
            stop_at_success=False,
            backend=cohort.backend,
        )
        wrong += int(found.success.sum())
    return wrong / len(data) / members


def plain_loop(models: Sequence[nn.Module], data: Split, space: str) -> float:
    """The same, model by model."""
    threat, wrong = Threat(space, "linf", RADIUS), 0
    for seed, model in enumerate(models):
        for at in range(0, len(data), BATCH):
            batch = data.take(slice(at, at + BATCH))
            around = SPACES[space](batch.expand(1))
            origin = around.clean_codes[0]
            codes = around.sample(threat, [generator(0, "start", seed)])[0]
            best = torch.full((len(batch),), -torch.inf, device=HERE)
            fooled = torch.zeros(len(batch), dtype=torch.bool, device=HERE)
            for step in range(STEPS + 1):
                codes = codes.detach().requires_grad_()
                logits = model(around.decode(codes[None])[0])
                losses = F.cross_entropy(logits, batch.labels, reduction="none")
                fooled = torch.where(losses > best, logits.argmax(1) != batch.labels, fooled)
                best = torch.maximum(best, losses.detach())
                if step < STEPS:
                    (gradient,) = torch.autograd.grad(losses.sum(), codes)
                    moved = codes.detach() + RADIUS / 30 * gradient.sign() - origin
                    codes = origin + moved.clamp(-RADIUS, RADIUS)
                    low, high = (-BOUND, BOUND) if batch.learned else (around.lower, around.upper)
                    codes = codes.clamp(low, high)
            wrong += int(fooled.sum())
    return wrong / len(data) / len(models)


def against_loops(data: dict[str, Split], learned: tuple[Split, Split]) -> list[Row]:
    """On-manifold searches of a cohort beside those of its models one by one."""
    cohort = trained(data["train"].take(slice(2000)), seeds=MODELS)
    models = [cohort.member(i).requires_grad_(False) for i in range(MODELS)]
    rows: list[Row] = []
    both = {"true_manifold": (data["test"], data["test"]), "learned_manifold": learned}
    for space, of in both.items():
        some, plain = (one.take(slice(200)) for one in of)
        ways: dict[str, Callable[[], float]] = {
            "plain loop": partial(plain_loop, models, plain, space),
            "robustgen": partial(ours, cohort, some, space),
        }
        rates = {name: way() for name, way in ways.items()}
        if abs(rates["plain loop"] - rates["robustgen"]) > SAME:
            sys.exit(f"{space}: success differs: {rates}")
        work = MODELS * len(some) * STEPS
        made = measured(
            f"search on the {space.replace('_', ' ')}, {MODELS} models",
            {name: Way(way, work) for name, way in ways.items()},
            operations(ways["plain loop"]) / work,
        )
        rows += [row | {"success": rates[str(row["way"])]} for row in made]
    return rows


def cohorts(data: Split) -> list[Row]:
    """As many images for each of more and more models; a model alone is what counts."""
    some, ways = data.take(slice(200)), {}
    for models in (1, 5, 20):
        cohort = (
            Cohort("convnet", (1, 28, 28), len(LETTERS), range(models), COHORTS).to(HERE).eval()
        )
        cohort.initialize([generator(0, "initialization", seed) for seed in range(models)])
        run = partial(ours, cohort, some, "image")
        ways[f"cohort of {models}"] = Way(run, models * len(some) * STEPS)
    return measured("attack on cohorts, per model", ways, look(cohort.member(0)))


def images(data: Split) -> list[Row]:
    """One model and more and more images, as a job of a study attacks them."""
    cohort, ways = trained(data.take(slice(2000))), {}
    threat, how = Threat("image", "linf", 0.002), SearchConfig("signed", 0.002 / 30, STEPS)

    def run(some: Split) -> None:
        with TemporaryDirectory() as folder:
            going = Checkpoint(Path(folder, "a.checkpoint.safetensors"), {})
            attack_cohort(cohort, some, threat, how, [generator(0, "start")], going)

    learnt = data.take(
        torch.nonzero(cohort.member(0)(data.images()).argmax(1) == data.labels)[:, 0]
    )
    for many in (100, 1000, 10_000):
        some = learnt.take(torch.arange(many, device=HERE) % BATCH)  # the same work in each batch
        ways[f"{many} images"] = Way(partial(run, some), many * STEPS)
    return measured("attack on more images", ways, look(cohort.member(0)), rounds=3)


def threads(data: Split) -> list[Row]:
    """A job with more threads, beside as many jobs at a time."""
    cohort = Cohort("convnet", (1, 28, 28), len(LETTERS), range(MODELS), COHORTS).to(HERE).eval()
    cohort.initialize([generator(0, "initialization", seed) for seed in range(MODELS)])
    some, ways = data.take(slice(200)), {}

    def threaded(many: int) -> None:
        torch.set_num_threads(many)
        ours(cohort, some, "image")
        torch.set_num_threads(1)

    def beside(many: int) -> None:
        fork = get_context("fork")  # a job that is under way: no start, nothing to send
        jobs = [fork.Process(target=ours, args=(cohort, some, "image")) for _ in range(many)]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
            if job.exitcode:
                sys.exit("a job of the benchmark has failed")

    work = MODELS * len(some) * STEPS
    for many in sorted({1, 2, os.cpu_count() or 1}):
        ways[f"{many} thread{'s' * (many > 1)}"] = Way(partial(threaded, many), work)
        if many > 1:
            ways[f"{many} jobs of a thread"] = Way(partial(beside, many), many * work)
    return measured("threads of a job that attacks", ways, look(cohort.member(0)))


def rows() -> list[Row]:
    """All of it."""
    data = letters(train_draws=10)
    learned = with_manifold(data["test"])
    made = [*against_loops(data, learned), *cohorts(data["test"]), *images(data["train"])]
    return made + (threads(data["test"]) if HERE.type == "cpu" else [])
