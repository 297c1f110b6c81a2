"""The public attack libraries, in a process of their own with PyTorch's settings as they are.

What this package sets for its jobs (memory that is kept, deterministic algorithms) is no part of
these libraries, and would make them faster or slower. `attacks.py` starts this process, and tells
it by name which attack to run.
"""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from memory import forget, peak_mb
from torch import Tensor, nn

from robustgen.io.tensors import load_tensors
from robustgen.models.cohort import Cohort

STEPS, BATCH = 40, 100
NAMES = ("plain loop", "foolbox", "torchattacks", "ART")

Attack = Callable[[Tensor, Tensor], Tensor]
"""Images `(B, C, H, W)` and their classes `(B,)` to adversarial examples."""


def plain_loop(model: nn.Module, radius: float) -> Attack:
    """The few lines that everybody writes."""

    def attack(x: Tensor, y: Tensor) -> Tensor:
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
    """foolbox (Rauber et al.)."""
    import foolbox

    held = foolbox.PyTorchModel(model, bounds=(0, 1), device=next(model.parameters()).device)
    how = foolbox.attacks.LinfPGD(abs_stepsize=radius / 30, steps=STEPS, random_start=True)
    return lambda x, y: how(held, x, y, epsilons=radius)[1]


def by_torchattacks(model: nn.Module, radius: float) -> Attack:
    """torchattacks (Kim)."""
    import torchattacks

    return torchattacks.PGD(model, eps=radius, alpha=radius / 30, steps=STEPS, random_start=True)


def by_art(model: nn.Module, radius: float, batch: int = BATCH) -> Attack:
    """The Adversarial Robustness Toolbox (Nicolae et al.)."""
    import numpy as np
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    here = next(model.parameters()).device
    held = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(1, 28, 28),
        nb_classes=10,
        clip_values=(0, 1),
        device_type="gpu" if here.type == "cuda" else "cpu",
    )
    how = ProjectedGradientDescentPyTorch(
        held,
        norm=np.inf,
        eps=radius,
        eps_step=radius / 30,
        max_iter=STEPS,
        num_random_init=1,
        batch_size=batch,
        verbose=False,
    )
    return lambda x, y: torch.from_numpy(how.generate(x.cpu().numpy(), y.cpu().numpy())).to(here)


MAKERS: dict[str, Callable[..., Attack]] = dict(
    zip(NAMES, (plain_loop, by_foolbox, by_torchattacks, by_art), strict=True)
)


def success(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, batch: int = BATCH) -> float:
    """Share of the images that the attack makes wrong for the plain model, a batch at a time."""
    wrong = 0
    for images, labels in zip(x.split(batch), y.split(batch), strict=True):
        made = attack(images, labels)
        with torch.no_grad():
            wrong += int((model(made).argmax(1) != labels).sum())
    return wrong / len(x)


class Peers:
    """The process, seen from the one that asks."""

    def __init__(
        self, folder: Path, radius: float, device: torch.device, batch: int = BATCH
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, folder, str(radius), str(device), str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str) -> dict[str, float]:
        """`success`, `seconds` and `peak_mb` of the attack called `name`."""
        assert self.process.stdin
        assert self.process.stdout
        print(name, file=self.process.stdin, flush=True)
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def main(folder: Path, radius: float, here: torch.device, batch: int) -> None:
    """Answer what is asked on standard input, about the model and the images in `folder`."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # for libraries that print
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Cohort.load(folder / "cohort.safetensors", here).member(0).requires_grad_(False)
    data, _ = load_tensors(folder / "data.safetensors", here)
    ways: dict[str, Attack] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in ways:
            more = {"batch": batch} if name == "ART" else {}
            ways[name] = MAKERS[name](model, radius, **more)
        forget(here)
        start = time.perf_counter()
        rate = success(model, data["images"], data["labels"], ways[name], batch)
        taken = time.perf_counter() - start
        answer = {"success": rate, "seconds": taken, "peak_mb": peak_mb(here)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), torch.device(sys.argv[3]), int(sys.argv[4]))
