import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose
from scipy import stats

from robustgen.analysis.statistics import (
    FEWEST_RANKED,
    Interval,
    images_factor,
    slope,
    spearman,
    t_interval,
    wilson,
)

NAN = float("nan")
VALUES = st.lists(st.floats(-1e3, 1e3), max_size=9)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_is_scipys(confidence):
    counts = [(k, n) for n in (1, 2, 17, 1000) for k in sorted({0, 1, n // 3, n - 1, n})]
    low, high = wilson(*zip(*counts, strict=True), confidence=confidence)
    for i, (k, n) in enumerate(counts):
        known = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
        assert_allclose((low[i], high[i]), known, atol=1e-12)


def test_wilson_of_no_trials_is_nan():
    low, high = wilson([0, 1], [0, 1])
    assert np.isnan([low[0], high[0]]).all()
    assert high[1] == 1


@pytest.mark.parametrize(("k", "n"), [(2, 1), (-1, 3)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(ValueError, match="between 0 and the number of trials"):
        wilson([k], [n])


@given(n=st.integers(1, 10**6), share=st.floats(0, 1))
def test_wilson_holds_the_share_within_0_and_1(n, share):
    k = round(share * n)
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert low < high


@pytest.mark.parametrize(
    ("values", "bounds", "known"),
    [
        pytest.param([], None, (NAN, NAN, NAN), id="none"),
        pytest.param([NAN], None, (NAN, NAN, NAN), id="only NaN"),
        pytest.param([0.3], None, (0.3, NAN, NAN), id="one"),
        pytest.param([0.1] * 3, None, (0.1, 0.1, 0.1), id="constant"),
        pytest.param([1.0, NAN, 3.0], None, (2.0, 2 - 12.7062047, 2 + 12.7062047), id="two"),
        pytest.param([0.0, 0.5], (0, 1), (0.25, 0.0, 1.0), id="cut to bounds"),
    ],
)
def test_t_interval_of(values, bounds, known):
    found = t_interval(values, **({"bounds": bounds} if bounds else {}))
    assert_allclose(found, known, rtol=1e-7)


def test_t_interval_is_scipys():
    values = [0.12, 0.15, 0.11, 0.19, 0.14]
    known = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert_allclose(t_interval(values)[1:], known)


@given(VALUES)
def test_t_interval_holds_the_mean(values):
    found = t_interval(values)
    assert np.isnan(found.low) == (len(values) < 2)
    if len(values) > 1:
        assert min(values) <= found.estimate <= max(values)
        assert found.low <= found.estimate <= found.high


@pytest.mark.parametrize(
    ("x", "y", "known"),
    [
        pytest.param([], [], (NAN, NAN, NAN), id="none"),
        pytest.param([1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6], (NAN, NAN, NAN), id="constant x"),
        pytest.param([1, 2, 3, 4, 5, 6], [7] * 6, (NAN, NAN, NAN), id="constant y"),
        pytest.param([1, 2, 3, 4], [1, 4, 9, 16], (1, NAN, NAN), id="too few for an interval"),
        pytest.param(range(9), np.exp(range(9)), (1, 1, 1), id="perfect"),
        pytest.param(range(9), [-i for i in range(9)], (-1, -1, -1), id="perfect, falling"),
    ],
)
def test_spearman_of(x, y, known):
    # A resample of one model 9 times over counts as 0, too rare to matter here.
    assert_allclose(spearman(list(x), list(y)), known)


def test_spearman_agrees_with_scipy_and_covers_the_true_correlation():
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(20):
        x, y = generator.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 60).round(1).T
        found = spearman(x, y)
        assert_allclose(found.estimate, stats.spearmanr(x, y).statistic)
        covered += found.low <= 6 / np.pi * np.arcsin(0.3) <= found.high
    assert covered >= 16


def test_spearman_of_almost_constant_values_counts_empty_resamples_as_no_correlation():
    found = spearman([0, 0, 0, 0, 1], [0, 0, 0, 0, 1])
    assert found == Interval(1, 0, 1)


@settings(max_examples=15, deadline=None)
@given(arrays(float, (2, 7), elements=st.integers(0, 3)))
def test_spearman_lies_within_its_bounds_and_is_the_same_twice(pair):
    found = spearman(*pair)
    assert_allclose(found, spearman(*pair), rtol=0)
    if not np.isnan(found.estimate):
        assert -1 <= found.low <= found.high <= 1


@pytest.mark.parametrize(
    ("x", "y", "known"),
    [
        pytest.param([], [], (NAN, NAN, NAN), id="none"),
        pytest.param([1, 1, 1], [1, 2, 3], (NAN, NAN, NAN), id="constant x"),
        pytest.param([1, 2], [3, 5], (2, NAN, NAN), id="two points"),
        pytest.param([1, 2, 3], [5, 5, 5], (0, 0, 0), id="flat"),
        pytest.param([0, 1, 2, 3], [0, -2, -4, -6], (-2, -2, -2), id="exact"),
    ],
)
def test_slope_of(x, y, known):
    assert_allclose(slope(x, y), known, atol=1e-12)


def test_slope_interval_is_the_textbook_one():
    x, y = np.array([1.0, 2, 3, 4, 5]), np.array([1.1, 1.9, 3.2, 3.8, 5.3])
    centred = x - x.mean()
    b = centred @ y / (centred @ centred)
    residual = y - y.mean() - b * centred
    error = np.sqrt(residual @ residual / 3 / (centred @ centred))
    reach = 3.182446305284263 * error  # the 97.5 % quantile of t with 3 degrees of freedom
    assert_allclose(slope(x, y), (b, b - reach, b + reach))


CURVE = ([100, 200, 400, 800], [0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize(
    ("sizes", "errors", "other", "known"),
    [
        pytest.param(*CURVE, CURVE, 1, id="the same curve"),
        pytest.param(*CURVE, ([400, 800], [0.4, 0.3]), 4, id="four times as many"),
        pytest.param(*CURVE, ([100, 200], [0.2, 0.1]), 0.25, id="a quarter"),
        pytest.param(*CURVE, ([400], [0.35]), 4 / 2**0.5, id="halfway is linear in log N"),
        pytest.param(*CURVE, ([800, 100], [0.4, 0.9]), 8, id="too high an error is left out"),
        pytest.param(*CURVE, ([100, 800], [0.9, 0.5]), NAN, id="never comes down"),
        pytest.param(*CURVE, ([200], [0.05]), 0.25, id="beyond the reference: its largest N"),
        pytest.param(*CURVE, ([1600], [0.05]), NAN, id="beyond both: says nothing"),
        pytest.param(*CURVE, ([400, 800], [0.4, 0.45]), 4, id="only new lows count"),
        pytest.param(
            [100, 200, 400], [0.9, 0.9, 0.1], ([400], [0.9]), 4, id="plateau: its smallest N"
        ),
        pytest.param(
            [100, 200, 400],
            [0.9, 0.95, 0.1],
            ([400], [0.5]),
            2**0.5,
            id="plateau with noise: falls from its end",
        ),
        pytest.param([100], [0.4], ([100], [0.4]), NAN, id="one size is no curve"),
        pytest.param([100, 200], [0.4, 0.4], ([100, 200], [0.4, 0.4]), NAN, id="it does not fall"),
        pytest.param(*CURVE, ([], []), NAN, id="no other models"),
    ],
)
def test_images_factor(sizes, errors, other, known):
    assert_allclose(images_factor(sizes, errors, *other), known)
    turned = [list(reversed(values)) for values in (sizes, errors, *other)]
    assert_allclose(images_factor(*turned), known)


@given(
    errors=arrays(float, 6, elements=st.floats(0, 1), unique=True),
    factor=st.sampled_from([0.5, 1, 2, 8]),
)
def test_images_factor_of_a_shifted_curve_is_the_shift(errors, factor):
    sizes = 100 * 2.0 ** np.arange(6)
    falling = np.sort(errors)[::-1]
    assert_allclose(images_factor(sizes, falling, factor * sizes, falling), factor)


@given(
    x=arrays(float, 12, elements=st.floats(-1, 1), unique=True),
    noise=arrays(float, 12, elements=st.floats(-1, 1), unique=True),
)
def test_slope_within_groups_is_that_of_a_regression_on_their_names(x, noise):
    """Against ordinary least squares with a column of ones per group, solved by numpy."""
    groups = np.repeat(["a", "b", "c"], 4)
    y = 0.3 * x + noise + np.repeat([0.0, 2.0, -1.0], 4)
    columns = np.column_stack([x, *(groups == g for g in "abc")])
    if np.linalg.cond(columns) > 1e4:
        return
    solved, residual, *_ = np.linalg.lstsq(columns, y)
    spread = np.linalg.inv(columns.T @ columns)[0, 0] * residual[0] / (12 - 4)
    reach = stats.t.ppf(0.975, 12 - 4) * np.sqrt(spread)
    found = slope(x, y, groups)
    assert_allclose(found, (solved[0], solved[0] - reach, solved[0] + reach), atol=1e-8)


def test_slope_within_groups_of_one_point_is_none():
    assert np.isnan(slope([1, 2], [3, 4], ["a", "b"])).all()


def test_the_fewest_ranked_models_are_those_a_perfect_order_of_which_is_rare():
    # Perfect orders, rising or falling, among all orders of that many models.
    chance = {n: 2 / np.prod(np.arange(1.0, n + 1)) for n in (FEWEST_RANKED - 1, FEWEST_RANKED)}
    assert chance[FEWEST_RANKED] < 0.05 < chance[FEWEST_RANKED - 1]
