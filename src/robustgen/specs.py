"""Settings of threats, searches and training: names, fields and defaults.

The config adds limits to these fields and takes their defaults from here. Imports no PyTorch, so
that a config is checked quickly.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, Self, TypedDict, get_args

SpaceName = Literal[
    "image",
    "true_manifold",
    "transformation",
    "learned_manifold",
    "data_manifold",
]
"""Names of spaces, the keys of `attacks.spaces.SPACES`."""
NormName = Literal["linf", "l2"]
"""Names of the norms of threats."""
LossName = Literal["cross_entropy", "scaled_cross_entropy", "margin", "dlr", "targeted_dlr"]
"""Names of losses, the keys of `attacks.losses.LOSSES`."""
TARGETED_LOSSES: tuple[LossName, ...] = ("targeted_dlr",)
"""Losses that make one class likely: restart i aims at the i-th most likely other class."""
SIGNED_LOSSES: tuple[LossName, ...] = ("margin", "dlr", "targeted_dlr")
"""Losses that are positive only where the model is wrong."""
StepRuleName = Literal["adam", "signed", "normalized", "auto", "random", "fmn", "carlini_wagner"]
"""Names of step rules, the keys of `attacks.step_rules.STEP_RULES`."""
AUTO_STEP_RULES: tuple[StepRuleName, ...] = ("auto", "random", "fmn", "carlini_wagner")
"""Step rules that choose their steps themselves, without a step size."""
GRADIENT_FREE_STEP_RULES: tuple[StepRuleName, ...] = ("random",)
"""Step rules that use no gradients."""
MINIMAL_STEP_RULES: tuple[StepRuleName, ...] = ("fmn", "carlini_wagner")
"""Step rules that look for the smallest perturbation. Their searches start at the clean codes and
need one of the `SIGNED_LOSSES`."""
L2_STEP_RULES: tuple[StepRuleName, ...] = ("normalized",)
"""Step rules whose steps have the L2 norm 1. Steps of others have a length of about 1 in each
coordinate."""
ArchitectureName = Literal["convnet"]
"""Names of networks, the keys of `models.architectures.ARCHITECTURES`."""
TransformationsName = Literal["slight", "easy", "moderate", "hard"]
"""Names of ranges of transformations, the keys of `PARAMETER_RANGES`."""

FONTS_IMAGE_SIZE = 28
"""Side of an image of FONTS in pixels; the paper's setting."""
NORMS: tuple[str, ...] = get_args(NormName)
NORM_SYMBOLS = {"linf": "L∞", "l2": "L2"}
"""Names of norms in captions and figures."""
LEARNED_MANIFOLDS = ("learned_manifold", "data_manifold")
"""Spaces of latent codes: of one VAE-GAN per class, and of one VAE-GAN for all classes."""
MANIFOLDS = ("true_manifold", *LEARNED_MANIFOLDS)
"""Spaces that are manifolds of the data, in the order of tables and figures."""

LATENT_BOUND = 2.0
"""Largest absolute value of a coordinate of a latent code, where the prior is standard normal
(Stutz et al., CVPR 2019, section 3.2)."""

PARAMETER_RANGES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    name: ((-t, -t, -h, -h, low, -r), (t, t, h, h, high, r))
    for name, (t, h, low, high, r) in {
        "slight": (0.15, 0.2, 0.85, 1.15, math.pi / 10),
        "easy": (0.1, 0.2, 0.9, 1.1, math.pi / 6),
        "moderate": (0.2, 0.4, 0.85, 1.15, math.pi / 3),
        "hard": (0.2, 0.5, 0.75, 1.15, math.pi / 2),
    }.items()
}
"""Lower and upper bounds of the six affine parameters, by the name of the transformations.

The paper uses "hard" for FONTS and "slight" for EMNIST, Fashion-MNIST and CelebA.
"""


def require_name(argument: str, name: object, names: Collection[str]) -> None:
    """Raise a `ValueError` that names the argument unless `name` is one of `names`."""
    if not isinstance(name, str) or name not in names:
        allowed = ", ".join(map(repr, names))
        raise ValueError(f"{argument} is {name!r}, but must be one of {allowed}")


def require_instance(argument: str, value: object, kind: type) -> None:
    """Raise a `ValueError` that names the argument unless `value` is an instance of `kind`."""
    if not isinstance(value, kind):
        raise ValueError(f"{argument} must be of type {kind.__name__}, not {type(value).__name__}")


def require_number(
    argument: str,
    value: object,
    lowest: float,
    *,
    highest: float = math.inf,
    is_integer: bool = False,
    is_exclusive: bool = False,
) -> None:
    """Raise a `ValueError` that names the argument unless `value` is a number in its range.

    Args:
        argument: name of the argument.
        value: its value.
        lowest: the lowest allowed number.
        highest: the highest allowed number.
        is_integer: whether only integers are allowed.
        is_exclusive: whether `lowest` itself is not allowed.
    """
    kind, name = (Integral, "an integer") if is_integer else (Real, "a finite number")
    limit = f"above {lowest:g}" if is_exclusive else f"of at least {lowest:g}"
    limit += f" and at most {highest:g}" if math.isfinite(highest) else ""
    if isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value):
        number = float(value)
        if lowest <= number <= highest and not (number == lowest and is_exclusive):
            return
    raise ValueError(f"{argument} is {value!r}, but must be {name} {limit}")


def split_into_cohorts(seeds: int, cohort_size: int) -> list[tuple[int, int]]:
    """Return the first and the last seed of each cohort of a study with seeds from 0.

    Args:
        seeds: number of seeds.
        cohort_size: number of models of a cohort; the last cohort may have fewer.
    """
    firsts = range(0, seeds, cohort_size)
    return [(first, min(first + cohort_size, seeds) - 1) for first in firsts]


def vaegan_names(space: str, classes: int) -> list[str]:
    """Return the names of the VAE-GANs of a learned manifold, which are the stems of their files.

    Args:
        space: one of `LEARNED_MANIFOLDS`.
        classes: number of classes of the data set.
    """
    return ["all"] if space == "data_manifold" else [f"class{label}" for label in range(classes)]


@dataclass(frozen=True)
class Threat:
    """The allowed perturbations: a ball around the code of an image.

    Attributes:
        space: name of the space, a key of `attacks.spaces.SPACES`; it is checked when the space is
            made.
        norm: "linf" or "l2".
        radius: largest norm of a perturbation, in coordinates of the space; in pixel values for
            the space `image`. Infinity, the default, is for searches for the smallest perturbation.

    Raises:
        ValueError: the norm is not known, or the radius is not a positive number.

    Examples:
        >>> import robustgen
        >>> robustgen.Threat("image", "linf", radius=8 / 255).norm
        'linf'
    """

    space: str
    norm: str
    radius: float = math.inf

    def __post_init__(self) -> None:
        """Refuse values that would silently define another threat."""
        require_name("norm", self.norm, NORMS)
        if self.radius != math.inf:
            require_number("radius", self.radius, 0, is_exclusive=True)


@dataclass(frozen=True)
class SearchConfig:
    """The search for an adversarial example within a threat; the defaults are the paper's.

    Attributes:
        step_rule: a key of `attacks.step_rules.STEP_RULES`; it is checked when a search begins,
            and so is `loss`.
        step_size: length of a step, in coordinates of the space.
        steps: number of steps; with 0 steps the result is the random start.
        restarts: number of random starts.
        loss: the loss that the search increases, a key of `attacks.losses.LOSSES`.

    Raises:
        ValueError: a number is out of its range.

    Examples:
        >>> import robustgen
        >>> robustgen.SearchConfig("signed", step_size=0.01, steps=20).restarts
        1
    """

    step_rule: str = "adam"
    step_size: float = 0.005
    steps: int = 40
    restarts: int = 1
    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing would be searched."""
        require_number("step_size", self.step_size, 0, is_exclusive=True)
        require_number("steps", self.steps, 0, is_integer=True)
        require_number("restarts", self.restarts, 1, is_integer=True)


MEMBERS: dict[str, SearchConfig] = {
    "auto_cross_entropy": SearchConfig("auto", steps=100, restarts=5, loss="scaled_cross_entropy"),
    "auto_margin": SearchConfig("auto", steps=100, loss="margin"),
    "auto_targeted": SearchConfig("auto", steps=100, restarts=4, loss="targeted_dlr"),
    "fmn": SearchConfig("fmn", steps=50, loss="margin"),
    "fmn_targeted": SearchConfig("fmn", steps=100, restarts=3, loss="targeted_dlr"),
    "random": SearchConfig("random", steps=1000, loss="margin"),
}
"""Searches of ensembles by name. No parameter depends on the model, the space or the radius, and no
result changes if all logits of a model are multiplied by a number, except by rounding. All but
`auto_margin` together correspond to AutoAttack (Croce and Hein, ICML 2020)."""


def require_search_fits(threat: Threat, search: SearchConfig) -> None:
    """Raise a `ValueError` unless a search can work within a threat.

    Args:
        threat: the ball; its radius is infinite for a search for the smallest perturbation.
        search: the search.
    """
    if search.step_rule not in MINIMAL_STEP_RULES:
        if threat.radius == math.inf:
            raise ValueError(
                f"step_rule {search.step_rule!r} needs a radius, and there is none; only 'fmn' and "
                "'carlini_wagner' find the smallest radius themselves"
            )
        return
    if search.loss not in SIGNED_LOSSES:
        raise ValueError(
            f"step_rule {search.step_rule!r} needs one of the losses {SIGNED_LOSSES}, but loss is "
            f"{search.loss!r}"
        )
    if search.step_rule == "carlini_wagner" and threat.norm != "l2":
        raise ValueError(
            f"step_rule 'carlini_wagner' needs the norm 'l2', but the norm is {threat.norm!r}"
        )
    if search.restarts > 1 and search.loss not in TARGETED_LOSSES:
        raise ValueError(
            f"restarts is {search.restarts}, but must be 1 for step_rule {search.step_rule!r} and "
            f"loss {search.loss!r}: each search begins at the clean image, so that all are equal"
        )


def parse_search(params: Mapping[str, Any]) -> "SearchConfig | dict[str, SearchConfig]":
    """Return the search of an attack that the params of a job describe.

    Args:
        params: the fields of `SearchConfig`; for an ensemble, these fields by the name of a member.
    """
    if not all(isinstance(fields, Mapping) for fields in params.values()):
        return SearchConfig(**params)
    return {name: SearchConfig(**fields) for name, fields in params.items()}


@dataclass(frozen=True)
class TrainConfig:
    """The training of a classifier with Adam; the defaults are the paper's (supplement).

    Attributes:
        epochs: passes over the N training images.
        batch_size: images per update.
        learning_rate: learning rate of the first epoch.
        learning_rate_decay: factor on the learning rate after each epoch.
        weight_decay: L2 penalty on the weights.

    Raises:
        ValueError: a number is out of its range.

    Examples:
        >>> import robustgen
        >>> robustgen.TrainConfig(epochs=5)
        TrainConfig(epochs=5, batch_size=100, learning_rate=0.01, learning_rate_decay=0.95, \
weight_decay=0.0001)
    """

    epochs: int = 20
    batch_size: int = 100
    learning_rate: float = 0.01
    learning_rate_decay: float = 0.95
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing would be trained."""
        require_number("epochs", self.epochs, 1, is_integer=True)
        require_number("batch_size", self.batch_size, 2, is_integer=True)
        require_number("learning_rate", self.learning_rate, 0, is_exclusive=True)
        require_number("learning_rate_decay", self.learning_rate_decay, 0, is_exclusive=True)
        require_number("weight_decay", self.weight_decay, 0)

    @classmethod
    def from_params(cls, classifier: Mapping[str, Any]) -> Self:
        """Return the training that the params `classifier` of a job describe.

        Args:
            classifier: the fields, and the name of the `architecture`.
        """
        return cls(**{key: value for key, value in classifier.items() if key != "architecture"})


@dataclass(frozen=True)
class AdversarialTraining:
    """The attack on half of each batch; with 0 steps the perturbations are random.

    Attributes:
        threat: the ball in which images are perturbed.
        search: the search for the perturbations.

    Examples:
        >>> import robustgen
        >>> threat = robustgen.Threat("image", "linf", 0.1)
        >>> method = robustgen.AdversarialTraining(threat, robustgen.SearchConfig(steps=5))
        >>> method.threat.radius, method.search.steps
        (0.1, 5)
    """

    threat: Threat
    search: SearchConfig

    def __post_init__(self) -> None:
        """Refuse other types, and searches for the smallest perturbation."""
        require_instance("threat", self.threat, Threat)
        require_instance("search", self.search, SearchConfig)
        if self.search.step_rule in MINIMAL_STEP_RULES:
            raise ValueError(
                f"search.step_rule is {self.search.step_rule!r}, which finds the smallest "
                "perturbation, but training needs one within a radius"
            )
        require_search_fits(self.threat, self.search)

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self | None:
        """Return the attack that the params of a job describe; None for normal training.

        Args:
            params: a mapping with the keys `threat` and `search`, whose values are None for normal
                training and otherwise hold the fields of `Threat` and `SearchConfig`.
        """
        if params["threat"] is None:
            return None
        return cls(Threat(**params["threat"]), SearchConfig(**params["search"]))


@dataclass(frozen=True)
class VaeGanConfig:
    """The layers and the training of a VAE-GAN; the defaults are the paper's for FONTS.

    Attributes:
        latent_dim: D, number of coordinates of a code.
        channels: channels of the convolutions, from the image inwards.
        beta: weight of the L1 reconstruction loss, which is summed over an image.
        gamma: weight of the decoder's loss against the discriminator. With 0 there is no
            discriminator, and the model is a VAE (Kingma and Welling, ICLR 2014).
        epochs: passes over the images.
        batch_size: images per update.
        learning_rate: learning rate of Adam in the first epoch.
        learning_rate_decay: factor on the learning rate after each epoch.
        weight_decay: L2 penalty on the weights.
    """

    latent_dim: int = 10
    channels: tuple[int, ...] = (64, 128, 256)
    beta: float = 3.0
    gamma: float = 1.0
    epochs: int = 10
    batch_size: int = 100
    learning_rate: float = 0.005
    learning_rate_decay: float = 0.9
    weight_decay: float = 1e-4

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Return the config of a mapping whose `channels` may be a list, as in a JSON file."""
        return cls(**{**values, "channels": tuple(values["channels"])})


class Roles(TypedDict):
    """The methods and attacks of a study that claims and figures use; None where it has none.

    Attributes:
        normal: the first method without a threat.
        adversarial: the first method that searches in the space `image`.
        adversarial_methods: all methods that search in the space `image`.
        not_adversarial: all methods except those whose threat is in the space `image`.
        regular_attack: the first attack in the space `image`. Except for `minimal_attacks`, no
            attack of any role finds the smallest perturbation.
        regular_attacks: all attacks in the space `image`, with norm and radius in words.
        strong_attacks: the ensembles among the regular attacks; without an ensemble, all of them.
        robust_pairs: adversarial methods, each with a strong attack of the same norm and radius.
        minimal_attacks: by space, the attacks that find the smallest perturbation.
    """

    normal: str | None
    adversarial: str | None
    adversarial_methods: list[str]
    not_adversarial: list[str]
    regular_attack: str | None
    regular_attacks: dict[str, str]
    strong_attacks: list[str]
    robust_pairs: list[tuple[str, str]]
    minimal_attacks: dict[str, list[str]]


class OnManifold(TypedDict):
    """A manifold of a data set with its method and attack; None where there is none.

    Attributes:
        manifold: the space, one of `MANIFOLDS`.
        method: the first method that searches in it.
        attack: the first attack in it.
    """

    manifold: str | None
    method: str | None
    attack: str | None


class MinimalAttack(TypedDict):
    """An attack that finds the smallest perturbation, for a figure of success against the radius.

    Attributes:
        space, norm: those of its threat.
        points: radii of the attacks in the same space and norm, by their names.
    """

    space: str
    norm: str
    points: dict[str, float]


class CheckedAttack(TypedDict):
    """What the checks of success rates need to know of an attack.

    Attributes:
        is_minimal: whether the attack finds the smallest perturbation.
        loss: the loss of a single search; empty for an ensemble.
        steps: number of steps by member, of an attack within a radius; a single search has an
            empty name. Empty for an attack that finds the smallest perturbation.
        gradient_free_members: members of an ensemble that use no gradients.
        ensemble: the first ensemble of the same threat; None for an ensemble, or without one.
    """

    is_minimal: bool
    loss: str
    steps: dict[str, int]
    gradient_free_members: list[str]
    ensemble: str | None


def describe_for_checks(
    searches: Mapping[str, SearchConfig], is_minimal: bool, ensemble: str | None = None
) -> CheckedAttack:
    """Return what the checks of success rates need to know of an attack.

    Args:
        searches: the members of an ensemble by name; a single search has an empty name.
        is_minimal, ensemble: as in `CheckedAttack`.
    """
    is_single = "" in searches
    return {
        "is_minimal": is_minimal,
        "loss": searches[""].loss if is_single else "",
        "steps": {} if is_minimal else {name: search.steps for name, search in searches.items()},
        "gradient_free_members": [
            name
            for name, search in searches.items()
            if not is_single and search.step_rule in GRADIENT_FREE_STEP_RULES
        ],
        "ensemble": ensemble,
    }
