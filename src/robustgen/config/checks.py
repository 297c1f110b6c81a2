"""What must hold between the parts of a study, and the defaults that depend on other parts."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from robustgen.config.blocks import LEARNED, Attack, Method
from robustgen.config.manifolds import Manifold
from robustgen.config.messages import listed, near, refusal
from robustgen.config.search_checks import require_possible_radii
from robustgen.errors import UserError
from robustgen.io.schemas import CLEAN

if TYPE_CHECKING:
    from robustgen.config.dataset_blocks import Dataset
    from robustgen.config.study import Study

S = TypeVar("S", bound="Study")

FOLDERS = {"tables", "figures", "logs", "benchmarks"}
"""What lies beside the data sets' folders in the results."""


def checked(study: S) -> S:
    """The study with those defaults filled in that depend on the rest of it.

    Raises:
        UserError: parts of it do not fit together.
    """
    _check_names(study)
    _check_seeds(study)
    _check_sizes(study)
    _check_manifolds(study)
    _check_threats(study)
    require_possible_radii(study)
    study = _with_defaults(study)
    _check_examples(study)
    _check_distances(study)
    return study


def _check_names(study: "Study") -> None:
    for name in sorted(FOLDERS & set(study.datasets)):
        raise UserError(f"datasets.{name} must have another name: this one is a results folder's")
    if CLEAN in study.attacks:
        raise UserError(f"attacks.{CLEAN} must have another name: this one is for unchanged images")


def _check_manifolds(study: "Study") -> None:
    """Manifolds are of data sets of the study, and their own betas of classes of these."""
    for name, manifold in study.manifolds.items():
        if name not in study.datasets:
            allowed = f"named as one of the datasets: {_one_of(name, study.datasets)}"
            raise UserError(f"manifolds.{name} must be {allowed}")
        data = study.datasets[name]
        _check_halvings(name, manifold, data)
        if data.train_examples < 2 * data.classes:
            raise UserError(
                f"manifolds.{name} needs 2 or more train images of each class of datasets.{name}"
            )
        last = data.classes - 1
        for key in manifold.betas:
            if key != "all" and int(key) > last:
                allowed = f"all, or the number of a class, 0 to {last}"
                raise UserError(f"manifolds.{name}.betas.{key} must be named {allowed}")


def _check_halvings(name: str, manifold: Manifold, data: "Dataset") -> None:
    """Every layer halves the images, of which something must be left."""
    _, high, wide = data.shape
    if 2 ** len(manifold.channels) > min(high, wide):
        most = min(high, wide).bit_length() - 1
        allowed = f"{most} numbers at most: each halves images of {high}x{wide} pixels"
        raise refusal(list(manifold.channels), allowed, "manifolds", name, "channels")


def _check_threats(study: "Study") -> None:
    """Each search is in a space of some data set; each data set has a method and an attack."""
    searches: dict[str, Mapping[str, Method | Attack]] = {
        "methods": study.methods,
        "attacks": study.attacks,
    }
    for group, named in searches.items():
        for name, search in named.items():
            if search.threat is None:
                continue
            if search.threat not in study.threats:
                allowed = f"one of the threats: {_one_of(search.threat, study.threats)}"
                raise refusal(search.threat, allowed, group, name, "threat")
            space = study.threats[search.threat].space
            if not any(study.has(dataset, space) for dataset in study.datasets):
                usable = [
                    name
                    for name, threat in study.threats.items()
                    if any(study.has(dataset, threat.space) for dataset in study.datasets)
                ]
                why = _lacking(study, space)
                choice = f" ({listed(usable)})" if usable else ", such as image"
                allowed = f"a threat in another space{choice}, as {why}"
                raise refusal(search.threat, allowed, group, name, "threat")
        for dataset in study.datasets:
            if not any(study.fits(dataset, search) for search in named.values()):
                spaces = listed(s for s in _SPACES if study.has(dataset, s))
                what = f"one of them in a space of datasets.{dataset} ({spaces})"
                raise UserError(f"{group} must have {what}")


_SPACES = ("image", "true_manifold", "transformation", *LEARNED)


def _lacking(study: "Study", space: str) -> str:
    """Why no data set has `space`, said of the first."""
    name = next(iter(study.datasets))
    if space in LEARNED:
        return f"no manifold of datasets.{name} is learned: manifolds.{name} is missing"
    return f"the true manifold of datasets.{name} is not known"


def _check_seeds(study: "Study") -> None:
    size, seeds = study.cohort_size, study.seeds
    if seeds > size and seeds % size:
        below = seeds - seeds % size
        allowed = f"at most cohort_size, {size}, or a multiple of it, such as {below} or "
        why = "so that raising it adds cohorts and retrains none"
        raise refusal(seeds, f"{allowed}{below + size}, {why}", "seeds")


def _check_sizes(study: "Study") -> None:
    for index, n in enumerate(study.sizes):
        for name, dataset in study.datasets.items():
            classes, most = dataset.classes, dataset.train_examples
            if n % classes:
                allowed = f"a multiple of {classes}, the number of classes of datasets.{name}"
                raise refusal(n, allowed, "sizes", index)
            if n > most:
                allowed = f"at most {most}, the number of train images of datasets.{name}"
                raise refusal(n, allowed, "sizes", index)


def _with_defaults(study: S) -> S:
    """The study with those defaults filled in that depend on the rest of it."""
    smallest = min(data.test_examples for data in study.datasets.values())
    attacks = {
        name: a
        if "examples" in a.model_fields_set
        else a.model_copy(update={"examples": min(a.examples, smallest)})
        for name, a in study.attacks.items()
    }
    chosen = study.distances
    fewest = min(data.train_examples for data in study.datasets.values())
    plain = tuple(name for name, m in study.methods.items() if m.threat is None)
    near_manifold = ("image", "true_manifold", *LEARNED)
    defaults: dict[str, Any] = {
        "methods": plain or tuple(study.methods),
        "attacks": tuple(n for n, a in attacks.items() if study.space(a) in near_manifold),
        "neighbours": max(2, min(chosen.neighbours, fewest - 1)),
    }
    measured = chosen.attacks if "attacks" in chosen.model_fields_set else defaults["attacks"]
    most = [attacks[name].examples for name in measured if name in attacks]
    defaults["examples"] = min(chosen.examples, smallest, *most)
    unset = {key: value for key, value in defaults.items() if key not in chosen.model_fields_set}
    return study.model_copy(
        update={"attacks": attacks, "distances": chosen.model_copy(update=unset)}
    )


def _check_examples(study: "Study") -> None:
    for attack, settings in study.attacks.items():
        for name, data in study.datasets.items():
            if attack in study.attacks_of(name) and settings.examples > data.test_examples:
                allowed = f"at most {data.test_examples}, the number of test images"
                keys = ("attacks", attack, "examples")
                raise refusal(settings.examples, f"{allowed} of datasets.{name}", *keys)


def _check_distances(study: "Study") -> None:
    chosen = study.distances
    for key, group in (("methods", study.methods), ("attacks", study.attacks)):
        for index, name in enumerate(getattr(chosen, key)):
            if name not in group:
                allowed = f"one of the {key}: {_one_of(name, group)}"
                raise refusal(name, allowed, "distances", key, index)
    limits = {f"examples of attacks.{n}": study.attacks[n].examples for n in chosen.attacks}
    for name, data in study.datasets.items():
        limits[f"test images of datasets.{name}"] = data.test_examples
        if chosen.neighbours >= data.train_examples:
            allowed = f"below {data.train_examples}, the number of train images of datasets.{name}"
            raise refusal(chosen.neighbours, allowed, "distances", "neighbours")
    for what, most in limits.items():
        if chosen.examples > most:
            allowed = f"at most {most}, the number of {what}"
            raise refusal(chosen.examples, allowed, "distances", "examples")


def _one_of(given: str, names: Mapping[str, Any]) -> str:
    return f"{listed(names)}{near(given, names)}"
