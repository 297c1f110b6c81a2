import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CLASSES, RECIPE, make_split, vaegan

from robustgen import affine
from robustgen.distance import measure, to_manifold, to_neighbours
from robustgen.manifolds import BOUND, Decoders, Learned
from robustgen.manifolds.vaegan import encode

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
    examples = (affine.transform(clean.sources(), moved) + noise).clamp(0, 1)
    got = to_manifold(examples, clean, "true_manifold", steps=200, step_size=0.05)
    grid = torch.linspace(-0.2, 0.2, 161)
    for i in range(6):
        codes = TRANSLATION.repeat(161 * 161, 1)
        codes[:, :2] = torch.cartesian_prod(grid, grid)
        source = clean.take(slice(i, i + 1)).sources().expand(len(codes), -1, -1, -1)
        squares = (affine.transform(source, codes) - examples[i]).square().flatten(1).sum(1)
        assert got.distance[i].item() == pytest.approx(squares.min().sqrt().item(), rel=0.01)


def test_examples_on_the_manifold_have_no_distance_and_no_angle():
    clean = only_translations(make_split("test").take(slice(8)))
    moved = clean.codes.clone()
    moved[:, 0] = 0.05
    examples = affine.transform(clean.sources(), moved)
    got = to_manifold(examples, clean, "true_manifold", steps=300, step_size=0.05)
    assert got.distance.max() < 0.1
    assert got.angle.max() < 5


def test_examples_far_along_the_manifold_are_found_to_be_on_it():
    """All six parameters moved as far as an attack may: local minima must not count as distance."""
    clean = make_split("test", "hard")
    rng = torch.Generator().manual_seed(0)
    low, high = clean.ranges
    away = 0.3 * (2 * torch.rand(clean.codes.shape, generator=rng) - 1).sign()
    codes = (clean.codes + away).clamp(low, high)
    got = to_manifold(
        affine.transform(clean.sources(), codes), clean, "true_manifold", steps=200, step_size=0.05
    )
    assert (got.distance < 0.5).float().mean() > 0.94  # 0.85 without the blurred descent


def test_noise_leaves_the_manifold_at_a_right_angle():
    clean = make_split("test").take(slice(20))
    rng = torch.Generator().manual_seed(0)
    noise = 0.3 * (torch.rand(20, 1, 28, 28, generator=rng) * 2 - 1).sign()
    got = to_manifold(
        (clean.images() + noise).clamp(0, 1), clean, "true_manifold", steps=100, step_size=0.05
    )
    assert got.angle.mean() > 75
    assert got.distance.min() > 1


def test_clean_images_have_no_angle():
    clean = make_split("test").take(slice(5))
    got = to_manifold(clean.images(), clean, "true_manifold", steps=5, step_size=0.05)
    assert (got.distance == 0).all()
    assert got.angle.isnan().all()


def test_distance_to_neighbours_equals_brute_force(monkeypatch):
    monkeypatch.setattr("robustgen.distance.PIXELS_AT_ONCE", 28 * 28)
    training, clean = make_split("train"), make_split("test").take(slice(8)).images()
    rng = torch.Generator().manual_seed(1)
    examples = (clean + 0.2 * torch.rand(clean.shape, generator=rng)).clamp(0, 1)
    got = to_neighbours(examples, clean, training, 10)
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


def of_two_latents(split):
    """The letters on a learned manifold of two parameters, small enough to search by hand."""
    models = [vaegan(f"{k}", replace(RECIPE, latent=2)).eval() for k in range(CLASSES)]
    decoders = Decoders([model.requires_grad_(False).decoder for model in models])
    return replace(split, learned={"learned_manifold": Learned(encode(models, split), decoders)})


def test_distance_to_a_learned_manifold_equals_brute_force():
    """Of each image's own class, within the bounds of its codes."""
    clean = of_two_latents(make_split("test").take(slice(8)))
    rng = torch.Generator().manual_seed(0)
    examples = (clean.images() + 0.1 * torch.rand(8, 1, 28, 28, generator=rng)).clamp(0, 1)
    got = to_manifold(examples, clean, "learned_manifold", steps=300, step_size=0.05)
    grid = torch.linspace(-BOUND, BOUND, 101)
    codes = torch.cartesian_prod(grid, grid)
    decoders = clean.learned["learned_manifold"].decoders
    for i in range(8):
        made = decoders(codes, clean.labels[i].expand(len(codes)))
        nearest = (made - examples[i]).flatten(1).norm(dim=1).min().item()
        assert got.distance[i].item() == pytest.approx(nearest, rel=0.002)


def test_learned_examples_are_on_the_learned_manifold_and_measured_to_it():
    clean = of_two_latents(make_split("test").take(slice(8)))
    of = clean.learned["learned_manifold"]
    examples = of.decoders((of.codes + 0.3).clamp(-BOUND, BOUND), clean.labels)
    settings = {"steps": 300, "step_size": 0.05, "neighbours": 5}
    columns = measure(examples, clean, make_split("train"), **settings)
    assert columns["learned_manifold_distance"].max() < 0.05
    assert columns["true_manifold_distance"].min() > 0.1  # untrained: these are no letters
    assert np.ma.median(columns["learned_manifold_angle"]) < 1  # one hardly moved, and any way


def test_repeated_neighbours_span_no_less():
    """Directions of no length (the same image twice) must not count as directions."""
    training = make_split("train").take(torch.arange(6).repeat(3))
    clean = make_split("test").take(slice(4)).images()
    twice = to_neighbours(clean, clean, training, 18)
    once = to_neighbours(clean, clean, training.take(slice(6)), 6)
    torch.testing.assert_close(twice.distance, once.distance, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("neighbours", [1, 961], ids=["too few", "more than there are"])
def test_impossible_neighbours_are_refused(neighbours):
    training, clean = make_split("train"), make_split("test").take(slice(2)).images()
    with pytest.raises(ValueError, match="neighbours of 960 images"):
        to_neighbours(clean, clean, training, neighbours)


def test_without_a_known_manifold_its_columns_are_empty():
    clean = make_split("test").take(slice(4))
    unknown = type(clean)(
        clean.images(), torch.arange(4), clean.labels, None, clean.ranges, clean.classes
    )
    columns = measure(
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
    columns = measure(
        torch.empty(0, 1, 28, 28),
        replace(test_images, learned=learned).take(slice(0)),
        training_images,
        steps=2,
        step_size=0.05,
        neighbours=3,
    )
    assert set(columns) >= {"true_manifold_distance", "learned_manifold_angle"}
    assert all(len(values) == 0 for values in columns.values())
