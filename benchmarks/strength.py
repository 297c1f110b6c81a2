"""Compare attacks of this package with those of public libraries, on the models of a study.

    python benchmarks/strength.py results/demo [--images 330] [--methods adversarial]

The first table: the ensemble and AutoAttack (Croce and Hein, ICML 2020; standard version) attack
the same images of each model of the largest N. A row per method, norm and radius has the success
rates over the images that the models classify correctly, all models together, the largest deficit
of the ensemble on one model, which is negative if it succeeds more often on every model, and CPU
seconds per model. The ensemble attacks the models of a cohort together. The last row has the sums
of the successes and of the seconds.

The second table: success rates on the true manifold of the ensemble, and of 20 restarts of the
study's plain attack, summed over the models.

The third table: median L2 norms of the smallest perturbations, over the images that the models
classify correctly; infinity where no perturbation is found. `carlini_wagner` and the attack of
Carlini and Wagner of foolbox take 120 steps with one weight of 1; `fmn` and foolbox's DDN and FMN
take 100 steps.

`make bench-strength` installs AutoAttack without its dependencies.
"""

import argparse
import contextlib
import io
import time
from typing import NamedTuple

import foolbox
import numpy as np
import torch
from pyautoattack import AutoAttack
from setting import DEVICE, STRONG, describe_machine
from torch import nn

import robustgen
from robustgen.acceleration.backends import for_cohorts
from robustgen.data.split import Split
from robustgen.models.cohort import Cohort
from robustgen.results import StudyResults
from robustgen.sampling import make_generator
from robustgen.specs import SearchConfig

THREATS = (("linf", 0.3), ("linf", 0.1), ("linf", 0.03), ("l2", 1.5), ("l2", 0.5))
BATCH_SIZE = 100


class Comparison(NamedTuple):
    """Successes of one attack on several models, and the CPU seconds of all of them.

    Attributes:
        success: `(M, N)` whether the attack succeeds.
        seconds: CPU seconds.
    """

    success: np.ndarray
    seconds: float


def run_ensemble(cohort: Cohort, images: Split, threat: robustgen.Threat) -> Comparison:
    """Attack all models of a cohort together with the ensemble."""
    generators = [make_generator(0, "strength", seed) for seed in cohort.seeds]
    start = time.process_time()
    result = robustgen.attack_cohort(cohort, images, threat, STRONG, generators)
    seconds = time.process_time() - start
    return Comparison(result.rows["success"].reshape(len(cohort.seeds), -1), seconds)


def run_autoattack(models: list[nn.Module], images: Split, threat: robustgen.Threat) -> Comparison:
    """Attack one model after the other with AutoAttack, on the images that it classifies."""
    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    x, y = images.images(), images.labels
    success = np.zeros((len(models), len(y)), dtype=bool)
    start = time.process_time()
    for row, model in zip(success, models, strict=True):
        is_correct = classify(model, x) == y
        attack = AutoAttack(
            model, norm=norm, eps=threat.radius, version="standard", device=DEVICE, seed=0
        )
        with contextlib.redirect_stdout(io.StringIO()):
            result = attack.run_standard_evaluation(
                x[is_correct], y[is_correct], batch_size=BATCH_SIZE
            )
        adversarial = result[0] if isinstance(result, tuple) else result
        row[is_correct.cpu()] = (classify(model, adversarial) != y[is_correct]).cpu()
    return Comparison(success, time.process_time() - start)


def classify(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the predicted classes."""
    with torch.no_grad():
        return model(images).argmax(1)


def compare(
    cohort: Cohort,
    images: Split,
    threat: robustgen.Threat,
    totals: np.ndarray,
) -> str:
    """Return the row of the table for one threat, without the training method.

    Args:
        cohort: M models.
        images: the images.
        threat: the ball.
        totals: successes and seconds of the ensemble and of AutoAttack, `(2, 2)`, to which those of
            this row are added.
    """
    models = [cohort.member(position) for position in range(len(cohort.seeds))]
    predictions = torch.stack([classify(model, images.images()) for model in models])
    correct = (predictions == images.labels).sum(1).cpu().numpy()
    attacks = [run_ensemble(cohort, images, threat), run_autoattack(models, images, threat)]
    successes = np.array([attack.success.sum(1) for attack in attacks])
    seconds = np.array([attack.seconds / len(models) for attack in attacks])
    totals += [successes.sum(1), seconds]
    columns = [
        *(f"{rate:.4f}" for rate in successes.sum(1) / correct.sum()),
        f"{((successes[1] - successes[0]) / correct).max():.4f}",
        *(f"{value:.1f}" for value in seconds),
    ]
    return f"{threat.norm} | {threat.radius} | {' | '.join(columns)}"


def compare_on_manifold(cohort: Cohort, images: Split) -> str:
    """Return the row of the second table, without the training method."""
    threat = robustgen.Threat("true_manifold", "linf", 0.3)
    searches = {"ensemble": STRONG, "plain": SearchConfig(steps=40, restarts=20)}
    rates = []
    for search in searches.values():
        generators = [make_generator(0, "strength", seed) for seed in cohort.seeds]
        rows = robustgen.attack_cohort(cohort, images, threat, search, generators).rows
        rates.append(rows["success"].sum() / (rows["prediction"] == rows["label"]).sum())
    return f"{rates[0]:.4f} | {rates[1]:.4f}"


def compare_smallest(cohort: Cohort, images: Split) -> str:
    """Return the row of the third table, without the training method."""
    sizes: list[list[float]] = []
    threat = robustgen.Threat("image", "l2")
    for search in (
        SearchConfig("fmn", steps=100, loss="margin"),
        SearchConfig("carlini_wagner", steps=120, loss="margin"),
    ):
        generators = [make_generator(0, "strength", seed) for seed in cohort.seeds]
        rows = robustgen.attack_cohort(cohort, images, threat, search, generators).rows
        is_correct = rows["prediction"] == rows["label"]
        norms = np.where(rows["success"], rows["code_l2"], np.inf)
        sizes.append(list(norms[is_correct]))
    attacks = (
        foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=1, steps=120, initial_const=1.0),
        foolbox.attacks.DDNAttack(steps=100),
        foolbox.attacks.L2FMNAttack(steps=100),
    )
    for attack in attacks:
        sizes.append([])
        for position in range(len(cohort.seeds)):
            sizes[-1] += measure_foolbox(cohort.member(position), images, attack)
    return " | ".join(f"{np.median(column):.4f}" for column in sizes)


def measure_foolbox(
    model: nn.Module, images: Split, attack: foolbox.attacks.base.MinimizationAttack
) -> list[float]:
    """Return the L2 norms of the perturbations of an attack of foolbox; infinity without one."""
    x, y = images.images(), images.labels
    is_correct = classify(model, x) == y
    x, y = x[is_correct], y[is_correct]
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=DEVICE)
    adversarial = attack.run(wrapped, x, foolbox.criteria.Misclassification(y))
    norms = (adversarial - x).flatten(1).norm(dim=1)
    return torch.where(classify(model, adversarial) != y, norms, torch.inf).tolist()


def print_table_of_autoattack(
    study: StudyResults, dataset: str, images: Split, methods: list[str], n: int
) -> None:
    """Print the first table, row by row."""
    print("| training | norm | radius | robustgen | AutoAttack | deficit | s | s of AutoAttack |")
    print(f"| --- | --- |{' ---: |' * 6}")
    totals = np.zeros((2, 2))
    for method in methods:
        cohort = study.cohort(dataset, method, n=n)
        cohort.backend = for_cohorts(DEVICE)
        for norm, radius in THREATS:
            threat = robustgen.Threat("image", norm, radius)
            row = compare(cohort, images, threat, totals)
            print(f"| {method} | {row} |", flush=True)
    counts, seconds = totals
    print(
        f"| sum | | | {counts[0]:.0f} | {counts[1]:.0f} | | {seconds[0]:.0f} | {seconds[1]:.0f} |",
        flush=True,
    )


def print_tables_of_methods(
    study: StudyResults, dataset: str, images: Split, methods: list[str], n: int
) -> None:
    """Print the second and the third table."""
    tables = {
        compare_on_manifold: ("ensemble", "20 restarts"),
        compare_smallest: ("fmn", "carlini_wagner", "foolbox CW", "foolbox DDN", "foolbox FMN"),
    }
    for function, columns in tables.items():
        print(f"\n| training | {' | '.join(columns)} |")
        print(f"| --- |{' ---: |' * len(columns)}")
        for method in methods:
            cohort = study.cohort(dataset, method, n=n)
            cohort.backend = for_cohorts(DEVICE)
            print(f"| {method} | {function(cohort, images)} |", flush=True)


def main() -> None:
    """Print the tables, row by row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results")
    parser.add_argument("--dataset", default="fonts")
    parser.add_argument("--images", type=int, default=330)
    parser.add_argument("--methods", nargs="*")
    arguments = parser.parse_args()
    study = robustgen.open_study(arguments.results)
    images = study.split(arguments.dataset).select(slice(arguments.images))
    n = max(study.config["sizes"])
    print(f"{describe_machine()}; N = {n}, {len(images)} images, the models of the first cohort")
    methods = arguments.methods or list(study.config["methods"])
    print_table_of_autoattack(study, arguments.dataset, images, methods, n)
    print_tables_of_methods(study, arguments.dataset, images, methods, n)


if __name__ == "__main__":
    main()
