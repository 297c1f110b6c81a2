"""What a study sets: threats, searches, training. And the bounds of the coordinates of spaces.

Imports no PyTorch, so that a config is checked quickly.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Self

BOUND = 2.0
"""Largest absolute value of a coordinate of a latent code, where the prior is standard normal
(Stutz et al., CVPR 2019, section 3.2)."""

RANGES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    name: ((-t, -t, -h, -h, low, -r), (t, t, h, h, high, r))
    for name, (t, h, low, high, r) in {
        "slight": (0.15, 0.2, 0.85, 1.15, math.pi / 10),
        "easy": (0.1, 0.2, 0.9, 1.1, math.pi / 6),
        "moderate": (0.2, 0.4, 0.85, 1.15, math.pi / 3),
        "hard": (0.2, 0.5, 0.75, 1.15, math.pi / 2),
    }.items()
}
"""Lower and upper bounds of the six affine parameters, by the name of the transformations.

"hard" is the paper's FONTS, "slight" its EMNIST, Fashion-MNIST and CelebA.
"""


NORMS = ("linf", "l2")
"""Names of the norms of threats."""


def require_name(argument: str, name: object, names: Collection[str]) -> None:
    """Raise a `ValueError` that names the argument unless `name` is one of `names`."""
    if name not in names:
        allowed = ", ".join(map(repr, names))
        raise ValueError(f"{argument} is {name!r}, but must be one of {allowed}")


def require_number(
    argument: str,
    value: object,
    lowest: float,
    *,
    is_integer: bool = False,
    is_exclusive: bool = False,
) -> None:
    """Raise a `ValueError` that names the argument unless `value` is a number in its range.

    Args:
        argument: name of the argument.
        value: its value.
        lowest: the lowest allowed number.
        is_integer: whether only integers are allowed.
        is_exclusive: whether `lowest` itself is not allowed.
    """
    kind, name = (Integral, "an integer") if is_integer else (Real, "a finite number")
    limit = f"above {lowest:g}" if is_exclusive else f"of at least {lowest:g}"
    if isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value):
        number = float(value)
        if number > lowest or (number == lowest and not is_exclusive):
            return
    raise ValueError(f"{argument} is {value!r}, but must be {name} {limit}")


@dataclass(frozen=True)
class Threat:
    """The allowed perturbations: a ball around the code of an image.

    Attributes:
        space: name of the space, a key of `attacks.spaces.SPACES`.
        norm: "linf" or "l2".
        radius: in coordinates of the space; pixel values for `image`.

    Raises:
        ValueError: the norm is not known, or the radius is not a positive number.
    """

    space: str
    norm: str
    radius: float

    def __post_init__(self) -> None:
        """Refuse what would silently be another threat."""
        require_name("norm", self.norm, NORMS)
        require_number("radius", self.radius, 0, is_exclusive=True)


@dataclass(frozen=True)
class SearchConfig:
    """How a threat is searched.

    Attributes:
        step_rule: a key of `attacks.step_rules.STEP_RULES`.
        step_size: length of a step, in coordinates of the space.
        steps: number of steps; 0 leaves the random start.
        restarts: number of random starts.

    Raises:
        ValueError: a number is out of its range.
    """

    step_rule: str
    step_size: float
    steps: int
    restarts: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing would be searched."""
        require_number("step_size", self.step_size, 0, is_exclusive=True)
        require_number("steps", self.steps, 0, is_integer=True)
        require_number("restarts", self.restarts, 1, is_integer=True)


@dataclass(frozen=True)
class TrainConfig:
    """How a classifier is trained, with Adam (Stutz et al., CVPR 2019, supplement).

    Attributes:
        epochs: passes over the N training images.
        batch_size: images per update.
        rate: learning rate of the first epoch.
        rate_decay: factor on the learning rate after each epoch.
        weight_decay: L2 penalty.
    """

    epochs: int
    batch_size: int
    rate: float
    rate_decay: float
    weight_decay: float


@dataclass(frozen=True)
class AdversarialTraining:
    """What a training method adds to normal training; 0 steps train on random perturbations."""

    threat: Threat
    search: SearchConfig


@dataclass(frozen=True)
class VaeGanConfig:
    """How a VAE-GAN is built and trained; the defaults are the paper's for FONTS.

    Attributes:
        latent: D, numbers in a code.
        channels: channels of the convolutions, from the image inwards.
        beta: weight of the L1 reconstruction loss, which is summed over an image.
        gamma: weight of the decoder's loss against the discriminator. With 0 there is no
            discriminator, and the model is a VAE (Kingma and Welling, ICLR 2014).
        epochs: passes over the images.
        batch_size: images per update.
        rate: learning rate of Adam in the first epoch.
        rate_decay: factor on the learning rate after each epoch.
        weight_decay: L2 penalty.
    """

    latent: int = 10
    channels: tuple[int, ...] = (64, 128, 256)
    beta: float = 3.0
    gamma: float = 1.0
    epochs: int = 10
    batch_size: int = 100
    rate: float = 0.005
    rate_decay: float = 0.9
    weight_decay: float = 1e-4

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """From a mapping whose channels may be a list, as in a file."""
        return cls(**{**values, "channels": tuple(values["channels"])})
