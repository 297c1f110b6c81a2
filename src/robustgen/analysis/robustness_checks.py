"""Checks whether success rates may be too low, because a search was misled or too weak.

Success rates are lower bounds of what an attack could reach. Each check is a number per model and
attack with a bound; what exceeds its bound is a warning beside the claims that use the attack.

Source: Carlini et al., "On Evaluating Adversarial Robustness" (2019), and Athalye, Carlini and
Wagner, "Obfuscated Gradients Give a False Sense of Security" (ICML 2018), for the signs of masked
gradients. The bounds are this project's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from robustgen.analysis.aggregate import MODEL_KEYS, Part, require_distinct_models, to_arrow
from robustgen.io.schemas import ROBUSTNESS_CHECKS
from robustgen.specs import CheckedAttack

VANISHING_GRADIENT = 1e-8
"""Largest component of a gradient that counts as vanishing: steps of Adam are shorter below it."""
LATE_SHARE = 0.9
"""Share of the steps after which a success is late."""

_COLUMNS = [
    *("seed", "example", "label", "prediction", "success", "iterations", "member"),
    *("refuted", "clean_gradient"),
]


@dataclass(frozen=True)
class Check:
    """A check of the success rates of an attack.

    Attributes:
        name: name in the table of checks.
        description: what the value is, for the documentation.
        meaning: what it means if the value exceeds the bound on more than one image.
        remedy: what to do about it, for the documentation.
        bound: largest value that is no warning.
        has_flaw: returns for each image that the check considers whether it has the flaw, from the
            correctly classified images of one model and the attack. The value of the check is the
            share of images with the flaw. None for the check that compares attacks.
        applies_to: whether an attack is checked.
    """

    name: str
    description: str
    meaning: str
    remedy: str
    bound: float
    has_flaw: "Callable[[pd.DataFrame, CheckedAttack], pd.Series[bool]] | None"
    applies_to: Callable[[CheckedAttack], bool] = lambda _: True


class Finding(NamedTuple):
    """The value of a check for one model and attack.

    Attributes:
        check: the check.
        value: the share of images that have the flaw.
        flawed_images: the number of images that have the flaw.
    """

    check: Check
    value: float
    flawed_images: int

    @property
    def exceeds_bound(self) -> bool:
        """Whether the value is above the bound. One image alone may be chance."""
        return self.value > self.check.bound and self.flawed_images > 1


def _has_no_gradient(images: pd.DataFrame, _: CheckedAttack) -> "pd.Series[bool]":
    return images["clean_gradient"] < VANISHING_GRADIENT


def _is_refuted(images: pd.DataFrame, _: CheckedAttack) -> "pd.Series[bool]":
    return images.loc[images["refuted"] | images["success"], "refuted"]


def _is_late(images: pd.DataFrame, attack: CheckedAttack) -> "pd.Series[bool]":
    successes = images[images["success"]]
    steps = successes["member"].fillna("").map(attack["steps"]).astype(float)
    return successes["iterations"] > LATE_SHARE * steps


def _is_gradient_free(images: pd.DataFrame, attack: CheckedAttack) -> "pd.Series[bool]":
    return images["member"].isin(attack["gradient_free_members"])


def _has_no_perturbation(images: pd.DataFrame, _: CheckedAttack) -> "pd.Series[bool]":
    return ~images["success"]


CHECKS = (
    Check(
        "vanishing_gradients",
        "share of images at whose clean code no component of the gradient of the cross-entropy "
        f"reaches {VANISHING_GRADIENT:g}; for attacks with this loss",
        "the loss of the search has no direction to begin with",
        "use the loss `margin` or `scaled_cross_entropy`, or an ensemble",
        0.05,
        _has_no_gradient,
        lambda attack: attack["loss"] == "cross_entropy",
    ),
    Check(
        "refuted_successes",
        "share of successes of a search that the model does not confirm when it is run again, with "
        "plain layers, on the saved image; they do not count as successes",
        "the results of the model depend on how it is run",
        "make the model deterministic and independent of the other images of a batch; compare with "
        "ROBUSTGEN_BACKEND=plain",
        0.01,
        _is_refuted,
    ),
    Check(
        "late_successes",
        f"share of successes in the last {1 - LATE_SHARE:.0%} of the steps of a search; of up to "
        "10 steps, only the last one is late",
        "more steps would succeed more often",
        "raise `steps` or `step_size`",
        0.05,
        _is_late,
        lambda attack: bool(attack["steps"]),
    ),
    Check(
        "gradient_free_gain",
        "share of images on which only a search without gradients (`random`) succeeds, after the "
        "other members of an ensemble",
        "gradients mislead the other searches",
        "do not trust attacks with gradients on this model; add an attack with `step_rule: random` "
        "and more steps",
        0.05,  # models of the demo reach 2.8 %: the search begins at the best codes of the others
        _is_gradient_free,
        lambda attack: bool(attack["gradient_free_members"]),
    ),
    Check(
        "unreached_images",
        "share of images for which an attack for the smallest perturbation finds none, of any size",
        "the search fails, or no change within the bounds of the space misleads the model",
        "raise `steps`, or compare with an ensemble at a large radius",
        0.01,
        _has_no_perturbation,
        lambda attack: attack["is_minimal"],
    ),
)
STRONG_GAIN = Check(
    "strong_gain",
    "success rate of the ensemble of the same threat minus that of the attack, on the same images",
    "the attack is too weak",
    "report the success rate of the ensemble instead",
    0.05,
    None,
)
"""The check that compares an attack with the ensemble of its threat."""
ALL_CHECKS = {check.name: check for check in (*CHECKS, STRONG_GAIN)}


def check_robustness(parts: Iterable[Part], attacks: Mapping[str, CheckedAttack]) -> pa.Table:
    """Return the value of each check for each model and attack.

    Args:
        parts: tables with the schema `ATTACKS`.
        attacks: what the checks need to know of each attack.

    Returns:
        A table with the schema `ROBUSTNESS_CHECKS`, sorted by model, attack and check. There is no
        row where a check has nothing to measure.
    """
    rows: list[dict[str, Any]] = []
    successes: dict[tuple[Any, ...], pd.Series[bool]] = {}
    for keys, table in parts:
        for seed, images in table.select(_COLUMNS).to_pandas().groupby("seed"):
            correct = images[images["prediction"] == images["label"]].set_index("example")
            model = {**keys, "seed": seed}
            successes[tuple(model[key] for key in [*MODEL_KEYS, "attack"])] = correct["success"]
            findings = _measure_checks(correct, attacks[keys["attack"]])
            rows += [_make_row(model, finding) for finding in findings]
    rows += _compare_with_ensembles(successes, attacks)
    if not rows:
        return ROBUSTNESS_CHECKS.empty_table()
    table, order = pd.DataFrame(rows), [*MODEL_KEYS, "attack", "check"]
    require_distinct_models(table, order)
    return to_arrow(table.sort_values(order), ROBUSTNESS_CHECKS)


def find_warnings(images: pd.DataFrame, attack: CheckedAttack) -> list[str]:
    """Return a sentence for each check whose bound is exceeded by an attack on one model.

    Args:
        images: the columns `_COLUMNS` of `schemas.ATTACKS`; misclassified images do not count.
        attack: what the checks need to know of the attack.
    """
    correct = images[images["prediction"] == images["label"]]
    return [
        f"{finding.check.meaning} ({finding.check.name.replace('_', ' ')}: {finding.value:.1%}, "
        f"above {finding.check.bound:.0%})"
        for finding in _measure_checks(correct, attack)
        if finding.exceeds_bound
    ]


def _measure_checks(correct: pd.DataFrame, attack: CheckedAttack) -> list[Finding]:
    """Return the findings of the checks that apply to an attack and have an image to measure.

    Args:
        correct: the columns `_COLUMNS` of the images that the model classifies correctly.
        attack: what the checks need to know of the attack.
    """
    findings = []
    for check in CHECKS:
        if check.has_flaw and check.applies_to(attack):
            flaws = check.has_flaw(correct, attack)
            if len(flaws):
                findings.append(Finding(check, float(flaws.mean()), int(flaws.sum())))
    return findings


def _compare_with_ensembles(
    successes: Mapping[tuple[Any, ...], "pd.Series[bool]"], attacks: Mapping[str, CheckedAttack]
) -> list[dict[str, Any]]:
    """Return the rows of `STRONG_GAIN`, from the successes by model and attack."""
    rows = []
    for (*model_key, name), success in successes.items():
        strong = successes.get((*model_key, attacks[name]["ensemble"]))
        if strong is None:
            continue
        model = {**dict(zip(MODEL_KEYS, model_key, strict=True)), "attack": name}
        examples = success.index.intersection(strong.index)
        if len(examples):
            gain = int(strong[examples].sum() - success[examples].sum())
            rows.append(_make_row(model, Finding(STRONG_GAIN, gain / len(examples), gain)))
    return rows


def _make_row(model: Mapping[str, Any], finding: Finding) -> dict[str, Any]:
    """Return a row of the table of checks."""
    return {
        **model,
        "check": finding.check.name,
        "value": finding.value,
        "bound": finding.check.bound,
        "exceeded": finding.exceeds_bound,
    }


def format_checks(checks: pa.Table, attacks: Sequence[str] | None = None) -> list[str]:
    """Return a sentence for each data set, attack and check that models exceed.

    Args:
        checks: a table with the schema `ROBUSTNESS_CHECKS`.
        attacks: the attacks to report; None for all.
    """
    frame = checks.to_pandas()
    if attacks is not None:
        frame = frame[frame["attack"].isin(list(attacks))]
    lines = []
    for (_, attack, name), models in frame.groupby(["dataset", "attack", "check"], sort=False):
        exceeding = models[models["exceeded"]]
        if exceeding.empty:
            continue
        check = ALL_CHECKS[name]
        worst = exceeding.loc[exceeding["value"].idxmax()]
        lines.append(
            f"{attack}: {check.meaning} ({name.replace('_', ' ')} above {check.bound:.0%} on "
            f"{len(exceeding)} of {len(models)} models, highest {worst['value']:.1%}: "
            f"{worst['method']}, N = {worst['n']})"
        )
    return lines
