"""The speeds of a machine, as a file holds them, and which of them a study needs."""

from collections.abc import Iterator

from pydantic import BaseModel

from robustgen.config.study import Study


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


def describe_missing_speeds(study: Study, speeds: Speeds) -> Iterator[str]:
    """Describe each speed that a study needs and that is missing."""
    for name in study.datasets:
        if (dataset_speeds := speeds.datasets.get(name)) is None:
            yield f"of the data set {name}"
            continue
        if name in study.manifolds and not dataset_speeds.vaegan:
            yield f"of VAE-GANs on {name}"
        for space in threat_spaces(study, name):
            if space not in dataset_speeds.trained or space not in dataset_speeds.searched:
                yield f"in the space {space} on {name}"
        for space in measured_manifolds(study, name):
            if space not in dataset_speeds.approached:
                yield f"towards the {space} on {name}"


def threat_spaces(study: Study, dataset: str) -> list[str]:
    """The spaces of the study's threats that a data set has, in alphabetical order."""
    spaces = {threat.space for threat in study.threats.values()}
    return sorted(space for space in spaces if study.supports(dataset, space))


def measured_manifolds(study: Study, dataset: str) -> list[str]:
    """The manifolds to which distances are measured: the known one, and the first learned one."""
    true_manifold = ["true_manifold"] if study.supports(dataset, "true_manifold") else []
    return true_manifold + study.learned_manifolds(dataset)[:1]
