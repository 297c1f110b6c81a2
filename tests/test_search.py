"""The search, compared with a simple loop over single examples."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from auto_pgd import AutoPgd
from tiny import (
    DOUBLE,
    TinyCohort,
    label_as_predicted,
    make_tiny_split,
    project_by_hand,
)
from torch import Tensor

from robustgen.attacks import search as search_module
from robustgen.attacks.active_examples import ActiveExamples, make_initial_best
from robustgen.attacks.losses import cross_entropy
from robustgen.attacks.search import SearchResult, run_search, run_search_from_starts
from robustgen.attacks.spaces import SPACES, ImageSpace
from robustgen.attacks.step_rules import AdamStep
from robustgen.data.split import Split
from robustgen.specs import SearchConfig, Threat

MEMBERS = 2
RADIUS = {"image": 0.25, "true_manifold": 0.3, "learned_manifold": 0.8}
CASES = [
    (space, norm, rule, stop_at_success)
    for space in RADIUS
    for norm in ("linf", "l2")
    for rule in ("adam", "signed", "normalized", "auto")
    for stop_at_success in (True, False)
]


class Expected(NamedTuple):
    """The result that the search must return for one model and one example."""

    codes: Tensor
    loss: float
    success: bool
    iterations: int
    restart: int


def make_stepper(search: SearchConfig, codes: Tensor, threat: Threat, project):
    """Return a function that moves `codes` in place along a gradient; Adam is that of PyTorch."""
    if search.step_rule == "auto":
        return AutoPgd(search.steps, codes, threat, project)
    optimizer = torch.optim.Adam([codes], lr=search.step_size, maximize=True)

    def step(gradient: Tensor, _: float) -> None:
        if search.step_rule == "adam":
            codes.grad = gradient
            optimizer.step()
        elif search.step_rule == "signed":
            codes.data += search.step_size * gradient.sign()
        else:
            codes.data += search.step_size * gradient / gradient.norm()
        codes.data = project(codes.data)

    return step


def search_one_example(
    model, decode, project, clean_code, label, unit_points, threat, search, stop_at_success
):
    """Search for one model and one example, restart by restart and step by step.

    Args:
        model: a function from an image to logits `(K,)`.
        decode: a function from a code to an image.
        project: a function from a code to a code in the ball and the bounds.
        clean_code: the code of the clean image.
        label: the true class.
        unit_points: for each restart, a point in the unit ball.
        threat, search, stop_at_success: as for `run_search`.
    """
    best = Expected(clean_code, -float("inf"), False, -1, -1)
    for restart, unit_point in enumerate(unit_points):
        codes = project(clean_code + threat.radius * unit_point).clone().requires_grad_()
        step = make_stepper(search, codes, threat, project)
        for iteration in range(search.steps + 1):
            logits = model(decode(codes))
            loss = F.cross_entropy(logits[None], label[None])
            success = bool(logits.argmax() != label)
            if loss.item() > best.loss or (stop_at_success and success):
                position = (iteration, restart) if success else (-1, -1)
                best = Expected(codes.detach().clone(), loss.item(), success, *position)
            if stop_at_success and success:
                return best
            (gradient,) = torch.autograd.grad(loss, codes)
            step(gradient, loss.item())
    return best


def make_batch(cohort: TinyCohort) -> Split:
    """Return twelve images for each model, which misclassifies the first two."""
    return label_as_predicted(make_tiny_split().expand(MEMBERS), cohort, wrong_count=2)


def compare_with_loop(space_name, threat, search, noise, stop_at_success, skip=None):
    """Run the search and the loop, require equal results, and return the result of the search."""
    cohort = TinyCohort(MEMBERS)
    batch = make_batch(cohort)
    space = SPACES[space_name](batch)
    result = run_search_from_starts(
        cohort,
        space,
        batch.labels,
        threat,
        search,
        noise,
        stop_at_success=stop_at_success,
        skip=skip,
    )
    lower, upper = space.lower, space.upper
    for member in range(MEMBERS):
        model = cohort.member(member)
        for example in range(len(batch.labels[0])):
            if skip is not None and skip[member, example]:
                continue
            single = batch.select((slice(member, member + 1), slice(example, example + 1)))
            single_space = SPACES[space_name](single)
            clean_code = space.clean_codes[member, example]
            expected = search_one_example(
                lambda image, model=model: model(image[None])[0],
                lambda code, space=single_space: space.decode(code[None, None])[0, 0],
                lambda code, clean=clean_code: project_by_hand(code, clean, threat, lower, upper),
                clean_code,
                batch.labels[member, example],
                [unit_points[member, example] for unit_points in noise],
                threat,
                search,
                stop_at_success,
            )
            tolerance = 1e-3 if search.step_rule == "auto" else 1e-4
            assert result.loss[member, example].item() == pytest.approx(
                expected.loss, abs=tolerance
            )
            assert result.success[member, example].item() == expected.success
            if search.step_rule == "auto" and threat.norm == "linf":
                # Steps end in corners of the cube, where losses are equal but for rounding, which
                # decides about the step sizes. `test_step_rules` compares each step.
                continue
            torch.testing.assert_close(
                result.codes[member, example], expected.codes, atol=2e-5, rtol=1e-4
            )
            assert result.iterations[member, example].item() == expected.iterations
            assert result.restart[member, example].item() == expected.restart
    return result


def draw_noise(space_name: str, restarts: int) -> list[Tensor]:
    """Return for each restart points `(M, B, *D)` that lie in the unit balls of both norms."""
    batch = make_tiny_split().expand(MEMBERS)
    shape = SPACES[space_name](batch).clean_codes.shape
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(restarts, *shape, generator=generator, **DOUBLE) - 0.5
    return list(points / points[0, 0, 0].numel() ** 0.5)


@pytest.mark.parametrize(("space", "norm", "rule", "stop_at_success"), CASES)
def test_the_search_equals_a_loop_over_single_examples(space, norm, rule, stop_at_success):
    radius = RADIUS[space] * (1 if norm == "linf" else 1.5)
    if rule == "auto" and space == "image":
        radius *= 0.6  # this search finds all adversarial examples of a larger ball
    # Equal steps must not end on the sphere: rounding would then decide which of two codes, equal
    # but for rounding, has the higher loss, and so which iteration is returned.
    steps = 20 if rule == "auto" else 6
    search = SearchConfig(rule, 0.27 * radius, steps, restarts=2)
    noise = draw_noise(space, 2)
    result = compare_with_loop(space, Threat(space, norm, radius), search, noise, stop_at_success)
    # A case distinguishes searches only if some examples succeed late and some do not at all.
    assert result.success.any()
    assert not result.success.all()
    assert result.iterations.max() > 0


def test_successes_in_later_restarts_have_the_number_of_their_restart():
    """The steps are few and short, so that some examples succeed only in a later restart."""
    threat = Threat("image", "linf", 0.25)
    search = SearchConfig("signed", 0.06, steps=2, restarts=3)
    noise = draw_noise("image", 3)
    result = compare_with_loop("image", threat, search, noise, stop_at_success=True)
    assert (result.restart > 0).any()
    assert (result.iterations[result.restart > 0] <= search.steps).all()


def test_without_steps_the_random_start_is_the_result():
    threat, search = Threat("image", "linf", 0.25), SearchConfig("adam", 0.1, steps=0)
    noise = draw_noise("image", 1)
    result = compare_with_loop("image", threat, search, noise, stop_at_success=True)
    assert result.success.any()
    assert (result.iterations <= 0).all()


SEARCHES = {
    "adam": SearchConfig("adam", 0.05, 6, restarts=4),
    "auto": SearchConfig("auto", steps=12, restarts=4, loss="scaled_cross_entropy"),
    "auto, targeted": SearchConfig("auto", steps=12, restarts=4, loss="targeted_dlr"),
    "random": SearchConfig("random", steps=8, restarts=4, loss="margin"),
    "fmn, targeted": SearchConfig("fmn", steps=8, restarts=4, loss="targeted_dlr"),
}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("space_name", ["image", "true_manifold", "learned_manifold"])
def test_joint_restarts_equal_restarts_one_after_another(monkeypatch, space_name, norm, name):
    """The last examples run several restarts at once; whether, does not change any result."""
    cohort = TinyCohort(MEMBERS)
    batch = make_batch(cohort)
    space = SPACES[space_name](batch)
    threat = Threat(space_name, norm, 0.35 * RADIUS[space_name])
    skip = torch.rand(MEMBERS, 12, generator=torch.Generator().manual_seed(0)) < 0.5
    noise = draw_noise(space_name, 4)

    def run() -> SearchResult:
        return run_search_from_starts(
            cohort,
            space,
            batch.labels,
            threat,
            SEARCHES[name],
            noise,
            stop_at_success=True,
            skip=skip,
        )

    group_sizes = []
    count_joint_restarts = search_module.count_joint_restarts
    with monkeypatch.context() as patch:
        patch.setattr(
            search_module,
            "count_joint_restarts",
            lambda *args: group_sizes.append(count_joint_restarts(*args)) or group_sizes[-1],
        )
        joint = run()
    monkeypatch.setattr(search_module, "count_joint_restarts", lambda *_: 1)
    single = run()
    assert max(group_sizes) > 1
    assert joint.success.any()
    assert not joint.success[~skip].all()
    for joint_values, single_values in zip(joint, single, strict=True):
        torch.testing.assert_close(joint_values, single_values)


@pytest.mark.parametrize("stop_at_success", [True, False])
def test_skipped_examples_have_the_code_of_their_clean_image(stop_at_success):
    skip = torch.rand(MEMBERS, 12, generator=torch.Generator().manual_seed(0)) < 0.4
    assert skip.sum(1)[0] != skip.sum(1)[1], "models must have unequal numbers of examples"
    threat, search = Threat("image", "l2", 0.6), SearchConfig("adam", 0.1, steps=6)
    noise = draw_noise("image", 1)
    result = compare_with_loop("image", threat, search, noise, stop_at_success, skip)
    images = make_tiny_split().expand(MEMBERS).images()
    assert torch.equal(result.codes[skip], images[skip])
    assert not result.success[skip].any()
    assert (result.iterations[skip] == -1).all()
    assert (result.restart[skip] == -1).all()
    assert (result.loss[skip] == -torch.inf).all()


def test_the_model_is_not_called_if_every_example_is_skipped():
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


def test_a_success_replaces_an_earlier_code_of_higher_loss():
    """With three classes, the loss can fall while a wrong class overtakes the true one."""
    logits = {0.0: [0.0, -0.1, -0.2], 0.5: [2.0, 2.5, -9.0]}
    batch = make_tiny_split(1).select(torch.zeros(1, 1, dtype=torch.int64))
    clean_codes = torch.zeros(1, 1, 1, 2, 3)

    class LinearModel:
        """A model whose logits are linear in the mean pixel, with given values at 0 and 0.5."""

        def __call__(self, images: Tensor) -> Tensor:
            start, end = (torch.tensor(values) for values in logits.values())
            return start + (end - start) * 2 * images.mean((2, 3, 4))[..., None]

    loss = [-F.log_softmax(torch.tensor(values), 0)[0].item() for values in logits.values()]
    assert loss[0] > loss[1], "the success must have the lower loss"
    noise = [torch.zeros_like(clean_codes), torch.ones_like(clean_codes)]  # starts at 0 and at 0.5
    arguments = (
        LinearModel(),
        ImageSpace(clean_codes, 0.0, 1.0),
        torch.zeros_like(batch.labels),
        Threat("image", "linf", 0.5),
        SearchConfig("signed", 0.5, steps=0, restarts=2),
        noise,
    )
    evaluation_result = run_search_from_starts(*arguments, stop_at_success=True)
    assert evaluation_result.success.item()
    assert evaluation_result.restart.item() == 1
    assert evaluation_result.loss.item() == pytest.approx(loss[1], abs=1e-5)
    training_result = run_search_from_starts(*arguments, stop_at_success=False)
    assert not training_result.success.item()
    assert training_result.loss.item() == pytest.approx(loss[0], abs=1e-5)


def test_training_continues_the_search_after_a_success():
    threat, search = Threat("image", "linf", 0.4), SearchConfig("signed", 0.1, steps=8)
    noise = draw_noise("image", 1)
    first_success = compare_with_loop("image", threat, search, noise, stop_at_success=True)
    highest_loss = compare_with_loop("image", threat, search, noise, stop_at_success=False)
    success = first_success.success & highest_loss.success
    assert (highest_loss.loss[success] > first_success.loss[success] + 0.1).any()
    assert (highest_loss.iterations[success] > first_success.iterations[success]).any()


@pytest.mark.parametrize("stop_at_success", [True, False])
def test_each_model_draws_the_starts_of_all_examples_from_its_own_generator(stop_at_success):
    """The draws of a model depend neither on other models nor on successes."""
    batch = make_tiny_split().expand(MEMBERS)
    threat = Threat("image", "l2", 0.8)
    search = SearchConfig("normalized", 0.2, steps=3, restarts=2)
    space, cohort = SPACES["image"](batch), TinyCohort(MEMBERS)
    generators = [torch.Generator().manual_seed(seed) for seed in range(MEMBERS)]
    result = run_search(
        cohort, space, batch.labels, threat, search, generators, stop_at_success=stop_at_success
    )
    noise = []
    twins = [torch.Generator().manual_seed(seed) for seed in range(MEMBERS)]
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
        cohort, space, batch.labels, threat, search, noise, stop_at_success=stop_at_success
    )
    torch.testing.assert_close(result.codes, expected.codes)
    assert torch.equal(result.restart, expected.restart)
    for generator, twin in zip(generators, twins, strict=True):
        assert torch.equal(generator.get_state(), twin.get_state())


def test_a_model_in_train_mode_is_refused():
    batch = make_tiny_split().expand(MEMBERS)
    arguments = (
        SPACES["image"](batch),
        batch.labels,
        Threat("image", "linf", 0.1),
        SearchConfig("adam", 0.1, 1),
        draw_noise("image", 1),
    )
    with pytest.raises(ValueError, match=r"model is in train mode; call model\.eval"):
        run_search_from_starts(TinyCohort(MEMBERS).train(), *arguments, stop_at_success=True)


def test_run_search_does_not_attack_examples_to_skip():
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
    rule = AdamStep(codes)
    active = ActiveExamples(space, batch.labels, codes, rule, cross_entropy, is_active, best)
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
