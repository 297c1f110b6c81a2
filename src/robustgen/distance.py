"""How far examples lie from the manifold: the known one, or the span of nearest images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.datasets import Split
from robustgen.job import progress
from robustgen.spaces import AffineSpace, Space

EXAMPLES_AT_ONCE = 250
IMAGES_AT_ONCE = 10_000
SHARP, COARSE_TO_FINE = (1,), (7, 5, 3, 1)
"""Widths in pixels of the blurs of two descents, each for an equal share of the steps."""


@dataclass(frozen=True)
class Distance:
    """Distance and angle of each of B examples.

    Attributes:
        distance: `(B,)` L2, over all pixels.
        angle: `(B,)` degrees between the perturbation and the manifold: 0 moves along it, 90
            leaves it at a right angle; NaN for an example that was not moved.
    """

    distance: Tensor
    angle: Tensor


def measure(
    examples: Tensor,
    clean: Split,
    training: Split,
    *,
    steps: int,
    step_size: float,
    neighbours: int,
) -> dict[str, Any]:
    """Both distances of `examples` `(B, C, H, W)`, columns of `tables.DISTANCES`.

    The columns of the known manifold are empty where there is none.
    """
    span = to_neighbours(examples, clean.images(), training, neighbours)
    columns: dict[str, Any] = {"true_manifold_distance": None, "true_manifold_angle": None}
    if clean.codes is not None:
        known = to_manifold(examples, clean, steps=steps, step_size=step_size)
        columns = {"true_manifold_distance": known.distance, "true_manifold_angle": known.angle}
    columns |= {"learned_manifold_distance": None, "learned_manifold_angle": None}
    columns |= {"neighbour_distance": span.distance, "neighbour_angle": span.angle}
    return {name: _column(values, len(examples)) for name, values in columns.items()}


def to_manifold(examples: Tensor, clean: Split, *, steps: int, step_size: float) -> Distance:
    """Distance to the known manifold (Stutz et al., CVPR 2019, section 3.3 and supplement).

    The nearest decoded code is searched with Adam over the six parameters, within their ranges,
    with font and letter fixed, from the code of the unperturbed image; once on the images as they
    are and once from blurred to sharp ones, of which the nearer result is kept. The angle is that
    between the perturbation and the way from the unperturbed image to that nearest point.

    Args:
        examples: `(B, C, H, W)` images.
        clean: `(B,)` the unperturbed images with their codes.
        steps: iterations of Adam, each time.
        step_size: its rate; falls to zero over the iterations as half a cosine.

    Raises:
        ValueError: the data set has no known manifold.
    """
    if clean.codes is None:
        raise ValueError("the data set has no known manifold")
    parts = []
    for start in progress(range(0, len(examples), EXAMPLES_AT_ONCE), "distance to manifold"):
        rows = slice(start, start + EXAMPLES_AT_ONCE)
        some = clean.take(rows)
        assert some.codes is not None
        space = AffineSpace(some.codes, *some.ranges, some.sources())
        nearest = _nearest(examples[rows], space, steps, step_size)
        unperturbed = some.images()
        moved = (examples[rows] - unperturbed).flatten(1)
        along = (nearest - unperturbed).flatten(1)
        left = (examples[rows] - nearest).flatten(1).norm(dim=1)
        parts.append(Distance(left, _angle(moved, along)))
    return _joined(parts)


def _nearest(examples: Tensor, space: Space, steps: int, step_size: float) -> Tensor:
    """The nearest images `(B, C, H, W)` that two descents met on their ways.

    The distance between two thin strokes has many local minima. Between blurred images it has
    few, so that a descent from coarse to fine comes nearer where the plain one is stuck; where
    it goes astray instead, the plain one's result stands.
    """
    least = torch.full(examples.shape[:1], torch.inf, device=examples.device)
    nearest = torch.zeros_like(examples)
    for blurs in (SHARP, COARSE_TO_FINE):
        codes = space.origin.clone().requires_grad_()
        optimizer = torch.optim.Adam([codes], step_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
        for step in range(steps + 1):
            images = space.decode(codes)
            with torch.no_grad():
                squares = (images - examples).square().flatten(1).sum(1)
                better = squares < least
                least = torch.where(better, squares, least)
                nearest = torch.where(better[:, None, None, None], images, nearest)
            if step == steps:
                break
            width = blurs[step * len(blurs) // steps]
            optimizer.zero_grad()
            _blur(images - examples, width).square().sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                codes.clamp_(space.low, space.high)
    return nearest


def _blur(images: Tensor, width: int) -> Tensor:
    """The images averaged twice over squares of `width` pixels, an odd number."""
    for _ in range(2 if width > 1 else 0):
        images = F.avg_pool2d(images, width, 1, width // 2)
    return images


def to_neighbours(examples: Tensor, clean: Tensor, images: Split, neighbours: int) -> Distance:
    """Distance to the affine span of the nearest training images (Stutz et al., section 3.3).

    The residual of the least-squares projection onto the span through the `neighbours` images
    nearest to the example in L2. The angle is the one between the perturbation and that span.

    Args:
        examples: `(B, C, H, W)`.
        clean: `(B, C, H, W)` the unperturbed images.
        images: the training images, decoded a part at a time.
        neighbours: how many span the subspace; two at least.

    Raises:
        ValueError: there are fewer than two neighbours or fewer images than neighbours.
    """
    if not 2 <= neighbours <= len(images):
        raise ValueError(f"{neighbours} neighbours of {len(images)} images")
    flat = examples.flatten(1)
    rows = _nearest_rows(flat, images, neighbours)
    parts = []
    for start in progress(range(0, len(flat), EXAMPLES_AT_ONCE), "distance to neighbours"):
        some = slice(start, start + EXAMPLES_AT_ONCE)
        points = images.take(rows[some]).images().flatten(2).double()
        centre = points.mean(1, keepdim=True)
        basis = _basis((points - centre).mT)
        away = flat[some].double() - centre[:, 0]
        moved = flat[some].double() - clean[some].flatten(1).double()
        residual = away - _projected(basis, away)
        parts.append(
            Distance(residual.norm(dim=1).float(), _angle(moved, _projected(basis, moved)))
        )
    return _joined(parts)


def _nearest_rows(flat: Tensor, images: Split, neighbours: int) -> Tensor:
    """Rows `(B, neighbours)` of the images nearest to `flat` `(B, D)`."""
    best = torch.empty(len(flat), 0, device=flat.device)
    rows = torch.empty(len(flat), 0, dtype=torch.int64, device=flat.device)
    for start in progress(range(0, len(images), IMAGES_AT_ONCE), "nearest images"):
        part = images.take(slice(start, start + IMAGES_AT_ONCE)).images().flatten(1)
        # The square of the example itself is the same for all images and left out.
        squares = part.square().sum(1) - 2 * flat @ part.T
        here = torch.arange(start, start + len(part), device=flat.device).expand_as(squares)
        best, order = torch.cat([best, squares], 1).topk(
            min(neighbours, best.shape[1] + len(part)), largest=False
        )
        rows = torch.cat([rows, here], 1).gather(1, order)
    return rows


def _basis(columns: Tensor) -> Tensor:
    """Orthonormal bases `(B, D, k)` of the columns; directions of no length become zero."""
    left, values, _ = torch.linalg.svd(columns, full_matrices=False)
    basis: Tensor = left * (values > values[:, :1] * 1e-9)[:, None]
    return basis


def _projected(basis: Tensor, vectors: Tensor) -> Tensor:
    return (basis @ (basis.mT @ vectors[:, :, None]))[:, :, 0]


def _angle(moved: Tensor, along: Tensor) -> Tensor:
    """Degrees between `moved` and `along` `(B, D)`; 90 where nothing lies along the manifold."""
    size, part = moved.norm(dim=1), along.norm(dim=1)
    cosine = (moved * along).sum(1) / (size * part).clamp_min(1e-12)
    angle = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
    angle = torch.where(part > 1e-6, angle, 90.0)
    return torch.where(size > 1e-6, angle, torch.nan).float()


def _column(values: Tensor | None, rows: int) -> Any:
    """NumPy values in which NaN stands as empty."""
    held = np.full(rows, np.nan, np.float32) if values is None else values.cpu().numpy()
    return np.ma.masked_invalid(held)


def _joined(parts: list[Distance]) -> Distance:
    return Distance(
        torch.cat([part.distance for part in parts]), torch.cat([part.angle for part in parts])
    )
