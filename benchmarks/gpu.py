"""On a GPU: cohorts of more and more models, beside one model and beside public attack libraries.

A GPU is hardly at work with one small model, so that more of them should take little longer. Epochs
are those after the first, in which an update is recorded; attacks are whole ones, with the plain
models' check, on images that the models get right.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peers import NAMES, STEPS, Peers
from setting import HERE, LETTERS, Row, Way, letters, measured, operations, seconds_of, trained

from robustgen import grouped, replay, stacking
from robustgen.attack import Search
from robustgen.cohort import Cohort
from robustgen.datasets import Split
from robustgen.evaluation import attack, predictions
from robustgen.files import provenance
from robustgen.folding import folded
from robustgen.seeding import generator
from robustgen.spaces import Threat
from robustgen.tensors import save_tensors
from robustgen.training import Generators, Method, Schedule, train

MODELS, IMAGES, RADIUS, EPOCHS = (1, 5, 20), 1000, 0.3, 2
BATCHES = (100, 1000)
"""Images that the libraries attack at once."""
LEARNT = Search("adam", 0.005, 40)
METHODS = {
    "normal": None,
    "adversarial": Method(Threat("image", "linf", RADIUS), LEARNT),
    "on the true manifold": Method(Threat("true_manifold", "linf", RADIUS), LEARNT),
}


def learned(models: int, data: Split, method: Method | None, epochs: int) -> None:
    """A cohort of so many models, some epochs long."""
    cohort = Cohort("convnet", (1, 28, 28), len(LETTERS), range(models)).to(HERE)
    rngs = [[generator(0, what, seed) for seed in range(models)] for what in ("batches", "attacks")]
    cohort.initialize(rngs[0])
    train(cohort, data, Schedule(epochs, 100, 0.01, 0.95, 1e-4), method, Generators(*rngs))


def epoch(run: Callable[[int], None]) -> float:
    """Seconds of an epoch after the first."""
    short, long = (seconds_of(partial(run, epochs)) for epochs in (1, 1 + EPOCHS))
    return (long - short) / EPOCHS


def training(data: Split) -> list[Row]:
    """Epochs of cohorts; what is compared is all models together."""
    rows: list[Row] = []
    for name, method in METHODS.items():
        ways = {}
        for models in MODELS:
            run = partial(learned, models, data, method)
            once = partial(run, 1)
            ways[f"cohort of {models}"] = Way(once, len(data), seconds=partial(epoch, run))
        rows += measured(f"epoch of training, {name}, all models", ways, rounds=3)
    return rows


def found(cohort: Cohort, data: Split) -> float:
    """Success of the attack of a study on regular examples."""
    threat, how = Threat("image", "linf", RADIUS), Search("signed", RADIUS / 30, STEPS)
    rngs = [generator(0, "start", seed) for seed in cohort.seeds]
    made = attack(cohort, data, threat, how, rngs)
    return float(made.rows["success"].mean())


def attacks(cohorts: dict[int, Cohort], data: Split) -> list[Row]:
    """Cohorts, all models together."""
    ways = {f"cohort of {m}": Way(partial(found, of, data), IMAGES) for m, of in cohorts.items()}
    return measured("attack until success, all models", ways)


def beside_peers(cohorts: dict[int, Cohort], data: Split) -> list[Row]:
    """Per model, beside the libraries, which attack one model."""
    ways, rates = {}, {}
    with TemporaryDirectory() as folder:
        cohorts[1].save(Path(folder, "cohort.safetensors"), {}, provenance(str(HERE)))
        held = {"images": data.images().contiguous(), "labels": data.labels}
        save_tensors(Path(folder, "data.safetensors"), held, {})
        asked = {batch: Peers(Path(folder), RADIUS, HERE, batch) for batch in BATCHES}
        for batch, peers in asked.items():
            for name in NAMES:
                way, run = f"{name}, {batch} at once", partial(peers.run, name)
                rates[way] = run()["success"]
                seconds = partial(lambda run: run()["seconds"], run)
                ways[way] = Way(run, IMAGES * STEPS, peer=True, seconds=seconds)
        for models, cohort in cohorts.items():
            way, run = f"robustgen, cohort of {models}", partial(found, cohort, data)
            rates[way] = run()
            ways[way] = Way(run, models * IMAGES * STEPS)
        rows = measured("attack on a GPU, until success, per model", ways)
        for peers in asked.values():
            peers.close()
    return [row | {"success": rates[str(row["way"])]} for row in rows]


def passes() -> list[Row]:
    """What the kernels gain: forward and back to the images of an update, one after the other."""
    rows: list[Row] = []
    for models in MODELS:
        cohort = Cohort("convnet", (1, 28, 28), len(LETTERS), range(models)).to(HERE).eval()
        cohort.initialize([generator(0, "initialization", seed) for seed in range(models)])
        images = torch.rand(models, 50, 1, 28, 28, device=HERE)
        ours, works = cohort._folded(), grouped._works
        grouped._works = lambda: False  # type: ignore[assignment]
        torchs = stacking.stacked(*folded(*cohort._plain()))
        grouped._works = works
        ways = {}
        for name, run in {"PyTorch's convolutions": torchs, "our kernels": ours}.items():
            for how, call in {"started one by one": _called, "replayed": _replayed}.items():
                ways[f"{name}, {how}"] = Way(call(run, images), models * 50 * PASSES)
        rows += measured(f"passes of {models} models", ways, operations(cohort.member(0)))
    return rows


PASSES = 20


def _back(run: stacking.Pass, images: torch.Tensor) -> tuple[torch.Tensor]:
    """The gradient to the images, several times."""
    for _ in range(PASSES):
        start = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(run(start).square().sum(), start)
    return (gradient,)


def _called(run: stacking.Pass, images: torch.Tensor) -> Callable[[], object]:
    return partial(_back, run, images)


def _replayed(run: stacking.Pass, images: torch.Tensor) -> Callable[[], object]:
    again = replay.Replayed(partial(_back, run))
    again(images)  # plain
    again(images)  # recorded
    return partial(again, images)


def rows() -> list[Row]:
    """All of it."""
    data = letters()
    some = data["train"].take(slice(2000))
    test = data["test"]
    cohorts = {models: trained(some, seeds=models) for models in MODELS}
    right = torch.ones(len(test), dtype=torch.bool, device=HERE)
    for cohort in cohorts.values():
        said = torch.as_tensor(predictions(cohort, test)["prediction"], device=HERE)
        right &= (said.view(len(cohort.seeds), -1) == test.labels).all(0)
    rows_right = torch.nonzero(right)[:, 0]
    known = test.take(rows_right[torch.arange(IMAGES, device=HERE) % len(rows_right)])
    return [
        *passes(),
        *training(some),
        *attacks(cohorts, known),
        *beside_peers(cohorts, known),
    ]
