"""The one source of truth on a study: its config, validated, and the part that each job uses."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self, TypedDict, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from robustgen.config_errors import Said, listed, near, refusal, sentence
from robustgen.data_settings import ByKind, Dataset, Downloads
from robustgen.errors import UserError
from robustgen.settings import (
    LEARNED,
    Attack,
    Classifier,
    Count,
    Distances,
    Manifold,
    Method,
    Name,
    Seeds,
    Settings,
    Threat,
    Whole,
    distinct,
)

S = TypeVar("S", bound="Study")

CLEAN = "clean"
"""The name, among attacks, of the unchanged test images."""
FOLDERS = {"tables", "figures", "logs", "benchmarks"}
"""What lies beside the data sets' folders in the results."""


class Roles(TypedDict):
    """Methods and attacks that the claims and figures speak of; None where there is none."""

    normal: str | None
    adversarial: str | None
    on_manifold: str | None
    regular_attack: str | None
    regular_attacks: list[str]
    on_manifold_attack: str | None
    not_adversarial: list[str]


class Study(Settings):
    """A whole study. Made by `parse` alone, which checks more than the types."""

    study: Annotated[
        str,
        Field(pattern="^[A-Za-z0-9_-]{1,60}$"),
        Said("text of up to 60 letters, digits, - and _ alone"),
    ]
    seed: Whole = 0
    seeds: Seeds = 5
    cohort_size: Seeds = 5
    sizes: Annotated[tuple[Count, ...], Field(strict=False, min_length=1), AfterValidator(distinct)]
    datasets: Annotated[dict[Name, Annotated[Dataset, ByKind()]], Field(min_length=1)]
    classifier: Classifier = Classifier()
    manifolds: dict[Name, Manifold] = Field(default_factory=dict)
    threats: Annotated[dict[Name, Threat], Field(min_length=1)]
    methods: Annotated[dict[Name, Method], Field(min_length=1)]
    attacks: Annotated[dict[Name, Attack], Field(min_length=1)]
    distances: Distances = Distances()
    downloads: Downloads = Downloads()

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """The study that a config describes.

        Raises:
            UserError: the config has a mistake; one sentence gives the key's full path, what was
                given and what is allowed.
        """
        try:
            study = cls.model_validate(dict(config) if isinstance(config, Mapping) else config)
        except ValidationError as error:
            raise UserError(sentence(error)) from None
        _check_seeds(study)
        _check_sizes(study)
        _check_threats(study)
        study = _with_defaults(study)
        _check_examples(study)
        _check_distances(study)
        return study

    def cohorts(self) -> list[tuple[int, int]]:
        """First and last seed of each cohort."""
        size = min(self.seeds, self.cohort_size)
        return [(first, first + size - 1) for first in range(0, self.seeds, size)]

    def fonts_part(self, dataset: str) -> dict[str, Any]:
        """What rendering the letters uses."""
        return self.datasets[dataset].model_dump(include={"fonts", "fonts_from", "letters"})

    def codes_part(self, dataset: str) -> dict[str, Any]:
        """What drawing the codes uses."""
        drawn = self.datasets[dataset].model_dump(exclude={"kind", "fonts_from"})
        return {"study_seed": self.seed, "dataset": dataset, **drawn}

    def images_part(self, dataset: str) -> dict[str, Any]:
        """What collecting the images of a data set without codes uses, beside its files."""
        return {"study_seed": self.seed, "dataset": dataset, **self.datasets[dataset].model_dump()}

    def manifold_part(self, dataset: str) -> dict[str, Any]:
        """What training a VAE-GAN uses, beside the data set and the class."""
        chosen = self.manifolds[dataset].model_dump()
        images = chosen.pop("images")
        return {"study_seed": self.seed, "dataset": dataset, "images": images, "recipe": chosen}

    def training_part(self, dataset: str, method: str) -> dict[str, Any]:
        """What training a cohort uses, beside the data set, N and the seeds."""
        chosen = self.methods[method]
        return {
            "study_seed": self.seed,
            "dataset": dataset,
            "method": method,
            "classifier": self.classifier.model_dump(),
            "threat": self.threats[chosen.threat].model_dump() if chosen.threat else None,
            "search": chosen.model_dump(exclude={"threat"}) if chosen.threat else None,
        }

    def attack_part(self, dataset: str, attack: str) -> dict[str, Any]:
        """What attacking a cohort uses, beside the data set and the cohort."""
        chosen = self.attacks[attack]
        return {
            "study_seed": self.seed,
            "dataset": dataset,
            "attack": attack,
            "threat": self.threats[chosen.threat].model_dump(),
            "search": chosen.model_dump(exclude={"threat", "examples"}),
            "examples": chosen.examples,
        }

    def distance_part(self, dataset: str, attack: str) -> dict[str, Any]:
        """What measuring an attack's (or `clean`) distances uses, beside data and examples."""
        if dataset not in self.datasets or attack not in (CLEAN, *self.distances.attacks):
            raise KeyError(f"no distances of {attack} on {dataset} in this study")
        return self.distances.model_dump(exclude={"methods", "attacks"})

    def space(self, search: Method | Attack) -> str | None:
        """The space a method or an attack moves images in; None without a threat."""
        return self.threats[search.threat].space if search.threat else None

    def in_words(self, attacks: Iterable[str]) -> str:
        """A clause for captions: the threat of each attack, and how many images it is tried on."""
        said = []
        for name in attacks:
            threat, images = self.threats[self.attacks[name].threat], self.attacks[name].examples
            norm = {"linf": "L∞", "l2": "L2"}[threat.norm]
            said.append(f"{name}: {norm} radius {threat.radius:g}, {images} test images")
        return f"Attacks ({'; '.join(said)})" if said else "No attack is drawn"

    def roles(self) -> Roles:
        """The methods and attacks that claims and figures speak of, found by their space."""

        def method(space: str | None) -> str | None:
            of = (n for n, m in self.methods.items() if self.space(m) == space and m.steps)
            return next(of, None)

        def attack(space: str) -> str | None:
            return next((n for n, a in self.attacks.items() if self.space(a) == space), None)

        return {
            "normal": method(None),
            "adversarial": method("image"),
            "on_manifold": method("true_manifold") or method("learned_manifold"),
            "regular_attack": attack("image"),
            "regular_attacks": [n for n, a in self.attacks.items() if self.space(a) == "image"],
            "on_manifold_attack": attack("true_manifold") or attack("learned_manifold"),
            "not_adversarial": [n for n, m in self.methods.items() if self.space(m) != "image"],
        }

    def resolved(self) -> dict[str, Any]:
        """The config with its defaults, as `parse` takes it, without what is the machine's."""
        methods = {name: method.settings() for name, method in self.methods.items()}
        unused = {"downloads"} if self.manifolds else {"downloads", "manifolds"}
        return {**self.model_dump(mode="json", exclude=unused), "methods": methods}


def _check_seeds(study: Study) -> None:
    size, seeds = study.cohort_size, study.seeds
    if seeds > size and seeds % size:
        below = seeds - seeds % size
        allowed = f"at most cohort_size, {size}, or a multiple of it, such as {below} or "
        why = "so that raising it adds cohorts and retrains none"
        raise refusal(seeds, f"{allowed}{below + size}, {why}", "seeds")


def _check_sizes(study: Study) -> None:
    for index, n in enumerate(study.sizes):
        for name, dataset in study.datasets.items():
            classes, most = dataset.classes, dataset.train_examples
            if n % classes:
                allowed = f"a multiple of {classes}, the number of classes of datasets.{name}"
                raise refusal(n, allowed, "sizes", index)
            if n > most:
                allowed = f"at most {most}, the number of train images of datasets.{name}"
                raise refusal(n, allowed, "sizes", index)


def _check_threats(study: Study) -> None:
    """Threats are known, and none is on a true manifold that a data set lacks."""
    for name in sorted(FOLDERS & set(study.datasets)):
        raise UserError(f"datasets.{name} must have another name: this one is a results folder's")
    if CLEAN in study.attacks:
        raise UserError(f"attacks.{CLEAN} must have another name: this one is for unchanged images")
    searches: dict[str, Mapping[str, Method | Attack]] = {
        "methods": study.methods,
        "attacks": study.attacks,
    }
    for name in study.manifolds:
        if name not in study.datasets:
            allowed = f"named as one of the datasets: {_one_of(name, study.datasets)}"
            raise UserError(f"manifolds.{name} must be {allowed}")
    lacking = _lacking(study)
    for group, named in searches.items():
        for name, search in named.items():
            if search.threat is None:
                continue
            if search.threat not in study.threats:
                allowed = f"one of the threats: {_one_of(search.threat, study.threats)}"
                raise refusal(search.threat, allowed, group, name, "threat")
            if why := lacking.get(study.threats[search.threat].space):
                usable = [name for name, t in study.threats.items() if t.space not in lacking]
                allowed = f"a threat in another space ({listed(usable)}), as {why}"
                raise refusal(search.threat, allowed, group, name, "threat")


def _lacking(study: Study) -> dict[str, str]:
    """Spaces that a data set of the study does not have, and why."""
    lacking = {}
    for name, data in reversed(study.datasets.items()):
        if not data.has_true_manifold:
            lacking["true_manifold"] = f"the true manifold of datasets.{name} is not known"
        if name not in study.manifolds:
            why = f"no manifold of datasets.{name} is learned: manifolds.{name} is missing"
            lacking |= dict.fromkeys(LEARNED, why)
    return lacking


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


def _check_examples(study: Study) -> None:
    for attack, settings in study.attacks.items():
        for name, data in study.datasets.items():
            if settings.examples > data.test_examples:
                allowed = f"at most {data.test_examples}, the number of test images"
                keys = ("attacks", attack, "examples")
                raise refusal(settings.examples, f"{allowed} of datasets.{name}", *keys)


def _check_distances(study: Study) -> None:
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
