"""Intervals and estimates, against scipy, textbook formulas and properties."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose
from scipy import stats

from robustgen.analysis.statistics import (
    MIN_RANKED_PAIRS,
    Interval,
    fit_slope,
    sample_size_ratios,
    spearman,
    t_interval,
    wilson_interval,
)

NAN = float("nan")
VALUES = st.lists(st.floats(-1e3, 1e3), max_size=9)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_intervals_equal_those_of_scipy(confidence):
    counts = [(k, n) for n in (1, 2, 17, 1000) for k in sorted({0, 1, n // 3, n - 1, n})]
    low, high = wilson_interval(*zip(*counts, strict=True), confidence=confidence)
    for i, (k, n) in enumerate(counts):
        expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
        assert_allclose((low[i], high[i]), expected, atol=1e-12)


def test_wilson_intervals_without_trials_are_nan():
    low, high = wilson_interval([0, 1], [0, 1])
    assert np.isnan([low[0], high[0]]).all()
    assert high[1] == 1


@pytest.mark.parametrize(("k", "n"), [(2, 1), (-1, 3)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(ValueError, match="between 0 and the number of trials"):
        wilson_interval([k], [n])


@given(n=st.integers(1, 10**6), share=st.floats(0, 1))
def test_wilson_intervals_contain_the_share_and_lie_within_0_and_1(n, share):
    k = round(share * n)
    low, high = wilson_interval(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert low < high


@pytest.mark.parametrize(
    ("values", "bounds", "expected"),
    [
        pytest.param([], None, (NAN, NAN, NAN), id="no values"),
        pytest.param([NAN], None, (NAN, NAN, NAN), id="only NaN"),
        pytest.param([0.3], None, (0.3, NAN, NAN), id="one value"),
        pytest.param([0.1] * 3, None, (0.1, 0.1, 0.1), id="equal values"),
        pytest.param([1.0, NAN, 3.0], None, (2.0, 2 - 12.7062047, 2 + 12.7062047), id="two values"),
        pytest.param([0.0, 0.5], (0, 1), (0.25, 0.0, 1.0), id="clipped to bounds"),
    ],
)
def test_t_interval_of_given_values(values, bounds, expected):
    interval = t_interval(values, **({"bounds": bounds} if bounds else {}))
    assert_allclose(interval, expected, rtol=1e-7)


def test_t_interval_equals_that_of_scipy():
    values = [0.12, 0.15, 0.11, 0.19, 0.14]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert_allclose(t_interval(values)[1:], expected)


@given(VALUES)
def test_t_interval_contains_the_mean(values):
    interval = t_interval(values)
    assert np.isnan(interval.low) == (len(values) < 2)
    if len(values) > 1:
        assert min(values) <= interval.estimate <= max(values)
        assert interval.low <= interval.estimate <= interval.high


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        pytest.param([], [], (NAN, NAN, NAN), id="no points"),
        pytest.param([1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6], (NAN, NAN, NAN), id="constant x"),
        pytest.param([1, 2, 3, 4, 5, 6], [7] * 6, (NAN, NAN, NAN), id="constant y"),
        pytest.param([1, 2, 3, 4], [1, 4, 9, 16], (1, NAN, NAN), id="too few for an interval"),
        pytest.param(range(9), np.exp(range(9)), (1, 1, 1), id="perfect"),
        pytest.param(range(9), [-i for i in range(9)], (-1, -1, -1), id="perfect, decreasing"),
    ],
)
def test_spearman_of_given_values(x, y, expected):
    # Resamples that draw one model nine times count as 0; they are too rare to matter.
    assert_allclose(spearman(list(x), list(y)), expected)


def test_spearman_agrees_with_scipy_and_its_intervals_cover_the_true_correlation():
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(20):
        x, y = generator.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 60).round(1).T
        correlation = spearman(x, y)
        assert_allclose(correlation.estimate, stats.spearmanr(x, y).statistic)
        covered += correlation.low <= 6 / np.pi * np.arcsin(0.3) <= correlation.high
    assert covered >= 16


def test_resamples_of_equal_values_count_as_no_correlation():
    assert spearman([0, 0, 0, 0, 1], [0, 0, 0, 0, 1]) == Interval(1, 0, 1)


@settings(max_examples=15, deadline=None)
@given(arrays(float, (2, 7), elements=st.integers(0, 3)))
def test_spearman_lies_within_its_bounds_and_is_reproducible(pair):
    correlation = spearman(*pair)
    assert_allclose(correlation, spearman(*pair), rtol=0)
    if not np.isnan(correlation.estimate):
        assert -1 <= correlation.low <= correlation.high <= 1


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        pytest.param([], [], (NAN, NAN, NAN), id="no points"),
        pytest.param([1, 1, 1], [1, 2, 3], (NAN, NAN, NAN), id="constant x"),
        pytest.param([1, 2], [3, 5], (2, NAN, NAN), id="two points"),
        pytest.param([1, 2, 3], [5, 5, 5], (0, 0, 0), id="flat"),
        pytest.param([0, 1, 2, 3], [0, -2, -4, -6], (-2, -2, -2), id="exact"),
    ],
)
def test_slope_of_given_points(x, y, expected):
    assert_allclose(fit_slope(x, y), expected, atol=1e-12)


def test_slope_interval_follows_the_textbook_formula():
    x, y = np.array([1.0, 2, 3, 4, 5]), np.array([1.1, 1.9, 3.2, 3.8, 5.3])
    centred = x - x.mean()
    b = centred @ y / (centred @ centred)
    residual = y - y.mean() - b * centred
    error = np.sqrt(residual @ residual / 3 / (centred @ centred))
    half_width = 3.182446305284263 * error  # the 97.5 % quantile of t with 3 degrees of freedom
    assert_allclose(fit_slope(x, y), (b, b - half_width, b + half_width))


CURVE = ([100, 200, 400, 800], [0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize(
    ("sizes", "errors", "other_curve", "expected"),
    [
        pytest.param(*CURVE, CURVE, [1, 1, 1, 1], id="the same curve"),
        pytest.param(*CURVE, ([400, 800], [0.4, 0.3]), [4, 4], id="four times as many images"),
        pytest.param(*CURVE, ([100, 200], [0.2, 0.1]), [0.25] * 2, id="a quarter of the images"),
        pytest.param(
            *CURVE,
            ([100, 200, 400, 800], [0.4, 0.35, 0.3, 0.2]),
            [1, 2**0.5, 2, 2],
            id="another factor at each N",
        ),
        pytest.param(*CURVE, ([400], [0.35]), [4 / 2**0.5], id="interpolation is linear in log N"),
        pytest.param(
            *CURVE, ([800, 100], [0.4, 0.9]), [8, NAN], id="an error above the reference is missing"
        ),
        pytest.param(
            *CURVE,
            ([100, 800], [0.9, 0.5]),
            [NAN, NAN],
            id="never reaches an error of the reference",
        ),
        pytest.param(
            *CURVE, ([200], [0.05]), [0.25], id="an error below the reference uses its largest N"
        ),
        pytest.param(*CURVE, ([1600], [0.05]), [NAN], id="beyond the reference in error and N"),
        pytest.param(
            [100, 200, 400],
            [0.9, 0.9, 0.1],
            ([400], [0.9]),
            [4],
            id="a plateau is reached at its smallest N",
        ),
        pytest.param(
            [100, 200, 400],
            [0.9, 0.95, 0.1],
            ([400], [0.5]),
            [2**0.5],
            id="a noisy plateau ends at its largest N",
        ),
        pytest.param([100], [0.4], ([100], [0.4]), [NAN], id="one size is not a curve"),
        pytest.param(
            [100, 200], [0.4, 0.4], ([100, 200], [0.4, 0.4]), [NAN] * 2, id="a constant reference"
        ),
        pytest.param(*CURVE, ([], []), [], id="no models of the other method"),
    ],
)
def test_sample_size_ratios_of_given_curves(sizes, errors, other_curve, expected):
    assert_allclose(sample_size_ratios(sizes, errors, *other_curve), expected)
    reversed_curves = [list(reversed(values)) for values in (sizes, errors, *other_curve)]
    assert_allclose(sample_size_ratios(*reversed_curves), expected[::-1])


@given(
    errors=arrays(float, 6, elements=st.floats(0, 1), unique=True),
    factor=st.sampled_from([0.5, 1, 2, 8]),
)
def test_sample_size_ratios_of_a_shifted_curve_is_the_shift(errors, factor):
    sizes = 100 * 2.0 ** np.arange(6)
    decreasing = np.sort(errors)[::-1]
    assert_allclose(sample_size_ratios(sizes, decreasing, factor * sizes, decreasing), factor)


@given(
    x=arrays(float, 12, elements=st.floats(-1, 1), unique=True),
    noise=arrays(float, 12, elements=st.floats(-1, 1), unique=True),
)
def test_slope_within_groups_equals_a_regression_with_group_intercepts(x, noise):
    """The reference is ordinary least squares with a column of ones per group, by numpy."""
    groups = np.repeat(["a", "b", "c"], 4)
    y = 0.3 * x + noise + np.repeat([0.0, 2.0, -1.0], 4)
    columns = np.column_stack([x, *(groups == g for g in "abc")])
    if np.linalg.cond(columns) > 1e4:
        return
    (slope, *_), residual, *_ = np.linalg.lstsq(columns, y)
    variance = np.linalg.inv(columns.T @ columns)[0, 0] * residual[0] / (12 - 4)
    half_width = stats.t.ppf(0.975, 12 - 4) * np.sqrt(variance)
    expected = (slope, slope - half_width, slope + half_width)
    assert_allclose(fit_slope(x, y, groups), expected, atol=1e-8)


def test_groups_of_one_point_have_no_slope():
    assert np.isnan(fit_slope([1, 2], [3, 4], ["a", "b"])).all()


def test_the_smallest_ranked_sample_is_in_perfect_order_by_chance_in_less_than_5_percent():
    # The two perfect orders, ascending and descending, are 2 of n! orders.
    chance = {
        n: 2 / np.prod(np.arange(1.0, n + 1)) for n in (MIN_RANKED_PAIRS - 1, MIN_RANKED_PAIRS)
    }
    assert chance[MIN_RANKED_PAIRS] < 0.05 < chance[MIN_RANKED_PAIRS - 1]
