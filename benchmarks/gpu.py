"""On a GPU: cohorts of more and more models, beside one model and beside public attack libraries.

A GPU is hardly at work with one small model, so that more of them should take little longer. Epochs
are those after the first, in which an update is recorded; attacks are whole ones, with the plain
models' check, on images that the models get right.
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
from setting import COHORTS, HERE, LETTERS, Row, Way, letters, measured, trained
from timing import seconds_of

from robustgen.acceleration.cuda import grouped_conv
from robustgen.acceleration.cuda import search_step as fused
from robustgen.acceleration.cuda import whole_search as climbing
from robustgen.backend import PLAIN, Backend
from robustgen.data.split import Split
from robustgen.evaluation.attacks import attack_cohort, predict
from robustgen.io.files import provenance
from robustgen.io.tensors import save_tensors
from robustgen.models.cohort import Cohort
from robustgen.seeding import generator
from robustgen.specs import AdversarialTraining, SearchConfig, Threat, TrainConfig
from robustgen.training.classifiers import Generators, train

MODELS, IMAGES, RADIUS, EPOCHS = (1, 5, 20), 1000, 0.3, 5
BATCHES = (100, 1000)
"""Images that the libraries attack at once."""
SAME = 0.02
"""Success rates differ by less, as the random starts do."""
LEARNT = SearchConfig("adam", 0.005, 40)
METHODS = {
    "normal": None,
    "adversarial": AdversarialTraining(Threat("image", "linf", RADIUS), LEARNT),
    "on the true manifold": AdversarialTraining(Threat("true_manifold", "linf", RADIUS), LEARNT),
}


def learned(
    models: int,
    data: Split,
    method: AdversarialTraining | None,
    epochs: int,
    backend: Backend = COHORTS,
) -> None:
    """Train a cohort of so many models for some epochs."""
    cohort = Cohort("convnet", (1, 28, 28), len(LETTERS), range(models), backend).to(HERE)
    rngs = [[generator(0, what, seed) for seed in range(models)] for what in ("batches", "attacks")]
    cohort.initialize(rngs[0])
    train(cohort, data, TrainConfig(epochs, 100, 0.01, 0.95, 1e-4), method, Generators(*rngs))


def epoch(run: Callable[[int], None]) -> float:
    """Seconds of an epoch after the first."""
    short, long = (seconds_of(partial(run, epochs)) for epochs in (1, 1 + EPOCHS))
    return (long - short) / EPOCHS


def epochs(data: Split) -> list[Row]:
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
    threat, how = Threat("image", "linf", RADIUS), SearchConfig("signed", RADIUS / 30, STEPS)
    rngs = [generator(0, "start", seed) for seed in cohort.seeds]
    made = attack_cohort(cohort, data, threat, how, rngs)
    return float(made.rows["success"].mean())


def attacks(cohorts: dict[int, Cohort], data: Split) -> list[Row]:
    """Cohorts, all models together."""
    ways = {f"cohort of {m}": Way(partial(found, of, data), IMAGES) for m, of in cohorts.items()}
    by_steps = [(climbing, "supported_forward", lambda *_: None)]
    for models, of in cohorts.items():
        run = partial(_with, by_steps, found, of, data)
        ways[f"cohort of {models}, a step at a time"] = Way(run, IMAGES)
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
        if max(rates.values()) - min(rates.values()) > SAME:
            sys.exit(f"success differs: {rates}")
        rows = measured("attack on a GPU, until success, per model", ways, rounds=3)
        for peers in asked.values():
            peers.close()
    return [row | {"success": rates[str(row["way"])]} for row in rows]


def tricks(data: Split) -> list[Row]:
    """Epochs of adversarial training of five models, and each means of speed left out."""
    left_out = {
        "all means": [],
        "without our kernels": [(grouped_conv, "is_triton_available", lambda: False)],
        "without those of layers": [(grouped_conv, "supports", lambda *_: False)],
        "without those between passes": [(fused, "supports_tensors", lambda _: False)],
    }
    run = partial(learned, 5, data, METHODS["adversarial"])
    ways = {
        name: Way(
            partial(_with, parts, run, 1), len(data), seconds=partial(_with, parts, epoch, run)
        )
        for name, parts in left_out.items()
    }
    without = {
        "started one by one": replace(COHORTS, compile_step=PLAIN.compile_step),
        "the plain backend": PLAIN,
    }
    for name, backend in without.items():
        run = partial(learned, 5, data, METHODS["adversarial"], backend=backend)
        ways[name] = Way(partial(run, 1), len(data), seconds=partial(epoch, run))
    return measured("epoch of adversarial training of 5 models", ways, rounds=1)


def _with(parts: list[tuple[ModuleType, str, object]], run: Callable[..., Any], *args: Any) -> Any:
    """What `run` gives while names in modules are something else."""
    with ExitStack() as stack:
        for module, name, other in parts:
            stack.enter_context(patch.object(module, name, other))
        return run(*args)


def rows() -> list[Row]:
    """All of it."""
    data = letters()
    some = data["train"].take(slice(2000))
    test = data["test"]
    cohorts = {models: trained(some, seeds=models) for models in MODELS}
    right = torch.ones(len(test), dtype=torch.bool, device=HERE)
    for cohort in cohorts.values():
        said = torch.as_tensor(predict(cohort, test)["prediction"], device=HERE)
        right &= (said.view(len(cohort.seeds), -1) == test.labels).all(0)
    rows_right = torch.nonzero(right)[:, 0]
    known = test.take(rows_right[torch.arange(IMAGES, device=HERE) % len(rows_right)])
    return [
        *tricks(some),
        *epochs(some),
        *attacks(cohorts, known),
        *beside_peers(cohorts, known),
    ]
