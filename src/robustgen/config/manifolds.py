"""The block `manifolds` of a study's config: VAE-GANs, and the classifier that judges them."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from robustgen.config.blocks import (
    MAX_NUMBER,
    DecayFactor,
    DefaultText,
    IntFrom2,
    LayerWidth,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Settings,
)
from robustgen.config.messages import format_key, format_value, validation_error
from robustgen.specs import VaeGanConfig


def _check_class_keys(value: Any) -> Any:
    """Return a mapping whose keys are texts: `all`, or the number of a class.

    YAML reads keys without quotes as numbers.

    Raises:
        PydanticCustomError: the value is not a mapping, or a key is not allowed or given twice.
    """
    if not isinstance(value, dict):
        raise validation_error(
            f"is {format_value(value)}, but must be a mapping of classes to numbers"
        )
    betas = {}
    for key, beta in value.items():
        if key != "all" and (isinstance(key, bool) or not str(key).isdecimal()):
            raise validation_error(
                "is not a known key; allowed are `all` and the number of a class, from 0",
                format_key(key),
            )
        name = key if key == "all" else str(int(key))
        if name in betas:
            raise validation_error("is given twice", name)
        betas[name] = beta
    return betas


class Judge(Settings):
    """The classifier that judges a learned manifold.

    Its other settings are those of the study's block `classifier`.
    """

    images: IntFrom2 = 40_000
    """Largest number of training images. Each class has equally many of them, at least one."""
    epochs: Annotated[PositiveInt | None, DefaultText("`classifier.epochs`")] = None
    """Passes over these images."""
    learning_rate_decay: Annotated[
        DecayFactor | None, DefaultText("`classifier.learning_rate_decay`")
    ] = None
    """Factor on the learning rate after each epoch."""


class Manifold(Settings):
    """VAE-GANs that learn a data set's manifold; the defaults are the paper's for FONTS."""

    latent_dim: LayerWidth = VaeGanConfig.latent_dim
    """Coordinates of a code."""
    channels: Annotated[tuple[LayerWidth, ...], Field(strict=False, min_length=1)] = (
        VaeGanConfig.channels
    )
    """Channels of the encoder's convolutions, each of which halves the image. The decoder has the
    same numbers in reverse order."""
    beta: PositiveFloat = VaeGanConfig.beta
    """Weight of the reconstruction error (L1) in the loss."""
    betas: Annotated[
        dict[Annotated[str, Field(pattern="^(all|[0-9]+)$")], PositiveFloat],
        BeforeValidator(_check_class_keys),
        Field(default_factory=dict, json_schema_extra={"default": {}}),
    ]
    """Other values of `beta` for single VAE-GANs. A key is the number of a class, from 0, or `all`
    for the VAE-GAN of all classes."""
    gamma: NonNegativeFloat = VaeGanConfig.gamma
    """Weight of the adversarial loss. With 0 there is no discriminator."""
    epochs: PositiveInt = VaeGanConfig.epochs
    """Passes over the training images of a VAE-GAN."""
    batch_size: IntFrom2 = VaeGanConfig.batch_size
    """Images for each update of the weights."""
    learning_rate: PositiveFloat = VaeGanConfig.learning_rate
    """Learning rate of Adam in the first epoch."""
    learning_rate_decay: DecayFactor = VaeGanConfig.learning_rate_decay
    """Factor on the learning rate after each epoch."""
    weight_decay: NonNegativeFloat = VaeGanConfig.weight_decay
    """L2 penalty on the weights."""
    images: IntFrom2 = MAX_NUMBER
    """Largest number of training images of each VAE-GAN."""
    judge: Judge = Judge()
    """The classifier that measures how good the learned manifold is."""

    def to_config(self) -> dict[str, Any]:
        """Return the block with its defaults, without keys whose default depends on other keys."""
        excluded = None if self.betas else {"betas"}
        return self.model_dump(mode="json", exclude=excluded, exclude_none=True)
