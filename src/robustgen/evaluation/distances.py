"""How far examples lie from the manifold: known, learned, or the span of nearest images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.acceleration.adam import adam, set_rate
from robustgen.attacks.spaces import SPACES, Space
from robustgen.data.split import Split
from robustgen.jobs.runtime import progress

PIXELS_AT_ONCE = 250 * 28 * 28
"""Of examples that are worked on together, which bounds the memory; of images, 40 times as many."""
TIMES_ON_GPU = 40
"""As many more examples are moved to a manifold together on a GPU."""
SHARP, COARSE_TO_FINE = (1,), (7, 5, 3, 1)
"""Widths in pixels of the blurs of two descents, each for an equal share of the steps."""


@dataclass(frozen=True)
class Distance:
    """Distance and angle of each of B examples.

    Attributes:
        distance: `(B,)` L2, over all pixels.
        angle: `(B,)` degrees between the way to the example and the manifold: 0 moves along it,
            90 leaves it at a right angle; NaN for an example that was not moved.
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
    """All distances of `examples` `(B, C, H, W)`, columns of `tables.DISTANCES`.

    The columns of the known manifold, and of a learned one, are empty where there is none.
    """
    spaces = {} if clean.codes is None else {"true_manifold": "true_manifold"}
    if clean.learned:
        (spaces["learned_manifold"],) = clean.learned
    found = {
        kind: to_manifold(examples, clean, space, steps=steps, step_size=step_size)
        for kind, space in spaces.items()
    }
    found["neighbour"] = to_neighbours(examples, clean.images(), training, neighbours)
    nothing = torch.full((len(examples),), torch.nan)
    none = Distance(nothing, nothing)
    columns: dict[str, Any] = {}
    for kind in ("true_manifold", "learned_manifold", "neighbour"):
        of = found.get(kind, none)
        columns |= {f"{kind}_distance": _column(of.distance), f"{kind}_angle": _column(of.angle)}
    return columns


def to_manifold(
    examples: Tensor, clean: Split, space: str, *, steps: int, step_size: float
) -> Distance:
    """Distance to a manifold with codes (Stutz et al., CVPR 2019, section 3.3 and supplement).

    The nearest decoded code is searched with Adam, within the bounds of the space, from the code
    of the unperturbed image, whose class (and font) is kept; once on the images as they are and
    once from blurred to sharp ones, of which the nearer result is kept. The angle is that at the
    image of the unperturbed code, between the ways to the example and to that nearest point. Where
    the manifold is known, that image is the unperturbed one, and the former way the perturbation.

    Args:
        examples: `(B, C, H, W)` images.
        clean: `(B,)` the unperturbed images with their codes.
        space: a key of `SPACES` that `clean` has: the true manifold or a learned one.
        steps: iterations of Adam, each time.
        step_size: its rate; falls to zero over the iterations as half a cosine.

    Raises:
        ValueError: the data set has no such manifold.
    """
    parts = []
    at_once = PIXELS_AT_ONCE * (1 if examples.device.type == "cpu" else TIMES_ON_GPU)
    for rows in _parts(examples, at_once, f"distance to {space}"):
        some, wanted = clean.take(rows), examples[rows]
        ball = SPACES[space](some.take(torch.arange(len(some), device=wanted.device)[None]))
        with torch.no_grad():
            origin = ball.decode(ball.origin)[0]
        nearest = _nearest(wanted, ball, steps, step_size)
        moved, along = (wanted - origin).flatten(1), (nearest - origin).flatten(1)
        parts.append(Distance((wanted - nearest).flatten(1).norm(dim=1), _angle(moved, along)))
    return _joined(parts)


def _nearest(examples: Tensor, space: Space, steps: int, step_size: float) -> Tensor:
    """The nearest images `(B, C, H, W)` that two descents met on their ways, M being 1.

    The distance between two thin strokes has many local minima. Between blurred images it has
    few, so that a descent from coarse to fine comes nearer where the plain one is stuck; where
    it goes astray instead, the plain one's result stands.
    """
    least = torch.full(examples.shape[:1], torch.inf, device=examples.device)
    nearest = torch.zeros_like(examples)
    for blurs in (SHARP, COARSE_TO_FINE):
        codes = space.origin.clone().requires_grad_()
        optimizer = adam([codes], step_size)
        for step in range(steps + 1):
            images = space.decode(codes)[0]
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
            set_rate(optimizer, step_size * (1 + math.cos(math.pi * step / steps)) / 2)
            optimizer.step()
            with torch.no_grad():
                space.bound_(codes)
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
    for some in _parts(flat, PIXELS_AT_ONCE, "distance to neighbours"):
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
    for some in _parts(images, 40 * PIXELS_AT_ONCE, "nearest images"):
        part = images.take(some).images().flatten(1)
        # The square of the example itself is the same for all images and left out.
        squares = part.square().sum(1) - 2 * flat @ part.T
        here = torch.arange(len(images), device=flat.device)[some].expand_as(squares)
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


def _parts(of: Tensor | Split, at_once: int, name: str) -> Iterator[slice]:
    """Rows of images that have `at_once` pixels together, or of single images, part by part."""
    pixels = (of[:1] if isinstance(of, Tensor) else of.take(slice(1)).images()).numel()
    size = max(at_once // max(pixels, 1), 1)
    for start in progress(range(0, len(of), size), name):
        yield slice(start, start + size)


def _column(values: Tensor) -> Any:
    """NumPy values in which NaN stands as empty."""
    return np.ma.masked_invalid(values.cpu().numpy())


def _joined(parts: list[Distance]) -> Distance:
    """All `parts` as one; without any part, the distances of no example."""
    distances, angles = [part.distance for part in parts], [part.angle for part in parts]
    no_values = torch.empty(0)
    return Distance(torch.cat(distances or [no_values]), torch.cat(angles or [no_values]))
