"""Estimates with intervals: of a share, a mean over seeds, a rank correlation and a slope."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 9999
"""Bootstrap resamples of a rank correlation."""
MIN_RANKED_PAIRS = 5
"""Fewest pairs for which a rank correlation has an interval. With 4 pairs, 2 of the 24 orders are
perfect, so that a perfect order arises by chance in more than 5 % of cases."""


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval, in its unit. NaN means: undefined.

    Examples:
        >>> import robustgen
        >>> interval = robustgen.Interval(0.5, low=0.4, high=0.6)
        >>> interval.low < interval.estimate
        True
    """

    estimate: float
    low: float
    high: float


NO_INTERVAL = Interval(np.nan, np.nan, np.nan)


def wilson_interval(
    successes: npt.ArrayLike, trials: npt.ArrayLike, confidence: float = CONFIDENCE
) -> tuple[Floats, Floats]:
    """Return Wilson's score intervals of shares, for arrays of counts of one shape.

    Returns:
        The lower and the upper ends, in [0, 1]; NaN where there are no trials.

    Raises:
        ValueError: a count is negative, or successes outnumber trials.

    Source: Wilson 1927; `scipy.stats.binomtest` computes the same for a single count.
    """
    k, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    if np.any(k < 0) or np.any(k > n):
        raise ValueError("successes must lie between 0 and the number of trials")
    z2 = float(special.ndtri((1 + confidence) / 2)) ** 2
    with np.errstate(invalid="ignore"):
        share = np.where(n > 0, k / np.where(n > 0, n, 1), np.nan)
        centre = (k + z2 / 2) / (n + z2)
        half_width = np.sqrt(z2 * (n * share * (1 - share) + z2 / 4)) / (n + z2)
    low = np.where(share == 0, 0.0, centre - half_width)
    high = np.where(share == 1, 1.0, centre + half_width)
    return low, high


def t_interval(
    values: npt.ArrayLike,
    confidence: float = CONFIDENCE,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Return the mean of independent values, such as one per seed, and its Student t interval.

    Args:
        values: one-dimensional; NaN is ignored.
        confidence: confidence level of the interval.
        bounds: smallest and largest possible mean, such as 0 and 1 for a share. The interval is
            clipped to them.

    Returns:
        For one value the interval is NaN, without values the estimate is too. Equal values give
        an interval of width 0.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x[~np.isnan(x)]
    if not x.size:
        return NO_INTERVAL
    mean = float(np.clip(x.mean(), x.min(), x.max()))  # rounding can exceed the values
    if x.size == 1:
        return Interval(mean, np.nan, np.nan)
    half_width = float(stats.t.ppf((1 + confidence) / 2, x.size - 1) * stats.sem(x))
    low, high = np.clip([mean - half_width, mean + half_width], *bounds)
    return Interval(mean, float(low), float(high))


def spearman(x: npt.ArrayLike, y: npt.ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Return Spearman's rank correlation and the percentile interval of a paired bootstrap.

    Every call draws the same resamples. A resample in which all `x` or all `y` are equal counts as
    a correlation of 0.

    Args:
        x: one value per model.
        y: one value per model, in the order of `x`.
        confidence: confidence level of the interval.

    Returns:
        NaN if all `x` or all `y` are equal, or if there are none. For fewer than
        `MIN_RANKED_PAIRS` pairs only the interval is NaN.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if min(np.unique(a).size, np.unique(b).size) < 2:
        return NO_INTERVAL
    estimate = float(_rank_correlation(a, b))
    if a.size < MIN_RANKED_PAIRS:
        return Interval(estimate, np.nan, np.nan)
    interval = stats.bootstrap(
        (a, b),
        _rank_correlation,
        n_resamples=RESAMPLES,
        paired=True,
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        random_state=0,
    ).confidence_interval
    return Interval(estimate, float(interval.low), float(interval.high))


def _rank_correlation(a: Floats, b: Floats, axis: int = -1) -> Floats:
    """Spearman's rank correlation along `axis`; 0 where all ranks are tied."""
    ranks = [stats.rankdata(values, axis=axis) for values in (a, b)]
    p, q = (rank - rank.mean(axis=axis, keepdims=True) for rank in ranks)
    scale = np.sqrt((p**2).sum(axis=axis) * (q**2).sum(axis=axis))
    product = (p * q).sum(axis=axis)
    ratio = np.divide(product, scale, out=np.zeros_like(scale), where=scale > 0)
    return np.asarray(np.clip(ratio, -1, 1), dtype=np.float64)


def fit_slope(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the slope of the least-squares line through (x, y) and its t interval.

    Args:
        x: one value per point.
        y: one value per point, in the order of `x`.
        groups: the group of each point. All groups share one slope, and each has an intercept of
            its own. None puts all points into one group.
        confidence: confidence level of the interval.

    Returns:
        NaN if `x` does not vary within any group. If there are no residual degrees of freedom,
        only the interval is NaN.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _, group = np.unique(np.zeros(a.size) if groups is None else groups, return_inverse=True)
    counts = np.bincount(group, minlength=1)
    a, b = (
        values - (np.bincount(group, values, minlength=1) / np.maximum(counts, 1))[group]
        for values in (a, b)
    )
    sum_of_squares = float(a @ a)
    if sum_of_squares <= 1e-18 * max(a.size, 1):  # equal values, up to rounding
        return NO_INTERVAL
    slope = float(a @ b) / sum_of_squares
    dof = a.size - counts.size - 1
    if dof < 1:
        return Interval(slope, np.nan, np.nan)
    standard_error = np.sqrt(np.sum((b - slope * a) ** 2) / dof / sum_of_squares)
    half_width = float(stats.t.ppf((1 + confidence) / 2, dof) * standard_error)
    return Interval(slope, slope - half_width, slope + half_width)


def sample_size_ratios(
    sizes: npt.ArrayLike,
    errors: npt.ArrayLike,
    other_sizes: npt.ArrayLike,
    other_errors: npt.ArrayLike,
) -> Floats:
    """Return how many times as many training images another method needs, at each of its N.

    The reference (`sizes`, `errors`) is a learning curve: the lowest error with at most N images,
    interpolated linearly in log N. The N of the other method is divided by the smallest N at which
    the reference reaches the same error.

    An error above all errors of the reference has no counterpart. An error below all of them would
    need more than the largest N of the reference; this largest N is used instead, because leaving
    the error out would favour a ratio above 1.

    Args:
        sizes: N of the reference, in any order.
        errors: test errors of the reference, in the order of `sizes`.
        other_sizes: N of the other method.
        other_errors: test errors of the other method, in the order of `other_sizes`.

    Returns:
        A ratio for each of `other_sizes`. NaN if its error cannot be compared, or if the error of
        the reference is the same at every N, so that no N is needed to reach it.
    """
    n, lowest = _lowest_so_far(sizes, errors)
    other_n = np.asarray(other_sizes, dtype=np.float64)
    target = np.asarray(other_errors, dtype=np.float64)
    if n.size < 2 or lowest[0] == lowest[-1]:
        return np.full_like(other_n, np.nan)
    is_comparable = (target <= lowest[0]) & ((target >= lowest[-1]) | (other_n <= n[-1]))
    # Reversed, errors increase, as `interp` requires. Of equal errors it takes the last one, which
    # belongs to the smallest N.
    needed_log_n = np.interp(target, lowest[::-1], np.log(n)[::-1])
    return np.where(is_comparable, np.exp(np.log(other_n) - needed_log_n), np.nan)


def _lowest_so_far(sizes: npt.ArrayLike, errors: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Sizes in ascending order, and the lowest error up to each size."""
    n, error = np.asarray(sizes, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    order = np.argsort(n)
    return n[order], np.minimum.accumulate(error[order])
