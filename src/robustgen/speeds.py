"""How fast a machine does what a study asks of it, measured on random images.

Data sets whose images have the same shape, number of classes and kind of VAE-GAN are measured once.
On two cores of a CPU a measurement takes one to three minutes.
"""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from pydantic import BaseModel

from robustgen import affine, device
from robustgen.attack import Search, search
from robustgen.cohort import Cohort
from robustgen.config_errors import listed
from robustgen.datasets import Split
from robustgen.distance import to_manifold
from robustgen.evaluation import BATCH, at_once
from robustgen.manifolds import Decoders, Learned
from robustgen.manifolds.training import train as train_vaegan
from robustgen.manifolds.vaegan import Recipe, VaeGan
from robustgen.seeding import generator
from robustgen.settings import LEARNED
from robustgen.spaces import SPACES, Threat
from robustgen.study import Study
from robustgen.training import Generators, Method, Schedule, train

IMAGES, STEPS, EPOCHS = 300, 5, 3
LONG_ENOUGH = 10.0


class OnDataset(BaseModel):
    """Speeds with images of the shape of a data set's.

    Attributes:
        learned: seconds to learn from an image, per model.
        trained: seconds of an iteration with an image in training, per model, by the space.
        searched: the same in an attack.
        vaegan: seconds to train a VAE-GAN with an image; 0 where there is none.
        approached: seconds of an iteration towards a manifold, per example, by the space.
    """

    learned: float
    trained: dict[str, float]
    searched: dict[str, float]
    vaegan: float = 0.0
    approached: dict[str, float] = {}


class Speeds(BaseModel):
    """Speeds of a machine for a study.

    Attributes:
        machine: its device.
        shared: whether jobs share it, as they do a GPU; else each has a core of its own.
        start: seconds to start and end a job.
        datasets: by data set.
    """

    machine: str
    shared: bool = False
    start: float
    datasets: dict[str, OnDataset]


def measure(study: Study, compute_device: torch.device, report: Callable[[str], None]) -> Speeds:
    """The speeds of this machine for a study.

    Args:
        study: the study whose data sets are measured.
        compute_device: the device on which jobs compute.
        report: takes a line about each measurement before it begins.
    """
    report("measuring how long a job takes to start")
    command = [sys.executable, "-c", "from robustgen import speeds; speeds.begin()"]
    start = _seconds(lambda: subprocess.run(command, check=True))
    shared = compute_device.type == "cuda"
    machine = torch.cuda.get_device_name(compute_device) if shared else "CPU, one core per job"
    groups = _groups_of_equal_speed(study)
    speeds_by_name: dict[str, OnDataset] = {}
    for number, names in enumerate(groups, 1):
        title = f"measuring the speed of {listed(names, 'and')} ({number} of {len(groups)})"
        group_speeds = _measure_group(
            study, names, compute_device, lambda part, title=title: report(f"{title}: {part}")
        )
        speeds_by_name |= {name: _select(study, name, group_speeds) for name in names}
    datasets = {name: speeds_by_name[name] for name in study.datasets}
    return Speeds(machine=machine, shared=shared, start=start, datasets=datasets)


def lacks(study: Study, speeds: Speeds) -> Iterator[str]:
    """What a study asks for and speeds lack, in words."""
    for name in study.datasets:
        if (on := speeds.datasets.get(name)) is None:
            yield f"of the data set {name}"
            continue
        if name in study.manifolds and not on.vaegan:
            yield f"of VAE-GANs on {name}"
        for space in _spaces(study, name):
            if space not in on.trained or space not in on.searched:
                yield f"in the space {space} on {name}"
        for space in _near(study, name):
            if space not in on.approached:
                yield f"towards the {space} on {name}"


def begin() -> None:
    """What a job does before it is at work: on a GPU, compile and record as well."""
    here = device.setup()
    if here.type == "cuda":
        shape = (1, 28, 28)
        cohort, rngs = _cohort(shape, 10, 1, here)
        _train(cohort, _random(shape, 10, here), "image", rngs, 1)


def _recipe(study: Study, dataset: str) -> Recipe | None:
    """How VAE-GANs on a data set are trained, for one epoch; None without a learned manifold.

    Betas weight a loss and differ between classes. They do not change the speed, so one stands for
    all.
    """
    if dataset not in study.manifolds:
        return None
    recipe = Recipe.of(study.manifold_part(dataset, "all")["recipe"])
    return replace(recipe, epochs=1, beta=1.0)


def _groups_of_equal_speed(study: Study) -> list[list[str]]:
    """Names of data sets, grouped by what determines the speed of a job."""
    groups = defaultdict(list)
    for name, dataset in study.datasets.items():
        groups[dataset.shape, dataset.classes, _recipe(study, name)].append(name)
    return list(groups.values())


def _select(study: Study, dataset: str, speeds: OnDataset) -> OnDataset:
    """Of the speeds of a group, those that a study uses on one data set."""
    spaces, manifolds = _spaces(study, dataset), _near(study, dataset)
    return speeds.model_copy(
        update={
            "trained": {space: speeds.trained[space] for space in spaces},
            "searched": {space: speeds.searched[space] for space in spaces},
            "approached": {space: speeds.approached[space] for space in manifolds},
        }
    )


def _measure_group(
    study: Study, names: list[str], compute_device: torch.device, report: Callable[[str], None]
) -> OnDataset:
    """The speeds of data sets of one group, in all spaces that one of them has."""
    dataset = study.datasets[names[0]]
    data = _random(dataset.shape, dataset.classes, compute_device)
    vaegan = 0.0
    if recipe := _recipe(study, names[0]):
        report("VAE-GANs")
        model = VaeGan(dataset.shape, recipe)
        model.initialize(generator(0, "plan"))
        model.to(compute_device)
        vaegan = _seconds(lambda: train_vaegan(model, data, generator(0, "plan"))) / len(data)
        codes = torch.zeros(len(data), recipe.latent, device=compute_device)
        decoders = Decoders([model.decoder.requires_grad_(False).folded()] * dataset.classes)
        data = replace(data, learned={name: Learned(codes, decoders) for name in LEARNED})
    first, last = study.cohorts()[0]
    cohort, rngs = _cohort(dataset.shape, dataset.classes, 1 + last - first, compute_device)
    spaces = sorted({space for name in names for space in _spaces(study, name)})
    manifolds = sorted({space for name in names for space in _near(study, name)})
    report("attacks")
    searched = {space: _search(cohort, data, space, rngs) for space in spaces}
    report("training")
    learned, trained = _learning(cohort, data, rngs, searched)
    report("distances")
    return OnDataset(
        learned=learned,
        trained=trained,
        searched=searched,
        vaegan=vaegan,
        approached={space: _approach(data, space) for space in manifolds},
    )


def _spaces(study: Study, dataset: str) -> list[str]:
    """Those of all threats that a data set has."""
    used = {threat.space for threat in study.threats.values()}
    return sorted(space for space in used if study.has(dataset, space))


def _near(study: Study, dataset: str) -> list[str]:
    """The manifolds to which distances are measured: the known one, and the first learned one."""
    known = ["true_manifold"] if study.has(dataset, "true_manifold") else []
    return known + study.learned(dataset)[:1]


def _cohort(
    shape: tuple[int, int, int], classes: int, models: int, here: torch.device
) -> tuple[Cohort, list[torch.Generator]]:
    """Models that have not learned, and generators."""
    cohort = Cohort("convnet", shape, classes, range(models)).to(here).eval()
    rngs = [generator(0, "plan", seed) for seed in cohort.seeds]
    cohort.initialize(rngs)
    return cohort, rngs


def _train(
    cohort: Cohort, data: Split, space: str | None, rngs: list[torch.Generator], epochs: int
) -> None:
    """Some epochs, normal or with attacks in a space."""
    how = Search("adam", 1e-3, STEPS)
    method = None if space is None else Method(Threat(space, "linf", 0.1), how)
    train(cohort, data, Schedule(epochs, BATCH, 1e-3, 1.0, 0.0), method, Generators(rngs, rngs))


def _learning(
    cohort: Cohort, data: Split, rngs: list[torch.Generator], searched: dict[str, float]
) -> tuple[float, dict[str, float]]:
    """`learned` and `trained` of `OnDataset`, given `searched`.

    They are differences of times, any of which other work on the machine may have made longer.
    Where one is not positive, an iteration of an attack stands for it: in the same space, or, to
    learn, on pixels.
    """
    images = len(data) * len(rngs)
    learn = _epoch(cohort, data, None, rngs)
    more = {space: _epoch(cohort, data, space, rngs) - learn for space in searched}
    iterations = images / 2 * (STEPS + 1)
    trained = {
        space: more[space] / iterations if more[space] > 0 else instead
        for space, instead in searched.items()
    }
    return learn / images if learn > 0 else _search(cohort, data, "image", rngs), trained


def _epoch(cohort: Cohort, data: Split, space: str | None, rngs: list[torch.Generator]) -> float:
    """Seconds of an epoch that is not the first one."""
    short, long = (
        _seconds(partial(_train, cohort, data, space, rngs, epochs)) for epochs in (1, 1 + EPOCHS)
    )
    return (long - short) / EPOCHS


def _random(shape: tuple[int, int, int], classes: int, here: torch.device) -> Split:
    """Random images, each warped by the identity."""
    rows = torch.arange(IMAGES, device=here)
    return Split(
        bank=torch.rand(len(rows), *shape, generator=generator(0, "plan")).to(here),
        source=rows,
        labels=rows % classes,
        codes=torch.tensor(affine.IDENTITY, device=here).expand(len(rows), 6),
        ranges=affine.bounds("hard", here),
        classes=tuple(map(str, range(classes))),
    ).keep()


def _search(cohort: Cohort, data: Split, space: str, rngs: list[torch.Generator]) -> float:
    """Seconds of an iteration with an image, per model."""
    many = at_once(cohort, data, 1)
    rows = torch.arange(many, device=data.labels.device) % len(data)
    batch = data.take(rows.expand(len(rngs), -1))
    settings = Search("adam", 1e-3, STEPS)

    def run() -> None:
        around = SPACES[space](batch)
        threat = Threat(space, "linf", 0.1)
        search(cohort, around, batch.labels, threat, settings, rngs, stop_at_success=False)

    return _seconds(run) / (len(rngs) * many * (STEPS + 1))


def _approach(data: Split, space: str) -> float:
    """Seconds of an iteration towards a manifold, per example, of both descents."""
    some = data.take(slice(IMAGES))
    examples = some.images()
    return (
        _seconds(lambda: to_manifold(examples, some, space, steps=STEPS, step_size=0.01))
        / IMAGES
        / (STEPS + 1)
    )


def _seconds(run: Callable[[], object]) -> float:
    """The least of up to three runs after a first: other work on the machine only adds to it.

    Runs are not repeated after `LONG_ENOUGH` seconds, since long runs vary less.
    """
    run()
    times: list[float] = []
    while len(times) < 3 and sum(times) < LONG_ENOUGH:
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)
