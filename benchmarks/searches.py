"""The search compared with plain loops over single models; more models, images and threads."""

import os
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
import torch.nn.functional as F
from setting import (
    DEVICE,
    LETTERS,
    STRONG,
    VAEGANS,
    Row,
    Variant,
    count_flop,
    count_pass_flop,
    load_letters,
    make_cohort,
    measure,
    train_cohort,
)
from torch import nn

from robustgen.attacks.joint_restarts import count_joint_restarts
from robustgen.attacks.search import run_search
from robustgen.attacks.spaces import SPACES
from robustgen.data.decoders import ClassDecoders, LearnedManifold
from robustgen.data.split import Split
from robustgen.evaluation.attacks import MAX_BATCHES, attack_cohort
from robustgen.io.checkpoints import Checkpoint
from robustgen.models.cohort import Cohort
from robustgen.models.vaegan import VaeGan, encode
from robustgen.sampling import make_generator
from robustgen.specs import LATENT_BOUND, AdversarialTraining, SearchConfig, Threat, VaeGanConfig
from robustgen.training.vaegan import train_vaegan

STEPS, BATCH_SIZE, MODELS, IMAGES, RADIUS = 40, 100, 3, 200, 0.3
SMALL_THREAT = Threat("image", "linf", 0.07)
SMALL_ADVERSARIAL = AdversarialTraining(SMALL_THREAT, SearchConfig("signed", 0.035, 3))
"""Adversarial training after which an ensemble fails on some images, and takes all its steps."""
MAX_SUCCESS_DIFFERENCE = 0.03
"""Largest difference of success rates from the same starts, which rounding causes."""


def add_manifolds(data: Split) -> tuple[Split, Split]:
    """Learn a manifold of `data` with briefly trained VAE-GANs.

    Returns:
        `data` with the decoders of this package, and with plain ones: with PyTorch's own layers
        and batch normalization.
    """
    models = []
    for label in range(len(LETTERS)):
        model = VaeGan((1, 28, 28), VaeGanConfig(channels=(16, 32, 64), gamma=0.0, epochs=2))
        model.initialize(make_generator(0, "benchmark", label))
        model.to(DEVICE)
        train_vaegan(model, data.select_class(label), make_generator(0, label))
        models.append(model.eval().requires_grad_(False))
    codes = encode(models, data)
    plain_decoders = [deepcopy(model.decoder) for model in models]
    fast_decoders = [VAEGANS.prepare_decoder(model.decoder) for model in models]
    fast_data, plain_data = (
        replace(data, learned={"learned_manifold": LearnedManifold(codes, ClassDecoders(decoders))})
        for decoders in (fast_decoders, plain_decoders)
    )
    return fast_data, plain_data


def search_batches(cohort: Cohort, data: Split, space_name: str) -> float:
    """Search in all steps, for all models of a cohort together; return the success rate."""
    successes, n_models = 0, len(cohort.seeds)
    for start in range(0, len(data), BATCH_SIZE):
        batch = data.select(slice(start, start + BATCH_SIZE)).expand(n_models)
        result = run_search(
            cohort,
            SPACES[space_name](batch),
            batch.labels,
            Threat(space_name, "linf", RADIUS),
            SearchConfig("signed", RADIUS / 30, STEPS),
            [make_generator(0, "start", seed) for seed in cohort.seeds],
            stop_at_success=False,
            backend=cohort.backend,
        )
        successes += int(result.success.sum())
    return successes / len(data) / n_models


def search_in_loop(models: Sequence[nn.Module], data: Split, space_name: str) -> float:
    """Search as `search_batches`, for one model after another."""
    threat, successes = Threat(space_name, "linf", RADIUS), 0
    for seed, model in enumerate(models):
        for start in range(0, len(data), BATCH_SIZE):
            batch = data.select(slice(start, start + BATCH_SIZE))
            space = SPACES[space_name](batch.expand(1))
            clean_codes = space.clean_codes[0]
            lower, upper = (
                (-LATENT_BOUND, LATENT_BOUND) if batch.learned else (space.lower, space.upper)
            )
            codes = space.sample(threat, [make_generator(0, "start", seed)])[0]
            best_loss = torch.full((len(batch),), -torch.inf, device=DEVICE)
            is_success = torch.zeros(len(batch), dtype=torch.bool, device=DEVICE)
            for step in range(STEPS + 1):
                codes = codes.detach().requires_grad_()
                logits = model(space.decode(codes[None])[0])
                losses = F.cross_entropy(logits, batch.labels, reduction="none")
                is_wrong = logits.argmax(1) != batch.labels
                is_success = torch.where(losses > best_loss, is_wrong, is_success)
                best_loss = torch.maximum(best_loss, losses.detach())
                if step < STEPS:
                    (gradient,) = torch.autograd.grad(losses.sum(), codes)
                    delta = codes.detach() + RADIUS / 30 * gradient.sign() - clean_codes
                    codes = (clean_codes + delta.clamp(-RADIUS, RADIUS)).clamp(lower, upper)
            successes += int(is_success.sum())
    return successes / len(data) / len(models)


def compare_with_loops(data: dict[str, Split], manifold_data: tuple[Split, Split]) -> list[Row]:
    """Measure on-manifold searches of a cohort beside those of its models one after another.

    Exits if their success rates differ.
    """
    cohort = train_cohort(data["train"].select(slice(2000)), n_models=MODELS)
    models = [cohort.member(i).requires_grad_(False) for i in range(MODELS)]
    rows: list[Row] = []
    data_by_space = {
        "true_manifold": (data["test"], data["test"]),
        "learned_manifold": manifold_data,
    }
    for space_name, splits in data_by_space.items():
        fast_data, plain_data = (split.select(slice(IMAGES)) for split in splits)
        runs: dict[str, Callable[[], float]] = {
            "plain loop": partial(search_in_loop, models, plain_data, space_name),
            "robustgen": partial(search_batches, cohort, fast_data, space_name),
        }
        rates = {name: run() for name, run in runs.items()}
        if abs(rates["plain loop"] - rates["robustgen"]) > MAX_SUCCESS_DIFFERENCE:
            sys.exit(f"{space_name}: success rates differ: {rates}")
        work = MODELS * len(fast_data) * STEPS
        space_rows = measure(
            f"search on the {space_name.replace('_', ' ')}, {MODELS} models",
            {name: Variant(run, work) for name, run in runs.items()},
            count_flop(runs["plain loop"]) / work,
        )
        rows += [row | {"success": rates[str(row["variant"])]} for row in space_rows]
    return rows


def compare_cohort_sizes(data: Split) -> list[Row]:
    """Measure attacks on 1, 5 and 20 models with equally many images each, per model."""
    data, variants = data.select(slice(IMAGES)), {}
    for n_models in (1, 5, 20):
        cohort = make_cohort(n_models).eval()
        run = partial(search_batches, cohort, data, "image")
        variants[f"cohort of {n_models}"] = Variant(run, n_models * len(data) * STEPS)
    return measure("attack on cohorts, per model", variants, count_pass_flop(cohort.member(0)))


def compare_image_counts(data: Split) -> list[Row]:
    """Measure attacks on one model with more and more images, as in a job of a study."""
    cohort, variants = train_cohort(data.select(slice(2000))), {}
    threat, search = Threat("image", "linf", 0.002), SearchConfig("signed", 0.002 / 30, STEPS)

    def run(images: Split) -> None:
        with TemporaryDirectory() as folder:
            checkpoint = Checkpoint(Path(folder, "a.checkpoint.safetensors"), {})
            attack_cohort(cohort, images, threat, search, [make_generator(0, "start")], checkpoint)

    is_correct = cohort.member(0)(data.images()).argmax(1) == data.labels
    correct_images = data.select(torch.nonzero(is_correct)[:, 0])
    for count in (100, 1000, 10_000):
        # Every batch has the same images, and so the same work.
        images = correct_images.select(torch.arange(count, device=DEVICE) % BATCH_SIZE)
        variants[f"{count} images"] = Variant(partial(run, images), count * STEPS)
    flop = count_pass_flop(cohort.member(0))
    return measure("attack on more images", variants, flop, rounds=3)


def compare_grouping(data: dict[str, Split]) -> list[Row]:
    """Measure an ensemble with batches, and with restarts of few examples, together and one by one.

    Exits if the success rates differ.
    """
    cohort = train_cohort(data["train"].select(slice(1000)), SMALL_ADVERSARIAL)
    images = data["test"].select(slice(5 * BATCH_SIZE))

    def run(max_batches: int, max_restarts: int) -> float:
        def count_restarts(is_active: torch.Tensor, stop_at_success: bool) -> int:
            return min(max_restarts, count_joint_restarts(is_active, stop_at_success))

        with (
            patch.dict(MAX_BATCHES, cpu=max_batches, cuda=max_batches),
            patch("robustgen.attacks.search.count_joint_restarts", count_restarts),
        ):
            result = attack_cohort(
                cohort, images, SMALL_THREAT, STRONG, [make_generator(0, "start")]
            )
        return float(result.rows["success"].mean())

    limits = {
        "batches and restarts one by one": (1, 1),
        "batches together": (5, 1),
        "batches and restarts together": (5, len(images)),
    }
    rates = {name: run(*limit) for name, limit in limits.items()}
    if max(rates.values()) - min(rates.values()) > MAX_SUCCESS_DIFFERENCE:
        sys.exit(f"ensemble: success rates differ: {rates}")
    work = len(images) * sum(search.restarts * search.steps for search in STRONG.values())
    variants = {name: Variant(partial(run, *limit), work) for name, limit in limits.items()}
    rows = measure("ensemble on a robust model", variants, rounds=2)
    return [row | {"success": rates[str(row["variant"])]} for row in rows]


def compare_threads(data: Split) -> list[Row]:
    """Measure one job with several threads beside as many jobs with one thread each."""
    cohort = make_cohort(MODELS).eval()
    data, variants = data.select(slice(IMAGES)), {}

    def run_threads(count: int) -> None:
        torch.set_num_threads(count)
        search_batches(cohort, data, "image")
        torch.set_num_threads(1)

    def run_jobs(count: int) -> None:
        fork = get_context("fork")  # a forked job needs no start and receives no data
        jobs = [
            fork.Process(target=search_batches, args=(cohort, data, "image")) for _ in range(count)
        ]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
            if job.exitcode:
                sys.exit("a job of the benchmark has failed")

    work = MODELS * len(data) * STEPS
    for count in sorted({1, 2, os.cpu_count() or 1}):
        name = f"{count} thread{'s' if count > 1 else ''}"
        variants[name] = Variant(partial(run_threads, count), work)
        if count > 1:
            variants[f"{count} jobs of a thread"] = Variant(partial(run_jobs, count), count * work)
    return measure("threads of a job that attacks", variants, count_pass_flop(cohort.member(0)))


def rows() -> list[Row]:
    """Measure all searches; threads only on a CPU."""
    data = load_letters(train_images_per_glyph=10)
    manifold_data = add_manifolds(data["test"])
    return [
        *compare_with_loops(data, manifold_data),
        *compare_cohort_sizes(data["test"]),
        *compare_image_counts(data["train"]),
        *compare_grouping(data),
        *(compare_threads(data["test"]) if DEVICE.type == "cpu" else []),
    ]
