"""Searches for the smallest perturbation, compared with closed forms and with foolbox."""

from dataclasses import replace

import foolbox
import numpy as np
import pytest
import torch
from tiny import TinyCohort, in_single_precision, make_tiny_split
from torch import Tensor

import robustgen
from robustgen.attacks.search import run_search_from_starts
from robustgen.attacks.spaces import ImageSpace, make_space, perturbation_norm
from robustgen.evaluation.attacks import attack_cohort
from robustgen.specs import MINIMAL_STEP_RULES, SearchConfig, Threat

MODELS, CLASSES, PIXELS = 2, 4, 6
FMN = SearchConfig("fmn", steps=200, loss="margin")
CARLINI_WAGNER = SearchConfig("carlini_wagner", steps=120, loss="margin")


class LinearModels:
    """M linear classifiers of images of six pixels."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(MODELS, PIXELS, CLASSES, generator=generator)
        self.bias = torch.randn(MODELS, 1, CLASSES, generator=generator) / 4

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(2) @ self.weight + self.bias


def make_images(examples: int = 40) -> Tensor:
    """Return images `(M, B, 1, 2, 3)`, a third of whose pixels are black or white."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(MODELS, examples, 1, 2, 3, generator=generator)
    return (1.5 * images - 0.25).clamp(0, 1)


def find_smallest_by_bisection(direction: Tensor, gap: float, pixels: Tensor, norm: str) -> float:
    """Return the norm of the smallest perturbation in [0, 1] that closes a gap of two logits.

    By the conditions of Karush, Kuhn and Tucker, it is a multiple of the difference of the weights
    (L2), or of its sign (L-infinity), clamped to the bounds; the multiple follows by bisection.

    Args:
        direction: `(D,)` difference of the weights of the two classes.
        gap: difference of the two logits, positive.
        pixels: `(D,)` pixels of the clean image.
        norm: "l2" or "linf".
    """
    step = direction if norm == "l2" else direction.sign()
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        delta = (pixels + middle * step).clamp(0, 1) - pixels
        low, high = (low, middle) if float(delta @ direction) >= gap else (middle, high)
    delta = (pixels + high * step).clamp(0, 1) - pixels
    is_possible = float(delta @ direction) >= gap - 1e-6
    return float(delta.norm(2 if norm == "l2" else torch.inf)) if is_possible else np.inf


def search_smallest(model, space, labels, threat, search):
    """Return the result of a search from the clean codes, and the norms of its perturbations."""
    starts = [torch.zeros_like(space.clean_codes)] * search.restarts
    result = run_search_from_starts(
        model, space, labels, threat, search, starts, stop_at_success=True
    )
    return result, perturbation_norm(result.codes - space.clean_codes, threat.norm)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_fmn_finds_the_smallest_perturbation_of_a_linear_model(norm):
    model, images = LinearModels(), make_images().double()
    model.weight, model.bias = model.weight.double(), model.bias.double()
    space, logits = ImageSpace(images, 0.0, 1.0), model(images)
    labels = logits.argmax(-1)
    result, sizes = search_smallest(model, space, labels, Threat("image", norm), FMN)
    ratios = []
    for i in range(MODELS):
        for j, label in enumerate(labels[i].tolist()):
            expected = min(
                find_smallest_by_bisection(
                    model.weight[i, :, rival] - model.weight[i, :, label],
                    float(logits[i, j, label] - logits[i, j, rival]),
                    images[i, j].flatten(),
                    norm,
                )
                for rival in range(CLASSES)
                if rival != label
            )
            assert bool(result.success[i, j]) == np.isfinite(expected)
            if np.isfinite(expected):
                ratios.append(float(sizes[i, j]) / expected)
    assert len(ratios) > 60
    assert min(ratios) > 1 - 1e-6, "no perturbation may be smaller than the smallest one"
    assert np.median(ratios) < 1.005
    assert np.quantile(ratios, 0.9) < 1.05


def test_carlini_wagner_finds_perturbations_close_to_the_smallest_of_a_linear_model():
    """The weight of the margin decides how far beyond the boundary the objective is lowest."""
    model, images = LinearModels(), 0.5 + 0.1 * (make_images() - 0.5)
    space = ImageSpace(images, 0.0, 1.0)
    labels = model(images).argmax(-1)
    threat = Threat("image", "l2")
    result, sizes = search_smallest(model, space, labels, threat, CARLINI_WAGNER)
    _, fmn_sizes = search_smallest(model, space, labels, threat, FMN)
    is_near = fmn_sizes < 0.25  # farther ones cost more than the weight of their margin
    assert result.success[is_near].all()
    assert is_near.sum() > 20
    ratios = sizes[is_near] / fmn_sizes[is_near]
    assert ratios.min() > 0.999
    assert ratios.median() < 1.1


def test_carlini_wagner_is_at_least_as_small_as_that_of_foolbox(trained, test_images):
    """Both take as many steps with one weight; both record the smallest success."""
    batch = test_images.select(slice(60)).expand(3)
    space = make_space("image", batch)
    result, sizes = search_smallest(
        trained, space, batch.labels, Threat("image", "l2"), CARLINI_WAGNER
    )
    for member in range(3):
        model = foolbox.PyTorchModel(trained.member(member), bounds=(0, 1), device="cpu")
        attack = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=1, steps=120, initial_const=1.0
        )
        images, labels = batch.images()[member], batch.labels[member]
        adversarial = attack.run(model, images, foolbox.criteria.Misclassification(labels))
        with torch.no_grad():
            is_found = trained.member(member)(adversarial).argmax(1) != labels
        peer_sizes = (adversarial - images).flatten(1).norm(dim=1)
        peer_sizes = torch.where(is_found, peer_sizes, torch.inf)
        own_sizes = torch.where(result.success[member], sizes[member], torch.inf)
        assert own_sizes.median() <= peer_sizes.median()
        is_smaller = own_sizes <= peer_sizes
        assert is_smaller[own_sizes.isfinite() & (peer_sizes > 0)].float().mean() > 0.9


def make_case(space: str):
    """Return tiny models, a space, and the labels that the models predict for its clean codes."""
    cohort = TinyCohort(MODELS)
    tiny_space = make_space(space, make_tiny_split(30).expand(MODELS))
    with torch.no_grad():
        labels = cohort(tiny_space.decode(tiny_space.clean_codes)).argmax(-1)
    return cohort, tiny_space, labels


SPACES = ["image", "true_manifold", "learned_manifold", "transformation"]


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("space", SPACES)
def test_a_search_within_a_radius_succeeds_where_the_smallest_perturbation_is_inside(space, norm):
    """Both searches take the same steps; one ends at its first success inside."""
    cohort, tiny_space, labels = make_case(space)
    search = replace(FMN, steps=30)
    result, sizes = search_smallest(cohort, tiny_space, labels, Threat(space, norm), search)
    smallest = torch.where(result.success, sizes, torch.inf)
    radius = float(smallest[smallest.isfinite()].median()) * 1.0001
    bounded, bounded_sizes = search_smallest(
        cohort, tiny_space, labels, Threat(space, norm, radius), search
    )
    assert torch.equal(bounded.success, smallest <= radius)
    assert bounded.success.any()
    assert not bounded.success.all()
    assert (bounded_sizes <= radius * (1 + 1e-9)).all()


@pytest.mark.parametrize("rule", MINIMAL_STEP_RULES)
@pytest.mark.parametrize("space", SPACES)
def test_the_result_is_a_success_within_the_bounds_and_does_not_depend_on_the_batch(space, rule):
    cohort, tiny_space, labels = make_case(space)
    search = SearchConfig(rule, steps=25, loss="margin")
    result, sizes = search_smallest(cohort, tiny_space, labels, Threat(space, "l2"), search)
    with torch.no_grad():
        is_wrong = cohort(tiny_space.decode(result.codes)).argmax(-1) != labels
    assert torch.equal(is_wrong, result.success)
    assert result.success.float().mean() > 0.4
    lower, upper = tiny_space.bounds()
    assert ((result.codes >= lower) & (result.codes <= upper)).all()
    columns = torch.tensor([[3, 7]] * MODELS)
    alone, alone_sizes = search_smallest(
        cohort,
        tiny_space.select(columns),
        labels.gather(1, columns),
        Threat(space, "l2"),
        search,
    )
    assert torch.equal(alone.success, result.success.gather(1, columns))
    torch.testing.assert_close(alone_sizes, sizes.gather(1, columns))


def test_the_smallest_success_of_the_path_is_the_result():
    """It is neither the first nor the last one."""
    cohort, tiny_space, labels = make_case("image")
    recorded: list[Tensor] = []

    class Recorder:
        def __call__(self, images):
            logits = cohort(images)
            size = perturbation_norm(images.detach() - tiny_space.clean_codes, "l2")
            recorded.append(torch.where(logits.argmax(-1) != labels, size, torch.inf))
            return logits

    result, sizes = search_smallest(Recorder(), tiny_space, labels, Threat("image", "l2"), FMN)
    smallest = torch.stack(recorded).min(0).values
    assert torch.equal(torch.where(result.success, sizes, torch.inf), smallest)


def test_an_attack_without_a_radius_records_sizes_and_leaves_misclassified_images():
    cohort = TinyCohort(MODELS)
    cohort.hidden, cohort.output = cohort.hidden.float(), cohort.output.float()
    data = in_single_precision(make_tiny_split(40))
    generators = [torch.Generator().manual_seed(seed) for seed in cohort.seeds]
    result = attack_cohort(cohort, data, Threat("image", "linf"), FMN, generators)
    rows = result.rows
    is_correct = rows["prediction"] == rows["label"]
    assert is_correct.any()
    assert not is_correct.all()
    assert (rows["code_linf"][~is_correct] == 0).all()
    assert not rows["success"][~is_correct].any()
    assert rows["success"][is_correct].mean() > 0.8
    assert np.ptp(rows["code_linf"][rows["success"]]) > 0.01, "each image has a size of its own"


LIBRARY_MISTAKES = {
    "a search within a radius that is missing": (
        Threat("image", "linf"),
        SearchConfig(),
        "step_rule 'adam' needs a radius, and there is none; only 'fmn' and",
    ),
    "a loss that is positive where the model is right": (
        Threat("image", "linf"),
        SearchConfig("fmn"),
        r"step_rule 'fmn' needs one of the losses \('margin', 'dlr', 'targeted_dlr'\), but loss is",
    ),
    "carlini_wagner in L-infinity": (
        Threat("image", "linf"),
        CARLINI_WAGNER,
        "step_rule 'carlini_wagner' needs the norm 'l2', but the norm is 'linf'",
    ),
}


@pytest.mark.parametrize(
    ("threat", "search", "sentence"), LIBRARY_MISTAKES.values(), ids=LIBRARY_MISTAKES
)
def test_a_search_that_does_not_fit_its_threat_is_refused(threat, search, sentence):
    cohort, tiny_space, labels = make_case("image")
    generators = [torch.Generator().manual_seed(seed) for seed in cohort.seeds]
    with pytest.raises(ValueError, match=sentence):
        robustgen.run_search(
            cohort, tiny_space, labels, threat, search, generators, stop_at_success=True
        )
    with pytest.raises(ValueError, match=sentence):
        attack_cohort(cohort, make_tiny_split(4), threat, search, generators)


@pytest.mark.parametrize("rule", MINIMAL_STEP_RULES)
def test_training_refuses_a_search_for_the_smallest_perturbation(rule):
    search = SearchConfig(rule, loss="margin")
    with pytest.raises(ValueError, match=f"search.step_rule is '{rule}', which finds the smallest"):
        robustgen.AdversarialTraining(Threat("image", "l2", 0.1), search)


def test_training_refuses_a_threat_without_a_radius():
    with pytest.raises(ValueError, match="step_rule 'adam' needs a radius"):
        robustgen.AdversarialTraining(Threat("image", "l2"), SearchConfig())
