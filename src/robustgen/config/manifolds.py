"""The block `manifolds` of a study's config: VAE-GANs, and the classifier that judges them."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from robustgen.config.blocks import (
    MOST,
    Count,
    Decay,
    DefaultText,
    Positive,
    Settings,
    Several,
    Width,
)
from robustgen.config.messages import Said, key_text, mistake, shown


def _check_class_keys(value: Any) -> Any:
    """Turn keys into text, since YAML reads bare numbers as numbers; refuse other keys.

    Allowed keys are `all` and the numbers of classes.
    """
    if not isinstance(value, dict):
        raise mistake(f"is {shown(value)}, but must be a mapping of classes to numbers")
    betas = {}
    for key, beta in value.items():
        if key != "all" and (isinstance(key, bool) or not str(key).isdecimal()):
            raise mistake("is no known key; allowed are all and numbers of classes", key_text(key))
        name = key if key == "all" else str(int(key))
        if name in betas:
            raise mistake("is given twice", name)
        betas[name] = beta
    return betas


class Judge(Settings):
    """The classifier that judges a learned manifold.

    It has the settings of the study's other classifiers where nothing else is given here.
    """

    images: Several = 40_000
    """Largest number of training images. They are equally many of each class, one at least."""
    epochs: Annotated[Count | None, DefaultText("`classifier.epochs`")] = None
    """Passes over these images."""
    rate_decay: Annotated[Decay | None, DefaultText("`classifier.rate_decay`")] = None
    """Factor on the learning rate after each epoch."""


class Manifold(Settings):
    """VAE-GANs that learn a data set's manifold; the defaults are the paper's for FONTS."""

    latent: Width = 10
    """Coordinates of a code."""
    channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=1)] = (
        64,
        128,
        256,
    )
    """Channels of the encoder's convolutions, each of which halves the image. The decoder has the
    same numbers in reverse order."""
    beta: Positive = 3.0
    """Weight of the reconstruction error (L1) in the loss."""
    betas: Annotated[dict[str, Positive], BeforeValidator(_check_class_keys)] = Field(
        default_factory=dict
    )
    """Other values of `beta` for single VAE-GANs. A key is the number of a class, from 0, or `all`
    for the VAE-GAN of all classes."""
    gamma: Annotated[float, Field(ge=0), Said("a number of 0 or more")] = 1.0
    """Weight of the adversarial loss. With 0 there is no discriminator."""
    epochs: Count = 10
    """Passes over the training images of a VAE-GAN."""
    batch_size: Several = 100
    """Images for each update of the weights."""
    rate: Positive = 0.005
    """Learning rate of Adam in the first epoch."""
    rate_decay: Decay = 0.9
    """Factor on the learning rate after each epoch."""
    weight_decay: Annotated[float, Field(ge=0), Said("a number of 0 or more")] = 1e-4
    """L2 penalty on the weights."""
    images: Several = MOST
    """Largest number of training images of each VAE-GAN."""
    judge: Judge = Judge()
    """The classifier that measures how good the learned manifold is."""

    def settings(self) -> dict[str, Any]:
        """The settings as a config has them, without those whose default depends on others."""
        excluded = None if self.betas else {"betas"}
        return self.model_dump(mode="json", exclude=excluded, exclude_none=True)
