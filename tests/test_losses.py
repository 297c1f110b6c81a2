"""The losses of a search: values, gradients, and their use by the search and its kernels."""

import pytest
import torch
import torch.nn.functional as F
from tiny import TinyCohort, make_tiny_split
from torch import Tensor

from robustgen.acceleration.cuda import search_step, whole_search
from robustgen.attacks.losses import LOGIT_SCALE, LOSSES, cross_entropy, rank_targets
from robustgen.attacks.search import ActiveExamples, make_initial_best, run_search
from robustgen.attacks.spaces import SPACES
from robustgen.attacks.step_rules import STEP_RULES
from robustgen.backend import Backend
from robustgen.specs import TARGETED_LOSSES, SearchConfig, Threat

MEMBERS = 2


def negative_probability(logits: Tensor, labels: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
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


def next_class(labels: Tensor, classes: int) -> Tensor:
    """Return targets, each of which is another class than the label."""
    return (labels + 1) % classes


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_those_of_autograd(name, classes):
    if name in TARGETED_LOSSES and classes == 2:
        pytest.skip("needs three classes")
    logits, labels = make_logits(classes)
    targets = next_class(labels, classes)
    loss, grad_logits = LOSSES[name](logits, labels, targets)
    assert loss.shape == labels.shape
    if name == "scaled_cross_entropy" and classes > 2:  # its gradients are for a constant scale
        scale = LOGIT_SCALE / logits.double().std(-1, correction=0, keepdim=True)
        scaled_loss, scaled_gradient = cross_entropy(scale * logits.double(), labels, targets)
        torch.testing.assert_close(loss, scaled_loss.float())
        torch.testing.assert_close(grad_logits, (scale * scaled_gradient).float())
        return
    double_logits = logits.double().requires_grad_()
    double_loss, _ = LOSSES[name](double_logits, labels, targets)
    (expected,) = torch.autograd.grad(double_loss.sum(), double_logits)
    torch.testing.assert_close(grad_logits, expected.float(), atol=1e-6, rtol=1e-5)


def test_cross_entropy_equals_that_of_pytorch():
    logits, labels = make_logits(5)
    loss, _ = cross_entropy(logits, labels, labels)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    torch.testing.assert_close(loss.flatten(), expected)


def dlr_by_definition(logits: list[float], label: int, target: int | None) -> float:
    """Equations 6 and 7 of Croce and Hein (ICML 2020) for one example."""
    ranked = sorted(logits, reverse=True)
    rival = max(z for i, z in enumerate(logits) if i != label) if target is None else logits[target]
    lower = ranked[2] if target is None else sum(ranked[:4][-2:]) / 2
    return -(logits[label] - rival) / (ranked[0] - lower)


@pytest.mark.parametrize("classes", [3, 4, 10])
def test_ratios_of_differences_equal_their_definitions(classes):
    logits, labels = make_logits(classes)
    targets = next_class(labels, classes)
    plain, targeted = (LOSSES[name](logits, labels, targets)[0] for name in ("dlr", "targeted_dlr"))
    for index in [(i, j) for i in range(2) for j in range(7)]:
        row, label, target = logits[index].tolist(), labels[index].item(), targets[index].item()
        assert plain[index].item() == pytest.approx(dlr_by_definition(row, label, None), rel=1e-5)
        expected = dlr_by_definition(row, label, target)
        assert targeted[index].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("name", ["scaled_cross_entropy", "margin", "dlr", "targeted_dlr"])
def test_directions_do_not_depend_on_the_scale_of_the_logits(name, classes):
    if name == "targeted_dlr" and classes == 2:
        pytest.skip("needs three classes")
    logits, labels = make_logits(classes)
    labels = logits.argmax(-1)  # there is nothing left to change where the model is wrong
    targets = next_class(labels, classes)
    _, expected = LOSSES[name](logits, labels, targets)
    _, gradient = LOSSES[name](1000 * logits, labels, targets)
    assert (expected != 0).any(-1).all()
    torch.testing.assert_close(F.normalize(gradient, dim=-1), F.normalize(expected, dim=-1))


def test_large_logits_leave_the_cross_entropy_without_gradient():
    """This is why the other losses exist."""
    logits, _ = make_logits(10)
    _, gradient = cross_entropy(1000 * logits, logits.argmax(-1), logits.argmax(-1))
    assert (gradient == 0).all(-1).float().mean() > 0.9


def test_targets_are_the_other_classes_by_their_logits():
    logits = torch.tensor([[[1.0, 4.0, 3.0, 2.0], [1.0, 4.0, 3.0, 2.0]]])
    targets = rank_targets(logits, torch.tensor([[1, 3]]))
    assert targets.tolist() == [[[2, 3, 0], [1, 2, 0]]]


def test_each_restart_of_a_targeted_search_aims_at_another_class(monkeypatch):
    recorded_targets = []

    def record(logits, labels, targets):
        recorded_targets.append(targets.clone())
        return LOSSES["margin"](logits, labels, targets)

    monkeypatch.setitem(LOSSES, "targeted_dlr", record)
    cohort, batch = TinyCohort(MEMBERS), make_tiny_split().expand(MEMBERS)
    run_search(
        cohort,
        SPACES["image"](batch),
        batch.labels,
        Threat("image", "linf", 0.01),
        SearchConfig("auto", steps=1, restarts=3, loss="targeted_dlr"),
        [torch.Generator().manual_seed(seed) for seed in range(MEMBERS)],
        stop_at_success=False,
    )
    first, second, third = recorded_targets[0], recorded_targets[2], recorded_targets[4]
    assert torch.equal(first, recorded_targets[1])
    assert torch.equal(first, third), "of three classes only two are targets"
    assert ((first != second) & (first != batch.labels) & (second != batch.labels)).all()
    logits = cohort(batch.images())
    assert (logits.gather(-1, first[..., None]) >= logits.gather(-1, second[..., None])).all()


def test_a_targeted_loss_needs_three_classes():
    logits, labels = make_logits(2)
    with pytest.raises(ValueError, match="'targeted_dlr', which needs 3 or more classes, but"):
        LOSSES["targeted_dlr"](logits, labels, labels)


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
        expected, _ = negative_probability(
            cohort(space.decode(result.codes)), batch.labels, batch.labels
        )
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
    torch.testing.assert_close(
        grad_logits, negative_probability(logits, batch.labels, batch.labels)[1]
    )
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
