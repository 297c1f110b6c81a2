"""Our search beside public attack libraries, on the same trained models and images.

    make bench

Attacks with regular examples (L-infinity, signed steps) as everybody has them. "until success" is
for evaluation: only we leave out examples that have succeeded; the others run their nearest
setting. "all steps" is for training. Success is judged by the plain model, and must be the same.
Shown are medians of rounds in which all take turns; what counts are the ratios. All run in one
process with this package's settings of PyTorch, on one thread.
"""

import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import foolbox
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import torchattacks
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from setting import ADVERSARIAL, HERE, in_turns, letters, machine, product_rate, trained
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from robustgen.attack import Search, search
from robustgen.cohort import Cohort
from robustgen.datasets import Split
from robustgen.seeding import generator
from robustgen.spaces import Threat, image

STEPS, BATCH, IMAGES, ROUNDS = 40, 100, 1000, 5
SAME = 0.02
"""Success rates differ by less, as the random starts do."""

Attack = Callable[[Split], Tensor]
"""A batch of B images to adversarial examples `(B, C, H, W)`."""


def ours(cohort: Cohort, radius: float, until_success: bool) -> Attack:
    """The search of this package."""
    threat, how = Threat("image", "linf", radius), Search("signed", radius / 30, STEPS)

    def attack(batch: Split) -> Tensor:
        batch = batch.take(torch.arange(len(batch), device=HERE)[None])
        rngs = [generator(0, "start")]
        found = search(
            cohort,
            image(batch),
            batch.labels,
            threat,
            how,
            rngs,
            stop_at_success=until_success,
        )
        return found.codes[0]

    return attack


def plain_loop(model: nn.Module, radius: float) -> Attack:
    """The few lines that everybody writes."""

    def attack(batch: Split) -> Tensor:
        x, y = batch.images(), batch.labels
        moved = (x + torch.empty_like(x).uniform_(-radius, radius)).clamp(0, 1)
        for _ in range(STEPS):
            moved.requires_grad_()
            loss = F.cross_entropy(model(moved), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, moved)
            with torch.no_grad():
                moved = x + (moved + radius / 30 * gradient.sign() - x).clamp(-radius, radius)
                moved = moved.clamp(0, 1)
        return moved

    return attack


def by_foolbox(model: nn.Module, radius: float) -> Attack:
    """foolbox."""
    held = foolbox.PyTorchModel(model, bounds=(0, 1), device=HERE)
    how = foolbox.attacks.LinfPGD(abs_stepsize=radius / 30, steps=STEPS, random_start=True)
    return lambda batch: how(held, batch.images(), batch.labels, epsilons=radius)[1]


def by_torchattacks(model: nn.Module, radius: float) -> Attack:
    """torchattacks."""
    how = torchattacks.PGD(model, eps=radius, alpha=radius / 30, steps=STEPS, random_start=True)
    return lambda batch: how(batch.images(), batch.labels)


def by_art(model: nn.Module, radius: float) -> Attack:
    """The Adversarial Robustness Toolbox."""
    held = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(1, 28, 28),
        nb_classes=10,
        clip_values=(0, 1),
        device_type="gpu" if HERE.type == "cuda" else "cpu",
    )
    how = ProjectedGradientDescentPyTorch(
        held,
        norm=np.inf,
        eps=radius,
        eps_step=radius / 30,
        max_iter=STEPS,
        num_random_init=1,
        batch_size=BATCH,
        verbose=False,
    )

    def attack(batch: Split) -> Tensor:
        x, y = batch.images().cpu().numpy(), batch.labels.cpu().numpy()
        return torch.from_numpy(how.generate(x, y)).to(HERE)

    return attack


PEERS = {
    "plain loop": plain_loop,
    "foolbox": by_foolbox,
    "torchattacks": by_torchattacks,
    "ART": by_art,
}


def success(model: nn.Module, data: Split, attack: Attack) -> float:
    """Share of the images that the attack makes wrong for the plain model."""
    wrong = 0
    for at in range(0, len(data), BATCH):
        batch = data.take(slice(at, at + BATCH))
        made = attack(batch)
        with torch.no_grad():
            wrong += int((model(made).argmax(1) != batch.labels).sum())
    return wrong / len(data)


def operations(model: nn.Module) -> float:
    """FLOP of a step with one image, forward and back to it."""
    x = torch.rand(1, 1, 28, 28, device=HERE).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward(inputs=[x])
    return counter.get_total_flops()


def compared(kind: str, cohort: Cohort, test: Split, radius: float) -> list[dict[str, object]]:
    """A row for each way to attack the one model of a cohort."""
    model = cohort.member(0).requires_grad_(False)
    with torch.no_grad():
        right = torch.nonzero(model(test.images()).argmax(1) == test.labels)[:IMAGES, 0]
    data = test.take(right).keep()
    ways = {name: peer(model, radius) for name, peer in PEERS.items()}
    ways["ours, all steps"] = ours(cohort, radius, until_success=False)
    ways["ours, until success"] = ours(cohort, radius, until_success=True)
    torch.manual_seed(0)
    rates = {name: success(model, data, way) for name, way in ways.items()}
    if max(rates.values()) - min(rates.values()) > SAME:
        sys.exit(f"{kind}: success differs: {rates}")
    seconds = in_turns(
        {name: partial(success, model, data, way) for name, way in ways.items()}, ROUNDS
    )
    fastest = min(seconds[name] for name in PEERS)
    work = len(data) * STEPS
    return [
        {
            "model": kind,
            "attack": name,
            "success": rates[name],
            "seconds": seconds[name],
            "times_the_fastest_peer": fastest / seconds[name],
            "image_iterations_per_second": work / seconds[name],
            "gflop_per_second": work * operations(model) / seconds[name] / 1e9,
        }
        for name in ways
    ]


def main(target: Path) -> None:
    """Measure, print, and write `attacks.parquet` in `target`."""
    warnings.filterwarnings("ignore")
    data = letters()
    learned = data["train"].take(slice(2000))
    normal, robust = trained(learned), trained(learned, ADVERSARIAL)
    rows = compared("normal", normal, data["test"], 0.3)
    rows += compared("adversarial", robust, data["test"], 0.02)
    table = pd.DataFrame(rows)
    table["share_of_product_rate"] = table["gflop_per_second"] / product_rate()
    table["machine"] = machine()
    target.mkdir(parents=True, exist_ok=True)
    table.to_parquet(target / "attacks.parquet")
    print(table.drop(columns="machine").to_string(index=False, float_format="{:.3g}".format))
    print(machine())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/benchmarks"))
