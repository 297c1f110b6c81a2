"""Step rules, compared with PyTorch's optimizer and with closed forms."""

from functools import partial
from itertools import product
from typing import get_args

import pytest
import torch
from auto_pgd import AutoPgd
from hypothesis import given
from hypothesis import strategies as st
from tiny import project_by_hand

from robustgen.attacks.spaces import ImageSpace, LearnedSpace
from robustgen.attacks.step_rules import STEP_RULES, FixedStepRule, Iterate, list_check_steps
from robustgen.data.decoders import ClassDecoders
from robustgen.specs import (
    AUTO_STEP_RULES,
    GRADIENT_FREE_STEP_RULES,
    SearchConfig,
    StepRuleName,
    Threat,
)

FIXED_STEP_RULES = [name for name, rule in STEP_RULES.items() if issubclass(rule, FixedStepRule)]
SHAPE = (2, 3, 1, 2, 2)
"""Number of models, examples and channels, height and width."""


def sample_gradients(count: int) -> list[torch.Tensor]:
    """Return random gradients, each ten times as large as the one before."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator) * 10.0 ** (i - 2) for i in range(count)]


@pytest.mark.parametrize("step_size", [1.0, 0.02])
def test_adam_steps_as_torch_does(step_size):
    codes = torch.zeros(SHAPE, requires_grad=True)
    optimizer = torch.optim.Adam([codes], lr=step_size, maximize=True)
    rule, stepped_codes = STEP_RULES["adam"](codes), torch.zeros(SHAPE)
    for gradient in sample_gradients(6):
        codes.grad = gradient.clone()
        optimizer.step()
        stepped_codes += step_size * rule(gradient)
        torch.testing.assert_close(stepped_codes, codes.detach(), rtol=1e-5, atol=1e-7)


def test_the_lists_of_step_rules_are_those_of_their_classes():
    """The config reads the lists without importing PyTorch."""
    assert set(STEP_RULES) == set(get_args(StepRuleName))
    auto = {name for name, rule in STEP_RULES.items() if not issubclass(rule, FixedStepRule)}
    assert auto == set(AUTO_STEP_RULES)
    gradient_free = {name for name, rule in STEP_RULES.items() if not rule.needs_gradient}
    assert gradient_free == set(GRADIENT_FREE_STEP_RULES)


def test_adam_divides_small_gradients_by_at_least_its_epsilon():
    rule = STEP_RULES["adam"](torch.zeros(3))
    step = rule(torch.tensor([0.0, 1e-8, 1e-4]))
    torch.testing.assert_close(step, torch.tensor([0.0, 0.5, 1.0]), rtol=1e-3, atol=0)


def test_adam_has_a_state_of_zeros_for_each_code():
    rule = STEP_RULES["adam"](torch.zeros(SHAPE))
    assert rule.state
    assert all(tensor.shape == SHAPE for tensor in rule.state.values())
    assert all((tensor == 0).all() for tensor in rule.state.values())


def test_signed_steps_have_length_one_in_each_coordinate():
    gradient = torch.tensor([-3.0, 0.0, 1e-30, 7.0])
    assert STEP_RULES["signed"](gradient)(gradient).tolist() == [-1, 0, 1, 1]
    assert STEP_RULES["signed"](gradient).state == {}


def test_normalized_steps_have_unit_l2_length_for_each_example():
    (gradient,) = sample_gradients(1)
    step = STEP_RULES["normalized"](gradient)(gradient)
    for model in range(SHAPE[0]):
        for example in range(SHAPE[1]):
            expected = gradient[model, example] / gradient[model, example].square().sum().sqrt()
            torch.testing.assert_close(step[model, example], expected)
    assert STEP_RULES["normalized"](gradient).state == {}


@pytest.mark.parametrize("rule", FIXED_STEP_RULES)
def test_a_zero_gradient_gives_a_zero_step(rule):
    gradient = torch.zeros(SHAPE)
    assert (STEP_RULES[rule](gradient)(gradient) == 0).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [1, 7, 20, 40])
def test_auto_steps_as_the_algorithm_of_the_paper(norm, steps):
    """Losses and gradients are random, so that both conditions hold at some checks only."""
    rng = torch.Generator().manual_seed(steps)
    clean = torch.rand(SHAPE, generator=rng, dtype=torch.float64)
    space, threat = ImageSpace(clean, 0.0, 1.0), Threat("image", norm, 0.3)
    search, codes = SearchConfig("auto", steps=steps), clean.clone()
    rule = STEP_RULES["auto"](codes)
    singles = {}
    for index in product(range(SHAPE[0]), range(SHAPE[1])):
        project = partial(project_by_hand, clean_code=clean[index], threat=threat, lower=0, upper=1)
        single_codes = clean[index].clone()
        singles[index] = single_codes, AutoPgd(steps, single_codes, threat, project)
    for step in range(steps):
        # Losses rise on average, in some examples fast enough for steps of unchanged size.
        noise = torch.rand(SHAPE[:2], generator=rng, dtype=torch.float64)
        loss = noise + step * torch.tensor([[0.0, 0.3, 0.1], [2.0, 0.2, 0.4]])
        gradient = torch.randn(SHAPE, generator=rng, dtype=torch.float64)
        codes = rule.next_codes(space, Iterate(codes, loss, gradient), threat, search)
        for index, (single_codes, auto_pgd) in singles.items():
            auto_pgd(gradient[index], loss[index].item())
            torch.testing.assert_close(codes[index], single_codes)
    halvings = rule.state["halvings"]
    assert halvings.max() > halvings.min() or steps < 7


def test_the_steps_of_checks_are_those_of_the_published_code():
    assert list_check_steps(100)[:8] == [22, 41, 57, 70, 80, 87, 93, 99]


def run_random_search(codes: torch.Tensor, norm: str, steps: int = 60):
    """Search for codes that are near a random target; return all codes and their losses."""
    rng = torch.Generator().manual_seed(5)
    target = torch.rand(codes.shape, generator=rng)
    space = ImageSpace(codes, 0.0, 1.0)
    if codes.dim() == 3:
        space = LearnedSpace(codes, -2.0, 2.0, torch.zeros(codes.shape[:2]), ClassDecoders([]))
    threat, search = Threat("image", norm, 0.3), SearchConfig("random", steps=steps)
    rule = STEP_RULES["random"](codes)
    all_codes, losses = [codes], []
    for _ in range(steps):
        loss = -(all_codes[-1] - target).flatten(2).norm(dim=2)
        losses.append(loss)
        all_codes.append(
            rule.next_codes(space, Iterate(all_codes[-1], loss, codes), threat, search)
        )
    return torch.stack(all_codes), torch.stack(losses), rule, space, threat


SHAPES_OF_CODES = {"images": (2, 3, 3, 8, 7), "codes": (2, 3, 10)}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", SHAPES_OF_CODES.values(), ids=SHAPES_OF_CODES.keys())
def test_a_random_search_improves_within_the_ball_and_keeps_the_best(shape, norm):
    codes = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    all_codes, losses, rule, space, threat = run_random_search(codes, norm)
    deltas = (all_codes - codes).flatten(3)
    sizes = deltas.abs().amax(3) if norm == "linf" else deltas.norm(dim=3)
    assert (sizes <= threat.radius * 1.0001).all()
    assert ((all_codes >= space.lower) & (all_codes <= space.upper)).all()
    assert torch.equal(rule.state["best_loss"], losses.amax(0))
    assert (rule.state["best_loss"] > losses[0]).all()
    best_steps = losses.argmax(0)
    for index in product(range(shape[0]), range(shape[1])):
        best_codes = all_codes[(best_steps[index], *index)]
        assert torch.equal(rule.state["best_codes"][index], best_codes)


def test_a_random_search_changes_squares_of_falling_size():
    codes = torch.full((1, 1, 3, 28, 28), 0.5)
    rule, space = STEP_RULES["random"](codes), ImageSpace(codes, 0.0, 1.0)
    threat, search = Threat("image", "linf", 0.1), SearchConfig("random", steps=1000)
    losses = torch.zeros(1, 1)
    codes = rule.next_codes(space, Iterate(codes, losses, codes), threat, search)
    assert ((codes - 0.5).abs() - 0.1).abs().max() < 1e-6
    assert (codes == codes[..., :1, :]).all(), "the first change is vertical stripes"
    sides = []
    for step in range(1, 1000):
        best = codes
        rule.state["best_codes"], rule.state["best_loss"] = best, losses
        codes = rule.next_codes(space, Iterate(codes, losses, codes), threat, search)
        changed = (codes != best).any(2)[0, 0]
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        if len(rows):
            sides.append(
                (step, int(max(rows.max() - rows.min(), columns.max() - columns.min())) + 1)
            )
    assert max(side for step, side in sides if step < 5) > 15
    assert max(side for step, side in sides if step > 800) == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 1)])
def test_a_random_search_changes_images_of_a_pixel_or_a_line(size):
    codes = torch.full((1, 1, 1, *size), 0.5)
    all_codes, *_ = run_random_search(codes, "linf", steps=30)
    assert all((image != 0.5).any() for image in all_codes[1:])
    assert len({tuple(image.flatten().tolist()) for image in all_codes[2:]}) > 1


def test_a_random_search_of_an_example_does_not_depend_on_the_other_examples():
    codes = torch.rand(2, 3, 3, 8, 7, generator=torch.Generator().manual_seed(1))
    all_codes, *_ = run_random_search(codes, "linf", steps=9)
    rule = STEP_RULES["random"](codes[1:, 2:])
    keys = STEP_RULES["random"](codes).state["keys"]
    assert torch.equal(rule.state["keys"], keys[1:, 2:])
    assert len(keys.unique()) == keys.numel()
    assert not torch.equal(all_codes[1][0, 0] - codes[0, 0], all_codes[1][0, 1] - codes[0, 1])


@given(exponent=st.integers(-15, 15))
def test_normalized_steps_do_not_depend_on_the_length_of_the_gradient(exponent):
    (gradient,) = sample_gradients(1)
    rule = STEP_RULES["normalized"](gradient)
    torch.testing.assert_close(rule(gradient * 10.0**exponent), rule(gradient))


@pytest.mark.parametrize("rule", FIXED_STEP_RULES)
def test_step_rules_do_not_change_the_gradient(rule):
    gradient = sample_gradients(1)[0]
    original = gradient.clone()
    STEP_RULES[rule](gradient)(gradient)
    assert torch.equal(gradient, original)
