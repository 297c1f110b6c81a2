"""Distances to manifolds and to nearest images, compared with exhaustive search."""

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
from robustgen.backend import make_adam
from robustgen.data.decoders import IDENTITY as IDENTITY_PARAMETERS
from robustgen.data.decoders import warp
from robustgen.data.split import Split
from robustgen.evaluation.distances import (
    _angle,
    _blur,
    measure_distances,
    measure_to_manifold,
    measure_to_neighbours,
)
from robustgen.specs import LATENT_BOUND

IDENTITY = torch.tensor(IDENTITY_PARAMETERS)


def restrict_to_translations(split):
    """Return the letters on a manifold of translations, small enough for exhaustive search."""
    lower, upper = IDENTITY.clone(), IDENTITY.clone()
    lower[:2], upper[:2] = -0.2, 0.2
    return replace(split, codes=IDENTITY.repeat(len(split), 1), ranges=(lower, upper), learned={})


def test_distance_to_the_manifold_equals_brute_force():
    clean = restrict_to_translations(make_split("test").select(slice(6)))
    rng = torch.Generator().manual_seed(0)
    codes = clean.codes.clone()
    codes[:, :2] = torch.rand(6, 2, generator=rng) * 0.2 - 0.1
    noise = 0.1 * torch.rand(6, 1, 28, 28, generator=rng)
    examples = (warp(clean.unwarped_images(), codes) + noise).clamp(0, 1)
    result = measure_to_manifold(examples, clean, "true_manifold", steps=200, step_size=0.05)
    grid = torch.linspace(-0.2, 0.2, 161)
    for i in range(6):
        grid_codes = IDENTITY.repeat(161 * 161, 1)
        grid_codes[:, :2] = torch.cartesian_prod(grid, grid)
        source = clean.select(slice(i, i + 1)).unwarped_images().expand(len(grid_codes), -1, -1, -1)
        squares = (warp(source, grid_codes) - examples[i]).square().flatten(1).sum(1)
        assert result.distance[i].item() == pytest.approx(squares.min().sqrt().item(), rel=0.01)


def test_examples_on_the_manifold_have_no_distance_and_no_angle():
    clean = restrict_to_translations(make_split("test").select(slice(8)))
    codes = clean.codes.clone()
    codes[:, 0] = 0.05
    examples = warp(clean.unwarped_images(), codes)
    result = measure_to_manifold(examples, clean, "true_manifold", steps=300, step_size=0.05)
    assert result.distance.max() < 0.1
    assert result.angle.max() < 5


def test_examples_on_the_manifold_far_from_their_clean_code_have_no_distance():
    """All six parameters change by the radius of an attack, which causes local minima."""
    clean = make_split("test", "hard")
    rng = torch.Generator().manual_seed(0)
    lower, upper = clean.ranges
    delta = 0.3 * (2 * torch.rand(clean.codes.shape, generator=rng) - 1).sign()
    codes = (clean.codes + delta).clamp(lower, upper)
    result = measure_to_manifold(
        warp(clean.unwarped_images(), codes),
        clean,
        "true_manifold",
        steps=200,
        step_size=0.05,
    )
    assert (result.distance < 0.5).float().mean() > 0.94  # 0.85 without the blurred descent


def test_noise_leaves_the_manifold_at_a_right_angle():
    clean = make_split("test").select(slice(20))
    rng = torch.Generator().manual_seed(0)
    noise = 0.3 * (torch.rand(20, 1, 28, 28, generator=rng) * 2 - 1).sign()
    result = measure_to_manifold(
        (clean.images() + noise).clamp(0, 1), clean, "true_manifold", steps=100, step_size=0.05
    )
    assert result.angle.mean() > 75
    assert result.distance.min() > 1


def test_clean_images_have_no_angle():
    clean = make_split("test").select(slice(5))
    result = measure_to_manifold(clean.images(), clean, "true_manifold", steps=5, step_size=0.05)
    assert (result.distance == 0).all()
    assert result.angle.isnan().all()


def test_distance_to_neighbours_equals_brute_force(monkeypatch):
    monkeypatch.setattr("robustgen.evaluation.distances.PIXELS_PER_CHUNK", 28 * 28)
    training, clean = make_split("train"), make_split("test").select(slice(8)).images()
    rng = torch.Generator().manual_seed(1)
    examples = (clean + 0.2 * torch.rand(clean.shape, generator=rng)).clamp(0, 1)
    result = measure_to_neighbours(examples, clean, training, 10)
    training_pixels = training.images().flatten(1).double().numpy()
    for i, example in enumerate(examples.flatten(1).double().numpy()):
        squared_distances = ((training_pixels - example) ** 2).sum(1)
        nearest = training_pixels[np.argsort(squared_distances)[:10]]
        basis = (nearest[1:] - nearest[0]).T
        weights, *_ = np.linalg.lstsq(basis, example - nearest[0], rcond=None)
        residual = example - nearest[0] - basis @ weights
        assert result.distance[i].item() == pytest.approx(np.linalg.norm(residual), rel=1e-4)
        delta = example - clean[i].flatten().double().numpy()
        weights, *_ = np.linalg.lstsq(basis, delta, rcond=None)
        cosine = np.linalg.norm(basis @ weights) / np.linalg.norm(delta)
        assert result.angle[i].item() == pytest.approx(np.degrees(np.arccos(cosine)), rel=1e-3)


def test_distance_to_a_learned_manifold_equals_brute_force():
    """Each image has the manifold of its own class, within the bounds of the two codes."""
    split = make_tiny_split()
    generator = torch.Generator().manual_seed(0)
    examples = torch.rand(split.images().shape, generator=generator, dtype=torch.float64)
    result = measure_to_manifold(examples, split, "learned_manifold", steps=300, step_size=0.05)
    grid = torch.linspace(-LATENT_BOUND, LATENT_BOUND, 201, dtype=torch.float64)
    codes = torch.cartesian_prod(grid, grid)
    decoders = split.learned["learned_manifold"].decoders.decoders
    for distance, example, label in zip(result.distance, examples, split.labels, strict=True):
        shortest = (decoders[label](codes) - example).flatten(1).norm(dim=1).min()
        assert distance.item() == pytest.approx(shortest.item(), rel=0.002)


def test_examples_on_the_learned_manifold_have_no_distance_to_it():
    split = make_tiny_split()
    manifold = split.learned["learned_manifold"]
    codes = (manifold.codes.clamp(-LATENT_BOUND, LATENT_BOUND) + 0.3).clamp(
        -LATENT_BOUND, LATENT_BOUND
    )
    examples = manifold.decoders(codes, split.labels)
    settings = {"steps": 300, "step_size": 0.05, "neighbours": 5}
    columns = measure_distances(examples, split, make_tiny_split(30), **settings)
    assert columns["learned_manifold_distance"].max() < 0.01
    assert columns["true_manifold_distance"].min() > 0.05  # the prototypes of this test are noise
    for kind in ("true_manifold", "learned_manifold"):
        result = measure_to_manifold(examples, split, kind, steps=300, step_size=0.05)
        assert np.allclose(columns[f"{kind}_distance"], result.distance)
        assert np.allclose(columns[f"{kind}_angle"], result.angle)
    neighbours = measure_to_neighbours(examples, split.images(), make_tiny_split(30), 5)
    assert np.allclose(columns["neighbour_distance"], neighbours.distance)
    assert np.allclose(columns["neighbour_angle"], neighbours.angle)


def test_repeated_neighbours_do_not_change_the_span():
    """Two equal images span no direction, so that a basis must not contain one."""
    training = make_split("train").select(torch.arange(6).repeat(3))
    clean = make_split("test").select(slice(4)).images()
    repeated = measure_to_neighbours(clean, clean, training, 18)
    unique = measure_to_neighbours(clean, clean, training.select(slice(6)), 6)
    torch.testing.assert_close(repeated.distance, unique.distance, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("neighbours", [1, 961], ids=["one", "more than the training images"])
def test_an_impossible_number_of_neighbours_is_refused(neighbours):
    training, clean = make_split("train"), make_split("test").select(slice(2)).images()
    with pytest.raises(ValueError, match=r"neighbours is .*, but must be .* 2"):
        measure_to_neighbours(clean, clean, training, neighbours)


@pytest.mark.parametrize(("width", "profile"), [(1, [1]), (3, [1, 2, 3, 2, 1])])
def test_a_blur_averages_twice_over_squares(width, profile):
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    margin = (9 - len(profile)) // 2
    row = F.pad(torch.tensor(profile) / sum(profile), (margin, margin))
    torch.testing.assert_close(_blur(image, width)[0, 0], row[:, None] * row)


def test_distances_are_measured_with_the_given_optimizer():
    clean, calls = make_split("test").select(slice(2)), []

    def make_and_count(*arguments):
        calls.append(arguments)
        return make_adam(*arguments)

    settings = {"steps": 1, "step_size": 0.1, "neighbours": 2}
    measure_distances(
        clean.images(), clean, make_split("train"), **settings, make_adam=make_and_count
    )
    assert calls


def crop_images(split: Split, side: int) -> Split:
    """Return the split with the upper left corners of its source images, without warps."""
    return replace(split, source_images=split.source_images[..., :side, :side], codes=None)


WRONG_ARGUMENTS = {
    "one example": (
        {"examples": torch.zeros(1, 28, 28)},
        r"examples must be a tensor \(N, C, H, W\), but have the shape",
    ),
    "bytes": ({"examples": torch.zeros(4, 1, 28, 28).byte()}, "examples must be of type torch.fl"),
    "pixels to 255": (
        {"examples": torch.full((4, 1, 28, 28), 255.0)},
        "examples must lie in .* 255",
    ),
    "NaN": ({"examples": torch.full((4, 1, 28, 28), torch.nan)}, "examples contain NaN"),
    "images of another size": (
        {"examples": torch.zeros(4, 1, 8, 8)},
        r"examples have the shape \(1, 8, 8\), but clean images \(1, 28, 28\)",
    ),
    "training images of another size": (
        {"training": crop_images(make_split("train"), 8)},
        r"^examples have the shape \(1, 28, 28\), but training images \(1, 8, 8\)",
    ),
    "too few examples": (
        {"examples": torch.zeros(3, 1, 28, 28)},
        "examples are 3 images, but clean",
    ),
    "no steps": ({"steps": 0}, "steps is 0, but must be an integer of at least 1"),
    "a negative step size": ({"step_size": -1}, "step_size is -1, but must be"),
    "too few neighbours": ({"neighbours": 1}, "neighbours is 1, but must be an integer of at"),
    "too many neighbours": ({"neighbours": 961}, "neighbours is 961, but must be from 2 to 960"),
    "half a neighbour": ({"neighbours": 5.5}, "neighbours is 5.5, but must be an integer"),
    "a step size of 0": ({"step_size": 0}, "step_size is 0, but must be a finite number above 0"),
    "images for a split": (
        {"clean": torch.zeros(4, 1, 28, 28)},
        "clean must be of type Split, not Tensor",
    ),
}


@pytest.mark.parametrize(("mistake", "sentence"), WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_a_wrong_argument_is_named(mistake, sentence):
    clean = make_split("test").select(slice(4))
    arguments = {
        "examples": clean.images(),
        "clean": clean,
        "training": make_split("train"),
        "steps": 1,
        "step_size": 0.1,
        "neighbours": 5,
    }
    with pytest.raises(ValueError, match=sentence):
        measure_distances(**{**arguments, **mistake})


def test_each_measure_refuses_wrong_images():
    clean = make_split("test").select(slice(4))
    images, space = clean.images(), "true_manifold"
    with pytest.raises(ValueError, match=r"examples must lie in .* divide them by 255"):
        measure_to_manifold(images * 255, clean, space, steps=1, step_size=0.1)
    with pytest.raises(ValueError, match="steps is 0, but must be an integer of at least 1"):
        measure_to_manifold(images, clean, space, steps=0, step_size=0.1)
    with pytest.raises(ValueError, match="examples are 3 images, but clean are 4"):
        measure_to_neighbours(images[:3], images, make_split("train"), 5)


def test_without_a_manifold_its_columns_are_empty():
    clean = make_split("test").select(slice(4))
    images_only = replace(
        clean, source_images=clean.images(), source_index=torch.arange(4), codes=None
    )
    columns = measure_distances(
        clean.images(), images_only, make_split("train"), steps=1, step_size=0.1, neighbours=5
    )
    for kind in ("true_manifold", "learned_manifold"):
        assert columns[f"{kind}_distance"].mask.all()
        assert columns[f"{kind}_angle"].mask.all()
    assert not np.ma.getmaskarray(columns["neighbour_distance"]).any()
    assert np.ma.getmaskarray(columns["neighbour_angle"]).all()
    for left_column, right_column in itertools.pairwise(columns.values()):
        assert len(left_column) == len(right_column) == 4


def test_without_examples_all_columns_have_no_rows(training_images, test_images):
    """No image is attacked if no model classifies one of the first images correctly."""
    learned = {"learned_manifold": test_images.learned["learned_manifold"]}
    columns = measure_distances(
        torch.empty(0, 1, 28, 28),
        replace(test_images, learned=learned).select(slice(0)),
        training_images,
        steps=2,
        step_size=0.05,
        neighbours=3,
    )
    assert set(columns) >= {"true_manifold_distance", "learned_manifold_angle"}
    assert all(len(values) == 0 for values in columns.values())


@pytest.mark.parametrize(
    ("perturbation", "tangent", "degrees"),
    [
        ((3, 0, 0), (1, 0, 0), 0),
        ((3, 3, 0), (1, 0, 0), 45),
        ((0, 2, 0), (1, 0, 0), 90),
        ((-1, 3**0.5, 0), (5, 0, 0), 120),
        ((-1, 0, 0), (1, 0, 0), 180),
        ((1, 0, 0), (0, 0, 0), 90),  # no part lies along the manifold
        ((1, 0, 0), (0, 1e-7, 0), 90),
        ((1e-5, 0, 0), (1e-5, 0, 0), 0),
        ((0, 0, 0), (1, 0, 0), math.nan),  # no perturbation
        ((1e-7, 0, 0), (1, 0, 0), math.nan),
        ((0, 0, 0), (0, 0, 0), math.nan),
    ],
)
def test_angles_of_vectors(perturbation, tangent, degrees):
    """The vectors are in double precision, so that small angles are exact."""
    vectors = torch.tensor([perturbation, tangent], dtype=torch.float64)[:, None]
    angle = _angle(*vectors)
    torch.testing.assert_close(angle, torch.tensor([float(degrees)]), equal_nan=True)


def test_the_descents_to_the_manifold_take_the_steps_of_torchs_adam():
    """Both descents start at the clean code; the rate falls as half a cosine, codes are clamped."""
    split = make_tiny_split()
    batch = split.expand(1)
    space = SPACES["learned_manifold"](batch)
    examples = (split.images() + 0.4).clamp(0, 1)
    steps, step_size = 7, 0.3
    result = measure_to_manifold(
        examples, split, "learned_manifold", steps=steps, step_size=step_size
    )
    shortest = torch.full((len(split),), torch.inf, dtype=torch.float64)
    nearest = torch.zeros_like(examples)
    for widths in ([1] * steps, [7, 7, 5, 5, 3, 3, 1]):  # four widths, shared among seven steps
        codes = space.clean_codes.clone().requires_grad_()
        optimizer = torch.optim.Adam([codes], lr=step_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        for step in range(steps + 1):
            images = space.decode(codes)[0]
            distance = (images - examples).flatten(1).norm(dim=1).detach()
            is_nearer = distance < shortest
            shortest = torch.where(is_nearer, distance, shortest)
            nearest = torch.where(is_nearer[:, None, None, None], images.detach(), nearest)
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
    torch.testing.assert_close(result.distance, shortest)
    origins = space.decode(space.clean_codes)[0]
    delta, tangent = (examples - origins).flatten(1), (nearest - origins).flatten(1)
    cosine = (delta * tangent).sum(1) / delta.norm(dim=1) / tangent.norm(dim=1)
    torch.testing.assert_close(result.angle, cosine.acos().rad2deg().float())


def test_the_size_of_chunks_does_not_change_distances(monkeypatch):
    split, training = make_tiny_split(), make_tiny_split(30)
    examples = (split.images() + 0.2).clamp(0, 1)

    def measure():
        manifold = measure_to_manifold(examples, split, "true_manifold", steps=5, step_size=0.1)
        return manifold, measure_to_neighbours(examples, split.images(), training, 4)

    single_chunk = measure()
    monkeypatch.setattr("robustgen.evaluation.distances.PIXELS_PER_CHUNK", 2 * 6)  # two examples
    small_chunks = measure()
    for expected, actual in zip(single_chunk, small_chunks, strict=True):
        assert expected.distance.shape == (12,)
        torch.testing.assert_close(actual.distance, expected.distance)
        torch.testing.assert_close(actual.angle, expected.angle)


def test_two_neighbours_span_a_line():
    split = make_tiny_split()
    points = make_tiny_split(2).images()
    examples = points.mean(0, keepdim=True).expand(12, *points.shape[1:])
    training = make_tiny_split(2)
    result = measure_to_neighbours(examples, split.images(), training, 2)
    torch.testing.assert_close(result.distance, torch.zeros(12), atol=1e-6, rtol=0)
