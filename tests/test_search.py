"""The search, compared with a loop over single examples that anyone would write."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from tiny import (
    DOUBLE,
    TinyCohort,
    label_as_predicted,
    make_tiny_split,
    project_by_hand,
)
from torch import Tensor

from robustgen.attacks.search import (
    ActiveExamples,
    make_initial_best,
    run_search,
    run_search_from_starts,
)
from robustgen.attacks.spaces import SPACES, ImageSpace
from robustgen.attacks.step_rules import STEP_RULES
from robustgen.data.split import Split
from robustgen.specs import SearchConfig, Threat

MEMBERS = 2
RADIUS = {"image": 0.25, "true_manifold": 0.3, "learned_manifold": 0.8}
CASES = [
    (space, norm, rule, stop)
    for space in RADIUS
    for norm in ("linf", "l2")
    for rule in STEP_RULES
    for stop in (True, False)
]


class Expected(NamedTuple):
    """What `search` must return for one model and one example."""

    codes: Tensor
    loss: float
    success: bool
    iterations: int
    restart: int


def make_stepper(rule: str, codes: Tensor, step_size: float):
    """A function of a gradient that moves `codes` in place; for Adam, PyTorch's own optimizer."""
    if rule == "adam":
        optimizer = torch.optim.Adam([codes], lr=step_size, maximize=True)

        def step(gradient: Tensor) -> None:
            codes.grad = gradient
            optimizer.step()

        return step

    def step(gradient: Tensor) -> None:
        direction = gradient.sign() if rule == "signed" else gradient / gradient.norm()
        codes.data += step_size * direction

    return step


def search_one_example(model, decode, project, origin, label, noise, threat, settings, stop):
    """The search of one model on one example, a restart after another, a step after another.

    Args:
        model: an image to logits `(K,)`.
        decode: codes to an image.
        project: codes to codes in the ball and the bounds.
        origin: the code of the unperturbed image.
        label: the true class.
        noise: for each restart, a point in the unit ball.
        threat, settings, stop: as of `search`.
    """
    best = Expected(origin, -float("inf"), False, -1, -1)
    for restart, unit_point in enumerate(noise):
        codes = project(origin + threat.radius * unit_point).clone().requires_grad_()
        step = make_stepper(settings.step_rule, codes, settings.step_size)
        for iteration in range(settings.steps + 1):
            logits = model(decode(codes))
            loss = F.cross_entropy(logits[None], label[None])
            success = bool(logits.argmax() != label)
            if loss.item() > best.loss or (stop and success):
                found = (iteration, restart) if success else (-1, -1)
                best = Expected(codes.detach().clone(), loss.item(), success, *found)
            if stop and success:
                return best
            (gradient,) = torch.autograd.grad(loss, codes)
            step(gradient)
            codes.data = project(codes.data)
    return best


def make_batch(cohort: TinyCohort) -> Split:
    """Twelve images for each model, which gets the first two wrong."""
    return label_as_predicted(make_tiny_split().expand(MEMBERS), cohort, wrong=2)


def compare_with_loop(space_name, threat, settings, noise, stop, skip=None):
    """Run the search and the loop; require equal results. Returns what the search found."""
    cohort = TinyCohort(MEMBERS)
    batch = make_batch(cohort)
    space = SPACES[space_name](batch)
    result = run_search_from_starts(
        cohort, space, batch.labels, threat, settings, noise, stop_at_success=stop, skip=skip
    )
    lower, upper = space.lower, space.upper
    for member in range(MEMBERS):
        model = cohort.member(member)
        for example in range(len(batch.labels[0])):
            if skip is not None and skip[member, example]:
                continue
            alone = batch.take((slice(member, member + 1), slice(example, example + 1)))
            space_alone = SPACES[space_name](alone)
            origin = space.clean_codes[member, example]
            expected = search_one_example(
                lambda image, model=model: model(image[None])[0],
                lambda codes, space=space_alone: space.decode(codes[None, None])[0, 0],
                lambda codes, origin=origin: project_by_hand(codes, origin, threat, lower, upper),
                origin,
                batch.labels[member, example],
                [unit_points[member, example] for unit_points in noise],
                threat,
                settings,
                stop,
            )
            torch.testing.assert_close(
                result.codes[member, example], expected.codes, atol=2e-5, rtol=1e-4
            )
            assert result.loss[member, example].item() == pytest.approx(expected.loss, abs=1e-4)
            assert result.success[member, example].item() == expected.success
            assert result.iterations[member, example].item() == expected.iterations
            assert result.restart[member, example].item() == expected.restart
    return result


def draw_noise(space_name: str, restarts: int) -> list[Tensor]:
    """Points of the unit cube and ball, for each restart; their lengths are below 1."""
    batch = make_tiny_split().expand(MEMBERS)
    shape = SPACES[space_name](batch).clean_codes.shape
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(restarts, *shape, generator=generator, **DOUBLE) - 0.5
    return list(points / points[0, 0, 0].numel() ** 0.5)


@pytest.mark.parametrize(("space", "norm", "rule", "stop"), CASES)
def test_equals_a_loop_over_single_examples(space, norm, rule, stop):
    radius = RADIUS[space] * (1 if norm == "linf" else 1.5)
    settings = SearchConfig(rule, radius / 4, steps=6, restarts=2)
    noise = draw_noise(space, 2)
    result = compare_with_loop(space, Threat(space, norm, radius), settings, noise, stop)
    # The case must tell searches apart: successes at the start, later, and none.
    assert result.success.any()
    assert not result.success.all()
    assert result.iterations.max() > 0


def test_successes_in_later_restarts_are_found_and_numbered():
    """Starts far from the boundary first, so that only a later restart succeeds."""
    threat, settings = (
        Threat("image", "linf", 0.25),
        SearchConfig("signed", 0.06, steps=2, restarts=3),
    )
    result = compare_with_loop("image", threat, settings, draw_noise("image", 3), stop=True)
    assert (result.restart > 0).any()
    assert (result.iterations[result.restart > 0] <= settings.steps).all()


def test_without_steps_the_random_start_is_the_result():
    threat, settings = Threat("image", "linf", 0.25), SearchConfig("adam", 0.1, steps=0)
    result = compare_with_loop("image", threat, settings, draw_noise("image", 1), stop=True)
    assert result.success.any()
    assert (result.iterations <= 0).all()


@pytest.mark.parametrize("stop", [True, False])
def test_skipped_examples_keep_the_code_of_their_image(stop):
    skip = torch.rand(MEMBERS, 12, generator=torch.Generator().manual_seed(0)) < 0.4
    assert skip.sum(1)[0] != skip.sum(1)[1]  # members work on unequal numbers of examples
    threat, settings = Threat("image", "l2", 0.6), SearchConfig("adam", 0.1, steps=6)
    noise = draw_noise("image", 1)
    result = compare_with_loop("image", threat, settings, noise, stop, skip)
    images = make_tiny_split().expand(MEMBERS).images()
    assert torch.equal(result.codes[skip], images[skip])
    assert not result.success[skip].any()
    assert (result.iterations[skip] == -1).all()
    assert (result.restart[skip] == -1).all()
    assert (result.loss[skip] == -torch.inf).all()


def test_nothing_is_searched_where_every_example_is_skipped():
    batch = make_tiny_split().expand(MEMBERS)

    def fail(_):
        raise AssertionError("the model must not be called")

    result = run_search_from_starts(
        fail,
        SPACES["image"](batch),
        batch.labels,
        Threat("image", "linf", 0.1),
        SearchConfig("adam", 0.1, 3, restarts=2),
        draw_noise("image", 2),
        stop_at_success=True,
        skip=torch.ones_like(batch.labels, dtype=torch.bool),
    )
    assert not result.success.any()


def test_a_first_success_is_kept_although_an_earlier_loss_was_higher():
    """Three classes: the loss of the true class can fall while another class overtakes it."""
    logits = {0.0: [0.0, -0.1, -0.2], 0.5: [2.0, 2.5, -9.0]}
    batch = make_tiny_split(1).take(torch.zeros(1, 1, dtype=torch.int64))
    origin = torch.zeros(1, 1, 1, 2, 3)

    class Line:
        """A model whose logits go linearly from those at 0 to those at 0.5 in all pixels."""

        def __call__(self, images: Tensor) -> Tensor:
            start, end = (torch.tensor(values) for values in logits.values())
            return start + (end - start) * 2 * images.mean((2, 3, 4))[..., None]

    model = Line()
    loss = [-F.log_softmax(torch.tensor(values), 0)[0].item() for values in logits.values()]
    assert loss[0] > loss[1], "the success must have the lower loss"
    noise = [torch.zeros_like(origin), torch.ones_like(origin)]  # starts at 0 and at 0.5
    arguments = (
        model,
        ImageSpace(origin, 0.0, 1.0),
        torch.zeros_like(batch.labels),
        Threat("image", "linf", 0.5),
        SearchConfig("signed", 0.5, steps=0, restarts=2),
        noise,
    )
    evaluated = run_search_from_starts(*arguments, stop_at_success=True)
    assert evaluated.success.item()
    assert evaluated.restart.item() == 1
    assert evaluated.loss.item() == pytest.approx(loss[1], abs=1e-5)
    trained = run_search_from_starts(*arguments, stop_at_success=False)
    assert not trained.success.item()
    assert trained.loss.item() == pytest.approx(loss[0], abs=1e-5)


def test_training_searches_on_after_a_success():
    threat, settings = Threat("image", "linf", 0.4), SearchConfig("signed", 0.1, steps=8)
    noise = draw_noise("image", 1)
    stopped = compare_with_loop("image", threat, settings, noise, stop=True)
    searched_on = compare_with_loop("image", threat, settings, noise, stop=False)
    both = stopped.success & searched_on.success
    assert (searched_on.loss[both] > stopped.loss[both] + 0.1).any()
    assert (searched_on.iterations[both] > stopped.iterations[both]).any()


@pytest.mark.parametrize("stop", [True, False])
def test_each_member_draws_the_starts_of_all_examples_from_its_own_generator(stop):
    """What a member draws depends neither on other members nor on who has succeeded."""
    batch = make_tiny_split().expand(MEMBERS)
    threat, settings = (
        Threat("image", "l2", 0.8),
        SearchConfig("normalized", 0.2, steps=3, restarts=2),
    )
    space = SPACES["image"](batch)

    def run(generators, rows):
        return run_search(
            TinyCohort(MEMBERS),
            SPACES["image"](batch.take((slice(None), rows))),
            batch.labels[:, rows],
            threat,
            settings,
            generators,
            stop_at_success=stop,
        )

    def make_generators():
        return [torch.Generator().manual_seed(seed) for seed in range(MEMBERS)]

    drawn_by = make_generators()
    whole = run(drawn_by, slice(None))
    noise = []
    twins = make_generators()
    for _ in range(2):
        normal = torch.stack(
            [torch.randn(12, 1, 2, 3, generator=twin, dtype=torch.float32) for twin in twins]
        )
        lengths = torch.stack(
            [torch.rand(12, generator=twin, dtype=torch.float32) for twin in twins]
        ) ** (1 / 6)
        norms = normal.flatten(2).norm(dim=2)
        noise.append(normal * (lengths / norms)[:, :, None, None, None])
    expected = run_search_from_starts(
        TinyCohort(MEMBERS), space, batch.labels, threat, settings, noise, stop_at_success=stop
    )
    torch.testing.assert_close(whole.codes, expected.codes)
    assert torch.equal(whole.restart, expected.restart)
    for rng, twin in zip(drawn_by, twins, strict=True):
        assert torch.equal(rng.get_state(), twin.get_state())


def test_a_model_in_train_mode_is_refused():
    batch = make_tiny_split().expand(MEMBERS)
    arguments = (
        SPACES["image"](batch),
        batch.labels,
        Threat("image", "linf", 0.1),
        SearchConfig("adam", 0.1, 1),
        draw_noise("image", 1),
    )
    with pytest.raises(ValueError, match="the model is in train mode; call eval"):
        run_search_from_starts(TinyCohort(MEMBERS).train(), *arguments, stop_at_success=True)


def test_examples_to_skip_are_handed_on():
    batch = make_tiny_split().expand(MEMBERS)
    skip = torch.arange(12).expand(MEMBERS, 12) % 2 == 0
    space = SPACES["image"](batch)
    result = run_search(
        TinyCohort(MEMBERS),
        space,
        batch.labels,
        Threat("image", "linf", 0.3),
        SearchConfig("signed", 0.1, steps=2),
        [torch.Generator().manual_seed(seed) for seed in range(MEMBERS)],
        stop_at_success=False,
        skip=skip,
    )
    assert torch.equal(result.codes[skip], space.clean_codes[skip])
    assert (result.codes[~skip] != space.clean_codes[~skip]).any()


def test_rows_shrink_to_the_model_with_the_most_active_examples():
    batch = make_tiny_split(6).expand(MEMBERS)
    space = SPACES["image"](batch)
    is_active = torch.tensor([[1, 0, 1, 0, 0, 1], [0, 0, 0, 1, 0, 0]]).bool()
    codes, best = space.clean_codes + 0.1, make_initial_best(space, batch.labels)
    rule = STEP_RULES["adam"](codes)
    active = ActiveExamples(space, batch.labels, codes, rule, is_active, best)
    assert active.drop_inactive()
    assert active.columns[0].tolist() == [0, 2, 5]
    assert active.columns[1][0].item() == 3
    assert active.is_active.tolist() == [[True] * 3, [True, False, False]]
    assert torch.equal(active.codes[0], codes[0, [0, 2, 5]])
    assert torch.equal(active.labels[1, 0], batch.labels[1, 3])
    assert torch.equal(active.space.clean_codes[0], space.clean_codes[0, [0, 2, 5]])
    assert all(tensor.shape == active.codes.shape for tensor in rule.state.values())
    active.is_active[0, :2] = False
    assert active.drop_inactive()
    assert active.columns.tolist() == [[5], [3]]
    assert torch.equal(active.codes[1, 0], codes[1, 3])
    active.is_active[:] = False
    assert not active.drop_inactive()
