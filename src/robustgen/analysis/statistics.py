"""Estimates with intervals: of a share, over seeds, of a rank correlation, of a slope."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 9999
FEWEST_RANKED = 5
"""Pairs below which a rank correlation has no interval: of 4 models, 2 of the 24 orders are
perfect, so that even a perfect order comes about by chance more often than 1 in 20 times."""


class Interval(NamedTuple):
    """An estimate and the ends of its interval, in its unit; NaN where there is none."""

    estimate: float
    low: float
    high: float


NONE = Interval(np.nan, np.nan, np.nan)


def wilson(
    successes: npt.ArrayLike, trials: npt.ArrayLike, confidence: float = CONFIDENCE
) -> tuple[Floats, Floats]:
    """Wilson's score interval of a share, for arrays of counts of one shape.

    Returns:
        The lower and the upper ends, in [0, 1]; NaN where there were no trials.

    Raises:
        ValueError: a count is negative, or successes outnumber trials.

    Source: Wilson 1927; `scipy.stats.binomtest` has it for one count.
    """
    k, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    if np.any(k < 0) or np.any(k > n):
        raise ValueError("successes must lie between 0 and the number of trials")
    z2 = float(special.ndtri((1 + confidence) / 2)) ** 2
    with np.errstate(invalid="ignore"):
        share = np.where(n > 0, k / np.where(n > 0, n, 1), np.nan)
        centre = (k + z2 / 2) / (n + z2)
        reach = np.sqrt(z2 * (n * share * (1 - share) + z2 / 4)) / (n + z2)
    low = np.where(share == 0, 0.0, centre - reach)
    high = np.where(share == 1, 1.0, centre + reach)
    return low, high


def t_interval(
    values: npt.ArrayLike,
    confidence: float = CONFIDENCE,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """The mean of independent values, one per seed, and Student's t interval of it.

    Args:
        values: one dimension; NaN is left out.
        confidence: of the interval.
        bounds: of the mean, known beforehand, as 0 and 1 for a share; the interval is cut to them.

    Returns:
        NaN ends for one value, NaN throughout for none. Equal values give an interval of width 0.
    """
    held = np.asarray(values, dtype=np.float64)
    held = held[~np.isnan(held)]
    if not held.size:
        return NONE
    mean = float(np.clip(held.mean(), held.min(), held.max()))  # rounding can leave the values
    if held.size == 1:
        return Interval(mean, np.nan, np.nan)
    reach = float(stats.t.ppf((1 + confidence) / 2, held.size - 1) * stats.sem(held))
    low, high = np.clip([mean - reach, mean + reach], *bounds)
    return Interval(mean, float(low), float(high))


def spearman(x: npt.ArrayLike, y: npt.ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Spearman's rank correlation and the percentile interval of a paired bootstrap.

    The resamples are the same in every call. A resample in which `x` or `y` has one value only
    counts as no correlation.

    Args:
        x: one value per model.
        y: one value per model, in the order of `x`.
        confidence: of the interval.

    Returns:
        NaN throughout where `x` or `y` has one value only (or less), NaN ends for fewer than
        `FEWEST_RANKED` pairs.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if min(np.unique(a).size, np.unique(b).size) < 2:
        return NONE
    estimate = float(_rank_correlation(a, b))
    if a.size < FEWEST_RANKED:
        return Interval(estimate, np.nan, np.nan)
    ends = stats.bootstrap(
        (a, b),
        _rank_correlation,
        n_resamples=RESAMPLES,
        paired=True,
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        random_state=0,
    ).confidence_interval
    return Interval(estimate, float(ends.low), float(ends.high))


def _rank_correlation(a: Floats, b: Floats, axis: int = -1) -> Floats:
    """Spearman's rank correlation along `axis`; 0 where all ranks are tied."""
    ranks = [stats.rankdata(values, axis=axis) for values in (a, b)]
    p, q = (rank - rank.mean(axis=axis, keepdims=True) for rank in ranks)
    scale = np.sqrt((p**2).sum(axis=axis) * (q**2).sum(axis=axis))
    product = (p * q).sum(axis=axis)
    ratio = np.divide(product, scale, out=np.zeros_like(scale), where=scale > 0)
    return np.asarray(np.clip(ratio, -1, 1), dtype=np.float64)


def slope(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The slope of the least-squares line through (x, y) and its t interval.

    Args:
        x: one value per point.
        y: one value per point, in the order of `x`.
        groups: of the points; each has a line of its own height, all have one slope. Without
            them there is one line.
        confidence: of the interval.

    Returns:
        NaN throughout where `x` has one value only in each group (or less), NaN ends where the
        points are too few to scatter about the lines.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _, of = np.unique(np.zeros(a.size) if groups is None else groups, return_inverse=True)
    count = np.bincount(of, minlength=1)
    a, b = (v - (np.bincount(of, v, minlength=1) / np.maximum(count, 1))[of] for v in (a, b))
    spread = float(a @ a)
    if spread <= 1e-18 * max(a.size, 1):  # rounding of equal values
        return NONE
    found = float(a @ b) / spread
    freedom = a.size - count.size - 1
    if freedom < 1:
        return Interval(found, np.nan, np.nan)
    error = np.sqrt(np.sum((b - found * a) ** 2) / freedom / spread)
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom) * error)
    return Interval(found, found - reach, found + reach)


def images_factor(
    sizes: npt.ArrayLike,
    errors: npt.ArrayLike,
    other_sizes: npt.ArrayLike,
    other_errors: npt.ArrayLike,
) -> float:
    """By which factor the other method needs more training images for the same test error.

    The reference (`sizes`, `errors`) is a learning curve: its lowest error with at most N images,
    between the sizes linear in log N. Every new low of the other method, at N images, is compared
    with the fewest images at which the reference reaches that error; the factors are averaged
    geometrically. A flat stretch of a curve, as small N have, adds no point of its own.

    An error above all of the reference's has no counterpart and is left out. For one below all of
    them the reference would need more than its largest N, which is taken in its stead: leaving it
    out would favour a factor above 1.

    Args:
        sizes: N of the reference, in any order.
        errors: its test errors, in the order of `sizes`.
        other_sizes: N of the other method.
        other_errors: its test errors, in the order of `other_sizes`.

    Returns:
        The factor, or NaN where no error can be compared, or the reference does not fall: all N
        then reach the same error, so that none of them is needed.
    """
    n, reached = _lowest_so_far(sizes, errors)
    m, wanted = _lowest_so_far(other_sizes, other_errors)
    if n.size < 2 or not m.size or reached[0] == reached[-1]:
        return float("nan")
    new = np.diff(wanted, prepend=np.inf) < 0
    comparable = (wanted <= reached[0]) & ((wanted >= reached[-1]) | (m <= n[-1]))
    m, wanted = m[new & comparable], wanted[new & comparable]
    if not m.size:
        return float("nan")
    # Reversed, the errors rise, as interp asks; of equal errors it takes the last: the smallest N.
    needed = np.interp(wanted, reached[::-1], np.log(n)[::-1])
    return float(np.exp(np.mean(np.log(m) - needed)))


def _lowest_so_far(sizes: npt.ArrayLike, errors: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Sizes in rising order and the lowest error up to each."""
    n, error = np.asarray(sizes, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    order = np.argsort(n)
    return n[order], np.minimum.accumulate(error[order])
