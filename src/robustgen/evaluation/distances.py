"""Distances of examples to a known or learned manifold, and to the span of the nearest images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.attacks.spaces import Space, make_space
from robustgen.backend import MakeAdam, make_adam, set_learning_rate
from robustgen.data.split import Split, require_split
from robustgen.progress import log_progress
from robustgen.specs import require_number
from robustgen.tensor_checks import require_images, require_same_images

PIXELS_PER_CHUNK = 250 * 28 * 28
"""Number of pixels of the examples that are measured together, which bounds the memory."""
CHUNKS_ON_GPU = 40
"""Number of chunks whose distances to a manifold are measured together on a GPU."""
SHARP, COARSE_TO_FINE = (1,), (7, 5, 3, 1)
"""Widths of the blur of the two descents, in pixels, each for an equal share of the steps."""
MIN_NORM = 1e-6
"""L2 norm up to which a vector counts as zero and has no direction."""


@dataclass(frozen=True)
class DistanceAndAngle:
    """Distance and angle of each of B examples.

    Attributes:
        distance: `(B,)` L2 distance to the manifold, over all pixels.
        angle: `(B,)` degrees between the perturbation and the manifold: 0 along the manifold, 90 at
            a right angle to it, NaN without a perturbation.
    """

    distance: Tensor
    angle: Tensor


def measure_distances(
    examples: Tensor,
    clean: Split,
    training: Split,
    *,
    steps: int,
    step_size: float,
    neighbours: int,
    make_adam: MakeAdam = make_adam,
) -> dict[str, Any]:
    """Measure the distances of examples to every manifold of the data set.

    Args:
        examples: `(B, C, H, W)` images.
        clean: the B clean images.
        training: the training images.
        steps: iterations of Adam; see `measure_to_manifold`.
        step_size: initial learning rate of Adam.
        neighbours: number of images that span a subspace; see `measure_to_neighbours`.
        make_adam: a function that makes the optimizer.

    Returns:
        Columns of `schemas.DISTANCES`, masked for a manifold that `clean` lacks. A study's
        `split` has a learned manifold only with its argument `manifold`.

    Raises:
        ValueError: an argument is not as described; the message names it.

    Examples:
        >>> import robustgen, torch
        >>> study = robustgen.open_study("results/smoke")
        >>> images = study.examples("fonts", "regular", "normal", n=60).images[:4]
        >>> clean, training = study.split("fonts").select(slice(4)), study.split("fonts", "train")
        >>> distances = robustgen.measure_distances(
        ...     torch.from_numpy(images), clean, training, steps=5, step_size=0.05, neighbours=9
        ... )
        >>> bool((distances["true_manifold_distance"] >= 0).all())
        True
    """
    require_split("clean", clean)
    require_split("training", training)
    clean_images = clean.images()
    _check_examples(examples, clean_images)
    require_number("steps", steps, 1, is_integer=True)
    require_number("step_size", step_size, 0, is_exclusive=True)
    spaces = {} if clean.codes is None else {"true_manifold": "true_manifold"}
    if clean.learned:
        (spaces["learned_manifold"],) = clean.learned
    distances = {
        kind: measure_to_manifold(
            examples, clean, space, steps=steps, step_size=step_size, make_adam=make_adam
        )
        for kind, space in spaces.items()
    }
    distances["neighbour"] = measure_to_neighbours(examples, clean_images, training, neighbours)
    nan = torch.full((len(examples),), torch.nan)
    columns: dict[str, Any] = {}
    for kind in ("true_manifold", "learned_manifold", "neighbour"):
        distance = distances.get(kind, DistanceAndAngle(nan, nan))
        columns[f"{kind}_distance"] = _to_column(distance.distance)
        columns[f"{kind}_angle"] = _to_column(distance.angle)
    return columns


def _check_examples(examples: Tensor, clean_images: Tensor) -> None:
    """Raise a `ValueError` unless `examples` are images, one for each clean image."""
    require_images("examples", examples, clean_images.dtype)
    require_same_images("examples", examples, "clean images", clean_images)
    if len(examples) != len(clean_images):
        raise ValueError(
            f"examples are {len(examples)} images, but clean are {len(clean_images)}, though each "
            "example needs its clean image"
        )


def measure_to_manifold(
    examples: Tensor,
    clean: Split,
    space: str,
    *,
    steps: int,
    step_size: float,
    make_adam: MakeAdam = make_adam,
) -> DistanceAndAngle:
    """Measure the distance to a manifold with codes (Stutz et al., section 3.3 and supplement).

    Adam minimizes the L2 distance of the example to the decoded code, within the bounds of the
    space and with the class (and font) of the clean image. There are two descents from the code of
    the clean image: one on sharp images, one on images whose blur decreases with the steps. The
    shorter distance counts. The angle is between two vectors from the decoded clean code: to the
    example, and to the nearest point. On a known manifold, the decoded clean code is the clean
    image.

    Args:
        examples: `(B, C, H, W)` images.
        clean: the B clean images with their codes.
        space: name of the true manifold or of a learned one that `clean` has, a key of `SPACES`.
        steps: iterations of Adam in each of the two descents.
        step_size: initial learning rate of Adam; it falls to zero as half a cosine.
        make_adam: a function that makes the optimizer.

    Raises:
        ValueError: the data set lacks this manifold, or an argument is not as described.
    """
    require_split("clean", clean)
    _check_examples(examples, clean.images())
    require_number("steps", steps, 1, is_integer=True)
    require_number("step_size", step_size, 0, is_exclusive=True)
    chunks = []
    pixels = PIXELS_PER_CHUNK * (1 if examples.device.type == "cpu" else CHUNKS_ON_GPU)
    for rows in _split_rows(examples, pixels, f"distance to {space}"):
        targets, clean_chunk = examples[rows], clean.select(rows)
        manifold = make_space(space, clean_chunk.expand(1))
        with torch.no_grad():
            origins = manifold.decode(manifold.clean_codes)[0]
        nearest = _find_nearest(targets, manifold, steps, step_size, make_adam)
        delta, tangent = (targets - origins).flatten(1), (nearest - origins).flatten(1)
        distance = (targets - nearest).flatten(1).norm(dim=1)
        chunks.append(DistanceAndAngle(distance, _angle(delta, tangent)))
    return _concatenate(chunks)


def _find_nearest(
    targets: Tensor, space: Space, steps: int, step_size: float, make_adam: MakeAdam
) -> Tensor:
    """Search the images `(B, C, H, W)` of a space that are nearest to `targets` by two descents.

    The distance between thin strokes has many local minima, the distance between blurred strokes
    few. A descent with decreasing blur therefore often ends nearer; otherwise the result of the
    descent on sharp images counts. The space is around one model: M is 1.
    """
    shortest = torch.full(targets.shape[:1], torch.inf, device=targets.device)
    nearest = torch.zeros_like(targets)
    for blur_widths in (SHARP, COARSE_TO_FINE):
        codes = space.clean_codes.clone().requires_grad_()
        optimizer = make_adam([codes], step_size, 0.0)
        for step in range(steps + 1):
            images = space.decode(codes)[0]
            with torch.no_grad():
                squared_distances = (images - targets).square().flatten(1).sum(1)
                is_nearer = squared_distances < shortest
                shortest = torch.where(is_nearer, squared_distances, shortest)
                nearest = torch.where(is_nearer[:, None, None, None], images, nearest)
            if step == steps:
                break
            width = blur_widths[step * len(blur_widths) // steps]
            optimizer.zero_grad()
            _blur(images - targets, width).square().sum().backward()  # type: ignore[no-untyped-call]
            lr = step_size * (1 + math.cos(math.pi * step / steps)) / 2
            set_learning_rate(optimizer, lr)
            optimizer.step()
            with torch.no_grad():
                space.clamp_(codes)
    return nearest


def _blur(images: Tensor, width: int) -> Tensor:
    """Average the images twice over squares of `width` pixels, an odd number; 1 changes nothing."""
    for _ in range(2 if width > 1 else 0):
        images = F.avg_pool2d(images, width, 1, width // 2)
    return images


def measure_to_neighbours(
    examples: Tensor, clean: Tensor, training: Split, neighbours: int
) -> DistanceAndAngle:
    """Measure the distance to the span of the nearest training images (Stutz et al., section 3.3).

    The distance is the residual of the least-squares projection onto the span of the training
    images that are nearest to the example in L2. The angle is between the perturbation and this
    affine span.

    Args:
        examples: `(B, C, H, W)` images.
        clean: `(B, C, H, W)` clean images.
        training: the training images, which are decoded in chunks.
        neighbours: number of images that span the subspace, two or more.

    Raises:
        ValueError: `neighbours` is below two or above the number of training images.
    """
    require_split("training", training)
    _check_examples(examples, clean)
    require_same_images("examples", examples, "training images", training.select(slice(1)).images())
    require_number("neighbours", neighbours, 2, is_integer=True)
    if neighbours > len(training):
        raise ValueError(
            f"neighbours is {neighbours}, but must be from 2 to {len(training)}, the number of "
            "training images"
        )
    flat = examples.flatten(1)
    neighbour_rows = _find_neighbours(flat, training, neighbours)
    chunks = []
    for rows in _split_rows(flat, PIXELS_PER_CHUNK, "distance to neighbours"):
        points = training.select(neighbour_rows[rows]).images().flatten(2).double()
        centre = points.mean(1, keepdim=True)
        basis = _orthonormal_basis((points - centre).mT)
        from_centre = flat[rows].double() - centre[:, 0]
        delta = flat[rows].double() - clean[rows].flatten(1).double()
        residual = from_centre - _project(basis, from_centre)
        distance = residual.norm(dim=1).float()
        chunks.append(DistanceAndAngle(distance, _angle(delta, _project(basis, delta))))
    return _concatenate(chunks)


def _find_neighbours(flat: Tensor, training: Split, neighbours: int) -> Tensor:
    """Return the rows `(B, neighbours)` of the training images nearest to `flat` `(B, D)`."""
    shortest = torch.empty(len(flat), 0, device=flat.device)
    nearest_rows = torch.empty(len(flat), 0, dtype=torch.int64, device=flat.device)
    for rows in _split_rows(training, 40 * PIXELS_PER_CHUNK, "nearest images"):
        images = training.select(rows).images().flatten(1)
        # The squared norm of the example is omitted: it is the same for all training images.
        distances = images.square().sum(1) - 2 * flat @ images.T
        chunk_rows = torch.arange(len(training), device=flat.device)[rows].expand_as(distances)
        count = min(neighbours, shortest.shape[1] + len(images))
        shortest, order = torch.cat([shortest, distances], 1).topk(count, largest=False)
        nearest_rows = torch.cat([nearest_rows, chunk_rows], 1).gather(1, order)
    return nearest_rows


def _orthonormal_basis(columns: Tensor) -> Tensor:
    """Return orthonormal bases `(B, D, k)` of columns `(B, D, k)`, zero beyond their rank."""
    left_vectors, singular_values, _ = torch.linalg.svd(columns, full_matrices=False)
    basis: Tensor = left_vectors * (singular_values > singular_values[:, :1] * 1e-9)[:, None]
    return basis


def _project(basis: Tensor, vectors: Tensor) -> Tensor:
    """Project vectors `(B, D)` onto the spans of bases `(B, D, k)`."""
    return (basis @ (basis.mT @ vectors[:, :, None]))[:, :, 0]


def _angle(delta: Tensor, tangent: Tensor) -> Tensor:
    """Return the degrees `(B,)` between perturbations `delta` and the manifold.

    Args:
        delta: `(B, D)` perturbations.
        tangent: `(B, D)` the parts of the perturbations along the manifold. Where this part is
            zero, the angle is 90; without a perturbation it is NaN.
    """
    delta_norm, tangent_norm = delta.norm(dim=1), tangent.norm(dim=1)
    cosine = (delta * tangent).sum(1) / (delta_norm * tangent_norm).clamp_min(1e-12)
    angle = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
    angle = torch.where(tangent_norm > MIN_NORM, angle, 90.0)
    return torch.where(delta_norm > MIN_NORM, angle, torch.nan).float()


def _split_rows(images: Tensor | Split, pixels: int, name: str) -> Iterator[slice]:
    """Yield slices of rows, each of as many images as have `pixels` pixels, at least one.

    Args:
        images: the images to divide.
        pixels: the largest number of pixels per slice.
        name: name of the progress bar.
    """
    first = images[:1] if isinstance(images, Tensor) else images.select(slice(1)).images()
    size = max(pixels // max(first.numel(), 1), 1)
    for start in log_progress(range(0, len(images), size), name):
        yield slice(start, start + size)


def _to_column(values: Tensor) -> Any:
    """Return a NumPy array in which NaN is masked."""
    return np.ma.masked_invalid(values.cpu().numpy())


def _concatenate(chunks: list[DistanceAndAngle]) -> DistanceAndAngle:
    """Join the distances of all chunks; without a chunk, return those of no example."""
    distances, angles = [chunk.distance for chunk in chunks], [chunk.angle for chunk in chunks]
    no_values = torch.empty(0)
    return DistanceAndAngle(torch.cat(distances or [no_values]), torch.cat(angles or [no_values]))
