"""Distances of examples to the manifold: known, learned, or the span of the nearest images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.attacks.spaces import Space, make_space
from robustgen.data.split import Split
from robustgen.optimizers import MakeAdam, make_adam, set_learning_rate
from robustgen.progress import log_progress

PIXELS_PER_CHUNK = 250 * 28 * 28
"""Pixels of the examples that are measured together, which bounds the memory."""
CHUNKS_ON_GPU = 40
"""As many chunks are moved to a manifold together on a GPU."""
SHARP, COARSE_TO_FINE = (1,), (7, 5, 3, 1)
"""Widths in pixels of the blurs of the two descents, each for an equal share of the steps."""
MIN_NORM = 1e-6
"""Length below which a vector counts as zero and has no direction."""


@dataclass(frozen=True)
class Distance:
    """Distance and angle of each of B examples.

    Attributes:
        distance: `(B,)` L2 distance to the manifold, over all pixels.
        angle: `(B,)` degrees between the perturbation and the manifold. 0 moves along the
            manifold, 90 leaves it at a right angle; NaN for an example that was not moved.
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
    """All distances of `examples` `(B, C, H, W)`, columns of `schemas.DISTANCES`.

    The columns of the known and of the learned manifold are masked where there is none.

    Args:
        examples: images.
        clean: the `(B,)` unperturbed images.
        training: the training images.
        steps: iterations of Adam; see `measure_to_manifold`.
        step_size: initial learning rate of Adam.
        neighbours: number of images that span a subspace; see `measure_to_neighbours`.
        make_adam: makes the optimizer.
    """
    spaces = {} if clean.codes is None else {"true_manifold": "true_manifold"}
    if clean.learned:
        (spaces["learned_manifold"],) = clean.learned
    distances = {
        kind: measure_to_manifold(
            examples, clean, space, steps=steps, step_size=step_size, make_adam=make_adam
        )
        for kind, space in spaces.items()
    }
    distances["neighbour"] = measure_to_neighbours(examples, clean.images(), training, neighbours)
    nan = torch.full((len(examples),), torch.nan)
    columns: dict[str, Any] = {}
    for kind in ("true_manifold", "learned_manifold", "neighbour"):
        distance = distances.get(kind, Distance(nan, nan))
        columns[f"{kind}_distance"] = _to_column(distance.distance)
        columns[f"{kind}_angle"] = _to_column(distance.angle)
    return columns


def measure_to_manifold(
    examples: Tensor,
    clean: Split,
    space: str,
    *,
    steps: int,
    step_size: float,
    make_adam: MakeAdam = make_adam,
) -> Distance:
    """Distance to a manifold with codes (Stutz et al., CVPR 2019, section 3.3 and supplement).

    Adam minimizes the distance to the decoded code, within the bounds of the space and with the
    class (and font) of the unperturbed image. It starts at the code of the unperturbed image,
    once with sharp images and once with images that become sharp step by step; the nearer result
    counts. The angle is between two vectors from the decoded clean code: to the example, and to
    the nearest point. Where the manifold is known, the decoded clean code is the unperturbed image.

    Args:
        examples: `(B, C, H, W)` images.
        clean: `(B,)` the unperturbed images with their codes.
        space: a key of `SPACES` that `clean` has: the true manifold or a learned one.
        steps: iterations of Adam in each of the two descents.
        step_size: initial learning rate of Adam; it falls to zero as half a cosine.
        make_adam: makes the optimizer.

    Raises:
        ValueError: the data set has no such manifold.
    """
    chunks = []
    pixels = PIXELS_PER_CHUNK * (1 if examples.device.type == "cpu" else CHUNKS_ON_GPU)
    for rows in _split_rows(examples, pixels, f"distance to {space}"):
        targets, clean_chunk = examples[rows], clean.take(rows)
        around = make_space(space, clean_chunk.expand(1))
        with torch.no_grad():
            origins = around.decode(around.clean_codes)[0]
        nearest = _find_nearest(targets, around, steps, step_size, make_adam)
        delta, along = (targets - origins).flatten(1), (nearest - origins).flatten(1)
        distance = (targets - nearest).flatten(1).norm(dim=1)
        chunks.append(Distance(distance, _angle(delta, along)))
    return _concatenate(chunks)


def _find_nearest(
    targets: Tensor, space: Space, steps: int, step_size: float, make_adam: MakeAdam
) -> Tensor:
    """The nearest images `(B, C, H, W)` to `targets` that two descents met; M is 1.

    The distance between two thin strokes has many local minima, the distance between blurred
    strokes few. A descent from coarse to fine therefore often comes nearer. Where it does not, the
    result of the sharp descent counts.
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
    """Average the images twice over squares of `width` pixels, an odd number."""
    for _ in range(2 if width > 1 else 0):
        images = F.avg_pool2d(images, width, 1, width // 2)
    return images


def measure_to_neighbours(
    examples: Tensor, clean: Tensor, training: Split, neighbours: int
) -> Distance:
    """Distance to the affine span of the nearest training images (Stutz et al., section 3.3).

    The distance is the residual of the least-squares projection onto the span of the training
    images that are nearest to the example in L2. The angle is between the perturbation and this
    span.

    Args:
        examples: `(B, C, H, W)` images.
        clean: `(B, C, H, W)` the unperturbed images.
        training: the training images, which are decoded in chunks.
        neighbours: number of images that span the subspace, two or more.

    Raises:
        ValueError: there are fewer than two neighbours, or fewer images than neighbours.
    """
    if not 2 <= neighbours <= len(training):
        raise ValueError(f"{neighbours} neighbours of {len(training)} images")
    flat = examples.flatten(1)
    neighbour_rows = _find_neighbours(flat, training, neighbours)
    chunks = []
    for rows in _split_rows(flat, PIXELS_PER_CHUNK, "distance to neighbours"):
        points = training.take(neighbour_rows[rows]).images().flatten(2).double()
        centre = points.mean(1, keepdim=True)
        basis = _orthonormal_basis((points - centre).mT)
        from_centre = flat[rows].double() - centre[:, 0]
        delta = flat[rows].double() - clean[rows].flatten(1).double()
        residual = from_centre - _project(basis, from_centre)
        distance = residual.norm(dim=1).float()
        chunks.append(Distance(distance, _angle(delta, _project(basis, delta))))
    return _concatenate(chunks)


def _find_neighbours(flat: Tensor, training: Split, neighbours: int) -> Tensor:
    """Rows `(B, neighbours)` of the training images nearest to `flat` `(B, D)`."""
    shortest = torch.empty(len(flat), 0, device=flat.device)
    nearest_rows = torch.empty(len(flat), 0, dtype=torch.int64, device=flat.device)
    for rows in _split_rows(training, 40 * PIXELS_PER_CHUNK, "nearest images"):
        images = training.take(rows).images().flatten(1)
        # The square of the example itself is the same for all images and is left out.
        distances = images.square().sum(1) - 2 * flat @ images.T
        chunk_rows = torch.arange(len(training), device=flat.device)[rows].expand_as(distances)
        count = min(neighbours, shortest.shape[1] + len(images))
        shortest, order = torch.cat([shortest, distances], 1).topk(count, largest=False)
        nearest_rows = torch.cat([nearest_rows, chunk_rows], 1).gather(1, order)
    return nearest_rows


def _orthonormal_basis(columns: Tensor) -> Tensor:
    """Orthonormal bases `(B, D, k)` of the columns; directions without length become zero."""
    left, singular_values, _ = torch.linalg.svd(columns, full_matrices=False)
    basis: Tensor = left * (singular_values > singular_values[:, :1] * 1e-9)[:, None]
    return basis


def _project(basis: Tensor, vectors: Tensor) -> Tensor:
    """Project vectors `(B, D)` onto the spans of the bases."""
    return (basis @ (basis.mT @ vectors[:, :, None]))[:, :, 0]


def _angle(delta: Tensor, along: Tensor) -> Tensor:
    """Degrees `(B,)` between the perturbation and its part along the manifold, each `(B, D)`.

    90 where no part lies along the manifold, NaN without a perturbation.
    """
    delta_norm, along_norm = delta.norm(dim=1), along.norm(dim=1)
    cosine = (delta * along).sum(1) / (delta_norm * along_norm).clamp_min(1e-12)
    angle = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
    angle = torch.where(along_norm > MIN_NORM, angle, 90.0)
    return torch.where(delta_norm > MIN_NORM, angle, torch.nan).float()


def _split_rows(images: Tensor | Split, pixels: int, name: str) -> Iterator[slice]:
    """Slices of rows whose images have `pixels` pixels together, or one image each."""
    first = images[:1] if isinstance(images, Tensor) else images.take(slice(1)).images()
    size = max(pixels // max(first.numel(), 1), 1)
    for start in log_progress(range(0, len(images), size), name):
        yield slice(start, start + size)


def _to_column(values: Tensor) -> Any:
    """A NumPy array in which NaN is masked."""
    return np.ma.masked_invalid(values.cpu().numpy())


def _concatenate(chunks: list[Distance]) -> Distance:
    """The distances of all chunks; without a chunk, those of no example."""
    distances, angles = [chunk.distance for chunk in chunks], [chunk.angle for chunk in chunks]
    no_values = torch.empty(0)
    return Distance(torch.cat(distances or [no_values]), torch.cat(angles or [no_values]))
