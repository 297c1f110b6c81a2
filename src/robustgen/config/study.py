"""The one source of truth on a study: its config, validated, and the part that each job uses."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self, TypedDict

from pydantic import AfterValidator, Field, ValidationError

from robustgen.config.blocks import (
    LEARNED,
    Attack,
    Classifier,
    Count,
    Distances,
    Method,
    Name,
    Seeds,
    Settings,
    Threat,
    Whole,
    distinct,
)
from robustgen.config.checks import checked
from robustgen.config.dataset_blocks import Dataset
from robustgen.config.datasets import ByKind, Downloads
from robustgen.config.manifolds import Manifold
from robustgen.config.messages import Said, sentence
from robustgen.errors import UserError
from robustgen.io.schemas import CLEAN


class Roles(TypedDict):
    """Methods and attacks that the claims and figures speak of; None where there is none."""

    normal: str | None
    adversarial: str | None
    regular_attack: str | None
    regular_attacks: list[str]
    not_adversarial: list[str]


class OnManifold(TypedDict):
    """Method and attack of a data set on one of its manifolds; None where there is none."""

    manifold: str
    method: str | None
    attack: str | None


MANIFOLDS = ("true_manifold", *LEARNED)
"""Spaces that are manifolds of the data, in the order in which they are told of."""


class Study(Settings):
    """A whole study. Made by `parse` alone, which checks more than the types.

    A method or attack is used on each data set that has its space.
    """

    study: Annotated[
        str,
        Field(pattern="^[A-Za-z0-9_-]{1,60}$"),
        Said("text of up to 60 letters, digits, - and _ alone"),
    ]
    """Name of the study. Its results are in the folder `results/<study>`."""
    seed: Whole = 0
    """The number from which all random draws of the study follow."""
    seeds: Seeds = 5
    """Models for each data set, method and N. Their seeds are 0, 1, 2 and so on."""
    cohort_size: Seeds = 5
    """Models that are trained together, in one job. More seeds must be a multiple of it."""
    sizes: Annotated[tuple[Count, ...], Field(strict=False, min_length=1), AfterValidator(distinct)]
    """Numbers of training images, N. Each is a multiple of the number of classes."""
    datasets: Annotated[dict[Name, Annotated[Dataset, ByKind()]], Field(min_length=1)]
    """Data sets by name."""
    classifier: Classifier = Classifier()
    """The network and how it is trained."""
    manifolds: dict[Name, Manifold] = Field(default_factory=dict)
    """Learned manifolds, by the name of their data set. Other data sets have none."""
    threats: Annotated[dict[Name, Threat], Field(min_length=1)]
    """Threats by name, for methods and attacks to use."""
    methods: Annotated[dict[Name, Method], Field(min_length=1)]
    """Training methods by name."""
    attacks: Annotated[dict[Name, Attack], Field(min_length=1)]
    """Attacks by name. Each is run on the models of all methods."""
    distances: Distances = Distances()
    """Which distances to the manifold are measured, and how."""
    downloads: Downloads = Downloads()
    """Where the files of public data sets are. It has no effect on results."""

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
        return checked(study)

    def cohorts(self) -> list[tuple[int, int]]:
        """First and last seed of each cohort."""
        size = min(self.seeds, self.cohort_size)
        return [(first, first + size - 1) for first in range(0, self.seeds, size)]

    def fonts_part(self, dataset: str) -> dict[str, Any]:
        """What rendering the letters uses, beside the fonts, which count by their signature."""
        return self.datasets[dataset].model_dump(include={"fonts", "letters"})

    def codes_part(self, dataset: str) -> dict[str, Any]:
        """What drawing the codes uses."""
        drawn = self.datasets[dataset].model_dump(exclude={"kind", "fonts_from"})
        return {"study_seed": self.seed, "dataset": dataset, **drawn}

    def images_part(self, dataset: str) -> dict[str, Any]:
        """What collecting the images of a data set without codes uses, beside its files.

        Files of the user's count by their signature, not by their path.
        """
        settings = self.datasets[dataset].model_dump(exclude={"path"})
        return {"study_seed": self.seed, "dataset": dataset, **settings}

    def manifold_part(self, dataset: str, part: str) -> dict[str, Any]:
        """What training the VAE-GAN of `part`, "all" or "class0" and so on, uses."""
        chosen = self.manifolds[dataset]
        recipe = chosen.model_dump(exclude={"betas", "images", "judge"})
        recipe["beta"] = chosen.betas.get(part.removeprefix("class"), chosen.beta)
        named = {"study_seed": self.seed, "dataset": dataset}
        return {**named, "images": chosen.images, "recipe": recipe}

    def judge_part(self, dataset: str) -> dict[str, Any]:
        """What training the classifier uses that judges the learned manifolds of a data set."""
        data = self.datasets[dataset]
        judge = self.manifolds[dataset].judge.model_dump(exclude_none=True)
        most = min(judge.pop("images"), data.train_examples)
        n = max(most - most % data.classes, data.classes)
        named = {"study_seed": self.seed, "dataset": dataset, "n": n}
        return {**named, "classifier": {**self.classifier.model_dump(), **judge}}

    def quality_part(self, dataset: str, space: str) -> dict[str, Any]:
        """What judging a learned manifold uses, beside the data set, the VAE-GANs and the judge.

        Its threat is the first in this space, or the paper's.
        """
        threats = (threat for threat in self.threats.values() if threat.space == space)
        threat = next(threats, Threat(space=space, norm="linf", radius=0.3))  # type: ignore[arg-type]
        named = {"study_seed": self.seed, "dataset": dataset}
        return {**named, "threat": threat.model_dump()}

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
        if dataset not in self.datasets or attack not in (CLEAN, *self.measured(dataset)):
            raise KeyError(f"no distances of {attack} on {dataset} in this study")
        return self.distances.model_dump(exclude={"methods", "attacks"})

    def space(self, search: Method | Attack) -> str | None:
        """The space a method or an attack moves images in; None without a threat."""
        return self.threats[search.threat].space if search.threat else None

    def has(self, dataset: str, space: str) -> bool:
        """Whether images of a data set can be moved in `space`."""
        if space in LEARNED:
            return dataset in self.manifolds
        return space != "true_manifold" or self.datasets[dataset].has_true_manifold

    def fits(self, dataset: str, search: Method | Attack) -> bool:
        """Whether a method or attack can be used on a data set: it has the space, if any."""
        space = self.space(search)
        return space is None or self.has(dataset, space)

    def methods_of(self, dataset: str) -> list[str]:
        """The methods that are used on a data set."""
        return [name for name, method in self.methods.items() if self.fits(dataset, method)]

    def attacks_of(self, dataset: str) -> list[str]:
        """The attacks that are used on a data set."""
        return [name for name, attack in self.attacks.items() if self.fits(dataset, attack)]

    def measured(self, dataset: str) -> list[str]:
        """The attacks on a data set whose distances are measured."""
        return [name for name in self.distances.attacks if name in self.attacks_of(dataset)]

    def learned(self, dataset: str) -> list[str]:
        """The learned manifolds of a data set that are used; without a use, those per class."""
        if dataset not in self.manifolds:
            return []
        used = {self.space(method) for method in self.methods.values()}
        used |= {self.space(attack) for attack in self.attacks.values()}
        return [space for space in LEARNED if space in used] or [LEARNED[0]]

    def budget(self, attack: str) -> str:
        """Norm and radius of an attack, in words."""
        threat = self.threats[self.attacks[attack].threat]
        norm = {"linf": "L∞", "l2": "L2"}[threat.norm]
        return f"{norm} radius {threat.radius:g}"

    def in_words(self, attacks: Iterable[str]) -> str:
        """A clause for captions: the threat of each attack, and how many images it is tried on."""
        said = []
        for name in attacks:
            said.append(f"{name}: {self.budget(name)}, {self.attacks[name].examples} test images")
        return f"Attacks ({'; '.join(said)})" if said else "No attack is drawn"

    def roles(self) -> Roles:
        """The methods and attacks that claims and figures speak of, found by their space."""
        regular = [name for name, a in self.attacks.items() if self.space(a) == "image"]
        others = [name for name, m in self.methods.items() if self.space(m) != "image"]
        return {
            "normal": self._method(None),
            "adversarial": self._method("image"),
            "regular_attack": next(iter(regular), None),
            "regular_attacks": regular,
            "not_adversarial": others,
        }

    def on_manifold(self, dataset: str) -> list[OnManifold]:
        """Method and attack on each manifold of a data set that one of them is on."""
        found: list[OnManifold] = []
        for space in MANIFOLDS:
            of = (name for name, a in self.attacks.items() if self.space(a) == space)
            attack, method = next(of, None), self._method(space)
            if self.has(dataset, space) and (attack or method):
                found.append({"manifold": space, "method": method, "attack": attack})
        return found

    def _method(self, space: str | None) -> str | None:
        """The first method that searches in `space`."""
        of = (n for n, m in self.methods.items() if self.space(m) == space and m.steps)
        return next(of, None)

    def resolved(self) -> dict[str, Any]:
        """The config with its defaults, as `parse` takes it, without what is the machine's."""
        methods = {name: method.settings() for name, method in self.methods.items()}
        manifolds = {name: manifold.settings() for name, manifold in self.manifolds.items()}
        held = self.model_dump(mode="json", exclude={"downloads", "manifolds"})
        return {**held, "methods": methods, **({"manifolds": manifolds} if manifolds else {})}
