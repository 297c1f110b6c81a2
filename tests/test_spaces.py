"""Spaces: their codes, bounds and images, random starts and projections."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SHAPE, make_tiny_split, project_by_hand

from robustgen.attacks.spaces import SPACES, ImageSpace, gather_columns, perturbation_norms
from robustgen.data.decoders import warp
from robustgen.sampling import expand_trailing_dims, sample_unit_ball
from robustgen.specs import Threat

SPACE_AND_NORM = [(space, norm) for space in SPACES for norm in ("linf", "l2")]


@pytest.mark.parametrize(("name", "norm"), SPACE_AND_NORM)
@settings(max_examples=20, deadline=None)
@given(radius=st.floats(1e-3, 2), seed=st.integers(0, 2**31))
def test_projections_and_samples_lie_in_ball_and_bounds(test_images, name, norm, radius, seed):
    batch, threat = test_images.select(slice(8)).expand(2), Threat(name, norm, radius)
    space = SPACES[name](batch)
    rng = torch.Generator().manual_seed(seed)
    distant_codes = space.clean_codes + 3 * torch.randn(space.clean_codes.shape, generator=rng)
    for codes in (space.project(distant_codes, threat), space.sample(threat, [rng, rng])):
        norms = perturbation_norms(codes - space.clean_codes)[norm]
        assert (norms <= radius * (1 + 1e-5) + 1e-6).all()
        assert (codes >= space.lower).all()
        assert (codes <= space.upper).all()
    inner_codes = space.sample(Threat(name, norm, radius / 2), [rng, rng])
    torch.testing.assert_close(space.project(inner_codes, threat), inner_codes)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["image", "true_manifold", "learned_manifold"])
def test_projections_equal_those_computed_by_hand(name, norm):
    """A code is moved to the nearest point of the ball, and this point to the nearest in bounds."""
    batch = make_tiny_split().expand(2)
    space = SPACES[name](batch)
    rng = torch.Generator().manual_seed(0)
    codes = space.clean_codes + torch.randn(
        space.clean_codes.shape, generator=rng, dtype=torch.float64
    )
    threat = Threat(name, norm, 0.4)
    projected = space.project(codes.clone(), threat)
    for member in range(2):
        for example in range(len(batch.labels[0])):
            clean_code = space.clean_codes[member, example]
            expected = project_by_hand(
                codes[member, example], clean_code, threat, space.lower, space.upper
            )
            torch.testing.assert_close(projected[member, example], expected)


def test_a_projection_does_not_move_the_clean_code():
    clean_codes = torch.full((1, 1, *SHAPE), 0.5)
    space = ImageSpace(clean_codes, 0.0, 1.0)
    for norm in ("linf", "l2"):
        projected = space.project(clean_codes.clone(), Threat("image", norm, 0.1))
        assert torch.equal(projected, clean_codes)


def test_clean_codes_and_bounds_of_each_space():
    split = make_tiny_split()
    batch = split.expand(2)
    lower, upper = split.ranges
    latents = split.learned["learned_manifold"].codes
    assert latents.abs().max() > 2, "one code must be out of bounds"
    identity = torch.tensor([0.0, 0, 0, 0, 1, 0], dtype=torch.float64)
    expected = {
        "image": (split.images(), 0, 1),
        "true_manifold": (split.codes, lower, upper),
        "transformation": (identity.expand(12, 6), lower, upper),
        "learned_manifold": (latents.clamp(-2, 2), -2, 2),
    }
    for name, (clean_codes, *expected_bounds) in expected.items():
        space = SPACES[name](batch)
        assert torch.equal(space.clean_codes, clean_codes.expand(2, *clean_codes.shape)), name
        for bound, expected_bound in zip((space.lower, space.upper), expected_bounds, strict=True):
            assert torch.equal(torch.as_tensor(bound), torch.as_tensor(expected_bound)), name
        assert space.is_latent is (name != "image")


def test_decoded_images_of_each_space():
    split = make_tiny_split()
    batch = split.expand(2)
    for name in ("image", "true_manifold", "transformation"):
        space = SPACES[name](batch)
        torch.testing.assert_close(space.decode(space.clean_codes)[1], split.images())
    delta = 0.1 * torch.ones(2, 12, 6, dtype=torch.float64)
    for name, sources in (
        ("true_manifold", split.source_images),
        ("transformation", split.images()),
    ):
        space = SPACES[name](batch)
        expected = warp(sources, (space.clean_codes + delta)[0])
        torch.testing.assert_close(space.decode(space.clean_codes + delta)[0], expected)
    learned = SPACES["learned_manifold"](batch)
    decoders = split.learned["learned_manifold"].decoders.decoders
    images = learned.decode(learned.clean_codes)
    for example, label in enumerate(split.labels):
        expected = decoders[label](learned.clean_codes[0, example][None])[0]
        torch.testing.assert_close(images[0, example], expected)


@pytest.mark.parametrize("name", ["image", "true_manifold", "transformation", "learned_manifold"])
def test_a_selection_of_examples_has_their_codes_and_images(name):
    """Each model selects other columns of the batch."""
    columns = torch.tensor([[3, 0, 7], [5, 11, 4]])
    batch = make_tiny_split().expand(2)
    space = SPACES[name](batch)
    selected = space.select(columns)
    images, selected_images = space.decode(space.clean_codes), selected.decode(selected.clean_codes)
    for member in range(2):
        for position, column in enumerate(columns[member]):
            assert torch.equal(
                selected.clean_codes[member, position], space.clean_codes[member, column]
            )
            torch.testing.assert_close(selected_images[member, position], images[member, column])


def test_a_space_that_the_data_set_lacks_is_refused():
    split = make_tiny_split()
    with pytest.raises(ValueError, match=r"^true_manifold needs a data set whose manifold is"):
        SPACES["true_manifold"](replace(split, codes=None).expand(2))
    with pytest.raises(ValueError, match="data_manifold was not learned for this data set"):
        SPACES["data_manifold"](split.expand(2))


def test_only_several_decoders_synchronize_with_a_gpu():
    split = make_tiny_split()
    learned = split.learned["learned_manifold"]
    decoders = type(learned.decoders)(learned.decoders.decoders[:1])
    data_manifold = replace(learned, decoders=decoders)
    batch = replace(split, learned={**split.learned, "data_manifold": data_manifold}).expand(2)
    synchronizing = [name for name, make in SPACES.items() if make(batch).needs_host_sync]
    assert synchronizing == ["learned_manifold"]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_points_are_uniform_in_the_unit_ball(norm):
    """A smaller ball has the share of points of its volume, and a half-space has half of them."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    points = sample_unit_ball(norm, (5000, 2, 3), generators)
    assert points.shape == (2, 5000, 2, 3)
    norms = perturbation_norms(points)[norm]
    assert norms.max() <= 1 + 1e-6
    for volume in (0.1, 0.5, 0.9):
        share = (norms <= volume ** (1 / 6)).float().mean(1)
        torch.testing.assert_close(share, torch.full((2,), volume), atol=0.025, rtol=0)
    assert (points > 0).float().mean((0, 1)).sub(0.5).abs().max() < 0.025
    assert not torch.equal(points[0], points[1])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_points_are_written_to_the_output_tensor(norm):
    buffer = torch.full((1, 4, 3), torch.nan)
    points = sample_unit_ball(norm, (4, 3), [torch.Generator().manual_seed(0)], buffer)
    assert points.data_ptr() == buffer.data_ptr()
    assert torch.equal(points, sample_unit_ball(norm, (4, 3), [torch.Generator().manual_seed(0)]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_points_of_more_models_than_generators_are_refused(norm):
    with pytest.raises(ValueError, match="zip"):
        sample_unit_ball(norm, (4, 3), [torch.Generator()], torch.empty(2, 4, 3))


def test_points_of_an_unknown_norm_are_refused():
    with pytest.raises(ValueError, match=r"^norm is 'l1', but must be one of 'linf', 'l2'$"):
        sample_unit_ball("l1", (4, 3), [torch.Generator()])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_are_points_of_the_unit_ball_times_the_radius(norm):
    batch = make_tiny_split().expand(2)
    space, threat = SPACES["image"](batch), Threat("image", norm, 0.3)
    generators, twins = ([torch.Generator().manual_seed(seed) for seed in (1, 2)] for _ in range(2))
    points = sample_unit_ball(norm, space.clean_codes.shape[1:], generators).to(space.clean_codes)
    expected = (space.clean_codes + 0.3 * points).clamp(0, 1)
    torch.testing.assert_close(space.scale_starts(threat, points), expected)
    torch.testing.assert_close(space.sample(threat, twins), expected)


def test_the_points_of_a_model_do_not_depend_on_other_models():
    for norm in ("linf", "l2"):
        points = sample_unit_ball(
            norm, (5, 3), [torch.Generator().manual_seed(seed) for seed in (4, 5)]
        )
        for member, seed in enumerate((4, 5)):
            expected = sample_unit_ball(norm, (5, 3), [torch.Generator().manual_seed(seed)])
            assert torch.equal(points[member], expected[0])


def test_norms_of_perturbations():
    perturbation = torch.tensor([[[[3.0, -4.0]], [[0.0, -0.5]]]])  # two examples of one model
    norms = {name: values[0].tolist() for name, values in perturbation_norms(perturbation).items()}
    assert norms == {"l1": [7, 0.5], "l2": [5, 0.5], "linf": [4, 0.5]}


def test_columns_are_gathered_for_each_model():
    values = torch.arange(12).view(2, 3, 2)
    columns = torch.tensor([[2, 0], [1, 1]])
    assert gather_columns(values, columns).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def test_values_of_examples_broadcast_to_their_codes():
    assert expand_trailing_dims(torch.ones(2, 3), torch.ones(2, 3, 4, 5)).shape == (2, 3, 1, 1)
    assert expand_trailing_dims(torch.ones(2, 3), torch.ones(2, 3)).shape == (2, 3)
