"""The blocks of a study's config, each with what it allows and its defaults."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from robustgen.config_errors import Said, allowed_in, key_text, listed, mistake, near, shown


class Settings(BaseModel):
    """A mapping in a config: frozen, strictly typed, with no key unknown, missing or null."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

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


def _at_home(path: str) -> str:
    return str(Path(path).expanduser())


FilePath = Annotated[str, Field(min_length=1), AfterValidator(_at_home)]
"""Of a file or folder of the user's; `~` stands for the home folder."""
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
    epochs: Count = 20
    batch_size: Several = 100
    rate: Positive = 0.01
    rate_decay: Decay = 0.95
    weight_decay: Annotated[float, Field(ge=0), Said("a number of 0 or more")] = 1e-4


def _class_keys(given: Any) -> Any:
    """Keys that are numbers of classes, or `all`, as text; YAML reads bare numbers as such."""
    if not isinstance(given, dict):
        raise mistake(f"is {shown(given)}, but must be a mapping of classes to numbers")
    betas = {}
    for key, value in given.items():
        if key != "all" and (isinstance(key, bool) or not str(key).isdecimal()):
            raise mistake("is no known key; allowed are all and numbers of classes", key_text(key))
        name = key if key == "all" else str(int(key))
        if name in betas:
            raise mistake("is given twice", name)
        betas[name] = value
    return betas


class Judge(Settings):
    """The classifier that judges a learned manifold.

    It is trained as the study's other classifiers are, but for what is given here: on so many of
    the training images at most, as many of each class, and one of each at least.
    """

    images: Several = 40_000
    epochs: Count | None = None
    rate_decay: Decay | None = None


class Manifold(Settings):
    """VAE-GANs that learn a data set's manifold; the defaults are the paper's for FONTS.

    `images` bounds how many training images each is trained on. `betas` are those of single
    classes, by their numbers from 0, and of the VAE-GAN of `all` of them, where they differ.
    """

    latent: Width = 10
    channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=1)] = (
        64,
        128,
        256,
    )
    beta: Positive = 3.0
    betas: Annotated[dict[str, Positive], BeforeValidator(_class_keys)] = Field(
        default_factory=dict
    )
    gamma: Annotated[float, Field(ge=0), Said("a number of 0 or more")] = 1.0
    epochs: Count = 10
    batch_size: Several = 100
    rate: Positive = 0.005
    rate_decay: Decay = 0.9
    weight_decay: Annotated[float, Field(ge=0), Said("a number of 0 or more")] = 1e-4
    images: Several = MOST
    judge: Judge = Judge()

    def settings(self) -> dict[str, Any]:
        """The settings as a config has them, without those that are left to others."""
        without = None if self.betas else {"betas"}
        return self.model_dump(mode="json", exclude=without, exclude_none=True)


class Threat(Settings):
    """A set of allowed perturbations: a ball in a space."""

    space: Literal["image", "true_manifold", "transformation", "learned_manifold", "data_manifold"]
    norm: Literal["linf", "l2"]
    radius: Positive


class Method(Settings):
    """A training method: on what, if anything, half of each batch is attacked.

    Without a threat it is plain training; with `steps: 0` it draws at random and searches nothing.
    """

    threat: Annotated[str | None, Said("the name of a threat, as text")] = None
    steps: Whole = 40
    step_rule: StepRule = "adam"
    step_size: Positive = 0.005

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
    steps: Count = 40
    step_rule: StepRule = "adam"
    step_size: Positive = 0.005
    restarts: Count = 1
    examples: Count = 1000


class Distances(Settings):
    """Whose adversarial examples have their distance to the manifold measured, and how.

    By default those of all methods without a threat (of all methods if each has one) and of all
    attacks in image space or on a manifold; the numbers default to the largest allowed
    where that is smaller than said here.
    """

    methods: Annotated[Names, Field(min_length=1)] = ()
    attacks: Names = ()
    examples: Count = 200
    steps: Count = 200
    step_size: Positive = 0.05
    neighbours: Several = 50
