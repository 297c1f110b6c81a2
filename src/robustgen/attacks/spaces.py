"""Spaces: the coordinates in which an image may be moved; and threats, the balls in them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from robustgen.data import affine
from robustgen.data.learned_manifold import BOUND, Decoders
from robustgen.data.split import Split


@dataclass(frozen=True)
class Threat:
    """The set of perturbations allowed: a ball of `radius` in `norm` around the code of an image.

    Attributes:
        space: name of the space, a key of `SPACES`.
        norm: "linf" or "l2".
        radius: in coordinates of the space (pixel values for `image`).
    """

    space: str
    norm: str
    radius: float


@dataclass(frozen=True)
class Space(ABC):
    """Coordinates around the images of one batch.

    Attributes:
        origin: `(M, B, *D)` codes of the unperturbed images.
        low, high: ends of each coordinate, broadcastable to `origin`; or one number for all, which
            is ten times as fast.
    """

    origin: Tensor
    low: Tensor | float
    high: Tensor | float

    @property
    def waits(self) -> bool:
        """Whether decoding waits for a GPU, and so cannot be recorded (see `replay`)."""
        return False

    @property
    def encodes(self) -> bool:
        """Whether codes are something else than the images."""
        return True

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Images `(M, B, C, H, W)` of `codes` `(M, B, *D)`, differentiable in the codes."""

    def take(self, index: Tensor) -> "Space":
        """The space around the images `index` `(M, B')` of each member's batch."""
        return replace(self, origin=gather(self.origin, index))

    def project(self, codes: Tensor, threat: Threat) -> Tensor:
        """The codes moved into the ball around the origin, then into the bounds.

        Clipping to the bounds leaves the ball only if the origin is out of bounds.
        """
        moved = codes - self.origin
        if threat.norm == "linf":
            moved.clamp_(-threat.radius, threat.radius)
        else:
            size = moved.flatten(2).norm(dim=2).clamp_min(1e-12)
            moved *= spread((threat.radius / size).clamp_max(1.0), moved)
        return self.bound_(moved.add_(self.origin))

    def bound_(self, codes: Tensor) -> Tensor:
        """Move codes `(M, B, *D)` into the bounds, in place."""
        return codes.clamp_(self.low, self.high)  # type: ignore[arg-type]

    def start(self, threat: Threat, drawn: Tensor) -> Tensor:
        """Codes of the ball, of those of a unit ball that were `drawn`, moved into the bounds."""
        return self.project(self.origin + threat.radius * drawn, threat)

    def sample(self, threat: Threat, generators: Sequence[torch.Generator]) -> Tensor:
        """Codes drawn uniformly from the ball, moved into the bounds; a generator per member."""
        drawn = draw(threat.norm, self.origin.shape[1:], generators)
        return self.start(threat, drawn.to(self.origin))


def draw(
    norm: str,
    shape: Sequence[int],
    generators: Sequence[torch.Generator],
    out: Tensor | None = None,
) -> Tensor:
    """Codes `(M, B, *D)` drawn uniformly from the unit ball of `norm`, on the CPU.

    Args:
        norm: "linf" or "l2".
        shape: `(B, *D)`.
        generators: one per member, each of which draws as if it were alone.
        out: where to draw them, if memory is given.
    """
    drawn = torch.empty(len(generators), *shape) if out is None else out
    if norm == "linf":
        for member, rng in zip(drawn, generators, strict=True):
            member.uniform_(generator=rng)
        return drawn.mul_(2).sub_(1)
    for member, rng in zip(drawn, generators, strict=True):
        member.normal_(generator=rng)
    share = torch.stack([torch.rand(shape[0], generator=g) for g in generators])
    dimensions = drawn[0, 0].numel()
    size = drawn.flatten(2).norm(dim=2).clamp_min(1e-12)
    return drawn.mul_(spread(share ** (1 / dimensions) / size, drawn))


@dataclass(frozen=True)
class ImageSpace(Space):
    """The image itself: pixels in [0, 1]."""

    @property
    def encodes(self) -> bool:
        """No."""
        return False

    def decode(self, codes: Tensor) -> Tensor:
        """The codes, which are the images."""
        return codes


@dataclass(frozen=True)
class AffineSpace(Space):
    """Six affine parameters `(M, B, 6)` applied to given images.

    The true manifold of FONTS (letter prototypes, around the example's code) and adversarial
    transformations (the images themselves, around the identity) are both this.

    Attributes:
        images: `(M, B, C, H, W)` images to warp.
    """

    images: Tensor

    def decode(self, codes: Tensor) -> Tensor:
        """The given images warped by `codes`."""
        return affine.transform(self.images, codes)

    def take(self, index: Tensor) -> "AffineSpace":
        """The space around the images `index` `(M, B')` of each member's batch."""
        return replace(self, origin=gather(self.origin, index), images=gather(self.images, index))


@dataclass(frozen=True)
class LearnedSpace(Space):
    """Codes `(M, B, D)` of a VAE-GAN, decoded by that of each image's own class.

    Attributes:
        labels: `(M, B)` classes of the images.
        decoders: those of the classes.
    """

    labels: Tensor
    decoders: Decoders

    @property
    def waits(self) -> bool:
        """With decoders of several classes: each must know how many codes it has."""
        return len(self.decoders.decoders) > 1

    def decode(self, codes: Tensor) -> Tensor:
        """The images that the decoders make of `codes`."""
        return self.decoders(codes, self.labels)

    def take(self, index: Tensor) -> "LearnedSpace":
        """The space around the images `index` `(M, B')` of each member's batch."""
        return replace(self, origin=gather(self.origin, index), labels=gather(self.labels, index))


def image(batch: Split) -> Space:
    """The images of `batch` (leading shape `(M, B)`) as codes of themselves."""
    images = batch.images()
    return ImageSpace(images, 0.0, 1.0)


def true_manifold(batch: Split) -> Space:
    """The known codes of `batch`, within the ranges they were drawn from.

    Raises:
        ValueError: the data set has no known manifold.
    """
    if batch.codes is None:
        raise ValueError("true_manifold needs a data set whose manifold is known")
    return AffineSpace(batch.codes, *batch.ranges, batch.sources())


def transformation(batch: Split) -> Space:
    """Affine parameters around the identity, within the ranges of the data set."""
    images = batch.images()
    identity = affine.identity(images).expand(*images.shape[:2], 6)
    return AffineSpace(identity, *batch.ranges, images)


def _learned(name: str, batch: Split) -> Space:
    """The codes of `batch` on the learned manifold called `name`, of bounded coordinates.

    Raises:
        ValueError: it was not learned.
    """
    if name not in batch.learned:
        raise ValueError(f"{name} was not learned of this data set")
    of = batch.learned[name]
    codes = of.codes.clamp(-BOUND, BOUND)
    return LearnedSpace(codes, -BOUND, BOUND, batch.labels, of.decoders)


SPACES: dict[str, Callable[[Split], Space]] = {
    "image": image,
    "true_manifold": true_manifold,
    "transformation": transformation,
    "learned_manifold": partial(_learned, "learned_manifold"),
    "data_manifold": partial(_learned, "data_manifold"),
}
"""Spaces by name; each is made for a batch of leading shape `(M, B)`."""


def sizes(moved: Tensor) -> dict[str, Tensor]:
    """L1, L2 and L-infinity size `(M, B)` of perturbations `(M, B, *D)`."""
    flat = moved.flatten(2)
    return {
        "l1": flat.norm(1, dim=2),
        "l2": flat.norm(2, dim=2),
        "linf": flat.norm(torch.inf, dim=2),
    }


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` `(M, B')` of each member's `values` `(M, B, ...)`."""
    return values[torch.arange(len(index), device=index.device)[:, None], index]


def spread(values: Tensor, like: Tensor) -> Tensor:
    """`values` `(M, B)` with axes of length 1, to go with `like` `(M, B, ...)`."""
    return values.reshape(*values.shape, *[1] * (like.dim() - values.dim()))
