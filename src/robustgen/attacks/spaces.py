"""Spaces: the coordinates in which an attack moves an image."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from robustgen.data import affine
from robustgen.data.learned_manifold import ClassDecoders
from robustgen.data.split import Split
from robustgen.sampling import expand_trailing_dims, sample_unit_ball
from robustgen.specs import BOUND, Threat, require_name


@dataclass(frozen=True)
class Space(ABC):
    """Coordinates around the images of one batch.

    Attributes:
        clean_codes: `(M, B, *D)` codes of the unperturbed images.
        lower, upper: bounds of each coordinate, broadcastable to `clean_codes`; or one number for
            all coordinates, with which clamping is ten times as fast.
    """

    clean_codes: Tensor
    lower: Tensor | float
    upper: Tensor | float

    @property
    def needs_host_sync(self) -> bool:
        """Whether decoding waits for the GPU, which a CUDA graph must not do."""
        return False

    @property
    def is_latent(self) -> bool:
        """Whether codes are decoded to images, so that clean codes may give other images."""
        return True

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Images `(M, B, C, H, W)` of `codes` `(M, B, *D)`, differentiable in the codes."""

    def select(self, columns: Tensor) -> "Space":
        """The space around the images `columns` `(M, B')` of each member's batch."""
        return replace(self, clean_codes=gather_columns(self.clean_codes, columns))

    def project(self, codes: Tensor, threat: Threat) -> Tensor:
        """Project `codes` onto the ball of the threat, then onto the bounds.

        The second projection leaves the ball only if a clean code is out of bounds.
        """
        delta = codes - self.clean_codes
        if threat.norm == "linf":
            delta.clamp_(-threat.radius, threat.radius)
        else:
            norms = delta.flatten(2).norm(dim=2).clamp_min(1e-12)
            delta *= expand_trailing_dims((threat.radius / norms).clamp_max(1.0), delta)
        return self.clamp_(delta.add_(self.clean_codes))

    def clamp_(self, codes: Tensor) -> Tensor:
        """Clamp codes `(M, B, *D)` to the bounds, in place."""
        return codes.clamp_(self.lower, self.upper)  # type: ignore[arg-type]

    def scale_starts(self, threat: Threat, unit_points: Tensor) -> Tensor:
        """Starts of a search: points `(M, B, *D)` of the unit ball, moved into the threat."""
        return self.project(self.clean_codes + threat.radius * unit_points, threat)

    def sample(self, threat: Threat, generators: Sequence[torch.Generator]) -> Tensor:
        """Codes sampled uniformly from the ball and clamped to the bounds.

        Args:
            threat: the ball.
            generators: M CPU generators, one per member.
        """
        unit_points = sample_unit_ball(threat.norm, self.clean_codes.shape[1:], generators)
        return self.scale_starts(threat, unit_points.to(self.clean_codes))


@dataclass(frozen=True)
class ImageSpace(Space):
    """The image itself: pixels in [0, 1]."""

    @property
    def is_latent(self) -> bool:
        """False: the codes are the images."""
        return False

    def decode(self, codes: Tensor) -> Tensor:
        """The codes, which are the images."""
        return codes


@dataclass(frozen=True)
class AffineSpace(Space):
    """Six affine parameters `(M, B, 6)` that warp given images.

    It is the true manifold of FONTS (letter prototypes, around the code of the example) and the
    space of adversarial transformations (the images themselves, around the identity).

    Attributes:
        images: `(M, B, C, H, W)` images to warp.
    """

    images: Tensor

    def decode(self, codes: Tensor) -> Tensor:
        """The given images, warped by `codes`."""
        return affine.warp(self.images, codes)

    def select(self, columns: Tensor) -> "AffineSpace":
        """The space around the images `columns` `(M, B')` of each member's batch."""
        clean_codes, images = (
            gather_columns(values, columns) for values in (self.clean_codes, self.images)
        )
        return replace(self, clean_codes=clean_codes, images=images)


@dataclass(frozen=True)
class LearnedSpace(Space):
    """Codes `(M, B, D)` of VAE-GANs, each decoded by the decoder of its image's class.

    Attributes:
        labels: `(M, B)` classes of the images.
        decoders: the decoders of the classes.
    """

    labels: Tensor
    decoders: ClassDecoders

    @property
    def needs_host_sync(self) -> bool:
        """True with several decoders: the host must know how many codes each has."""
        return len(self.decoders.decoders) > 1

    def decode(self, codes: Tensor) -> Tensor:
        """The images that the decoders make of `codes`."""
        return self.decoders(codes, self.labels)

    def select(self, columns: Tensor) -> "LearnedSpace":
        """The space around the images `columns` `(M, B')` of each member's batch."""
        clean_codes, labels = (
            gather_columns(values, columns) for values in (self.clean_codes, self.labels)
        )
        return replace(self, clean_codes=clean_codes, labels=labels)


def make_image_space(batch: Split) -> Space:
    """The images of `batch` `(M, B)` as codes of themselves."""
    return ImageSpace(batch.images(), 0.0, 1.0)


def make_true_manifold(batch: Split) -> Space:
    """The known codes of `batch` `(M, B)`, within the ranges from which they were drawn.

    Raises:
        ValueError: the data set has no known manifold.
    """
    if batch.codes is None:
        raise ValueError("true_manifold needs a data set whose manifold is known")
    return AffineSpace(batch.codes, *batch.ranges, batch.source_images())


def make_transformation(batch: Split) -> Space:
    """Affine parameters around the identity, within the ranges of the data set."""
    images = batch.images()
    identity = affine.identity(images).expand(*images.shape[:2], 6)
    return AffineSpace(identity, *batch.ranges, images)


def _make_learned_space(name: str, batch: Split) -> Space:
    """The codes of `batch` `(M, B)` on the learned manifold called `name`.

    Raises:
        ValueError: the manifold was not learned for this data set.
    """
    if name not in batch.learned:
        raise ValueError(f"{name} was not learned of this data set")
    manifold = batch.learned[name]
    clean_codes = manifold.codes.clamp(-BOUND, BOUND)
    return LearnedSpace(clean_codes, -BOUND, BOUND, batch.labels, manifold.decoders)


SPACES: dict[str, Callable[[Split], Space]] = {
    "image": make_image_space,
    "true_manifold": make_true_manifold,
    "transformation": make_transformation,
    "learned_manifold": partial(_make_learned_space, "learned_manifold"),
    "data_manifold": partial(_make_learned_space, "data_manifold"),
}
"""Spaces by name; each is made for a batch of leading shape `(M, B)`."""


def make_space(name: str, batch: Split) -> Space:
    """The space called `name` around the images of `batch` `(M, B)`.

    Raises:
        ValueError: there is no such space, or the data set does not have it.
    """
    require_name("space", name, SPACES)
    return SPACES[name](batch)


def perturbation_norms(delta: Tensor) -> dict[str, Tensor]:
    """L1, L2 and L-infinity norms `(M, B)` of perturbations `(M, B, *D)`."""
    flat = delta.flatten(2)
    return {
        "l1": flat.norm(1, dim=2),
        "l2": flat.norm(2, dim=2),
        "linf": flat.norm(torch.inf, dim=2),
    }


def gather_columns(values: Tensor, columns: Tensor) -> Tensor:
    """Columns `(M, B')` of each member's `values` `(M, B, ...)`: `(M, B', ...)`."""
    members = torch.arange(len(columns), device=columns.device)[:, None]
    return values[members, columns]
