"""How fast a machine does what a study asks of it, measured on random images.

Data sets whose images have the same shape, number of classes and kind of VAE-GAN are measured once.
On a CPU a measurement takes minutes.
"""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from robustgen import device
from robustgen.acceleration import backends
from robustgen.attacks.search import run_search
from robustgen.attacks.spaces import SPACES
from robustgen.config.job_params import vaegan_params
from robustgen.config.messages import join_words
from robustgen.config.study import Study
from robustgen.data import affine
from robustgen.data.learned_manifold import Decoders, LearnedManifold
from robustgen.data.split import Split
from robustgen.evaluation.attacks import BATCH_SIZE, choose_batch_size
from robustgen.evaluation.distances import measure_to_manifold
from robustgen.jobs.speed_records import OnDataset, Speeds, measured_manifolds, threat_spaces
from robustgen.models.cohort import Cohort
from robustgen.models.vaegan import VaeGan
from robustgen.seeding import generator
from robustgen.specs import (
    LEARNED_MANIFOLDS,
    AdversarialTraining,
    SearchConfig,
    Threat,
    TrainConfig,
    VaeGanConfig,
)
from robustgen.training.classifiers import Generators, train
from robustgen.training.vaegan import train_vaegan

IMAGES, STEPS, EPOCHS = 300, 5, 3
LONG_ENOUGH = 10.0


def measure(study: Study, compute_device: torch.device, report: Callable[[str], None]) -> Speeds:
    """The speeds of this machine for a study.

    Args:
        study: the study whose data sets are measured.
        compute_device: the device on which jobs compute.
        report: takes a line about each measurement before it begins.
    """
    report("measuring how long a job takes to start")
    command = [sys.executable, "-c", "from robustgen.jobs import speeds; speeds.begin()"]
    start = _seconds(lambda: subprocess.run(command, check=True))
    shared = compute_device.type == "cuda"
    machine = torch.cuda.get_device_name(compute_device) if shared else "CPU, one core per job"
    groups = _groups_of_equal_speed(study)
    datasets: dict[str, OnDataset] = {}
    for number, names in enumerate(groups, 1):
        title = f"measuring the speed of {join_words(names, 'and')} ({number} of {len(groups)})"
        group_speeds = _measure_group(study, names, compute_device, _with_title(report, title))
        datasets |= {name: _select(study, name, group_speeds) for name in names}
    return Speeds(machine=machine, shared=shared, start=start, datasets=datasets)


def _with_title(report: Callable[[str], None], title: str) -> Callable[[str], None]:
    return lambda part: report(f"{title}: {part}")


def begin() -> None:
    """What a job does before it is at work: on a GPU, compile and record as well."""
    here = device.setup()
    if here.type == "cuda":
        shape = (1, 28, 28)
        cohort, rngs = _cohort(shape, 10, 1, here)
        _train(cohort, _random(shape, 10, here), "image", rngs, 1)


def _recipe(study: Study, dataset: str) -> VaeGanConfig | None:
    """How VAE-GANs on a data set are trained, for one epoch; None without a learned manifold.

    Betas weight a loss and differ between classes. They do not change the speed, so one stands for
    all.
    """
    if dataset not in study.manifolds:
        return None
    recipe = VaeGanConfig.from_mapping(vaegan_params(study, dataset, "all")["recipe"])
    return replace(recipe, epochs=1, beta=1.0)


def _groups_of_equal_speed(study: Study) -> list[list[str]]:
    """Names of data sets, grouped by what determines the speed of a job."""
    groups = defaultdict(list)
    for name, dataset in study.datasets.items():
        groups[dataset.shape, dataset.classes, _recipe(study, name)].append(name)
    return list(groups.values())


def _select(study: Study, dataset: str, speeds: OnDataset) -> OnDataset:
    """Of the speeds of a group, those that a study uses on one data set."""
    spaces, manifolds = threat_spaces(study, dataset), measured_manifolds(study, dataset)
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
        backend = backends.for_vaegans(compute_device)
        train_once = partial(train_vaegan, model, data, generator(0, "plan"), backend=backend)
        vaegan = _seconds(train_once) / len(data)
        codes = torch.zeros(len(data), recipe.latent, device=compute_device)
        decoder = backend.prepare(model.decoder.requires_grad_(False).fold_batch_norm())
        decoders = Decoders([decoder] * dataset.classes)
        data = replace(
            data, learned=dict.fromkeys(LEARNED_MANIFOLDS, LearnedManifold(codes, decoders))
        )
    first, last = study.cohorts()[0]
    cohort, rngs = _cohort(dataset.shape, dataset.classes, 1 + last - first, compute_device)
    spaces = sorted({space for name in names for space in threat_spaces(study, name)})
    manifolds = sorted({space for name in names for space in measured_manifolds(study, name)})
    measured_spaces = [space for space in spaces if _standin(space, spaces) == space]
    report("attacks")
    searched = {space: _search(cohort, data, space, rngs) for space in measured_spaces}
    report("training")
    learned, trained = _learning(cohort, data, rngs, searched)
    report("distances")
    return OnDataset(
        learned=learned,
        trained={space: trained[_standin(space, spaces)] for space in spaces},
        searched={space: searched[_standin(space, spaces)] for space in spaces},
        vaegan=vaegan,
        approached={space: _approach(data, space) for space in manifolds},
    )


def _standin(space: str, spaces: list[str]) -> str:
    """The space whose speed is measured for another one.

    The random images have the same codes and decoders in all learned spaces.
    """
    return next(
        other for other in spaces if other == space or {other, space} <= {*LEARNED_MANIFOLDS}
    )


def _cohort(
    shape: tuple[int, int, int], classes: int, models: int, here: torch.device
) -> tuple[Cohort, list[torch.Generator]]:
    """Models that have not learned, and generators."""
    backend = backends.for_cohorts(here)
    cohort = Cohort("convnet", shape, classes, range(models), backend).to(here).eval()
    rngs = [generator(0, "plan", seed) for seed in cohort.seeds]
    cohort.initialize(rngs)
    return cohort, rngs


def _train(
    cohort: Cohort, data: Split, space: str | None, rngs: list[torch.Generator], epochs: int
) -> None:
    """Some epochs, normal or with attacks in a space."""
    how = SearchConfig("adam", 1e-3, STEPS)
    method = None if space is None else AdversarialTraining(Threat(space, "linf", 0.1), how)
    train(
        cohort,
        data,
        TrainConfig(epochs, BATCH_SIZE, 1e-3, 1.0, 0.0),
        method,
        Generators(rngs, rngs),
    )


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
    short_run, long_run = (
        partial(_train, cohort, data, space, rngs, epochs) for epochs in (1, 1 + EPOCHS)
    )
    short_time = _seconds(short_run)
    return (_seconds(long_run, warm_up=False) - short_time) / EPOCHS


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
    many = choose_batch_size(cohort, data, 1)
    rows = torch.arange(many, device=data.labels.device) % len(data)
    batch = data.take(rows).expand(len(rngs))
    settings = SearchConfig("adam", 1e-3, STEPS)

    def run() -> None:
        around = SPACES[space](batch)
        threat = Threat(space, "linf", 0.1)
        run_search(
            cohort,
            around,
            batch.labels,
            threat,
            settings,
            rngs,
            stop_at_success=False,
            backend=cohort.backend,
        )

    return _seconds(run) / (len(rngs) * many * (STEPS + 1))


def _approach(data: Split, space: str) -> float:
    """Seconds of an iteration towards a manifold, per example, of both descents."""
    some = data.take(slice(IMAGES))
    examples = some.images()
    return (
        _seconds(
            lambda: measure_to_manifold(
                examples,
                some,
                space,
                steps=STEPS,
                step_size=0.01,
                make_adam=backends.for_vaegans(examples.device).make_adam,
            )
        )
        / IMAGES
        / (STEPS + 1)
    )


def _seconds(run: Callable[[], object], warm_up: bool = True) -> float:
    """The least of up to three runs after a first: other work on the machine only adds to it.

    Runs are not repeated after `LONG_ENOUGH` seconds, since long runs vary less.
    """
    if warm_up:
        run()
    times: list[float] = []
    while len(times) < 3 and sum(times) < LONG_ENOUGH:
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)
