"""What the study says on each claim: statistics with intervals, for one data set.

Each public function takes `Evidence` and returns intervals by N; it raises `UntestedError` where
the study lacks what the statistic needs. `claims` holds their bars and verdicts.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from robustgen.analysis.statistics import NONE, Interval, images_factor, slope, spearman, t_interval
from robustgen.specs import OnManifold as OnManifold
from robustgen.specs import Roles as Roles

ENOUGH = 0.9
"""Share of reconstructions, and of steps from them, that must stay right on a learned manifold."""
RIGHT = 0.5
"""Share of test images that a classifier must get right to judge one."""
CEILING = 0.99
"""Regular success rate above which a model is as good as never right."""


class UntestedError(Exception):
    """A statistic cannot be had from this study, or says nothing in it; tells why.

    Attributes:
        interval: the statistic where it can be had.
    """

    def __init__(self, why: str, interval: Interval = NONE) -> None:
        super().__init__(why)
        self.interval = interval


class Quality(NamedTuple):
    """Shares of `schemas.QUALITY` over all classes of a learned manifold; NaN where of nothing."""

    right: float
    reconstructions_kept: float
    steps_kept: float


@dataclass(frozen=True)
class Evidence:
    """What is known of one data set: rows of `ERRORS`, `SUCCESS_RATES` and `ALL_DISTANCES`.

    Attributes:
        roles: what the study calls its methods and attacks.
        on_manifold: those on the manifold that is spoken of.
        quality: how good it is, where it is a learned one.
    """

    errors: pd.DataFrame
    rates: pd.DataFrame
    distances: pd.DataFrame
    roles: Roles
    on_manifold: OnManifold
    quality: Quality | None = None


Intervals = dict[int | None, Interval]
"""By N; None for one over all N."""


def poor(evidence: Evidence) -> str:
    """Why the manifold is too poor to carry a claim; empty where it is not."""
    quality = evidence.quality
    if quality is None:
        return ""
    words = str(evidence.on_manifold["manifold"]).replace("_", " ")
    if quality.right < RIGHT:
        return (
            f"how good the {words} is cannot be told: the classifier that judges it gets only "
            f"{quality.right:.1%} of the test images right, and {RIGHT:.0%} are needed"
        )
    kept = {
        "test images that an independent classifier gets right, {} as reconstructed": (
            quality.reconstructions_kept
        ),
        "reconstructions that an independent classifier gets right, {} after random steps": (
            quality.steps_kept
        ),
    }
    for what, share in kept.items():
        if not share >= ENOUGH:  # nor if there are none to take a share of
            told = "none stays so" if np.isnan(share) else f"{share:.1%} stay so"
            return f"the {words} is too poor: of the {what.format(told)}, {ENOUGH:.0%} are needed"
    return ""


def _role(evidence: Evidence, role: str) -> str:
    """The method or attack in this role."""
    held = {**evidence.roles, **{f"on_manifold_{k}": v for k, v in evidence.on_manifold.items()}}
    name: str | None = held[role]  # type: ignore[assignment]
    if name is None:
        kind = "attack" if role.endswith("_attack") else "method"
        words = role.removesuffix("_attack").removesuffix("_method").replace("_", "-")
        raise UntestedError(f"the study has no {words} {kind}")
    return name


def _filled(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    if rows.empty:
        raise UntestedError(f"there are no {what}")
    return rows


def _pairs(evidence: Evidence, figure: str) -> pd.DataFrame:
    """`distance` or `angle` of pairs of successes on the same image, `regular` and `on_manifold`.

    Indexed by n, seed and example; of the normal method.
    """
    names = {
        _role(evidence, "regular_attack"): "regular",
        _role(evidence, "on_manifold_attack"): "on_manifold",
    }
    method, rows = _role(evidence, "normal"), evidence.distances
    column = f"{'true_manifold' if _known(evidence) else 'neighbour'}_{figure}"
    found = rows[(rows["method"] == method) & rows["success"] & rows["attack"].isin(list(names))]
    wide = found.pivot(index=["n", "seed", "example"], columns="attack", values=column)
    pairs = wide.rename(columns=names).reindex(columns=["regular", "on_manifold"]).dropna()
    both = " and ".join(names)
    return _filled(pairs, f"images on which {both} succeed against {method}, with their {figure}s")


def yardstick(evidence: Evidence) -> str:
    """To what distances and angles are measured, in words."""
    if _known(evidence):
        return "measured to the known manifold"
    return "measured to the span of the nearest training images"


def _known(evidence: Evidence) -> bool:
    return bool(evidence.distances["true_manifold_distance"].notna().any())


def _per_seed(values: "pd.Series[float]") -> "pd.Series[float]":
    """The mean over the examples of each model, then over its N, of each seed."""
    return values.groupby(["n", "seed"]).mean().groupby("seed").mean()


def _per_size(values: "pd.Series[float]", bounds: tuple[float, float]) -> Intervals:
    """The interval over seeds for each N, which is a level of the index."""
    sizes = values.index.get_level_values("n")
    return {int(n): t_interval(values[sizes == n], bounds=bounds) for n in sorted(set(sizes))}


def share_farther(evidence: Evidence) -> Intervals:
    """Share of pairs whose regular example is farther from the manifold; ties count half."""
    pairs = _pairs(evidence, "distance")
    farther = (pairs["regular"] > pairs["on_manifold"]).astype(float)
    tied = (pairs["regular"] == pairs["on_manifold"]).astype(float)
    return {None: t_interval(_per_seed(farther + tied / 2), bounds=(0, 1))}


def angle_difference(evidence: Evidence) -> Intervals:
    """Mean difference of the angle to the manifold within pairs, in degrees."""
    pairs = _pairs(evidence, "angle")
    return {None: t_interval(_per_seed(pairs["regular"] - pairs["on_manifold"]))}


def on_manifold_success(evidence: Evidence) -> Intervals:
    """On-manifold success rate on the normal method, for each N."""
    method, attack = _role(evidence, "normal"), _role(evidence, "on_manifold_attack")
    rates = evidence.rates
    rows = rates[(rates["method"] == method) & (rates["attack"] == attack)]
    rows = _filled(rows.dropna(subset="success_rate_from_right"), f"rates of {attack} on {method}")
    return _per_size(rows.set_index("n")["success_rate_from_right"], bounds=(0, 1))


def _models(evidence: Evidence, attack: str, rate: str) -> pd.DataFrame:
    """Test error and success rate of every model."""
    keys = ["method", "n", "seed"]
    rates = evidence.rates[evidence.rates["attack"] == attack]
    models = evidence.errors[[*keys, "test_error"]].merge(rates[[*keys, rate]], on=keys)
    return _filled(models.dropna(), f"rates of {attack}")


def rank_correlation(evidence: Evidence) -> Intervals:
    """Spearman's correlation of test error and on-manifold success rate over all models."""
    rate = "success_rate_from_right"
    models = _models(evidence, _role(evidence, "on_manifold_attack"), rate)
    return {None: spearman(models["test_error"], models[rate])}


def error_reduction(evidence: Evidence) -> Intervals:
    """Test error of the normal method minus that of the on-manifold one, for each N."""
    methods = [_role(evidence, role) for role in ("normal", "on_manifold_method")]
    rows = evidence.errors[evidence.errors["method"].isin(methods)]
    wide = rows.pivot(index=["n", "seed"], columns="method", values="test_error")
    both = wide.reindex(columns=methods).dropna()
    both = _filled(both, f"models of {methods[0]} and {methods[1]} of the same N and seed")
    if not both[methods[0]].any():
        raise UntestedError(f"{methods[0]} training errs on no test image: nothing is to reduce")
    return _per_size(both[methods[0]] - both[methods[1]], bounds=(-1, 1))


def regular_slope(evidence: Evidence) -> Intervals:
    """Slope of regular success rate against test error, without adversarial training.

    A point is the mean over the seeds of a method and N: models of one share what matters. An
    attack that breaks every model shows nothing of a trade-off, though its slope is flat: the
    slope is taken of the strongest that leaves most methods and N unbroken.
    """
    return _slope(evidence, within=False)


def regular_slope_within(evidence: Evidence) -> Intervals:
    """The same within methods: one slope for all, each at a height of its own.

    It is that of a method that errs less with more training images, which the slope over all
    methods can hide.
    """
    return _slope(evidence, within=True)


def _slope(evidence: Evidence, within: bool) -> Intervals:
    broken, _, points = _telling_attack(evidence)
    groups = points["method"] if within else None
    found = slope(points["test_error"], points["success_rate"], groups)
    if broken:
        raise UntestedError(
            f"most models are broken in more than {CEILING:.0%} of their images, so that none "
            "could be seen to be less robust than another; a smaller radius would show it",
            found,
        )
    return {None: found}


def regular_slope_note(evidence: Evidence) -> str:
    """Which attack the slopes were measured with, where there are several."""
    _, attack, _ = _telling_attack(evidence)
    several = len(evidence.roles["regular_attacks"]) > 1
    return f"measured with the attack {attack}" if several else ""


def _telling_attack(evidence: Evidence) -> tuple[bool, str, pd.DataFrame]:
    """The strongest regular attack that leaves most points unbroken, or else one that does not.

    Returns:
        Whether it breaks most, its name, and the points: mean test error and success rate of each
        method and N without adversarial training.
    """
    _role(evidence, "regular_attack")
    found: list[tuple[bool, float, int, str, pd.DataFrame]] = []
    for attack in evidence.roles["regular_attacks"]:
        models = _models(evidence, attack, "success_rate")
        models = models[models["method"].isin(evidence.roles["not_adversarial"])]
        models = _filled(models, "models trained otherwise than adversarially")
        means = models.groupby(["method", "n"], as_index=False)[["test_error", "success_rate"]]
        points = means.mean()
        rates = points["success_rate"]
        broken = bool(rates.median() > CEILING)
        found.append((broken, -float(rates.mean()), len(found), attack, points))
    broken, _, _, attack, points = min(found)
    return broken, attack, points


def adversarial_images_factor(evidence: Evidence) -> Intervals:
    """Factor in N of adversarial training over normal training at the same test error."""
    curves = []
    for role in ("normal", "adversarial"):
        method = _role(evidence, role)
        rows = evidence.errors[evidence.errors["method"] == method]
        rows = _filled(rows, f"models of {method}")
        if rows["n"].nunique() < 2:
            raise UntestedError("a factor in training images needs models of two or more N")
        curves.append({seed: (of["n"], of["test_error"]) for seed, of in rows.groupby("seed")})
    normal, adversarial = curves
    seeds = [seed for seed in normal if seed in adversarial]
    logs = np.log([images_factor(*normal[seed], *adversarial[seed]) for seed in seeds])
    found = Interval(*(float(end) for end in np.exp(t_interval(logs))))
    if all(np.ptp(normal[seed][1]) == 0 for seed in seeds):
        method = _role(evidence, "normal")
        raise UntestedError(f"the test error of {method} training does not change with N", found)
    without = int(np.isnan(logs).sum())
    if without:  # left out, they would make it look as if it came down
        share = f"{without} of {len(seeds)} seeds" if without < len(seeds) else "no seed"
        verb = "never comes" if without < len(seeds) else "comes"
        raise UntestedError(f"in {share} it {verb} down to a test error of normal training", found)
    return {None: found}
