"""The four claims, tested: statistics with intervals, and the rule from interval to verdict.

A statistic is a function of `evidence` and a row of `STATISTICS`. One rule serves all: it supports
its claim if its whole interval lies above a bar, does not if none of it does, and leaves it
undecided otherwise or where there is no interval.

Source: Stutz, Hein and Schiele, CVPR 2019; the claims and what tests them there are in section 3,
bars and intervals are ours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from robustgen.analysis import evidence
from robustgen.analysis.evidence import (
    Evidence,
    Intervals,
    OnManifold,
    Quality,
    Roles,
    UntestedError,
    poor,
)
from robustgen.analysis.statistics import Interval
from robustgen.io.schemas import CLAIMS

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"

CLAIM_WORDS = {
    1: "Regular adversarial examples leave the data manifold",
    2: "Adversarial examples on the manifold exist and can be found",
    3: "Robustness to adversarial examples on the manifold is generalization",
    4: (
        "Robustness to regular adversarial examples does not contradict generalization, but needs "
        "more training images"
    ),
}

ON_MANIFOLD = (1, 2, 3)
"""The claims that are tested on each manifold of a data set."""
NO_MANIFOLD: OnManifold = {"manifold": None, "method": None, "attack": None}

HERE = ". Here "
UNDECIDED_AS = "undecided: "
TOO_FEW = "too few seeds or models for an interval"


@dataclass(frozen=True)
class Statistic:
    """What tests a claim.

    Attributes:
        claim: its number.
        name: snake_case.
        about: what is estimated, and from what the interval is.
        bar: the interval must lie above it.
        measure: from the evidence to intervals; raises `UntestedError`.
        note: what to say of the measurement, if anything.
    """

    claim: int
    name: str
    about: str
    bar: float
    measure: Callable[[Evidence], Intervals]
    note: Callable[[Evidence], str] = lambda _: ""

    def rule(self) -> str:
        """The way from interval to verdict as a sentence."""
        return (
            f"{self.about}; supported if all of the 95 % interval lies above {self.bar:g}, "
            "not supported if none of it does, otherwise undecided"
        )

    def verdict(self, found: Interval) -> str:
        """A NaN end decides nothing."""
        if found.low > self.bar:
            return SUPPORTED
        return NOT_SUPPORTED if found.high <= self.bar else UNDECIDED


STATISTICS = (
    Statistic(
        1,
        "share_farther",
        "Share of test images whose regular adversarial example is farther from the manifold "
        "(the known one, or else the span of the nearest training images) than the on-manifold "
        "one, both successes on the same normally trained model; t interval over seeds",
        0.5,
        evidence.share_farther,
        evidence.yardstick,
    ),
    Statistic(
        1,
        "angle_difference",
        "Angle in degrees between perturbation and manifold, regular minus on-manifold, on the "
        "same pairs; t interval over seeds",
        0,
        evidence.angle_difference,
        evidence.yardstick,
    ),
    Statistic(
        2,
        "on_manifold_success",
        "On-manifold success rate on normally trained models, among images whose unperturbed "
        "code decodes to a correctly classified image; t interval over seeds",
        0,
        evidence.on_manifold_success,
    ),
    Statistic(
        3,
        "rank_correlation",
        "Spearman's correlation of test error and on-manifold success rate over all models; "
        "bootstrap interval over models",
        0,
        evidence.rank_correlation,
    ),
    Statistic(
        3,
        "error_reduction",
        "Test error of normal minus that of on-manifold adversarial training, paired by seed; "
        "t interval over seeds",
        0,
        evidence.error_reduction,
    ),
    Statistic(
        4,
        "regular_slope",
        "Slope of the regular success rate over the test error, without adversarial training. A "
        "trade-off would give a steep negative slope: at -0.5 the success rate rises by half a "
        "point for each point by which the error falls. Of several regular attacks, the slope is "
        "that of the strongest whose median success rate is at most 99 %; t interval over the "
        "means of each method and N",
        -0.5,
        evidence.regular_slope,
        evidence.regular_slope_note,
    ),
    Statistic(
        4,
        "regular_slope_within_methods",
        "The same slope with an intercept for each method, so that differences between methods do "
        "not hide a trade-off with N; t interval over the means of each method and N",
        -0.5,
        evidence.regular_slope_within,
        evidence.regular_slope_note,
    ),
    Statistic(
        4,
        "adversarial_images_factor",
        "How many times as many training images adversarial training needs as normal training "
        "for the same test error, at the test errors that both reach; t interval of its logarithm "
        "over seeds",
        1,
        evidence.adversarial_images_factor,
    ),
)


def claims(
    errors: pa.Table,
    rates: pa.Table,
    distances: pa.Table,
    quality: pa.Table,
    roles: Roles,
    on_manifold: Mapping[str, Sequence[OnManifold]],
) -> pa.Table:
    """Test every claim on every data set, the first three on each of its manifolds.

    Args:
        errors: a table with the schema `ERRORS`.
        rates: a table with the schema `SUCCESS_RATES`.
        distances: a table with the schema `ALL_DISTANCES`.
        quality: a table with the schema `QUALITY`.
        roles: what the study calls its methods and attacks.
        on_manifold: those on the manifolds of each data set.

    Returns:
        A table with the schema `CLAIMS`, by data set, claim, manifold and in the order of
        `STATISTICS`. A statistic that the study does not give has one row without an estimate,
        undecided, whose rule ends with what is missing; one on a learned manifold that is too
        poor is undecided too.
    """
    frames = [_sorted(table).to_pandas() for table in (errors, rates, distances)]
    known = _by_manifold(quality)
    rows = []
    for dataset in sorted({name for frame in frames for name in frame["dataset"]}):
        own = [frame[frame["dataset"] == dataset] for frame in frames]
        for claim in CLAIM_WORDS:
            many = on_manifold.get(dataset) if claim in ON_MANIFOLD else None
            for of in many or [NO_MANIFOLD]:
                how_good = known.get((dataset, of["manifold"]))
                found = Evidence(own[0], own[1], own[2], roles, of, how_good)
                named = {"claim": claim, "dataset": dataset, "manifold": of["manifold"]}
                tested = [_tested(each, found) for each in STATISTICS if each.claim == claim]
                rows += [{**named, **row} for row in chain(*tested)]
    return pa.Table.from_pylist(rows, schema=CLAIMS)


def _by_manifold(quality: pa.Table) -> dict[tuple[str, str | None], Quality]:
    """What is known over all classes, by data set and learned manifold."""
    whole = quality.to_pandas()
    whole = whole[whole["label"].isna()].set_index(["dataset", "space"])
    shares = whole[list(Quality._fields)].astype(float)
    return {key: Quality(*row) for key, *row in shares.itertuples(name=None)}


def _sorted(table: pa.Table) -> pa.Table:
    """By what names its rows, since sums and resamples depend on their order."""
    keys = ("dataset", "method", "n", "seed", "attack", "example")
    return table.sort_by([(key, "ascending") for key in keys if key in table.column_names])


def _tested(statistic: Statistic, found: Evidence) -> list[dict[str, Any]]:
    """The rows of one statistic on one data set."""
    reason = note = ""
    try:
        intervals, note = statistic.measure(found), statistic.note(found)
    except UntestedError as untested:
        intervals, reason = {None: untested.interval}, str(untested)
    reason = reason or poor(found)
    rows = []
    for n, interval in intervals.items():
        why = reason
        if not why and np.isnan(interval.low):
            few = np.isnan(interval.estimate)
            why = "there are too few models, or all are alike" if few else TOO_FEW
        ends = {k: None if np.isnan(v) else v for k, v in interval._asdict().items()}
        verdict = UNDECIDED if reason else statistic.verdict(interval)
        here = UNDECIDED_AS + why if why else note
        rule = statistic.rule() + (HERE + here if here else "")
        named = {"statistic": statistic.name, "n": n}
        rows.append({**named, **ends, "rule": rule, "verdict": verdict})
    return rows
