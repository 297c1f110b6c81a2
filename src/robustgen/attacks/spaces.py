"""Spaces: coordinates in which a search changes an image, with bounds and a decoder to images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from robustgen.data.decoders import ClassDecoders, identity_parameters, warp
from robustgen.data.split import Split
from robustgen.sampling import expand_trailing_dims, sample_unit_ball
from robustgen.specs import LATENT_BOUND, Threat, require_instance, require_name


@dataclass(frozen=True)
class Space(ABC):
    """A space around the images of one batch: M models, B images, codes of shape `*D`.

    Attributes:
        clean_codes: `(M, B, *D)` codes of the clean images, which are the centres of the balls.
        lower, upper: bounds of each coordinate, broadcastable to `clean_codes`; or one number for
            all coordinates, with which clamping is ten times as fast.
    """

    clean_codes: Tensor
    lower: Tensor | float
    upper: Tensor | float

    @property
    def needs_host_sync(self) -> bool:
        """Whether decoding synchronizes with the GPU, so that no CUDA graph can capture it."""
        return False

    @property
    def is_latent(self) -> bool:
        """Whether a decoder maps codes to images, so that a clean code may decode inexactly."""
        return True

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Return the images `(M, B, C, H, W)` of `codes` `(M, B, *D)`, differentiable in them."""

    def select(self, columns: Tensor) -> "Space":
        """Return the space around the images at positions `columns` `(M, B')` of each model."""
        return replace(self, clean_codes=gather_columns(self.clean_codes, columns))

    def project(self, codes: Tensor, threat: Threat) -> Tensor:
        """Return `codes` `(M, B, *D)`, projected onto the ball of the threat, then to the bounds.

        The result lies in the ball if the clean code lies within the bounds.
        """
        delta = codes - self.clean_codes
        clip_norm_(delta, threat.norm, threat.radius)
        return self.clamp_(delta.add_(self.clean_codes))

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the lower and the upper bounds as tensors, on the device of the codes."""
        lower, upper = (
            torch.as_tensor(bound, dtype=self.clean_codes.dtype, device=self.clean_codes.device)
            for bound in (self.lower, self.upper)
        )
        return lower, upper

    def clamp_(self, codes: Tensor) -> Tensor:
        """Clamp `codes` `(M, B, *D)` to the bounds in place and return them."""
        return codes.clamp_(self.lower, self.upper)  # type: ignore[arg-type]

    def scale_starts(self, threat: Threat, unit_points: Tensor) -> Tensor:
        """Return the starts of a search: points `(M, B, *D)` of the unit ball, moved to the threat.

        The starts are clean code + radius · point, clamped to the bounds.
        """
        return self.project(self.clean_codes + threat.radius * unit_points, threat)

    def sample(self, threat: Threat, generators: Sequence[torch.Generator]) -> Tensor:
        """Sample codes `(M, B, *D)` uniformly from the ball and clamp them to the bounds.

        Args:
            threat: the ball.
            generators: M CPU generators, one per model.
        """
        unit_points = sample_unit_ball(threat.norm, self.clean_codes.shape[1:], generators)
        return self.scale_starts(threat, unit_points.to(self.clean_codes))


@dataclass(frozen=True)
class ImageSpace(Space):
    """The space `image`: the codes are the images themselves, with pixels in [0, 1]."""

    @property
    def is_latent(self) -> bool:
        """False: the codes are the images."""
        return False

    def decode(self, codes: Tensor) -> Tensor:
        """Return the codes, which are the images."""
        return codes


@dataclass(frozen=True)
class AffineSpace(Space):
    """Six affine parameters `(M, B, 6)` that warp images.

    The space `true_manifold` of FONTS warps letter prototypes, around the code of each example. The
    space `transformation` warps the images themselves, around the identity.

    Attributes:
        images: `(M, B, C, H, W)` images to warp.
    """

    images: Tensor

    def decode(self, codes: Tensor) -> Tensor:
        """Return the images, warped by `codes` `(M, B, 6)`."""
        return warp(self.images, codes)

    def select(self, columns: Tensor) -> "AffineSpace":
        """Return the space around the images at positions `columns` `(M, B')` of each model."""
        clean_codes, images = (
            gather_columns(values, columns) for values in (self.clean_codes, self.images)
        )
        return replace(self, clean_codes=clean_codes, images=images)


@dataclass(frozen=True)
class LearnedSpace(Space):
    """Codes `(M, B, D)` of VAE-GANs, each with the decoder of the class of its image.

    Attributes:
        labels: `(M, B)` classes of the images.
        decoders: one decoder per class, or one for all classes.
    """

    labels: Tensor
    decoders: ClassDecoders

    @property
    def needs_host_sync(self) -> bool:
        """Whether there are several decoders: the CPU must then count the codes of each class."""
        return len(self.decoders.decoders) > 1

    def decode(self, codes: Tensor) -> Tensor:
        """Return the decoded images of `codes` `(M, B, D)`."""
        return self.decoders(codes, self.labels)

    def select(self, columns: Tensor) -> "LearnedSpace":
        """Return the space around the images at positions `columns` `(M, B')` of each model."""
        clean_codes, labels = (
            gather_columns(values, columns) for values in (self.clean_codes, self.labels)
        )
        return replace(self, clean_codes=clean_codes, labels=labels)


def make_image_space(batch: Split) -> Space:
    """Return the space `image` around the images of `batch` `(M, B)`."""
    return ImageSpace(batch.images(), 0.0, 1.0)


def make_true_manifold(batch: Split) -> Space:
    """Return the space `true_manifold` around the known codes of `batch` `(M, B)`.

    Its bounds are the ranges from which the codes were drawn.

    Raises:
        ValueError: the manifold of the data set is not known.
    """
    if batch.codes is None:
        raise ValueError("true_manifold needs a data set whose manifold is known")
    return AffineSpace(batch.codes, *batch.ranges, batch.unwarped_images())


def make_transformation(batch: Split) -> Space:
    """Return the space `transformation` around the images of `batch` `(M, B)`.

    Its clean codes are the identity and its bounds are the ranges of the data set.
    """
    images = batch.images()
    identity = identity_parameters(images).expand(*images.shape[:2], 6)
    return AffineSpace(identity, *batch.ranges, images)


def _make_learned_space(name: str, batch: Split) -> Space:
    """Return the space around the codes of `batch` `(M, B)` on the learned manifold `name`.

    Raises:
        ValueError: the data set has no learned manifold of this name.
    """
    if name not in batch.learned:
        raise ValueError(f"{name} was not learned for this data set")
    manifold = batch.learned[name]
    clean_codes = manifold.codes.clamp(-LATENT_BOUND, LATENT_BOUND)
    return LearnedSpace(clean_codes, -LATENT_BOUND, LATENT_BOUND, batch.labels, manifold.decoders)


SPACES: dict[str, Callable[[Split], Space]] = {
    "image": make_image_space,
    "true_manifold": make_true_manifold,
    "transformation": make_transformation,
    "learned_manifold": partial(_make_learned_space, "learned_manifold"),
    "data_manifold": partial(_make_learned_space, "data_manifold"),
}
"""Functions by the name of a space; each makes the space around a batch of shape `(M, B)`."""


def make_space(name: str, batch: Split) -> Space:
    """Return the space `name` around the images of `batch` `(M, B)`.

    Raises:
        ValueError: there is no space of this name, or the data set lacks what the space needs.

    Examples:
        >>> import robustgen
        >>> images = robustgen.open_study("results/smoke").split("fonts").select(slice(8))
        >>> space = robustgen.make_space("true_manifold", images.expand(2))
        >>> space.clean_codes.shape, space.decode(space.clean_codes).shape
        (torch.Size([2, 8, 6]), torch.Size([2, 8, 1, 28, 28]))
    """
    require_name("space", name, SPACES)
    require_instance("batch", batch, Split)
    return SPACES[name](batch)


def clip_norm_(delta: Tensor, norm: str, radius: Tensor | float) -> Tensor:
    """Project perturbations `(M, B, *D)` onto balls around zero, in place, and return them.

    Args:
        delta: the perturbations.
        norm: "linf" or "l2".
        radius: a radius for all perturbations, or `(M, B, 1, ...)` radii of each.
    """
    if norm == "linf":
        return delta.clamp_(-radius, radius)  # type: ignore[arg-type]
    norms = expand_trailing_dims(delta.flatten(2).norm(dim=2).clamp_min(1e-12), delta)
    return delta.mul_((radius / norms).clamp_max(1.0))


def perturbation_norm(delta: Tensor, norm: str) -> Tensor:
    """Return a norm `(M, B)` of perturbations `(M, B, *D)`: "l1", "l2" or "linf"."""
    norms: Tensor = delta.flatten(2).norm(NORM_ORDERS[norm], dim=2)
    return norms


NORM_ORDERS = {"l1": 1.0, "l2": 2.0, "linf": torch.inf}
"""Orders of norms by name, as PyTorch calls them."""


def perturbation_norms(delta: Tensor) -> dict[str, Tensor]:
    """Return the L1, L2 and L-infinity norms `(M, B)` of perturbations `(M, B, *D)`, by name."""
    return {name: perturbation_norm(delta, name) for name in NORM_ORDERS}


def gather_columns(values: Tensor, columns: Tensor) -> Tensor:
    """Return `values` `(M, B, ...)` at positions `columns` `(M, B')` of each model."""
    members = torch.arange(len(columns), device=columns.device)[:, None]
    return values[members, columns]


def scatter_columns_(values: Tensor, columns: Tensor, source: Tensor) -> None:
    """Write `source` `(M, B', ...)` to positions `columns` `(M, B')` of `values` `(M, B, ...)`."""
    members = torch.arange(len(columns), device=columns.device)[:, None]
    values[members, columns] = source
