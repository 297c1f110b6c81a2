"""Checks whether success rates may be too low, because a search was misled or too weak.

Success rates are lower bounds of what an attack could reach. Each check is a number per model and
attack with a bound; what exceeds its bound is a warning beside the claims that use the attack.

Source: Carlini et al., "On Evaluating Adversarial Robustness" (2019), and Athalye, Carlini and
Wagner, "Obfuscated Gradients Give a False Sense of Security" (ICML 2018), for the signs of masked
gradients. The bounds are this project's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
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
        meaning: what it means if the value exceeds the bound.
        remedy: what to do about it, for the documentation.
        bound: largest value that is no warning.
        measure: returns the value for one model, from its correctly classified images and the
            attack; NaN if there is nothing to measure. None for the check that compares attacks.
        applies_to: whether an attack is checked.
    """

    name: str
    description: str
    meaning: str
    remedy: str
    bound: float
    measure: Callable[[pd.DataFrame, CheckedAttack], float] | None
    applies_to: Callable[[CheckedAttack], bool] = lambda _: True


def _share_vanishing(images: pd.DataFrame, _: CheckedAttack) -> float:
    return float((images["clean_gradient"] < VANISHING_GRADIENT).mean())


def _share_refuted(images: pd.DataFrame, _: CheckedAttack) -> float:
    refuted = int(images["refuted"].sum())
    return refuted / max(refuted + int(images["success"].sum()), 1)


def _share_late(images: pd.DataFrame, attack: CheckedAttack) -> float:
    successes = images[images["success"]]
    steps = successes["member"].fillna("").map(attack["steps"]).astype(float)
    is_late = successes["iterations"] > LATE_SHARE * steps
    return float(is_late.mean()) if len(successes) else np.nan


def _share_gradient_free(images: pd.DataFrame, attack: CheckedAttack) -> float:
    return float(images["member"].isin(attack["gradient_free_members"]).mean())


def _share_without_perturbation(images: pd.DataFrame, _: CheckedAttack) -> float:
    return float((~images["success"]).mean())


CHECKS = (
    Check(
        "vanishing_gradients",
        "share of images at whose clean code no component of the gradient of the cross-entropy "
        f"reaches {VANISHING_GRADIENT:g}; for attacks with this loss",
        "the loss of the search has no direction to begin with",
        "use the loss `margin` or `scaled_cross_entropy`, or an ensemble",
        0.05,
        _share_vanishing,
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
        _share_refuted,
    ),
    Check(
        "late_successes",
        f"share of successes in the last {1 - LATE_SHARE:.0%} of the steps of a search; of up to "
        "10 steps, only the last one is late",
        "more steps would succeed more often",
        "raise `steps` or `step_size`",
        0.05,
        _share_late,
        lambda attack: bool(attack["steps"]),
    ),
    Check(
        "gradient_free_gain",
        "share of images on which only a search without gradients (`random`) succeeds, after the "
        "other members of an ensemble",
        "gradients mislead the other searches",
        "do not trust attacks with gradients on this model; add an attack with `step_rule: random` "
        "and more steps",
        0.02,
        _share_gradient_free,
        lambda attack: bool(attack["gradient_free_members"]),
    ),
    Check(
        "unreached_images",
        "share of images for which an attack for the smallest perturbation finds none, of any size",
        "the search fails, or no change within the bounds of the space misleads the model",
        "raise `steps`, or compare with an ensemble at a large radius",
        0.01,
        _share_without_perturbation,
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
            values = _measure_checks(correct, attacks[keys["attack"]])
            rows += [_make_row(model, check, value) for check, value in values]
    rows += _compare_with_ensembles(successes, attacks)
    table = pd.DataFrame(rows).dropna(subset=["value"]) if rows else pd.DataFrame()
    if table.empty:
        return ROBUSTNESS_CHECKS.empty_table()
    order = [*MODEL_KEYS, "attack", "check"]
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
        f"{check.meaning} ({check.name.replace('_', ' ')}: {value:.1%}, above {check.bound:.0%})"
        for check, value in _measure_checks(correct, attack)
        if value > check.bound
    ]


def _measure_checks(correct: pd.DataFrame, attack: CheckedAttack) -> list[tuple[Check, float]]:
    """Return the value of each check that applies to an attack on one model.

    Args:
        correct: the columns `_COLUMNS` of the images that the model classifies correctly.
        attack: what the checks need to know of the attack.
    """
    if correct.empty:
        return []
    return [(c, c.measure(correct, attack)) for c in CHECKS if c.measure and c.applies_to(attack)]


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
            gain = float(strong[examples].mean() - success[examples].mean())
            rows.append(_make_row(model, STRONG_GAIN, gain))
    return rows


def _make_row(model: Mapping[str, Any], check: Check, value: float) -> dict[str, Any]:
    """Return a row of the table of checks."""
    is_exceeded = value > check.bound
    return {
        **model,
        "check": check.name,
        "value": value,
        "bound": check.bound,
        "exceeded": is_exceeded,
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
