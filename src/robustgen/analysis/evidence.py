"""The statistics that test the claims, with intervals, from the tables of one data set.

Each public statistic takes `Evidence` and returns intervals by N. It raises
`InsufficientEvidenceError` if the study lacks what it needs. `claims` has the thresholds and the
verdicts.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from robustgen.analysis.statistics import (
    NO_INTERVAL,
    Floats,
    Interval,
    fit_slope,
    sample_size_ratios,
    spearman,
    t_interval,
)
from robustgen.specs import OnManifold, Roles

MIN_AGREEMENT = 0.9
"""Smallest reconstruction and step agreement of a learned manifold on which claims are tested."""
MIN_JUDGE_ACCURACY = 0.5
"""Smallest accuracy of a judge on test images that can measure the quality of a manifold."""
SATURATED_RATE = 0.99
"""Regular success rate above which models no longer differ visibly in robustness."""


class InsufficientEvidenceError(Exception):
    """A statistic cannot be computed from this study, or decides nothing. The message says why.

    Attributes:
        intervals: the statistic by N, if it can be computed; the key None is for all N.
    """

    def __init__(self, reason: str, intervals: "Intervals | None" = None) -> None:
        super().__init__(reason)
        self.intervals = intervals or {None: NO_INTERVAL}


class Quality(NamedTuple):
    """Shares of `schemas.QUALITY` over all classes of a manifold; NaN if no image is counted."""

    accuracy: float
    reconstruction_agreement: float
    step_agreement: float


@dataclass(frozen=True)
class Evidence:
    """What a study measured on one data set, for one of its manifolds.

    Attributes:
        errors: rows of `schemas.ERRORS`.
        rates: rows of `schemas.SUCCESS_RATES`.
        distances: rows of `schemas.ALL_DISTANCES`.
        roles: names of the methods and attacks.
        on_manifold: the manifold, and names of the method and the attack on it.
        quality: quality of the manifold; None for the true one, or if the claim is not about one.
    """

    errors: pd.DataFrame
    rates: pd.DataFrame
    distances: pd.DataFrame
    roles: Roles
    on_manifold: OnManifold
    quality: Quality | None = None


Intervals = dict[int | None, Interval]
"""Intervals by N. The key None belongs to a statistic over all N."""


def rejection_reason(evidence: Evidence) -> str:
    """Return why no claim can be tested on the manifold; empty if claims can be."""
    quality = evidence.quality
    if quality is None:
        return ""
    manifold = str(evidence.on_manifold["manifold"]).replace("_", " ")
    if quality.accuracy < MIN_JUDGE_ACCURACY:
        return (
            f"the quality of the {manifold} cannot be measured: its judge "
            f"classifies only {quality.accuracy:.1%} of the test images correctly, and at least "
            f"{MIN_JUDGE_ACCURACY:.0%} are needed"
        )
    agreements = (
        ("test images", "reconstruction", quality.reconstruction_agreement),
        ("reconstructions", "a random step", quality.step_agreement),
    )
    for images, change, agreement in agreements:
        if not agreement >= MIN_AGREEMENT:  # NaN, if there are no such images, is too poor as well
            share = "none is" if np.isnan(agreement) else f"only {agreement:.1%} are"
            return (
                f"the {manifold} is too poor: of the {images} that its judge "
                f"classifies correctly, {share} classified correctly after {change}, and at least "
                f"{MIN_AGREEMENT:.0%} are needed"
            )
    return ""


def _name_of(evidence: Evidence, role: str) -> str:
    """Return the name of the method or attack in a role.

    Raises:
        InsufficientEvidenceError: the study has none.
    """
    on_manifold = {f"on_manifold_{key}": name for key, name in evidence.on_manifold.items()}
    name: str | None = {**evidence.roles, **on_manifold}[role]  # type: ignore[assignment]
    if name is None:
        kind = "attack" if role.endswith("_attack") else "method"
        adjective = role.removesuffix("_attack").removesuffix("_method").replace("_", "-")
        raise InsufficientEvidenceError(f"the study has no {adjective} {kind}")
    return name


def _require_rows(rows: pd.DataFrame, description: str) -> pd.DataFrame:
    if rows.empty:
        raise InsufficientEvidenceError(f"there are no {description}")
    return rows


def _pairs(evidence: Evidence, measure: str) -> pd.DataFrame:
    """Return pairs of a regular and an on-manifold success on the same image and normal model.

    Args:
        evidence: what the study measured.
        measure: "distance" or "angle".

    Returns:
        The measure of both, in columns `regular` and `on_manifold`, indexed by n, seed and example.
    """
    column_by_attack = {
        _name_of(evidence, "regular_attack"): "regular",
        _name_of(evidence, "on_manifold_attack"): "on_manifold",
    }
    method, rows = _name_of(evidence, "normal"), evidence.distances
    manifold = "true_manifold" if _has_true_manifold(evidence) else "neighbour"
    is_used = rows["success"] & rows["attack"].isin(list(column_by_attack))
    successes = rows[(rows["method"] == method) & is_used]
    by_attack = successes.pivot(
        index=["n", "seed", "example"], columns="attack", values=f"{manifold}_{measure}"
    )
    by_attack = by_attack.rename(columns=column_by_attack)
    pairs = by_attack.reindex(columns=["regular", "on_manifold"]).dropna()
    attacks = " and ".join(column_by_attack)
    description = (
        f"images with a measured {measure} on which both {attacks} succeed against {method} models"
    )
    return _require_rows(pairs, description)


def distance_reference(evidence: Evidence) -> str:
    """Return in words to what distances and angles are measured."""
    if _has_true_manifold(evidence):
        return "measured to the true manifold"
    return "measured to the span of the nearest training images"


def _has_true_manifold(evidence: Evidence) -> bool:
    return bool(evidence.distances["true_manifold_distance"].notna().any())


def _average_per_seed(values: "pd.Series[float]") -> "pd.Series[float]":
    """Return, for each seed, the mean over N of the means over the examples of each model."""
    return values.groupby(["n", "seed"]).mean().groupby("seed").mean()


def _intervals_by_size(values: "pd.Series[float]", bounds: tuple[float, float]) -> Intervals:
    """Return the t interval over seeds for each N, which is a level of the index."""
    sizes = values.index.get_level_values("n")
    return {int(n): t_interval(values[sizes == n], bounds=bounds) for n in sorted(set(sizes))}


def share_farther(evidence: Evidence) -> Intervals:
    """Return the share of pairs whose regular example is farther away; ties count half."""
    pairs = _pairs(evidence, "distance")
    is_farther = (pairs["regular"] > pairs["on_manifold"]).astype(float)
    is_tied = (pairs["regular"] == pairs["on_manifold"]).astype(float)
    return {None: t_interval(_average_per_seed(is_farther + is_tied / 2), bounds=(0, 1))}


def angle_difference(evidence: Evidence) -> Intervals:
    """Return the mean difference within pairs of the angle to the manifold, in degrees."""
    pairs = _pairs(evidence, "angle")
    return {None: t_interval(_average_per_seed(pairs["regular"] - pairs["on_manifold"]))}


def on_manifold_success(evidence: Evidence) -> Intervals:
    """Return the on-manifold success rate on normal models, for each N."""
    method, attack = _name_of(evidence, "normal"), _name_of(evidence, "on_manifold_attack")
    rates = evidence.rates
    rows = rates[(rates["method"] == method) & (rates["attack"] == attack)]
    rows = rows.dropna(subset="success_rate_correct_codes")
    rows = _require_rows(rows, f"success rates of {attack} on {method} models")
    return _intervals_by_size(rows.set_index("n")["success_rate_correct_codes"], bounds=(0, 1))


def _models(evidence: Evidence, attack: str, rate: str) -> pd.DataFrame:
    """Test error and success rate of every model, in columns `test_error` and `rate`."""
    keys = ["method", "n", "seed"]
    rates = evidence.rates[evidence.rates["attack"] == attack]
    models = evidence.errors[[*keys, "test_error"]].merge(rates[[*keys, rate]], on=keys)
    return _require_rows(models.dropna(), f"success rates of {attack}")


def rank_correlation(evidence: Evidence) -> Intervals:
    """Return Spearman's correlation of test error and on-manifold success rate over models."""
    rate = "success_rate_correct_codes"
    models = _models(evidence, _name_of(evidence, "on_manifold_attack"), rate)
    return {None: spearman(models["test_error"], models[rate])}


def error_reduction(evidence: Evidence) -> Intervals:
    """Return the test error of normal minus that of on-manifold training, for each N."""
    normal = _name_of(evidence, "normal")
    methods = [normal, _name_of(evidence, "on_manifold_method")]
    rows = evidence.errors[evidence.errors["method"].isin(methods)]
    by_method = rows.pivot(index=["n", "seed"], columns="method", values="test_error")
    pairs = by_method.reindex(columns=methods).dropna()
    pairs = _require_rows(pairs, f"models of {' and '.join(methods)} with the same N and seed")
    if not pairs[normal].any():
        raise InsufficientEvidenceError(
            f"{normal} training makes no test error, so that there is none to reduce"
        )
    return _intervals_by_size(pairs[normal] - pairs[methods[1]], bounds=(-1, 1))


def regular_slope(evidence: Evidence) -> Intervals:
    """Return the slope of the regular success rate over the test error of models.

    Models of regular adversarial training are not used. A point is the mean over the seeds of a
    method and N, because models that differ only in their seed are not independent evidence of a
    trade-off. If an attack succeeds on every model, the slope is flat and shows nothing; therefore
    the strongest attack is used that most methods and N resist.
    """
    return _regular_slope(evidence, within_methods=False)


def regular_slope_within(evidence: Evidence) -> Intervals:
    """Return the same slope, with an intercept for each method.

    It is the slope along the N of a method, which differences between methods can hide.
    """
    return _regular_slope(evidence, within_methods=True)


def _regular_slope(evidence: Evidence, within_methods: bool) -> Intervals:
    is_saturated, _, points = _most_informative_attack(evidence)
    groups = points["method"] if within_methods else None
    slope = fit_slope(points["test_error"], points["success_rate"], groups)
    if is_saturated:
        raise InsufficientEvidenceError(
            f"every regular attack succeeds on more than {SATURATED_RATE:.0%} of the images of "
            "most models, so that differences in robustness cannot be seen; add an attack with a "
            "smaller radius",
            {None: slope},
        )
    return {None: slope}


def regular_slope_note(evidence: Evidence) -> str:
    """Return which attack the slopes were measured with, and its radius."""
    _, attack, _ = _most_informative_attack(evidence)
    return f"measured with the attack {_describe_attack(evidence, attack)}"


def _describe_attack(evidence: Evidence, attack: str) -> str:
    """Return the name of a regular attack with its norm and radius."""
    return f"{attack} ({evidence.roles['regular_attacks'][attack]})"


def _most_informative_attack(evidence: Evidence) -> tuple[bool, str, pd.DataFrame]:
    """Return the strong attack with most successes that is not saturated, or with most of all.

    An attack is saturated if its median success rate over methods and N exceeds `SATURATED_RATE`.

    Returns:
        Whether the attack is saturated, its name, and the points: mean test error and success rate
        of each method and N without adversarial training.
    """
    _name_of(evidence, "regular_attack")
    candidates: list[tuple[bool, float, int, str, pd.DataFrame]] = []
    for attack in evidence.roles["strong_attacks"]:
        models = _models(evidence, attack, "success_rate")
        models = models[models["method"].isin(evidence.roles["not_adversarial"])]
        models = _require_rows(models, "models trained without regular adversarial examples")
        grouped = models.groupby(["method", "n"], as_index=False)
        points = grouped[["test_error", "success_rate"]].mean()
        rates = points["success_rate"]
        is_saturated = bool(rates.median() > SATURATED_RATE)
        order = len(candidates)
        candidates.append((is_saturated, -float(rates.mean()), order, attack, points))
    is_saturated, _, _, attack, points = min(candidates)
    return is_saturated, attack, points


def robustness_gain(evidence: Evidence) -> Intervals:
    """Return the success rate on normal minus that on adversarial training, at the largest N.

    The method and the attack are those of `_most_robust_pair`.
    """
    _, _, gains = _most_robust_pair(evidence)
    n = int(gains.index.get_level_values("n").max())
    return {n: t_interval(gains.xs(n, level="n"), bounds=(-1, 1))}


def robustness_note(evidence: Evidence) -> str:
    """Return with which method and attack robustness was measured, and at which radius."""
    method, attack, _ = _most_robust_pair(evidence)
    return f"{method} training under the attack {_describe_attack(evidence, attack)}"


def _most_robust_pair(evidence: Evidence) -> "tuple[str, str, pd.Series[float]]":
    """Return the adversarial method and the attack of its radius with the highest gain.

    The gain is the success rate of the attack on normal models minus that on models of the method,
    averaged over seeds at the largest N. At a radius that no model withstands, no gain would be
    seen. Without an attack of the radius of a method, the first strong attack and the first method
    are taken.

    Returns:
        The method, the attack, and the gains, indexed by n and seed.
    """
    first_method, _ = _name_of(evidence, "adversarial"), _name_of(evidence, "regular_attack")
    pairs = evidence.roles["robust_pairs"] or [(first_method, evidence.roles["strong_attacks"][0])]
    gains = [_gains(evidence, *pair) for pair in pairs]
    means = [gain.groupby("n").mean().iloc[-1] for gain in gains]
    best = int(np.argmax(means))
    return *pairs[best], gains[best]


def _gains(evidence: Evidence, method: str, attack: str) -> "pd.Series[float]":
    """Return the success rates on normal models minus those on models of a method."""
    methods = [_name_of(evidence, "normal"), method]
    rates = evidence.rates[evidence.rates["attack"] == attack]
    rates = rates[rates["method"].isin(methods)].dropna(subset=["success_rate"])
    by_method = rates.pivot(index=["n", "seed"], columns="method", values="success_rate")
    pairs = by_method.reindex(columns=methods).dropna()
    pairs = _require_rows(pairs, f"success rates of {attack} on {' and '.join(methods)} models")
    return pairs[methods[0]] - pairs[method]


def adversarial_images_factor(evidence: Evidence) -> Intervals:
    """Return, for each N of adversarial training, N divided by the N that normal training needs.

    Normal training needs it for the same test error. The adversarial method is that of
    `_most_robust_pair`. At small N, where both methods err on most images, the factor is 1 by
    nature; the claim is tested at the largest N.
    """
    normal = _name_of(evidence, "normal")
    method, _, _ = _most_robust_pair(evidence)
    normal_curves, curves = (_learning_curves(evidence, name) for name in (normal, method))
    seeds = [seed for seed in normal_curves if seed in curves]
    ratios = pd.DataFrame(
        {seed: _ratios_by_size(normal_curves[seed], curves[seed]) for seed in seeds}
    )
    intervals: Intervals = {
        int(str(n)): _geometric_interval(row.to_numpy()) for n, row in ratios.iterrows()
    }
    if all(np.ptp(normal_curves[seed][1]) == 0 for seed in seeds):
        reason = f"the test error of {normal} training does not change with N"
        raise InsufficientEvidenceError(reason, intervals)
    missing = int(ratios.loc[ratios.index.max()].isna().sum())
    if missing:  # the mean over the other seeds would hide them
        share = "any seed" if missing == len(seeds) else f"{missing} of {len(seeds)} seeds"
        raise InsufficientEvidenceError(
            f"at the largest N, {method} training has no test error as low as {normal} training at "
            f"its smallest N in {share}",
            intervals,
        )
    return intervals


Curve = tuple["pd.Series[int]", "pd.Series[float]"]
"""N and test errors."""


def _ratios_by_size(normal_curve: Curve, curve: Curve) -> "pd.Series[float]":
    """Return the ratios of `sample_size_ratios`, indexed by the N of the second curve."""
    ratios = sample_size_ratios(*normal_curve, *curve)
    return pd.Series(ratios, index=curve[0].to_numpy()).sort_index()


def _geometric_interval(ratios: Floats) -> Interval:
    """Return the geometric mean with its t interval; without an interval if a ratio is missing."""
    interval = t_interval(np.log(ratios))
    estimate, low, high = (float(np.exp(end)) for end in interval)
    if np.isnan(ratios).any():
        low = high = np.nan
    return Interval(estimate, low, high)


def _learning_curves(evidence: Evidence, method: str) -> dict[Hashable, Curve]:
    """Return the learning curve of each seed of a method."""
    rows = evidence.errors[evidence.errors["method"] == method]
    rows = _require_rows(rows, f"models of {method} training")
    if rows["n"].nunique() < 2:
        reason = "a factor in training images needs models with two or more N"
        raise InsufficientEvidenceError(reason)
    return {seed: (models["n"], models["test_error"]) for seed, models in rows.groupby("seed")}
