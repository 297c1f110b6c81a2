"""Measurements of how fast a machine does the work of a study, on random images.

Data sets whose images have the same shape, number of classes and VAE-GAN are measured once. On a
CPU the measurement takes minutes.
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
from robustgen.data.decoders import IDENTITY, ClassDecoders, LearnedManifold, parameter_bounds
from robustgen.data.split import Split
from robustgen.evaluation.attacks import BATCH_SIZE, choose_batch_size
from robustgen.evaluation.distances import measure_to_manifold
from robustgen.jobs.speed_records import DatasetSpeeds, Speeds, measured_manifolds, threat_spaces
from robustgen.models.cohort import Cohort
from robustgen.models.vaegan import VaeGan
from robustgen.sampling import make_generator
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
"""Random images, search steps and epochs of a measurement."""
MAX_REPEATED_RUN_S = 10.0
"""Seconds after which a measured run is not repeated, because long runs vary less."""


def measure(study: Study, compute_device: torch.device, report: Callable[[str], None]) -> Speeds:
    """Measure the speeds of this machine for a study.

    Args:
        study: the study whose data sets are measured.
        compute_device: the device on which jobs compute.
        report: called with a line of text before each measurement.
    """
    report("measuring how long a job takes to start")
    command = [sys.executable, "-c", "from robustgen.jobs import speeds; speeds.warm_up()"]
    start = _time(lambda: subprocess.run(command, check=True))
    shared = compute_device.type == "cuda"
    machine = torch.cuda.get_device_name(compute_device) if shared else "CPU, one core per job"
    groups = _group_by_speed(study)
    datasets: dict[str, DatasetSpeeds] = {}
    for number, names in enumerate(groups, 1):
        title = f"measuring the speed of {join_words(names, 'and')} ({number} of {len(groups)})"
        group_speeds = _measure_group(study, names, compute_device, _with_title(report, title))
        datasets |= {name: _select(study, name, group_speeds) for name in names}
    return Speeds(machine=machine, shared=shared, start=start, datasets=datasets)


def _with_title(report: Callable[[str], None], title: str) -> Callable[[str], None]:
    return lambda part: report(f"{title}: {part}")


def warm_up() -> None:
    """Do what a job does before its work: set up the device, and on a GPU compile kernels."""
    compute_device = device.setup()
    if compute_device.type == "cuda":
        shape = (1, 28, 28)
        cohort, rngs = _make_cohort("convnet", shape, 10, 1, compute_device)
        _train(cohort, _random_split(shape, 10, compute_device), "image", rngs, 1)


def _read_vaegan_config(study: Study, dataset: str) -> VaeGanConfig | None:
    """Return the settings of VAE-GANs on a data set, for one epoch; None without a manifold.

    `beta` differs between classes, but it is a weight of the loss and does not change the speed.
    """
    if dataset not in study.manifolds:
        return None
    config = VaeGanConfig.from_mapping(vaegan_params(study, dataset, "all")["recipe"])
    return replace(config, epochs=1, beta=1.0)


def _group_by_speed(study: Study) -> list[list[str]]:
    """Group the names of data sets by what determines the speed of a job."""
    groups = defaultdict(list)
    for name, dataset in study.datasets.items():
        groups[dataset.shape, dataset.classes, _read_vaegan_config(study, name)].append(name)
    return list(groups.values())


def _select(study: Study, dataset: str, speeds: DatasetSpeeds) -> DatasetSpeeds:
    """Select from the speeds of a group those that a study uses on one data set."""
    spaces, manifolds = threat_spaces(study, dataset), measured_manifolds(study, dataset)
    return speeds.model_copy(
        update={
            "s_per_training_step": {space: speeds.s_per_training_step[space] for space in spaces},
            "s_per_attack_step": {space: speeds.s_per_attack_step[space] for space in spaces},
            "s_per_distance_step": {
                space: speeds.s_per_distance_step[space] for space in manifolds
            },
        }
    )


def _measure_group(
    study: Study, names: list[str], compute_device: torch.device, report: Callable[[str], None]
) -> DatasetSpeeds:
    """Measure the data sets of one group, in all spaces that at least one of them supports."""
    dataset = study.datasets[names[0]]
    data = _random_split(dataset.shape, dataset.classes, compute_device)
    s_per_vaegan_image = 0.0
    if config := _read_vaegan_config(study, names[0]):
        report("VAE-GANs")
        s_per_vaegan_image, data = _time_vaegan(config, data)
    first, last = study.cohorts()[0]
    cohort, rngs = _make_cohort(
        study.classifier.architecture,
        dataset.shape,
        dataset.classes,
        1 + last - first,
        compute_device,
    )
    spaces = sorted({space for name in names for space in threat_spaces(study, name)})
    manifolds = sorted({space for name in names for space in measured_manifolds(study, name)})
    measured_spaces = [space for space in spaces if _equivalent_space(space, spaces) == space]
    report("attacks")
    attack_steps = {space: _time_attack(cohort, data, space, rngs) for space in measured_spaces}
    report("training")
    s_per_update_image, training_steps = _time_training(cohort, data, rngs, attack_steps)
    report("distances")
    return DatasetSpeeds(
        s_per_update_image=s_per_update_image,
        s_per_training_step={
            space: training_steps[_equivalent_space(space, spaces)] for space in spaces
        },
        s_per_attack_step={
            space: attack_steps[_equivalent_space(space, spaces)] for space in spaces
        },
        s_per_vaegan_image=s_per_vaegan_image,
        s_per_distance_step={space: _time_distance(data, space) for space in manifolds},
    )


def _time_vaegan(config: VaeGanConfig, data: Split) -> tuple[float, Split]:
    """Time the training of a VAE-GAN.

    Returns:
        The seconds per image of an epoch, and the data with its decoder in every learned space.
    """
    compute_device = data.labels.device
    channels, height, width = data.source_images.shape[1:]
    model = VaeGan((channels, height, width), config)
    model.initialize(make_generator(0, "plan"))
    model.to(compute_device)
    backend = backends.for_vaegans(compute_device)
    train_once = partial(train_vaegan, model, data, make_generator(0, "plan"), backend=backend)
    seconds = _time(train_once) / len(data)
    codes = torch.zeros(len(data), config.latent_dim, device=compute_device)
    decoder = backend.prepare_decoder(model.eval().decoder.requires_grad_(False))
    decoders = ClassDecoders([decoder] * len(data.classes))
    learned = {name: LearnedManifold(codes, decoders) for name in LEARNED_MANIFOLDS}
    return seconds, replace(data, learned=learned)


def _equivalent_space(space: str, spaces: list[str]) -> str:
    """Return the first of `spaces` that is as fast as `space`; only that one is measured.

    The random images have equal codes and decoders in all learned spaces.
    """
    return next(name for name in spaces if name == space or {name, space} <= {*LEARNED_MANIFOLDS})


def _make_cohort(
    architecture: str,
    shape: tuple[int, int, int],
    classes: int,
    models: int,
    compute_device: torch.device,
) -> tuple[Cohort, list[torch.Generator]]:
    """Return initialized models in eval mode, and the generator of each that initialized it."""
    backend = backends.for_cohorts(compute_device)
    cohort = Cohort(architecture, shape, classes, range(models), backend).to(compute_device).eval()
    rngs = [make_generator(0, "plan", seed) for seed in cohort.seeds]
    cohort.initialize(rngs)
    return cohort, rngs


def _train(
    cohort: Cohort, data: Split, space: str | None, rngs: list[torch.Generator], epochs: int
) -> None:
    """Train for some epochs, adversarially in a space or, if that is None, normally."""
    search = SearchConfig("adam", 1e-3, STEPS)
    method = None if space is None else AdversarialTraining(Threat(space, "linf", 0.1), search)
    train(
        cohort,
        data,
        TrainConfig(epochs, BATCH_SIZE, 1e-3, 1.0, 0.0),
        method,
        Generators(rngs, rngs),
    )


def _time_training(
    cohort: Cohort, data: Split, rngs: list[torch.Generator], attack_steps: dict[str, float]
) -> tuple[float, dict[str, float]]:
    """Time training; returns `s_per_update_image` and `s_per_training_step` of `DatasetSpeeds`.

    These are differences of two timings and can be negative on a busy machine. In that case the
    time of an attack step is used instead: in the same space for a training step, in image space
    for an update.

    Args:
        cohort: the models to train.
        data: the training images.
        rngs: a generator per model.
        attack_steps: `s_per_attack_step` of the spaces that are measured.
    """
    images = len(data) * len(rngs)
    normal_epoch = _time_epoch(cohort, data, None, rngs)
    search_seconds = {
        space: _time_epoch(cohort, data, space, rngs) - normal_epoch for space in attack_steps
    }
    steps = images / 2 * (STEPS + 1)
    training_steps = {
        space: search_seconds[space] / steps if search_seconds[space] > 0 else attack_step
        for space, attack_step in attack_steps.items()
    }
    if normal_epoch > 0:
        return normal_epoch / images, training_steps
    return _time_attack(cohort, data, "image", rngs), training_steps


def _time_epoch(
    cohort: Cohort, data: Split, space: str | None, rngs: list[torch.Generator]
) -> float:
    """Return the seconds of an epoch that is not the first one."""
    short_run, long_run = (
        partial(_train, cohort, data, space, rngs, epochs) for epochs in (1, 1 + EPOCHS)
    )
    short_time = _time(short_run)
    return (_time(long_run, warm_up=False) - short_time) / EPOCHS


def _random_split(shape: tuple[int, int, int], classes: int, compute_device: torch.device) -> Split:
    """Make random images, each warped by the identity."""
    rows = torch.arange(IMAGES, device=compute_device)
    images = torch.rand(len(rows), *shape, generator=make_generator(0, "plan"))
    return Split(
        source_images=images.to(compute_device),
        source_index=rows,
        labels=rows % classes,
        codes=torch.tensor(IDENTITY, device=compute_device).expand(len(rows), 6),
        ranges=parameter_bounds("hard", compute_device),
        classes=tuple(map(str, range(classes))),
    ).materialize()


def _time_attack(cohort: Cohort, data: Split, space: str, rngs: list[torch.Generator]) -> float:
    """Return the seconds of a search step, per image and model."""
    batch_size = choose_batch_size(cohort, data, 1)
    rows = torch.arange(batch_size, device=data.labels.device) % len(data)
    batch = data.select(rows).expand(len(rngs))
    search, threat = SearchConfig("adam", 1e-3, STEPS), Threat(space, "linf", 0.1)

    def attack_once() -> None:
        """Run all steps of the search."""
        run_search(
            cohort,
            SPACES[space](batch),
            batch.labels,
            threat,
            search,
            rngs,
            stop_at_success=False,
            backend=cohort.backend,
        )

    return _time(attack_once) / (len(rngs) * batch_size * (STEPS + 1))


def _time_distance(data: Split, space: str) -> float:
    """Return the seconds of a step of both descents to a manifold, per example."""
    selected = data.select(slice(IMAGES))
    examples = selected.images()
    measure_once = partial(
        measure_to_manifold,
        examples,
        selected,
        space,
        steps=STEPS,
        step_size=0.01,
        make_adam=backends.for_vaegans(examples.device).make_adam,
    )
    return _time(measure_once) / IMAGES / (STEPS + 1)


def _time(function: Callable[[], object], warm_up: bool = True) -> float:
    """Return the seconds of the fastest of up to three calls, after one without measurement.

    The fastest call counts, because other work on the machine only makes calls slower. Calls are
    not repeated after `MAX_REPEATED_RUN_S`.
    """
    if warm_up:
        function()
    durations: list[float] = []
    while len(durations) < 3 and sum(durations) < MAX_REPEATED_RUN_S:
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - start)
    return min(durations)
