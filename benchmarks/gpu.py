"""On a GPU: cohorts of more and more models, compared with one model and public attack libraries.

One small model uses a small part of a GPU, so more models should take little longer. Epochs are
measured after the first one, in which CUDA graphs are captured. Attacks are measured with the
verification by the plain models, on images that all models classify correctly.
"""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from peers import NAMES, STEPS, Peers
from setting import COHORTS, DEVICE, Row, Variant, load_letters, make_cohort, measure, train_cohort
from timing import seconds_of

from robustgen.acceleration.cuda import grouped_conv, search_step, whole_search
from robustgen.backend import PLAIN, Backend
from robustgen.data.split import Split
from robustgen.evaluation.attacks import attack_cohort, predict
from robustgen.io.tensors import save_tensors
from robustgen.jobs.runtime import provenance
from robustgen.models.cohort import Cohort
from robustgen.sampling import make_generator
from robustgen.specs import AdversarialTraining, SearchConfig, Threat, TrainConfig
from robustgen.training.classifiers import Generators, train

COHORT_SIZES, IMAGES, RADIUS, EPOCHS = (1, 5, 20), 1000, 0.3, 5
BATCH_SIZES = (100, 1000)
"""Images that the libraries attack at a time."""
MAX_SUCCESS_DIFFERENCE = 0.02
"""Largest difference of success rates, which random starts cause."""
TRAINING_SEARCH = SearchConfig("adam", 0.005, 40)
METHODS = {
    "normal": None,
    "adversarial": AdversarialTraining(Threat("image", "linf", RADIUS), TRAINING_SEARCH),
    "on the true manifold": AdversarialTraining(
        Threat("true_manifold", "linf", RADIUS), TRAINING_SEARCH
    ),
}
Replacement = tuple[ModuleType, str, object]
"""A module, a name in it, and the value that replaces its value."""


def train_epochs(
    n_models: int,
    data: Split,
    method: AdversarialTraining | None,
    backend: Backend,
    epochs: int,
) -> None:
    """Train a cohort."""
    cohort = make_cohort(n_models)
    cohort.backend = backend
    batch_generators, attack_generators = (
        [make_generator(0, purpose, seed) for seed in range(n_models)]
        for purpose in ("batches", "attacks")
    )
    config = TrainConfig(epochs, 100, 0.01, 0.95, 1e-4)
    train(cohort, data, config, method, Generators(batch_generators, attack_generators))


def measure_epoch(run: Callable[[int], None]) -> float:
    """Measure the seconds of an epoch after the first; `run` trains for a number of epochs."""
    first, total = (seconds_of(partial(run, epochs)) for epochs in (1, 1 + EPOCHS))
    return (total - first) / EPOCHS


def run_with(replacements: list[Replacement], run: Callable[..., Any], *args: Any) -> Any:
    """Call `run` while names in modules have other values."""
    with ExitStack() as stack:
        for module, name, value in replacements:
            stack.enter_context(patch.object(module, name, value))
        return run(*args)


def compare_epochs(data: Split) -> list[Row]:
    """Measure epochs of cohorts of each size, for all models together."""
    rows: list[Row] = []
    for name, method in METHODS.items():
        variants = {}
        for n_models in COHORT_SIZES:
            run = partial(train_epochs, n_models, data, method, COHORTS)
            variants[f"cohort of {n_models}"] = Variant(
                partial(run, 1), len(data), measure_seconds=partial(measure_epoch, run)
            )
        rows += measure(f"epoch of training, {name}, all models", variants, rounds=3)
    return rows


def attack_until_success(cohort: Cohort, data: Split) -> float:
    """Attack with regular examples as a study does; return the success rate."""
    threat, search = Threat("image", "linf", RADIUS), SearchConfig("signed", RADIUS / 30, STEPS)
    generators = [make_generator(0, "start", seed) for seed in cohort.seeds]
    result = attack_cohort(cohort, data, threat, search, generators)
    return float(result.rows["success"].mean())


def compare_attacks(cohorts: dict[int, Cohort], data: Split) -> list[Row]:
    """Measure attacks with and without the kernel of a whole search, for all models together."""
    variants = {
        f"cohort of {n_models}": Variant(partial(attack_until_success, cohort, data), IMAGES)
        for n_models, cohort in cohorts.items()
    }
    without_kernel: list[Replacement] = [(whole_search, "supported_forward", lambda *_: None)]
    for n_models, cohort in cohorts.items():
        run = partial(run_with, without_kernel, attack_until_success, cohort, data)
        variants[f"cohort of {n_models}, step by step"] = Variant(run, IMAGES)
    return measure("attack until success, all models", variants)


def compare_with_peers(cohorts: dict[int, Cohort], data: Split) -> list[Row]:
    """Measure attacks per model, beside the libraries, which attack one model.

    Exits if their success rates differ.
    """
    variants, rates = {}, {}
    with TemporaryDirectory() as folder:
        cohorts[1].save(Path(folder, "cohort.safetensors"), {}, provenance(str(DEVICE)))
        tensors = {"images": data.images().contiguous(), "labels": data.labels}
        save_tensors(Path(folder, "data.safetensors"), tensors, {})
        peers_by_batch_size = {
            size: Peers(Path(folder), RADIUS, DEVICE, size) for size in BATCH_SIZES
        }
        for size, peers in peers_by_batch_size.items():
            for name in NAMES:
                variant = f"{name}, batches of {size}"
                rates[variant] = peers.run(name)["success"]
                variants[variant] = Variant(
                    partial(peers.run, name),
                    IMAGES * STEPS,
                    is_peer=True,
                    measure_seconds=partial(peers.measure_seconds, name),
                )
        for n_models, cohort in cohorts.items():
            variant, run = (
                f"robustgen, cohort of {n_models}",
                partial(attack_until_success, cohort, data),
            )
            rates[variant] = run()
            variants[variant] = Variant(run, n_models * IMAGES * STEPS)
        if max(rates.values()) - min(rates.values()) > MAX_SUCCESS_DIFFERENCE:
            sys.exit(f"success rates differ: {rates}")
        rows = measure("attack on a GPU, until success, per model", variants, rounds=3)
        for peers in peers_by_batch_size.values():
            peers.close()
    return [row | {"success": rates[str(row["variant"])]} for row in rows]


def compare_accelerations(data: Split) -> list[Row]:
    """Measure epochs of adversarial training of five models, each without one acceleration."""
    replacements: dict[str, list[Replacement]] = {
        "all accelerations": [],
        "without Triton kernels": [(grouped_conv, "is_triton_available", lambda: False)],
        "without kernels of layers": [(grouped_conv, "supports", lambda *_: False)],
        "without kernels of search steps": [(search_step, "supports_tensors", lambda _: False)],
    }
    backends = {
        "without CUDA graphs": replace(COHORTS, compile_step=PLAIN.compile_step),
        "the plain backend": PLAIN,
    }
    method = METHODS["adversarial"]
    variants = {}
    for name in (*replacements, *backends):
        run = partial(train_epochs, 5, data, method, backends.get(name, COHORTS))
        run_variant = partial(run_with, replacements.get(name, []))
        variants[name] = Variant(
            partial(run_variant, run, 1),
            len(data),
            measure_seconds=partial(run_variant, measure_epoch, run),
        )
    return measure("epoch of adversarial training of 5 models", variants, rounds=1)


def rows() -> list[Row]:
    """Measure accelerations, epochs and attacks."""
    data = load_letters()
    training_data, test = data["train"].select(slice(2000)), data["test"]
    cohorts = {size: train_cohort(training_data, n_models=size) for size in COHORT_SIZES}
    is_correct = torch.ones(len(test), dtype=torch.bool, device=DEVICE)
    for cohort in cohorts.values():
        predictions = torch.as_tensor(predict(cohort, test)["prediction"], device=DEVICE)
        is_correct &= (predictions.view(len(cohort.seeds), -1) == test.labels).all(0)
    correct_rows = torch.nonzero(is_correct)[:, 0]
    images = test.select(correct_rows[torch.arange(IMAGES, device=DEVICE) % len(correct_rows)])
    return [
        *compare_accelerations(training_data),
        *compare_epochs(training_data),
        *compare_attacks(cohorts, images),
        *compare_with_peers(cohorts, images),
    ]
