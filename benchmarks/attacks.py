"""The search of this package compared with public attack libraries, on the same models and images.

The attacks are regular ones (L-infinity, signed steps). "until success" stops at the first success
of an image, as in an evaluation; the other libraries do not support this and take all steps. "all
steps" is the setting of training. The plain model decides on successes, and all implementations
must have equal success rates.
"""

import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peers import BATCH_SIZE, NAMES, STEPS, Attack, Peers, success_rate
from setting import (
    ADVERSARIAL,
    COHORTS,
    DEVICE,
    Row,
    Variant,
    count_pass_flop,
    load_letters,
    measure,
    train_cohort,
)
from torch import Tensor

from robustgen.attacks.search import SearchResult, run_search
from robustgen.attacks.spaces import ImageSpace
from robustgen.data.split import Split
from robustgen.io.tensors import save_tensors
from robustgen.jobs.runtime import provenance
from robustgen.models.cohort import Cohort
from robustgen.sampling import make_generator
from robustgen.specs import SearchConfig, Threat

IMAGES = 1000
MAX_SUCCESS_DIFFERENCE = 0.02
"""Largest difference of success rates, which random starts cause."""


def search_images(
    cohort: Cohort, radius: float, until_success: bool, x: Tensor, y: Tensor
) -> SearchResult:
    """Run the search of this package with images `x` of classes `y`."""
    return run_search(
        cohort,
        ImageSpace(x[None], 0.0, 1.0),
        y[None],
        Threat("image", "linf", radius),
        SearchConfig("signed", radius / 30, STEPS),
        [make_generator(0, "start")],
        stop_at_success=until_success,
        backend=COHORTS,
    )


def make_attack(cohort: Cohort, radius: float, until_success: bool) -> Attack:
    """Make an attack of the search of this package."""
    return lambda x, y: search_images(cohort, radius, until_success, x, y).codes[0]


def share_of_operations(cohort: Cohort, radius: float, x: Tensor, y: Tensor) -> float:
    """Return the operations of a search until success as a share of those of all steps.

    A success in iteration i needs i backward passes and i + 1 forward passes.
    """
    model = cohort.member(0).requires_grad_(False)
    batches = zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True)
    results = [search_images(cohort, radius, True, *batch) for batch in batches]
    iterations = torch.cat([result.iterations[0] for result in results])
    mean_steps = torch.where(iterations < 0, STEPS, iterations).float().mean().item()
    last_forward = count_pass_flop(model, backward=False) / count_pass_flop(model)
    return (mean_steps + last_forward) / STEPS


def compare_attacks(model_name: str, cohort: Cohort, test: Split, radius: float) -> list[Row]:
    """Measure all attacks on the one model of a cohort.

    Exits if their success rates differ.
    """
    model = cohort.member(0).requires_grad_(False)
    with torch.no_grad():
        is_correct = model(test.images()).argmax(1) == test.labels
    correct_rows = torch.nonzero(is_correct)[:IMAGES, 0]
    data = test.select(correct_rows)
    x, y = data.images().contiguous(), data.labels
    own_attacks = {
        "robustgen, until success": make_attack(cohort, radius, until_success=True),
        "robustgen, all steps": make_attack(cohort, radius, until_success=False),
    }
    with TemporaryDirectory() as folder:
        cohort.save(Path(folder, "cohort.safetensors"), {}, provenance(str(DEVICE)))
        save_tensors(Path(folder, "data.safetensors"), {"images": x, "labels": y}, {})
        peers = Peers(Path(folder), radius, DEVICE)
        rates = {name: peers.run(name)["success"] for name in NAMES}
        rates |= {name: success_rate(model, x, y, attack) for name, attack in own_attacks.items()}
        if max(rates.values()) - min(rates.values()) > MAX_SUCCESS_DIFFERENCE:
            sys.exit(f"attack on {model_name}: success rates differ: {rates}")
        work = len(x) * STEPS
        variants = {
            name: Variant(
                partial(peers.run, name),
                work,
                is_peer=True,
                measure_seconds=partial(peers.measure_seconds, name),
            )
            for name in NAMES
        }
        for name, attack in own_attacks.items():
            variants[name] = Variant(partial(success_rate, model, x, y, attack), work)
        rows = measure(f"attack on {model_name}", variants, count_pass_flop(model))
        peers.close()
    share = share_of_operations(cohort, radius, x, y)
    for row in rows:
        row["success"] = rates[str(row["variant"])]
        if "until success" in str(row["variant"]):  # these steps are not computed
            for rate in ("gflop_per_second", "share_of_product_rate"):
                row[rate] *= share
    return rows


def rows() -> list[Row]:
    """Measure attacks on a normally trained and on an adversarially trained model."""
    data = load_letters()
    training_data, test = data["train"].select(slice(2000)), data["test"]
    normal, robust = train_cohort(training_data), train_cohort(training_data, ADVERSARIAL)
    return [
        *compare_attacks("a normal model", normal, test, 0.3),
        *compare_attacks("a robust model", robust, test, 0.02),
    ]
