"""Ensembles of searches: what each member attacks, and models that mislead a plain attack."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from studies import valid
from tiny import TinyCohort, in_single_precision, label_as_predicted, make_tiny_split
from torch import Tensor

from robustgen.config.job_params import attack_params
from robustgen.config.study import Study
from robustgen.evaluation import attacks
from robustgen.evaluation.attacks import attack_cohort
from robustgen.specs import MEMBERS, SearchConfig, Threat, parse_search

MODELS = 2
THREAT = Threat("image", "linf", 0.12)
STRONG = {name: search for name, search in MEMBERS.items() if name != "auto_margin"}
WEAK = SearchConfig("signed", 0.02, steps=1)
PLAIN = SearchConfig("signed", 0.02, steps=20)


class SinglePrecisionCohort(TinyCohort):
    """Models in single precision, whose logits a test may change with `change_logits`."""

    def __init__(self) -> None:
        super().__init__(MODELS)
        self.hidden, self.output = self.hidden.float(), self.output.float()

    def change_logits(self, logits: Tensor) -> Tensor:
        return logits

    def change_images(self, images: Tensor) -> Tensor:
        return images

    def forward(self, images: Tensor) -> Tensor:
        return self.change_logits(super().forward(self.change_images(images)))


class ScaledCohort(SinglePrecisionCohort):
    """Models whose logits are so large that probabilities round to 0 and 1."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def change_logits(self, logits: Tensor) -> Tensor:
        return self.scale * logits


class QuantizedCohort(SinglePrecisionCohort):
    """Models that round the pixels, so that gradients with respect to images are zero."""

    def change_images(self, images: Tensor) -> Tensor:
        return (32 * images).round() / 32


def make_data():
    """Return images with the labels that both models predict."""
    data = in_single_precision(make_tiny_split(60))
    cohort = SinglePrecisionCohort()
    labels = label_as_predicted(data.expand(MODELS), cohort).labels
    return replace(data, labels=labels[0]).select((labels[0] == labels[1]).nonzero()[:, 0])


DATA = make_data()


def attack(cohort, search, threat=THREAT):
    generators = [torch.Generator().manual_seed(seed) for seed in range(MODELS)]
    return attack_cohort(cohort, DATA, threat, search, generators)


def test_the_members_attack_what_those_before_did_not_break():
    cohort = SinglePrecisionCohort()
    weak, strong = attack(cohort, WEAK).rows["success"], attack(cohort, PLAIN).rows["success"]
    result = attack(cohort, {"weak": WEAK, "plain": PLAIN})
    members = np.array(result.rows["member"], dtype=object)
    assert 0 < weak.sum() < strong.sum() < len(strong)
    assert (members[weak] == "weak").all()
    assert result.rows["success"].sum() > weak.sum()
    assert (members[result.rows["success"] & ~weak] == "plain").all()
    assert (members[~result.rows["success"]] == None).all()  # noqa: E711


def test_the_images_of_an_ensemble_are_those_of_the_member_that_succeeded():
    cohort = SinglePrecisionCohort()
    weak, ensemble = attack(cohort, WEAK), attack(cohort, {"weak": WEAK, "plain": PLAIN})
    is_weak = torch.from_numpy(weak.rows["success"].reshape(MODELS, -1))
    assert torch.equal(ensemble.images[is_weak], weak.images[is_weak])
    success = torch.from_numpy(ensemble.rows["success"].reshape(MODELS, -1))
    classes = cohort(ensemble.images).argmax(-1)
    assert torch.equal((classes != DATA.labels) & success, success)
    assert not success.all()
    assert (ensemble.images - DATA.images())[~success].abs().max() <= 0.1201
    norms = ensemble.rows["image_linf"].reshape(MODELS, -1)
    expected = (ensemble.images - DATA.images()).flatten(2).abs().amax(2)
    np.testing.assert_allclose(norms, expected, atol=1e-6)


def test_an_ensemble_of_one_member_is_its_search():
    cohort = SinglePrecisionCohort()
    single, ensemble = attack(cohort, PLAIN), attack(cohort, {"plain": PLAIN})
    assert torch.equal(single.images, ensemble.images)
    assert set(single.rows["member"]) == {None}
    assert set(ensemble.rows["member"]) == {"plain", None}


def test_a_success_that_the_plain_model_denies_is_left_to_the_next_member(monkeypatch):
    cohort = SinglePrecisionCohort()
    verify, calls = attacks._verify, []

    def deny_the_first(space, threat, result, logits, labels):
        calls.append(result)
        columns = verify(space, threat, result, logits, labels)
        if len(calls) == 1:
            columns["success"] = torch.zeros_like(columns["success"])
        return columns

    monkeypatch.setattr(attacks, "_verify", deny_the_first)
    result = attack(cohort, {"first": PLAIN, "second": PLAIN})
    assert result.rows["success"].any()
    assert set(result.rows["member"]) == {"second", None}


def test_a_member_without_gradients_begins_at_the_best_codes_of_those_before(monkeypatch):
    cohort, all_starts = SinglePrecisionCohort(), []
    run_search_from_starts = attacks.run_search_from_starts

    def record_starts(*args, **keywords):
        *others, starts = args
        all_starts.append(list(starts))
        return run_search_from_starts(*others, iter(all_starts[-1]), **keywords)

    monkeypatch.setattr(attacks, "run_search_from_starts", record_starts)
    weak = attack(cohort, WEAK)
    random = SearchConfig("random", steps=3, restarts=2, loss="margin")
    attack(cohort, {"weak": WEAK, "random": random})
    _, _, (first, second) = all_starts
    torch.testing.assert_close(
        DATA.images() + THREAT.radius * first, weak.codes, atol=1e-6, rtol=1e-6
    )
    assert not torch.equal(first, second)
    attack(cohort, {"random": random})
    assert not torch.equal(all_starts[-1][0], first)


def test_no_search_and_another_type_are_refused():
    with pytest.raises(ValueError, match="search is empty, but must have one or more searches"):
        attack(SinglePrecisionCohort(), {})
    with pytest.raises(ValueError, match=r"search\['x'\] must be of type SearchConfig, not str"):
        attack(SinglePrecisionCohort(), {"x": "strong"})


def test_params_of_a_job_describe_a_search_or_an_ensemble():
    fields = {"steps": 3, "loss": "margin"}
    assert parse_search(fields) == SearchConfig(steps=3, loss="margin")
    assert parse_search({"a": fields}) == {"a": SearchConfig(steps=3, loss="margin")}


SCALED_THREATS = [THREAT, Threat("image", "l2", 0.1), Threat("learned_manifold", "linf", 0.3)]


@pytest.mark.parametrize("threat", SCALED_THREATS, ids=str)
@pytest.mark.parametrize("scale", [0.01, 10, 1000, 100_000])
def test_the_scale_of_the_logits_does_not_change_the_success_of_the_strong_attack(scale, threat):
    expected = attack(SinglePrecisionCohort(), STRONG, threat).rows
    assert 0 < expected["success"].sum() < len(expected["success"])
    scaled = attack(ScaledCohort(scale), STRONG, threat).rows
    assert scaled["success"].tolist() == expected["success"].tolist()


def test_the_better_of_two_results_does_not_depend_on_the_scale_of_the_logits():
    """At this scale the cross-entropy of an image that is classified correctly rounds to 0."""
    members = {
        "short": SearchConfig("signed", 0.01, steps=1, loss="margin"),
        "long": SearchConfig("signed", 0.01, steps=9, loss="margin"),
    }
    threat = Threat("image", "linf", 0.02)
    results = [attack(cohort, members, threat) for cohort in (ScaledCohort(1), ScaledCohort(1e5))]
    assert not results[0].rows["success"].all()
    torch.testing.assert_close(*(result.codes for result in results))


@pytest.mark.parametrize(
    ("cohort", "member"),
    [(ScaledCohort(100_000), "auto_cross_entropy"), (QuantizedCohort(), "random")],
    ids=["saturated logits", "quantized input"],
)
def test_masked_gradients_mislead_the_plain_attack_and_not_the_strong_one(cohort, member):
    unmasked_rate = attack(SinglePrecisionCohort(), STRONG).rows["success"].mean()
    strong = attack(cohort, STRONG).rows
    assert attack(cohort, PLAIN).rows["success"].mean() < 0.8 * unmasked_rate
    assert strong["success"].mean() > 0.9 * unmasked_rate
    assert member in strong["member"]


def test_the_params_of_an_ensemble_are_the_searches_of_its_members():
    config = valid()
    config["attacks"]["strong"] = {"threat": "ball", "members": ["auto_margin", "pixels"]}
    study = Study.parse(config)
    params = attack_params(study, "letters", "strong")["search"]
    expected = {"auto_margin": MEMBERS["auto_margin"], "pixels": SearchConfig(restarts=2)}
    assert parse_search(params) == expected
    config["attacks"]["pixels"]["restarts"] = 3  # a member's settings are those of the ensemble
    assert attack_params(Study.parse(config), "letters", "strong")["search"] != params
    assert study.to_config()["attacks"]["strong"] == {
        "threat": "ball",
        "members": ["auto_margin", "pixels"],
        "examples": 20,
    }
    assert Study.parse(study.to_config()) == study
