"""The blocks of a study's config, each with what it allows and its defaults."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from robustgen.config.messages import Said, allowed_in, key_text, listed, mistake, near, shown
from robustgen.errors import UserError


class Settings(BaseModel):
    """A mapping in a config: frozen, strictly typed, with no key unknown, missing or null.

    The docstring under each field is the meaning of the key. The documentation shows it.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, given: Any) -> Any:
        names = listed(cls.model_fields, "and")
        if not isinstance(given, dict):
            required = any(field.is_required() for field in cls.model_fields.values())
            shape = "a mapping" if required else "a mapping, {} for its defaults,"
            raise mistake(f"is {shown(given)}, but must be {shape} with keys {names}")
        for key in given:
            if key not in cls.model_fields:
                close = near(key, cls.model_fields)
                raise mistake(f"is no known key{close}; allowed are {names}", key_text(key))
        for key, field in cls.model_fields.items():
            if key not in given and field.is_required():
                raise mistake(f"is missing, but must be {allowed_in(field)}", key)
            if key in given and given[key] is None:
                leave = "" if field.is_required() else "; leave the key out for its default"
                raise mistake(f"is null, but must be {allowed_in(field)}{leave}", key)
        return given

    def refuse_set(self, keys: Iterable[str], why: str) -> Self:
        """This, if none of `keys` was set in the config; else the mistake of the first that was."""
        for key in keys:
            if key in self.model_fields_set:
                value = shown(getattr(self, key))
                raise mistake(f"is {value}, but must be left out: {why}", key)
        return self

    def check_path(self, key: str, check: Callable[[str], object]) -> Self:
        """Return self if `check` accepts the path at `key`; else its error is one of `key`."""
        value = getattr(self, key)
        try:
            check(value)
        except UserError as error:
            raise mistake(f"is {shown(value)}, but {error}", key) from None
        return self


@dataclass(frozen=True)
class DefaultText:
    """Annotates a field whose default depends on other settings: the default in words."""

    text: str


T = TypeVar("T", str, tuple[Any, ...])


def distinct(values: T) -> T:
    """Refuses a value that is given twice."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise mistake(f"is {shown(value)}, but must differ from those before it", index)
    return values


MOST = 1_000_000
"""Above this, a number is a slip: it ends in memory that is not there, or in infinity."""

Whole = Annotated[int, Field(ge=0), Said("a whole number of 0 or more")]
Count = Annotated[int, Field(ge=1, le=MOST), Said(f"a whole number from 1 to {MOST:,}")]
Width = Annotated[int, Field(ge=1, le=4096), Said("a whole number from 1 to 4,096")]
"""Of a layer: a few wider ones would fill any memory."""
Several = Annotated[int, Field(ge=2, le=MOST), Said(f"a whole number from 2 to {MOST:,}")]
Positive = Annotated[float, Field(gt=0, le=MOST), Said(f"a number above 0 and up to {MOST:,}")]
Decay = Annotated[float, Field(gt=0, le=1), Said("a number above 0 and up to 1")]
"""A factor on the learning rate after each epoch."""
Seeds = Annotated[int, Field(ge=1, le=10_000), Said("a whole number from 1 to 10,000")]


FilePath = Annotated[str, Field(min_length=1)]
"""Of a file or folder of the user's, as written; `paths.expand_home` replaces `~` at its use."""
Name = Annotated[
    str,
    Field(pattern="^[a-z][a-z0-9_]{0,59}$"),
    Said("a lower-case letter and then lower-case letters, digits or _, 60 in all"),
]
Names = Annotated[
    tuple[Annotated[str, Said("a name, as text")], ...],
    Field(strict=False),
    AfterValidator(distinct),
]
LEARNED = ("learned_manifold", "data_manifold")
"""Spaces of codes of VAE-GANs: one per class, and one for all."""
StepRule = Literal["adam", "signed", "normalized"]


class Classifier(Settings):
    """The network and how it is trained, the same for every method."""

    architecture: Literal["convnet"] = "convnet"
    """The network. `convnet` is the paper's: three convolutions and two linear layers."""
    epochs: Count = 20
    """Passes over the N training images."""
    batch_size: Several = 100
    """Images for each update of the weights."""
    rate: Positive = 0.01
    """Learning rate of Adam in the first epoch."""
    rate_decay: Decay = 0.95
    """Factor on the learning rate after each epoch."""
    weight_decay: Annotated[float, Field(ge=0), Said("a number of 0 or more")] = 1e-4
    """L2 penalty on the weights."""


class Threat(Settings):
    """A set of allowed perturbations: a ball in a space."""

    space: Literal["image", "true_manifold", "transformation", "learned_manifold", "data_manifold"]
    """Coordinates in which images are changed."""
    norm: Literal["linf", "l2"]
    """Norm of the change: `linf` bounds each coordinate, `l2` bounds the Euclidean length."""
    radius: Positive
    """Largest allowed norm of the change, in coordinates of the space."""


class Method(Settings):
    """A training method: on what, if anything, half of each batch is attacked.

    Without a threat it is plain training; with `steps: 0` it draws at random and searches nothing.
    """

    threat: Annotated[
        str | None,
        Said("the name of a threat, as text"),
        DefaultText("none: all images are clean"),
    ] = None
    """The threat within which half of each batch is perturbed."""
    steps: Whole = 40
    """Steps of the search. With 0 steps the perturbation is drawn at random."""
    step_rule: StepRule = "adam"
    """How a gradient becomes a step."""
    step_size: Positive = 0.005
    """Length of a step, in coordinates of the space."""

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        if self.threat is None:
            self.refuse_set(("steps", "step_rule", "step_size"), "the method has no threat")
        elif self.steps == 0:
            self.refuse_set(("step_rule", "step_size"), "with 0 steps nothing is searched")
        return self

    def settings(self) -> dict[str, Any]:
        """The settings that have an effect."""
        if self.threat is None:
            return {}
        return self.model_dump(include=None if self.steps else {"threat", "steps"})


class Attack(Settings):
    """An attack on trained classifiers; `examples` defaults to the test split where smaller."""

    threat: Annotated[str, Said("the name of a threat, as text")]
    """The threat within which adversarial examples are searched."""
    steps: Count = 40
    """Steps of the search from each start."""
    step_rule: StepRule = "adam"
    """How a gradient becomes a step."""
    step_size: Positive = 0.005
    """Length of a step, in coordinates of the space."""
    restarts: Count = 1
    """Random starts. The attack succeeds on an image if the search from one start succeeds."""
    examples: Annotated[
        Count, DefaultText("1000, or the smallest test split of the study where it has fewer")
    ] = 1000
    """Test images that are attacked: the first ones of the test split."""


class Distances(Settings):
    """Whose adversarial examples have their distance to the manifold measured, and how.

    By default those of all methods without a threat (of all methods if each has one) and of all
    attacks in image space or on a manifold; the numbers default to the largest allowed
    where that is smaller than said here.
    """

    methods: Annotated[
        Names,
        Field(min_length=1),
        DefaultText("the methods without a threat; all methods if each has one"),
    ] = ()
    """Methods whose models' adversarial examples are measured."""
    attacks: Annotated[Names, DefaultText("the attacks in the space `image` or on a manifold")] = ()
    """Attacks whose adversarial examples are measured."""
    examples: Annotated[
        Count,
        DefaultText("200, or fewer: no more than a measured attack or a test split has"),
    ] = 200
    """Test images whose adversarial examples are measured: the first ones of the test split."""
    steps: Count = 200
    """Steps of the search for the nearest image of a manifold."""
    step_size: Positive = 0.05
    """Length of a step of that search, in coordinates of the manifold."""
    neighbours: Annotated[
        Several, DefaultText("50, or one less than the smallest train split of the study")
    ] = 50
    """Nearest training images, whose affine span stands for the manifold where it is unknown."""
