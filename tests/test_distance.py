import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_split
from tiny import make_tiny_split

from robustgen.attacks.spaces import SPACES
from robustgen.data import affine
from robustgen.evaluation.distances import (
    _angle,
    measure_distances,
    measure_to_manifold,
    measure_to_neighbours,
)
from robustgen.specs import BOUND

TRANSLATION = torch.tensor(affine.IDENTITY)


def only_translations(split):
    """The same letters on a manifold of two parameters, small enough to search by hand."""
    low, high = TRANSLATION.clone(), TRANSLATION.clone()
    low[:2], high[:2] = -0.2, 0.2
    codes = TRANSLATION.repeat(len(split), 1)
    return type(split)(split.bank, split.source, split.labels, codes, (low, high), split.classes)


def test_distance_to_the_manifold_equals_brute_force():
    clean = only_translations(make_split("test").take(slice(6)))
    rng = torch.Generator().manual_seed(0)
    moved = clean.codes.clone()
    moved[:, :2] = torch.rand(6, 2, generator=rng) * 0.2 - 0.1
    noise = 0.1 * torch.rand(6, 1, 28, 28, generator=rng)
    examples = (affine.warp(clean.source_images(), moved) + noise).clamp(0, 1)
    got = measure_to_manifold(examples, clean, "true_manifold", steps=200, step_size=0.05)
    grid = torch.linspace(-0.2, 0.2, 161)
    for i in range(6):
        codes = TRANSLATION.repeat(161 * 161, 1)
        codes[:, :2] = torch.cartesian_prod(grid, grid)
        source = clean.take(slice(i, i + 1)).source_images().expand(len(codes), -1, -1, -1)
        squares = (affine.warp(source, codes) - examples[i]).square().flatten(1).sum(1)
        assert got.distance[i].item() == pytest.approx(squares.min().sqrt().item(), rel=0.01)


def test_examples_on_the_manifold_have_no_distance_and_no_angle():
    clean = only_translations(make_split("test").take(slice(8)))
    moved = clean.codes.clone()
    moved[:, 0] = 0.05
    examples = affine.warp(clean.source_images(), moved)
    got = measure_to_manifold(examples, clean, "true_manifold", steps=300, step_size=0.05)
    assert got.distance.max() < 0.1
    assert got.angle.max() < 5


def test_examples_far_along_the_manifold_are_found_to_be_on_it():
    """All six parameters moved as far as an attack may: local minima must not count as distance."""
    clean = make_split("test", "hard")
    rng = torch.Generator().manual_seed(0)
    low, high = clean.ranges
    away = 0.3 * (2 * torch.rand(clean.codes.shape, generator=rng) - 1).sign()
    codes = (clean.codes + away).clamp(low, high)
    got = measure_to_manifold(
        affine.warp(clean.source_images(), codes), clean, "true_manifold", steps=200, step_size=0.05
    )
    assert (got.distance < 0.5).float().mean() > 0.94  # 0.85 without the blurred descent


def test_noise_leaves_the_manifold_at_a_right_angle():
    clean = make_split("test").take(slice(20))
    rng = torch.Generator().manual_seed(0)
    noise = 0.3 * (torch.rand(20, 1, 28, 28, generator=rng) * 2 - 1).sign()
    got = measure_to_manifold(
        (clean.images() + noise).clamp(0, 1), clean, "true_manifold", steps=100, step_size=0.05
    )
    assert got.angle.mean() > 75
    assert got.distance.min() > 1


def test_clean_images_have_no_angle():
    clean = make_split("test").take(slice(5))
    got = measure_to_manifold(clean.images(), clean, "true_manifold", steps=5, step_size=0.05)
    assert (got.distance == 0).all()
    assert got.angle.isnan().all()


def test_distance_to_neighbours_equals_brute_force(monkeypatch):
    monkeypatch.setattr("robustgen.evaluation.distances.PIXELS_PER_CHUNK", 28 * 28)
    training, clean = make_split("train"), make_split("test").take(slice(8)).images()
    rng = torch.Generator().manual_seed(1)
    examples = (clean + 0.2 * torch.rand(clean.shape, generator=rng)).clamp(0, 1)
    got = measure_to_neighbours(examples, clean, training, 10)
    pool = training.images().flatten(1).double().numpy()
    for i, example in enumerate(examples.flatten(1).double().numpy()):
        nearest = pool[np.argsort(((pool - example) ** 2).sum(1))[:10]]
        columns = (nearest[1:] - nearest[0]).T
        weights, *_ = np.linalg.lstsq(columns, example - nearest[0], rcond=None)
        residual = example - nearest[0] - columns @ weights
        assert got.distance[i].item() == pytest.approx(np.linalg.norm(residual), rel=1e-4)
        move = example - clean[i].flatten().double().numpy()
        along, *_ = np.linalg.lstsq(columns, move, rcond=None)
        cosine = np.linalg.norm(columns @ along) / np.linalg.norm(move)
        assert got.angle[i].item() == pytest.approx(np.degrees(np.arccos(cosine)), rel=1e-3)


def test_distance_to_a_learned_manifold_equals_brute_force():
    """Of each image's own class, within the bounds of its two codes."""
    split = make_tiny_split()
    generator = torch.Generator().manual_seed(0)
    examples = torch.rand(split.images().shape, generator=generator, dtype=torch.float64)
    ours = measure_to_manifold(examples, split, "learned_manifold", steps=300, step_size=0.05)
    grid = torch.linspace(-BOUND, BOUND, 201, dtype=torch.float64)
    codes = torch.cartesian_prod(grid, grid)
    decoders = split.learned["learned_manifold"].decoders.decoders
    for distance, example, label in zip(ours.distance, examples, split.labels, strict=True):
        shortest = (decoders[label](codes) - example).flatten(1).norm(dim=1).min()
        assert distance.item() == pytest.approx(shortest.item(), rel=0.002)


def test_learned_examples_are_on_the_learned_manifold_and_measured_to_it():
    split = make_tiny_split()
    manifold = split.learned["learned_manifold"]
    codes = (manifold.codes.clamp(-BOUND, BOUND) + 0.3).clamp(-BOUND, BOUND)
    examples = manifold.decoders(codes, split.labels)
    settings = {"steps": 300, "step_size": 0.05, "neighbours": 5}
    columns = measure_distances(examples, split, make_tiny_split(30), **settings)
    assert columns["learned_manifold_distance"].max() < 0.01
    assert columns["true_manifold_distance"].min() > 0.05  # the letters of this test are noise
    for kind in ("true_manifold", "learned_manifold"):
        alone = measure_to_manifold(examples, split, kind, steps=300, step_size=0.05)
        assert np.allclose(columns[f"{kind}_distance"], alone.distance)
        assert np.allclose(columns[f"{kind}_angle"], alone.angle)
    neighbours = measure_to_neighbours(examples, split.images(), make_tiny_split(30), 5)
    assert np.allclose(columns["neighbour_distance"], neighbours.distance)
    assert np.allclose(columns["neighbour_angle"], neighbours.angle)


def test_repeated_neighbours_span_no_less():
    """Directions of no length (the same image twice) must not count as directions."""
    training = make_split("train").take(torch.arange(6).repeat(3))
    clean = make_split("test").take(slice(4)).images()
    twice = measure_to_neighbours(clean, clean, training, 18)
    once = measure_to_neighbours(clean, clean, training.take(slice(6)), 6)
    torch.testing.assert_close(twice.distance, once.distance, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("neighbours", [1, 961], ids=["too few", "more than there are"])
def test_impossible_neighbours_are_refused(neighbours):
    training, clean = make_split("train"), make_split("test").take(slice(2)).images()
    with pytest.raises(ValueError, match="neighbours of 960 images"):
        measure_to_neighbours(clean, clean, training, neighbours)


def test_without_a_known_manifold_its_columns_are_empty():
    clean = make_split("test").take(slice(4))
    unknown = type(clean)(
        clean.images(), torch.arange(4), clean.labels, None, clean.ranges, clean.classes
    )
    columns = measure_distances(
        clean.images(), unknown, make_split("train"), steps=1, step_size=0.1, neighbours=5
    )
    for kind in ("true_manifold", "learned_manifold"):
        assert columns[f"{kind}_distance"].mask.all()
        assert columns[f"{kind}_angle"].mask.all()
    assert not np.ma.getmaskarray(columns["neighbour_distance"]).any()
    assert np.ma.getmaskarray(columns["neighbour_angle"]).all()
    for a, b in itertools.pairwise(columns.values()):
        assert len(a) == len(b) == 4


def test_no_example_has_no_distance(training_images, test_images):
    """Where no model classifies any of the first images correctly, nothing was attacked."""
    learned = {"learned_manifold": test_images.learned["learned_manifold"]}
    columns = measure_distances(
        torch.empty(0, 1, 28, 28),
        replace(test_images, learned=learned).take(slice(0)),
        training_images,
        steps=2,
        step_size=0.05,
        neighbours=3,
    )
    assert set(columns) >= {"true_manifold_distance", "learned_manifold_angle"}
    assert all(len(values) == 0 for values in columns.values())


@pytest.mark.parametrize(
    ("perturbation", "along", "degrees"),
    [
        ((3, 0, 0), (1, 0, 0), 0),
        ((3, 3, 0), (1, 0, 0), 45),
        ((0, 2, 0), (1, 0, 0), 90),
        ((-1, 3**0.5, 0), (5, 0, 0), 120),
        ((-1, 0, 0), (1, 0, 0), 180),
        ((1, 0, 0), (0, 0, 0), 90),  # nothing lies along the manifold
        ((1, 0, 0), (0, 1e-7, 0), 90),
        ((1e-5, 0, 0), (1e-5, 0, 0), 0),
        ((0, 0, 0), (1, 0, 0), math.nan),  # the example was not moved
        ((1e-7, 0, 0), (1, 0, 0), math.nan),
        ((0, 0, 0), (0, 0, 0), math.nan),
    ],
)
def test_angles(perturbation, along, degrees):
    """Of vectors in double precision, so that small angles are exact."""
    vectors = torch.tensor([perturbation, along], dtype=torch.float64)[:, None]
    angle = _angle(*vectors)
    torch.testing.assert_close(angle, torch.tensor([float(degrees)]), equal_nan=True)


def test_the_descent_to_the_manifold_steps_as_torchs_adam_does():
    """Twice from the unperturbed code; its rate falls as half a cosine, codes stay in bounds."""
    split = make_tiny_split()
    batch = split.expand(1)
    space = SPACES["learned_manifold"](batch)
    examples = (split.images() + 0.4).clamp(0, 1)
    steps, step_size = 7, 0.3
    ours = measure_to_manifold(
        examples, split, "learned_manifold", steps=steps, step_size=step_size
    )
    shortest = torch.full((len(split),), torch.inf, dtype=torch.float64)
    nearest = torch.zeros_like(examples)
    for widths in ([1] * steps, [7, 7, 5, 5, 3, 3, 1]):  # a step's part of the steps times four
        codes = space.clean_codes.clone().requires_grad_()
        optimizer = torch.optim.Adam([codes], lr=step_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        for step in range(steps + 1):
            images = space.decode(codes)[0]
            length = (images - examples).flatten(1).norm(dim=1).detach()
            nearer = length < shortest
            shortest = torch.where(nearer, length, shortest)
            nearest = torch.where(nearer[:, None, None, None], images.detach(), nearest)
            if step == steps:
                break
            difference = images - examples
            for _ in range(2 if widths[step] > 1 else 0):
                difference = F.avg_pool2d(
                    difference, widths[step], stride=1, padding=widths[step] // 2
                )
            optimizer.zero_grad()
            difference.square().sum().backward()
            optimizer.step()
            schedule.step()
            codes.data.clamp_(-2, 2)
    torch.testing.assert_close(ours.distance, shortest)
    origin = space.decode(space.clean_codes)[0]
    moved, along = (examples - origin).flatten(1), (nearest - origin).flatten(1)
    cosine = (moved * along).sum(1) / moved.norm(dim=1) / along.norm(dim=1)
    torch.testing.assert_close(ours.angle, cosine.acos().rad2deg().float())


def test_batches_of_examples_do_not_change_distances(monkeypatch):
    split, training = make_tiny_split(), make_tiny_split(30)
    examples = (split.images() + 0.2).clamp(0, 1)

    def run():
        to_known = measure_to_manifold(examples, split, "true_manifold", steps=5, step_size=0.1)
        return to_known, measure_to_neighbours(examples, split.images(), training, 4)

    at_once = run()
    monkeypatch.setattr("robustgen.evaluation.distances.PIXELS_PER_CHUNK", 2 * 6)  # two examples
    in_parts = run()
    for one, other in zip(at_once, in_parts, strict=True):
        assert one.distance.shape == (12,)
        torch.testing.assert_close(other.distance, one.distance)
        torch.testing.assert_close(other.angle, one.angle)


def test_two_neighbours_span_a_line():
    split = make_tiny_split()
    points = make_tiny_split(2).images()
    examples = points.mean(0, keepdim=True).expand(12, *points.shape[1:])
    training = make_tiny_split(2)
    distance = measure_to_neighbours(examples, split.images(), training, 2)
    torch.testing.assert_close(distance.distance, torch.zeros(12), atol=1e-6, rtol=0)
