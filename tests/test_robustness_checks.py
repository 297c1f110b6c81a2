"""Signs of success rates that are too low: on models that mask gradients, and on honest ones."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from studies import changed, valid
from test_claims import ON_MANIFOLD, ROLES, SyntheticStudy, evaluate
from test_ensembles import (
    DATA,
    PLAIN,
    STRONG,
    THREAT,
    QuantizedCohort,
    ScaledCohort,
    SinglePrecisionCohort,
)

from robustgen.analysis.robustness_checks import (
    ALL_CHECKS,
    check_robustness,
    find_warnings,
    format_checks,
)
from robustgen.analysis.verdicts import format_verdicts
from robustgen.config.roles import find_checked_attacks
from robustgen.config.study import Study
from robustgen.evaluation.attacks import attack_cohort
from robustgen.io.schemas import ATTACKS, ROBUSTNESS_CHECKS
from robustgen.specs import SearchConfig, Threat

MODEL = {"dataset": "fonts", "method": "normal", "n": 250}
SMALLEST = SearchConfig("fmn", steps=50, loss="margin")
ATTACKS_OF_STUDY = {
    "plain": {
        "is_minimal": False,
        "loss": "cross_entropy",
        "steps": {"": PLAIN.steps},
        "gradient_free_members": [],
        "ensemble": "strong",
    },
    "strong": {
        "is_minimal": False,
        "loss": "",
        "steps": {name: search.steps for name, search in STRONG.items()},
        "gradient_free_members": ["random"],
        "ensemble": None,
    },
    "smallest": {
        "is_minimal": True,
        "loss": "margin",
        "steps": {},
        "gradient_free_members": [],
        "ensemble": None,
    },
}


def attack_all(cohort, threat=THREAT):
    """Return the parts of a study: the plain, the strong and the smallest attack on a cohort."""
    searches = {"plain": PLAIN, "strong": STRONG, "smallest": SMALLEST}
    parts = []
    for name, search in searches.items():
        generators = [torch.Generator().manual_seed(seed) for seed in cohort.seeds]
        ball = replace(threat, radius=np.inf) if name == "smallest" else threat
        result = attack_cohort(cohort, DATA, ball, search, generators)
        columns = [pa.array(result.rows[field.name], field.type) for field in ATTACKS]
        parts.append(({**MODEL, "attack": name}, pa.table(columns, schema=ATTACKS)))
    return parts


def exceeded(parts):
    """Return the attacks and checks whose bound any model exceeds."""
    table = check_robustness(parts, ATTACKS_OF_STUDY)
    assert table.schema.equals(ROBUSTNESS_CHECKS, check_metadata=True)
    return {(row["attack"], row["check"]) for row in table.to_pylist() if row["exceeded"]}


def test_an_honest_robust_model_has_no_warning():
    """Most images resist at this radius, and all searches agree on which."""
    parts = attack_all(SinglePrecisionCohort(), Threat("image", "linf", 0.02))
    for (keys, table), (low, high) in zip(parts, ((0.1, 0.5), (0.1, 0.5), (1, 1)), strict=True):
        rate = np.mean(table["success"].to_pylist())
        assert low <= rate <= high, f"{keys['attack']}: some images must resist, some must not"
    assert exceeded(parts) == set()


def test_saturated_logits_are_warned_of():
    """The probabilities round to 0 and 1, so that the cross-entropy has no gradient."""
    warnings = exceeded(attack_all(ScaledCohort(1e5)))
    assert {("plain", "vanishing_gradients"), ("plain", "strong_gain")} <= warnings
    assert not any(attack == "strong" for attack, _ in warnings)


def test_quantized_images_are_warned_of():
    """No loss has a gradient. Only the search without gradients succeeds."""
    warnings = exceeded(attack_all(QuantizedCohort()))
    assert {
        ("plain", "vanishing_gradients"),
        ("plain", "strong_gain"),
        ("strong", "gradient_free_gain"),
        ("smallest", "unreached_images"),
    } <= warnings


def test_successes_that_the_plain_model_denies_are_warned_of(monkeypatch):
    """Batch statistics instead of running ones, for example, change with the other images."""
    cohort = SinglePrecisionCohort()
    monkeypatch.setattr(cohort, "reference_forward", lambda images: cohort(1 - images))
    warnings = exceeded(attack_all(cohort, Threat("image", "linf", 0.3)))
    assert ("plain", "refuted_successes") in warnings


def test_a_search_that_still_gains_at_its_end_is_warned_of():
    """Short steps do not cross the ball."""
    cohort = SinglePrecisionCohort()
    parts = attack_all(cohort)
    slow = SearchConfig("signed", 0.0035, steps=PLAIN.steps)
    generators = [torch.Generator().manual_seed(seed) for seed in cohort.seeds]
    rows = attack_cohort(cohort, DATA, THREAT, slow, generators).rows
    late = np.ma.filled(rows["iterations"], 0) > 0.9 * slow.steps
    assert late.reshape(len(cohort.seeds), -1).sum(1).max() > 1
    keys, table = parts[0]
    columns = {"iterations": pa.array(rows["iterations"]), "success": pa.array(rows["success"])}
    for name, values in columns.items():
        position = table.schema.get_field_index(name)
        table = table.set_column(position, ATTACKS.field(name), values.cast(table[name].type))
    assert ("plain", "late_successes") in exceeded([(keys, table)])


def test_the_gain_of_an_ensemble_is_measured_on_the_images_of_both():
    """The ensemble attacks fewer images; those that it does not attack do not count."""
    parts = attack_all(SinglePrecisionCohort())
    (plain_keys, plain), (strong_keys, strong), _ = parts
    examples = np.array(strong["example"].to_pylist())
    first = strong.filter(pa.array(examples < 5))
    table = check_robustness([(plain_keys, plain), (strong_keys, first)], ATTACKS_OF_STUDY)
    gains = [row["value"] for row in table.to_pylist() if row["check"] == "strong_gain"]
    frames = [t.to_pandas() for t in (plain, strong)]
    frames = [frame[frame["example"] < 5] for frame in frames]
    rates = [frame.groupby("seed")["success"].mean() for frame in frames]
    assert gains == pytest.approx((rates[1] - rates[0]).tolist())


def test_without_attacked_images_there_is_no_row():
    table = ATTACKS.empty_table()
    assert len(check_robustness([({**MODEL, "attack": "plain"}, table)], ATTACKS_OF_STUDY)) == 0
    assert len(check_robustness([], {})) == 0
    assert format_checks(ROBUSTNESS_CHECKS.empty_table()) == []


def make_checks(attack, values, dataset="fonts"):
    """Return a table of checks of one attack, with the gain of the ensemble on each model."""
    rows = [
        {**MODEL, "dataset": dataset, "seed": seed, "attack": attack, "check": "strong_gain"}
        | {"value": value, "bound": 0.05, "exceeded": value > 0.05}
        for seed, value in enumerate(values)
    ]
    return pa.Table.from_pylist(rows, schema=ROBUSTNESS_CHECKS)


def test_a_warning_names_the_attack_the_bound_and_the_worst_model():
    assert format_checks(make_checks("regular", (0.01, 0.31, 0.06))) == [
        "regular: the attack is too weak (strong gain above 5% on 2 of 3 models, highest 31.0%: "
        "normal, N = 250)"
    ]
    assert format_checks(make_checks("regular", (0.01, 0.05))) == []
    assert format_checks(make_checks("regular", (0.31,)), ["along"]) == []


@pytest.mark.parametrize(
    ("attack", "claims"),
    {
        "regular": {1, 4},
        "along": {1, 2, 3},
        "smallest": {1, 4},
        "smallest_along": {1, 2, 3},
        "unused": set(),
    }.items(),
)
def test_a_warning_stands_beside_each_claim_that_uses_the_attack_or_its_space(attack, claims):
    checks = make_checks(attack, (0.31,))
    table = evaluate(SyntheticStudy().tables())
    current, warned = 0, set()
    for line in format_verdicts(table, checks, ROLES, ON_MANIFOLD).splitlines():
        if line[2:3].isdigit():
            current = int(line[2])
        if line.startswith(f"       warning: {attack}: the attack is too weak"):
            warned.add(current)
    assert warned == claims
    other_checks = make_checks(attack, (0.31,), dataset="other")
    assert "warning" not in format_verdicts(table, other_checks, ROLES, ON_MANIFOLD)


def test_the_checks_of_an_attack_follow_from_the_config():
    config = changed(
        (("threats", "any"), {"space": "image", "norm": "linf"}),
        (("attacks", "strong"), {"threat": "ball", "members": ["fmn", "random"], "examples": 5}),
        (("attacks", "smallest"), {"threat": "any", "step_rule": "fmn", "examples": 5}),
    )
    checked = find_checked_attacks(Study.parse(config))
    assert checked["pixels"] == {
        "is_minimal": False,
        "loss": "cross_entropy",
        "steps": {"": 40},
        "gradient_free_members": [],
        "ensemble": "strong",
    }
    assert checked["strong"]["gradient_free_members"] == ["random"]
    assert checked["strong"]["steps"] == {"fmn": 50, "random": 1000}
    assert checked["smallest"]["steps"] == {}
    assert checked["strong"]["ensemble"] is checked["codes"]["ensemble"] is None
    assert checked["smallest"]["is_minimal"]
    assert find_checked_attacks(Study.parse(valid()))["pixels"]["ensemble"] is None


@pytest.mark.parametrize(("images", "exceeds_bound"), [(0, False), (1, False), (2, True)])
def test_a_bound_exceeds_bound_by_more_than_one_image(images, exceeds_bound):
    """With ten images, a single one is a share of 10 %, and the bound is 5 %."""
    columns = {
        "seed": [0] * 10,
        "example": range(10),
        "label": [0] * 10,
        "prediction": [0] * 10,
        "success": [True] * 10,
        "iterations": [1] * 10,
        "member": ["random"] * images + ["fmn"] * (10 - images),
        "refuted": [False] * 10,
        "clean_gradient": [1.0] * 10,
    }
    attack = ATTACKS_OF_STUDY["strong"]
    parts = [({**MODEL, "attack": "strong"}, pa.table(columns))]
    rows = {row["check"]: row for row in check_robustness(parts, {"strong": attack}).to_pylist()}
    row = rows["gradient_free_gain"]
    assert (row["value"], row["exceeded"]) == (images / 10, exceeds_bound)
    assert bool(find_warnings(pd.DataFrame(columns), attack)) == exceeds_bound


def test_the_steps_of_each_member_decide_whether_its_successes_are_late():
    """Of 100 steps, 95 are late; of 2,000 steps, they are not."""
    attack = {**ATTACKS_OF_STUDY["strong"], "steps": {"short": 100, "long": 2000}}
    columns = {
        "seed": [0] * 4,
        "example": [0, 1, 2, 3],
        "label": [0] * 4,
        "prediction": [0] * 4,
        "success": [True] * 4,
        "iterations": [95, 3, 95, 1901],
        "member": ["short", "short", "long", "long"],
        "refuted": [False] * 4,
        "clean_gradient": [1.0] * 4,
    }
    parts = [({**MODEL, "attack": "strong"}, pa.table(columns))]
    rows = check_robustness(parts, {"strong": attack}).to_pylist()
    assert [row["value"] for row in rows if row["check"] == "late_successes"] == [0.5]


def test_every_check_has_a_sentence_and_a_bound():
    assert len({check.meaning for check in ALL_CHECKS.values()}) == len(ALL_CHECKS)
    assert all(0 < check.bound < 1 for check in ALL_CHECKS.values())
