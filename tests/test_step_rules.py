"""Step rules, compared with PyTorch's optimizer and with closed forms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustgen.attacks.step_rules import STEP_RULES

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


@pytest.mark.parametrize("rule", STEP_RULES)
def test_a_zero_gradient_gives_a_zero_step(rule):
    gradient = torch.zeros(SHAPE)
    assert (STEP_RULES[rule](gradient)(gradient) == 0).all()


@given(exponent=st.integers(-15, 15))
def test_normalized_steps_do_not_depend_on_the_length_of_the_gradient(exponent):
    (gradient,) = sample_gradients(1)
    rule = STEP_RULES["normalized"](gradient)
    torch.testing.assert_close(rule(gradient * 10.0**exponent), rule(gradient))


@pytest.mark.parametrize("rule", STEP_RULES)
def test_step_rules_do_not_change_the_gradient(rule):
    gradient = sample_gradients(1)[0]
    original = gradient.clone()
    STEP_RULES[rule](gradient)(gradient)
    assert torch.equal(gradient, original)
