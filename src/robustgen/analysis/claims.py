"""The four claims, tested: statistics with intervals, and the rule from interval to verdict.

A statistic is a function of `evidence` and a row of `STATISTICS`. One rule applies to all: a
statistic supports its claim if its whole interval lies above a threshold, does not support it if no
part of the interval does, and is undecided otherwise or without an interval.

Source: Stutz, Hein and Schiele, CVPR 2019, section 3, for the claims and how they are tested there.
Thresholds and intervals are this project's.
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
    InsufficientEvidenceError,
    Intervals,
    Quality,
    rejection_reason,
)
from robustgen.analysis.statistics import Interval
from robustgen.io.schemas import CLAIMS
from robustgen.specs import OnManifold, Roles

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
NOT_TESTED = "not tested"
"""The verdict of a row that is only shown, because the claim is tested at a larger N."""

CLAIM_SENTENCES = {
    1: "Regular adversarial examples leave the data manifold",
    2: "Adversarial examples on the manifold exist and can be found",
    3: "Robustness to adversarial examples on the manifold is generalization",
    4: (
        "Robustness to regular adversarial examples does not contradict generalization, but needs "
        "more training images"
    ),
}

MANIFOLD_CLAIMS = (1, 2, 3)
"""The claims that are tested on each manifold of a data set."""
NO_MANIFOLD: OnManifold = {"manifold": None, "method": None, "attack": None}

NOTE_PREFIX = ". Note: "
"""What precedes the note in the column `rule`."""
UNDECIDED_PREFIX = "undecided because "
"""What precedes the reason in a note."""
NO_ESTIMATE = "there are too few models, or all have the same values"
NO_INTERVAL_REASON = "there are too few seeds or models for an interval"


@dataclass(frozen=True)
class Statistic:
    """A statistic that tests a claim.

    Attributes:
        claim: number of the claim.
        name: name in the table of claims.
        description: what is estimated, and over what the interval is.
        threshold: the claim is supported if the whole interval lies above it.
        measure: computes the intervals; raises `InsufficientEvidenceError`.
        note: returns how the statistic was measured, or an empty text.
        is_tested_at_largest_n: whether only the largest N of a statistic by N counts.
    """

    claim: int
    name: str
    description: str
    threshold: float
    measure: Callable[[Evidence], Intervals]
    note: Callable[[Evidence], str] = lambda _: ""
    is_tested_at_largest_n: bool = False

    def rule(self) -> str:
        """Return the description, and the rule from interval to verdict."""
        scope = "tested at the largest N only, and there " if self.is_tested_at_largest_n else ""
        return (
            f"{self.description}; {scope}supported if all of the 95 % interval lies above "
            f"{self.threshold:g}, not supported if none of it does, otherwise undecided"
        )

    def verdict(self, interval: Interval) -> str:
        """Return the verdict of an interval; undecided if an end that matters is NaN."""
        if interval.low > self.threshold:
            return SUPPORTED
        return NOT_SUPPORTED if interval.high <= self.threshold else UNDECIDED


STATISTICS = (
    Statistic(
        1,
        "share_farther",
        "Share of test images whose regular adversarial example is farther from the manifold than "
        "the on-manifold one, where both succeed on the same normally trained model. Distances are "
        "to the true manifold if it is known, otherwise to the span of the nearest training "
        "images; t interval over seeds",
        0.5,
        evidence.share_farther,
        evidence.distance_reference,
    ),
    Statistic(
        1,
        "angle_difference",
        "Angle in degrees between perturbation and manifold, regular minus on-manifold, on the "
        "same pairs; t interval over seeds",
        0,
        evidence.angle_difference,
        evidence.distance_reference,
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
        "point for each point by which the error falls. Of the ensembles, or without one of all "
        "regular attacks, the strongest one is used whose median success rate is at most 99 %; "
        "t interval over the means of each method and N",
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
        "robustness_gain",
        "Success rate of a regular attack on normal minus that on adversarial training at the "
        "largest N. Method and attack have the same radius, and of several radii the one with the "
        "highest mean counts; paired by seed; t interval over seeds",
        0,
        evidence.robustness_gain,
        evidence.robustness_note,
    ),
    Statistic(
        4,
        "adversarial_images_factor",
        "How many times as many training images the adversarial training of the row above needs as "
        "normal training for the same test error, for each N of adversarial training; an upper "
        "bound where normal training does not reach this error; t interval of its logarithm over "
        "seeds",
        1,
        evidence.adversarial_images_factor,
        evidence.robustness_note,
        is_tested_at_largest_n=True,
    ),
)


def evaluate_claims(
    errors: pa.Table,
    rates: pa.Table,
    distances: pa.Table,
    quality: pa.Table,
    roles: Roles,
    on_manifold: Mapping[str, Sequence[OnManifold]],
) -> pa.Table:
    """Test every claim on every data set, claims 1 to 3 on each of its manifolds.

    Args:
        errors: a table with the schema `ERRORS`.
        rates: a table with the schema `SUCCESS_RATES`.
        distances: a table with the schema `ALL_DISTANCES`.
        quality: a table with the schema `QUALITY`.
        roles: names of the methods and attacks of the study.
        on_manifold: manifolds of each data set, with the names of the method and attack on each.

    Returns:
        A table with the schema `CLAIMS`, by data set, claim and manifold, in the order of
        `STATISTICS`. A statistic that the study lacks has a single row, which is undecided and
        without an estimate; its rule ends with the reason. A statistic on a learned manifold that
        is too poor is undecided as well.
    """
    frames = [_sort_rows(table).to_pandas() for table in (errors, rates, distances)]
    quality_by_manifold = _quality_by_manifold(quality)
    rows = []
    for dataset in sorted({name for frame in frames for name in frame["dataset"]}):
        tables = [frame[frame["dataset"] == dataset] for frame in frames]
        for claim in CLAIM_SENTENCES:
            manifolds = on_manifold.get(dataset) if claim in MANIFOLD_CLAIMS else None
            for on_one in manifolds or [NO_MANIFOLD]:
                manifold = on_one["manifold"]
                manifold_quality = quality_by_manifold.get((dataset, manifold))
                dataset_evidence = Evidence(
                    tables[0], tables[1], tables[2], roles, on_one, manifold_quality
                )
                keys = {"claim": claim, "dataset": dataset, "manifold": manifold}
                results = [_rows_of(s, dataset_evidence) for s in STATISTICS if s.claim == claim]
                rows += [{**keys, **row} for row in chain(*results)]
    return pa.Table.from_pylist(rows, schema=CLAIMS)


def _quality_by_manifold(quality: pa.Table) -> dict[tuple[str, str | None], Quality]:
    """Return the quality over all classes, by data set and learned manifold."""
    frame = quality.to_pandas()
    over_all = frame[frame["label"].isna()].set_index(["dataset", "space"])
    shares = over_all[list(Quality._fields)].astype(float)
    return {key: Quality(*row) for key, *row in shares.itertuples(name=None)}


def _sort_rows(table: pa.Table) -> pa.Table:
    """Sort rows by their keys, since sums and resamples depend on the order."""
    keys = ("dataset", "method", "n", "seed", "attack", "example")
    return table.sort_by([(key, "ascending") for key in keys if key in table.column_names])


def _rows_of(statistic: Statistic, dataset_evidence: Evidence) -> list[dict[str, Any]]:
    """Return the rows of one statistic on one data set and manifold."""
    reason = note = ""
    try:
        intervals, note = statistic.measure(dataset_evidence), statistic.note(dataset_evidence)
    except InsufficientEvidenceError as error:
        intervals, reason = error.intervals, str(error)
    reason = reason or rejection_reason(dataset_evidence)
    rows = []
    for n, interval in intervals.items():
        verdict = UNDECIDED if reason else statistic.verdict(interval)
        row_note = _note(interval, reason, note)
        if statistic.is_tested_at_largest_n and n != list(intervals)[-1]:
            verdict, row_note = NOT_TESTED, note
        rule = statistic.rule() + (NOTE_PREFIX + row_note if row_note else "")
        ends = {name: None if np.isnan(end) else end for name, end in interval._asdict().items()}
        keys = {"statistic": statistic.name, "n": n}
        rows.append({**keys, **ends, "rule": rule, "verdict": verdict})
    return rows


def _note(interval: Interval, reason: str, note: str) -> str:
    """Why the statistic is undecided if there is a reason, otherwise how it was measured."""
    if not reason and np.isnan(interval.low):
        reason = NO_ESTIMATE if np.isnan(interval.estimate) else NO_INTERVAL_REASON
    return UNDECIDED_PREFIX + reason if reason else note
