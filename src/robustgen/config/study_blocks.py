"""The keys of a study's config, and queries on them."""

from typing import Annotated

from pydantic import AfterValidator, Field

from robustgen.config.blocks import (
    UNIQUE_ITEMS,
    Attack,
    Classifier,
    Distances,
    Method,
    Name,
    NonNegativeInt,
    PositiveInt,
    SeedCount,
    Settings,
    Threat,
    require_distinct,
)
from robustgen.config.dataset_blocks import Dataset
from robustgen.config.datasets import Downloads, TaggedByKind
from robustgen.config.manifolds import Manifold
from robustgen.config.messages import AllowedText
from robustgen.specs import LEARNED_MANIFOLDS, MEMBERS, SearchConfig, split_into_cohorts


class StudyBlocks(Settings):
    """The keys of a study, each checked on its own; `config.checks` compares them.

    A method or attack is used on each data set that has its space.
    """

    study: Annotated[
        str,
        Field(pattern="^[A-Za-z0-9_-]{1,60}$"),
        AllowedText("text of up to 60 letters, digits, - and _ alone"),
    ]
    """Name of the study. Its results are in the folder `results/<study>`."""
    seed: NonNegativeInt = 0
    """The number from which all random draws of the study follow."""
    seeds: SeedCount = 5
    """Models for each data set, method and N. Their seeds are 0, 1, 2 and so on."""
    cohort_size: SeedCount = 5
    """Models that are trained together, in one job. More seeds must be a multiple of it."""
    sizes: Annotated[
        tuple[PositiveInt, ...],
        Field(strict=False, min_length=1, json_schema_extra=UNIQUE_ITEMS),
        AfterValidator(require_distinct),
    ]
    """Numbers of training images, N. Each is a multiple of the number of classes."""
    datasets: Annotated[dict[Name, Annotated[Dataset, TaggedByKind()]], Field(min_length=1)]
    """Data sets by name."""
    classifier: Classifier = Classifier()
    """The network and how it is trained."""
    manifolds: Annotated[
        dict[Name, Manifold], Field(default_factory=dict, json_schema_extra={"default": {}})
    ]
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

    def cohorts(self) -> list[tuple[int, int]]:
        """Return the first and the last seed of each cohort."""
        return split_into_cohorts(self.seeds, self.cohort_size)

    def space_of(self, search: Method | Attack) -> str | None:
        """Return the space of a method's or an attack's threat; None without a threat."""
        return self.threats[search.threat].space if search.threat else None

    def supports(self, dataset: str, space: str) -> bool:
        """Whether images of a data set can be changed in `space`.

        The true manifold needs FONTS, and a learned manifold an entry in `manifolds`. Other spaces
        suit all data sets.
        """
        if space in LEARNED_MANIFOLDS:
            return dataset in self.manifolds
        return space != "true_manifold" or self.datasets[dataset].has_true_manifold

    def applies_to(self, dataset: str, search: Method | Attack) -> bool:
        """Whether a data set has the space of a method or an attack, if there is a threat."""
        space = self.space_of(search)
        return space is None or self.supports(dataset, space)

    def methods_of(self, dataset: str) -> list[str]:
        """Return the names of the methods that are used on a data set."""
        return [name for name, method in self.methods.items() if self.applies_to(dataset, method)]

    def attacks_of(self, dataset: str) -> list[str]:
        """Return the names of the attacks that are used on a data set."""
        return [name for name, attack in self.attacks.items() if self.applies_to(dataset, attack)]

    def searches_of(self, attack: Attack) -> dict[str, SearchConfig]:
        """Return the searches of an attack by the name of the member; "" without members."""
        if not attack.members:
            return {"": attack.to_search()}
        return {
            name: self.attacks[name].to_search() if name in self.attacks else MEMBERS[name]
            for name in attack.members
        }

    def distance_attacks(self, dataset: str) -> list[str]:
        """Return the names of the attacks on a data set whose distances are measured."""
        return [name for name in self.distances.attacks if name in self.attacks_of(dataset)]

    def learned_manifolds(self, dataset: str) -> list[str]:
        """Return the learned manifolds of a data set that methods or attacks use.

        If none of them is used, the manifold of one VAE-GAN per class is returned. A data set that
        is not in `manifolds` has none.
        """
        if dataset not in self.manifolds:
            return []
        used_spaces = {self.space_of(method) for method in self.methods.values()}
        used_spaces |= {self.space_of(attack) for attack in self.attacks.values()}
        used = [space for space in LEARNED_MANIFOLDS if space in used_spaces]
        return used or [LEARNED_MANIFOLDS[0]]
