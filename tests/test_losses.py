"""The losses of a search: values, gradients, and their use by the search and its kernels."""

import pytest
import torch
import torch.nn.functional as F
from tiny import TinyCohort, make_tiny_split
from torch import Tensor

from robustgen.acceleration.cuda import search_step, whole_search
from robustgen.attacks.losses import LOSSES, cross_entropy
from robustgen.attacks.search import ActiveExamples, make_initial_best, run_search
from robustgen.attacks.spaces import SPACES
from robustgen.attacks.step_rules import STEP_RULES
from robustgen.backend import Backend
from robustgen.specs import SearchConfig, Threat

MEMBERS = 2


def negative_probability(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """A second loss: minus the probability of the true class."""
    probability = logits.softmax(-1)
    label_probability = probability.gather(-1, labels[..., None])
    one_hot = F.one_hot(labels, logits.shape[-1])
    return -label_probability.squeeze(-1), label_probability * (probability - one_hot)


@pytest.fixture
def second_loss(monkeypatch) -> str:
    monkeypatch.setitem(LOSSES, "negative_probability", negative_probability)
    return "negative_probability"


def make_logits(classes: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, 7, classes, generator=rng)
    return logits, torch.randint(classes, (2, 7), generator=rng)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_those_of_autograd(name, classes):
    logits, labels = make_logits(classes)
    loss, grad_logits = LOSSES[name](logits, labels)
    assert loss.shape == labels.shape
    double_logits = logits.double().requires_grad_()
    double_loss, _ = LOSSES[name](double_logits, labels)
    (expected,) = torch.autograd.grad(double_loss.sum(), double_logits)
    torch.testing.assert_close(grad_logits, expected.float(), atol=1e-6, rtol=1e-5)


def test_cross_entropy_equals_that_of_pytorch():
    logits, labels = make_logits(5)
    loss, _ = cross_entropy(logits, labels)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    torch.testing.assert_close(loss.flatten(), expected)


def test_a_search_increases_the_loss_of_its_settings(second_loss):
    cohort, batch = TinyCohort(MEMBERS), make_tiny_split().expand(MEMBERS)
    space = SPACES["image"](batch)
    results = []
    for steps in (0, 8):
        result = run_search(
            cohort,
            space,
            batch.labels,
            Threat("image", "linf", 0.2),
            SearchConfig("signed", 0.05, steps, loss=second_loss),
            [torch.Generator().manual_seed(seed) for seed in range(MEMBERS)],
            stop_at_success=False,
        )
        expected, _ = negative_probability(cohort(space.decode(result.codes)), batch.labels)
        torch.testing.assert_close(result.loss, expected)
        results.append(result)
    assert (results[1].loss >= results[0].loss).all()
    assert results[1].loss.mean() > results[0].loss.mean()


def test_kernels_of_cross_entropy_are_not_used_for_another_loss(second_loss, monkeypatch):
    for module in (search_step, whole_search):
        monkeypatch.setattr(module, "supports_tensors", lambda _: pytest.fail("asked for kernels"))
    cohort, batch = TinyCohort(MEMBERS), make_tiny_split().expand(MEMBERS)
    space = SPACES["image"](batch)
    threat = Threat("image", "linf", 0.2)
    rule, best = STEP_RULES["signed"](space.clean_codes), make_initial_best(space, batch.labels)
    is_active = torch.ones_like(batch.labels, dtype=torch.bool)
    active = ActiveExamples(
        space, batch.labels, space.clean_codes, rule, LOSSES[second_loss], is_active, best
    )
    fused = search_step.FusedActiveExamples.share(active)
    logits = cohort(space.decode(active.codes))
    grad_logits = fused.update_best(logits, 0, stop_at_success=True)
    torch.testing.assert_close(grad_logits, negative_probability(logits, batch.labels)[1])
    monkeypatch.setattr(whole_search, "Cohort", TinyCohort)
    assert whole_search.supported_forward(cohort, active, threat) is None


def test_a_backend_replaces_the_starts_and_the_loop_of_a_search():
    calls = []

    def sample_starts(norm, sizes, shape, restarts, *_):
        calls.append((norm, list(sizes), restarts))
        return [torch.zeros(MEMBERS, sizes[0], *shape)] * restarts

    def ascend(*arguments):
        calls.append(arguments[-2:])

    batch = make_tiny_split(6).expand(MEMBERS)
    run_search(
        TinyCohort(MEMBERS),
        SPACES["image"](batch),
        batch.labels,
        Threat("image", "l2", 0.2),
        SearchConfig("adam", 0.05, 3, restarts=2),
        [torch.Generator() for _ in range(MEMBERS)],
        stop_at_success=True,
        backend=Backend(sample_starts=sample_starts, ascend=ascend),
    )
    assert calls == [("l2", [6], 2), (0, True), (4, True)]
