"""The public attack libraries, in a process of their own with PyTorch's default settings.

The settings of this package for its jobs (memory that is kept, deterministic algorithms) do not
belong to these libraries, and would change their speed. `attacks.py` and `gpu.py` start this
process and write the names of attacks to its standard input.
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
from memory import peak_mb, reset_peak
from torch import Tensor, nn

from robustgen.io.tensors import load_tensors
from robustgen.models.cohort import Cohort

STEPS, BATCH_SIZE = 40, 100
NAMES = ("plain loop", "foolbox", "torchattacks", "ART")

Attack = Callable[[Tensor, Tensor], Tensor]
"""Images `(B, C, H, W)` and their classes `(B,)` to adversarial examples."""


def make_plain_loop(model: nn.Module, radius: float) -> Attack:
    """Make an attack of a few lines of PyTorch, as in many projects."""

    def attack(x: Tensor, y: Tensor) -> Tensor:
        adversarial = (x + torch.empty_like(x).uniform_(-radius, radius)).clamp(0, 1)
        for _ in range(STEPS):
            adversarial.requires_grad_()
            loss = F.cross_entropy(model(adversarial), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adversarial)
            with torch.no_grad():
                delta = (adversarial + radius / 30 * gradient.sign() - x).clamp(-radius, radius)
                adversarial = (x + delta).clamp(0, 1)
        return adversarial

    return attack


def make_foolbox(model: nn.Module, radius: float) -> Attack:
    """Make the attack of foolbox (Rauber et al.)."""
    import foolbox

    device = next(model.parameters()).device
    foolbox_model = foolbox.PyTorchModel(model, bounds=(0, 1), device=device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=radius / 30, steps=STEPS, random_start=True)
    return lambda x, y: attack(foolbox_model, x, y, epsilons=radius)[1]


def make_torchattacks(model: nn.Module, radius: float) -> Attack:
    """Make the attack of torchattacks (Kim)."""
    import torchattacks

    return torchattacks.PGD(model, eps=radius, alpha=radius / 30, steps=STEPS, random_start=True)


def make_art(model: nn.Module, radius: float, batch_size: int = BATCH_SIZE) -> Attack:
    """Make the attack of the Adversarial Robustness Toolbox (Nicolae et al.)."""
    import numpy as np
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    device = next(model.parameters()).device
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(1, 28, 28),
        nb_classes=10,
        clip_values=(0, 1),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier,
        norm=np.inf,
        eps=radius,
        eps_step=radius / 30,
        max_iter=STEPS,
        num_random_init=1,
        batch_size=batch_size,
        verbose=False,
    )

    def generate(x: Tensor, y: Tensor) -> Tensor:
        examples = attack.generate(x.cpu().numpy(), y.cpu().numpy())
        return torch.from_numpy(examples).to(device)

    return generate


MAKERS: dict[str, Callable[..., Attack]] = dict(
    zip(NAMES, (make_plain_loop, make_foolbox, make_torchattacks, make_art), strict=True)
)


def success_rate(
    model: nn.Module, x: Tensor, y: Tensor, attack: Attack, batch_size: int = BATCH_SIZE
) -> float:
    """Attack the images batch by batch; the share that the plain model then misclassifies."""
    successes = 0
    for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        examples = attack(images, labels)
        with torch.no_grad():
            successes += int((model(examples).argmax(1) != labels).sum())
    return successes / len(x)


class Peers:
    """A handle of the process that runs the attack libraries."""

    def __init__(
        self, folder: Path, radius: float, device: torch.device, batch_size: int = BATCH_SIZE
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, folder, str(radius), str(device), str(batch_size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str) -> dict[str, float]:
        """Run the attack called `name`; return its `success`, `seconds` and `peak_mb`."""
        assert self.process.stdin
        assert self.process.stdout
        print(name, file=self.process.stdin, flush=True)
        result: dict[str, float] = json.loads(self.process.stdout.readline())
        return result

    def measure_seconds(self, name: str) -> float:
        """Run the attack called `name`; return its seconds."""
        return self.run(name)["seconds"]

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def main(folder: Path, radius: float, device: torch.device, batch_size: int) -> None:
    """Run the attacks named on standard input, with the model and the images in `folder`."""
    results = sys.stdout
    sys.stdout = sys.stderr  # some libraries print
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Cohort.load(folder / "cohort.safetensors", device).member(0).requires_grad_(False)
    data, _ = load_tensors(folder / "data.safetensors", device)
    attacks: dict[str, Attack] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in attacks:
            options = {"batch_size": batch_size} if name == "ART" else {}
            attacks[name] = MAKERS[name](model, radius, **options)
        reset_peak(device)
        start = time.perf_counter()
        rate = success_rate(model, data["images"], data["labels"], attacks[name], batch_size)
        seconds = time.perf_counter() - start
        result = {"success": rate, "seconds": seconds, "peak_mb": peak_mb(device)}
        print(json.dumps(result), file=results, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), torch.device(sys.argv[3]), int(sys.argv[4]))
