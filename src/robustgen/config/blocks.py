"""The blocks of a study's config: keys, limits and defaults.

Defaults of fields that the library has too are those of `specs`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from robustgen.config.messages import (
    AllowedText,
    describe_allowed,
    format_key,
    format_value,
    join_words,
    suggestion,
    validation_error,
)
from robustgen.errors import UserError
from robustgen.specs import (
    AUTO_STEP_RULES,
    MINIMAL_STEP_RULES,
    SIGNED_LOSSES,
    TARGETED_LOSSES,
    ArchitectureName,
    LossName,
    NormName,
    SearchConfig,
    SpaceName,
    StepRuleName,
    TrainConfig,
)

RENAMED_KEYS = {
    "rate": "learning_rate",
    "rate_decay": "learning_rate_decay",
    "latent": "latent_dim",
    "fonts_from": "font_source",
    "train_draws": "train_images_per_glyph",
    "test_draws": "test_images_per_glyph",
}
"""Former names of keys, each with the current name."""


class Settings(BaseModel):
    """A mapping in a config: frozen, strictly typed, without unknown, missing or null keys.

    The docstring under each field describes the key. The schema and the documentation quote it.
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
    def _check_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            is_required = any(field.is_required() for field in cls.model_fields.values())
            mapping = "a mapping" if is_required else "a mapping, {} for its defaults,"
            keys = join_words(cls.model_fields, "and")
            raise validation_error(
                f"is {format_value(values)}, but must be {mapping} with keys {keys}"
            )
        for key in values:
            if key not in cls.model_fields:
                raise cls._unknown_key_error(key)
        for key, field in cls.model_fields.items():
            if key not in values and field.is_required():
                raise validation_error(f"is missing, but must be {describe_allowed(field)}", key)
            if key in values and values[key] is None:
                hint = "" if field.is_required() else "; leave the key out for its default"
                allowed = describe_allowed(field)
                raise validation_error(f"is null, but must be {allowed}{hint}", key)
        return values

    @classmethod
    def _unknown_key_error(cls, key: Any) -> Exception:
        if isinstance(key, str) and RENAMED_KEYS.get(key) in cls.model_fields:
            message = f"is called {RENAMED_KEYS[key]} now: rename the key"
        else:
            allowed = join_words(cls.model_fields, "and")
            message = (
                f"is not a known key{suggestion(key, cls.model_fields)}; allowed are {allowed}"
            )
        return validation_error(message, format_key(key))

    def forbid(self, keys: Iterable[str], reason: str) -> Self:
        """Return self unless one of `keys` was set in the config.

        Raises:
            PydanticCustomError: a key was set; the sentence names the first one and the reason.
        """
        for key in keys:
            if key in self.model_fields_set:
                value = format_value(getattr(self, key))
                raise validation_error(f"is {value}, but must be left out: {reason}", key)
        return self

    def check_path(self, key: str, check: Callable[[str], object]) -> Self:
        """Return self if `check` accepts the path at `key`.

        Raises:
            PydanticCustomError: `check` raised a `UserError`; the sentence names the key.
        """
        value = getattr(self, key)
        try:
            check(value)
        except UserError as error:
            raise validation_error(f"is {format_value(value)}, but {error}", key) from None
        return self


@dataclass(frozen=True)
class DefaultText:
    """An annotation of a field whose default depends on other settings: the default in words."""

    text: str

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "x-default": self.text}


T = TypeVar("T", str, tuple[Any, ...])


def require_distinct(values: T) -> T:
    """Refuse a text or a list that has an element twice."""
    for index, value in enumerate(values):
        if value in values[:index]:
            message = f"is {format_value(value)}, but must differ from those before it"
            raise validation_error(message, index)
    return values


MAX_NUMBER = 1_000_000
"""Largest number in a config. Larger ones are mistakes that exhaust memory or overflow."""

NonNegativeInt = Annotated[int, Field(ge=0), AllowedText("a whole number of 0 or more")]
PositiveInt = Annotated[
    int, Field(ge=1, le=MAX_NUMBER), AllowedText(f"a whole number from 1 to {MAX_NUMBER:,}")
]
IntFrom2 = Annotated[
    int, Field(ge=2, le=MAX_NUMBER), AllowedText(f"a whole number from 2 to {MAX_NUMBER:,}")
]
LayerWidth = Annotated[int, Field(ge=1, le=4096), AllowedText("a whole number from 1 to 4,096")]
"""Channels or coordinates of a layer, which a few wide layers would not fit into memory."""
SeedCount = Annotated[int, Field(ge=1, le=10_000), AllowedText("a whole number from 1 to 10,000")]
NonNegativeFloat = Annotated[float, Field(ge=0), AllowedText("a number of 0 or more")]
PositiveFloat = Annotated[
    float, Field(gt=0, le=MAX_NUMBER), AllowedText(f"a number above 0 and up to {MAX_NUMBER:,}")
]
DecayFactor = Annotated[float, Field(gt=0, le=1), AllowedText("a number above 0 and up to 1")]
ThreatName = Annotated[str, AllowedText("the name of a threat, as text")]
FilePath = Annotated[str, Field(min_length=1)]
"""A path as the user wrote it. Readers replace `~` with `paths.expand_home`."""
Name = Annotated[
    str,
    Field(pattern="^[a-z][a-z0-9_]{0,59}$"),
    AllowedText("a lower-case letter and then lower-case letters, digits or _, 60 in all"),
]
NameInList = Annotated[str, AllowedText("a name, as text")]
UNIQUE_ITEMS: dict[str, JsonValue] = {"uniqueItems": True}
"""Extends the JSON schema of a list that `require_distinct` checks."""


class Classifier(Settings):
    """The network and its training, which are the same for all methods."""

    architecture: ArchitectureName = "convnet"
    """The network. `convnet` is the paper's: three convolutions and two linear layers."""
    epochs: PositiveInt = TrainConfig.epochs
    """Passes over the N training images."""
    batch_size: IntFrom2 = TrainConfig.batch_size
    """Images for each update of the weights."""
    learning_rate: PositiveFloat = TrainConfig.learning_rate
    """Learning rate of Adam in the first epoch."""
    learning_rate_decay: DecayFactor = TrainConfig.learning_rate_decay
    """Factor on the learning rate after each epoch."""
    weight_decay: NonNegativeFloat = TrainConfig.weight_decay
    """L2 penalty on the weights."""


class Threat(Settings):
    """A set of allowed perturbations: a ball in a space."""

    space: SpaceName
    """Coordinates in which images are changed."""
    norm: NormName
    """Norm of the change: `linf` bounds each coordinate, `l2` bounds the Euclidean length."""
    radius: Annotated[
        PositiveFloat | None,
        DefaultText("none: for attacks that find the smallest change"),
    ] = None
    """Largest allowed norm of the change, in coordinates of the space."""

    def to_params(self) -> dict[str, Any]:
        """Return the fields of `specs.Threat`, without a radius if there is none."""
        return self.model_dump(exclude_none=True)


_SEARCH_KEYS = ("step_rule", "loss", "step_size")
"""Keys that need steps."""
_ENSEMBLE_KEYS = ("steps", *_SEARCH_KEYS, "restarts")
"""Keys of an attack that its members have themselves."""


def forbid_unused_step_size(search: "Method | Attack") -> None:
    """Refuse the step size of a method or an attack whose step rule does not use it."""
    rule = search.step_rule
    if rule in AUTO_STEP_RULES:
        search.forbid(("step_size",), f"the step rule {rule} chooses its steps itself")


class Method(Settings):
    """A training method: normal training, or an attack on half of each batch.

    Without a threat it is normal training; with `steps: 0` the perturbations are random.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "dependentRequired": {key: ["threat"] for key in ("steps", *_SEARCH_KEYS)}
        }
    )

    threat: Annotated[ThreatName | None, DefaultText("none: all images are clean")] = None
    """The threat within which half of each batch is perturbed."""
    steps: NonNegativeInt = SearchConfig.steps
    """Steps of the search. With 0 steps the perturbation is drawn at random."""
    loss: LossName = SearchConfig.loss  # type: ignore[assignment]
    """The loss that the search increases."""
    step_rule: StepRuleName = SearchConfig.step_rule  # type: ignore[assignment]
    """The rule that turns a gradient into a step."""
    step_size: PositiveFloat = SearchConfig.step_size
    """Length of a step, in coordinates of the space."""

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        if self.threat is None:
            self.forbid(("steps", *_SEARCH_KEYS), "the method has no threat")
        elif self.steps == 0:
            self.forbid(_SEARCH_KEYS, "with 0 steps nothing is searched")
        forbid_unused_step_size(self)
        if self.step_rule in MINIMAL_STEP_RULES:
            allowed = [rule for rule in get_args(StepRuleName) if rule not in MINIMAL_STEP_RULES]
            raise validation_error(
                f"is {self.step_rule}, which finds the smallest perturbation, but must be one of "
                f"{join_words(allowed)}: training needs a perturbation within a radius",
                "step_rule",
            )
        return self

    def to_config(self) -> dict[str, Any]:
        """Return the block with its defaults, without keys that have no effect."""
        if self.threat is None:
            return {}
        if self.steps == 0:
            return self.model_dump(include={"threat", "steps"})
        unused = {"step_size"} if self.step_rule in AUTO_STEP_RULES else set()
        return self.model_dump(exclude=unused)


_MINIMAL_RULES = join_words(MINIMAL_STEP_RULES, "and")


class Attack(Settings):
    """An attack on trained classifiers.

    If the test split has fewer images than the default of `examples`, all of them are attacked.
    """

    threat: ThreatName
    """The threat within which adversarial examples are searched."""
    steps: PositiveInt = SearchConfig.steps
    """Steps of the search from each start."""
    loss: Annotated[
        LossName,
        DefaultText(f"{SearchConfig.loss}; margin for the step rules {_MINIMAL_RULES}"),
    ] = SearchConfig.loss  # type: ignore[assignment]
    """The loss that the search increases."""
    step_rule: StepRuleName = SearchConfig.step_rule  # type: ignore[assignment]
    """The rule that turns a gradient into a step. With `fmn` and `carlini_wagner` the attack finds
    the smallest perturbation, and its threat has no radius."""
    step_size: PositiveFloat = SearchConfig.step_size
    """Length of a step, in coordinates of the space."""
    restarts: PositiveInt = SearchConfig.restarts
    """Random starts. The attack succeeds on an image if the search from one start succeeds."""
    members: Annotated[
        tuple[NameInList, ...],
        Field(strict=False, min_length=1, json_schema_extra=UNIQUE_ITEMS),
        AfterValidator(require_distinct),
        DefaultText("none: the attack is one search"),
    ] = ()
    """Searches of an ensemble, which run one after the other on the images on which those before
    had no success: names of searches of the library, or of other attacks in the same space. Of
    another attack it takes the search and not the threat."""
    examples: Annotated[
        PositiveInt,
        DefaultText("1000, or the smallest test split of the study where it has fewer"),
    ] = 1000
    """Test images that are attacked: the first ones of the test split."""

    @model_validator(mode="before")
    @classmethod
    def _set_default_loss(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("step_rule") in MINIMAL_STEP_RULES:
            return {"loss": "margin", **values}
        return values

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        if self.members:
            self.forbid(_ENSEMBLE_KEYS, "the attack has members, which have their own")
        forbid_unused_step_size(self)
        if self.step_rule in MINIMAL_STEP_RULES and self.loss not in SIGNED_LOSSES:
            raise validation_error(
                f"is {self.loss}, but must be one of {join_words(SIGNED_LOSSES)}, as the step rule "
                f"{self.step_rule} needs a loss that is positive only where the model is wrong",
                "loss",
            )
        if self.is_minimal and self.restarts > 1 and self.loss not in TARGETED_LOSSES:
            raise validation_error(
                f"is {self.restarts}, but must be left out: searches with the step rule "
                f"{self.step_rule} and the loss {self.loss} begin at the clean image, so that all "
                "are equal",
                "restarts",
            )
        return self

    @property
    def is_minimal(self) -> bool:
        """Whether the attack finds the smallest perturbation, instead of one within a radius."""
        return not self.members and self.step_rule in MINIMAL_STEP_RULES

    def to_config(self) -> dict[str, Any]:
        """Return the block with its defaults, without keys that have no effect."""
        unused = {*_ENSEMBLE_KEYS} if self.members else {"members"}
        if self.step_rule in AUTO_STEP_RULES:
            unused.add("step_size")
        return self.model_dump(mode="json", exclude=unused)

    def to_search(self) -> SearchConfig:
        """Return the search of an attack without members."""
        return SearchConfig(**self.model_dump(include={*_ENSEMBLE_KEYS}))


class Distances(Settings):
    """The adversarial examples whose distance to the manifold is measured, and the measurement.

    Default numbers that are too large for the study are replaced by the largest allowed ones.
    """

    methods: Annotated[
        tuple[NameInList, ...],
        Field(strict=False, min_length=1, json_schema_extra=UNIQUE_ITEMS),
        AfterValidator(require_distinct),
        DefaultText("the methods without a threat; all methods if each has one"),
    ] = ()
    """Methods whose models' adversarial examples are measured."""
    attacks: Annotated[
        tuple[NameInList, ...],
        Field(strict=False, json_schema_extra=UNIQUE_ITEMS),
        AfterValidator(require_distinct),
        DefaultText("the attacks in the space `image` or on a manifold"),
    ] = ()
    """Attacks whose adversarial examples are measured."""
    examples: Annotated[
        PositiveInt,
        DefaultText("200, or fewer: no more than a measured attack or a test split has"),
    ] = 200
    """Test images whose adversarial examples are measured: the first ones of the test split."""
    steps: PositiveInt = 200
    """Steps of the search for the nearest image of a manifold."""
    step_size: PositiveFloat = 0.05
    """Length of a step of that search, in coordinates of the manifold."""
    neighbours: Annotated[
        IntFrom2, DefaultText("50, or one less than the smallest train split of the study")
    ] = 50
    """Nearest training images, whose affine span stands for the manifold where it is unknown."""
