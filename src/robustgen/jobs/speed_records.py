"""The file format of a machine's speeds, and which speeds a study needs."""

from collections.abc import Iterator

from pydantic import BaseModel

from robustgen.config.study import Study


class DatasetSpeeds(BaseModel):
    """Speeds with images of the shape of one data set.

    Attributes:
        s_per_update_image: seconds of training per image of an epoch and model, without a search.
        s_per_training_step: by space, seconds of a search step in training, per image and model.
        s_per_attack_step: by space, seconds of a search step in an attack, per image and model.
        s_per_vaegan_image: seconds of training a VAE-GAN per image of an epoch; 0 without VAE-GANs.
        s_per_distance_step: by space, seconds of a step of the descent to a manifold, per example.
    """

    s_per_update_image: float
    s_per_training_step: dict[str, float]
    s_per_attack_step: dict[str, float]
    s_per_vaegan_image: float = 0.0
    s_per_distance_step: dict[str, float] = {}


class Speeds(BaseModel):
    """Speeds of a machine for a study.

    Attributes:
        machine: name of the device.
        shared: whether all jobs share the device, which is a GPU; otherwise each job has a core.
        start: seconds to start and end a job.
        datasets: speeds by data set.
    """

    machine: str
    shared: bool = False
    start: float
    datasets: dict[str, DatasetSpeeds]


def missing_speeds(study: Study, speeds: Speeds) -> Iterator[str]:
    """Describe each speed that a study needs and that is missing."""
    for name in study.datasets:
        if (dataset_speeds := speeds.datasets.get(name)) is None:
            yield f"of the data set {name}"
            continue
        if name in study.manifolds and not dataset_speeds.s_per_vaegan_image:
            yield f"of VAE-GANs on {name}"
        search_speeds = dataset_speeds.s_per_training_step, dataset_speeds.s_per_attack_step
        for space in threat_spaces(study, name):
            if not all(space in by_space for by_space in search_speeds):
                yield f"in the space {space} on {name}"
        for space in measured_manifolds(study, name):
            if space not in dataset_speeds.s_per_distance_step:
                yield f"towards the {space} on {name}"


def threat_spaces(study: Study, dataset: str) -> list[str]:
    """Return the spaces of the study's threats that a data set supports, in alphabetical order."""
    spaces = {threat.space for threat in study.threats.values()}
    return sorted(space for space in spaces if study.supports(dataset, space))


def measured_manifolds(study: Study, dataset: str) -> list[str]:
    """Return the manifolds of a data set to which distances are measured.

    These are the true manifold, if it is known, and the first learned manifold.
    """
    true_manifold = ["true_manifold"] if study.supports(dataset, "true_manifold") else []
    return true_manifold + study.learned_manifolds(dataset)[:1]
