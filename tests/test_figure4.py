"""Figure 4: regular success rate against test error, and test error against N."""

import matplotlib
import numpy as np
import pytest
from figure_data import REGULAR, SIZES, TRUE, legend_entries, study_tables, visible_texts
from matplotlib.collections import PolyCollection
from scipy.stats import t

from robustgen.analysis.statistics import t_interval
from robustgen.figures import style
from robustgen.figures.robustness import plot_robustness

FIT_LABEL = "fit without adversarial"
FITTED_SIZES = {
    "two N of two methods": ((250, 1000), True),
    "a single N of two methods": ((250,), False),
}


@pytest.mark.parametrize(("sizes", "is_fitted"), FITTED_SIZES.values(), ids=FITTED_SIZES)
def test_the_legend_names_a_fit_only_if_one_is_plotted(sizes, is_fitted):
    methods = ("normal", "on_true_manifold")
    figure = plot_robustness(*study_tables(methods, sizes), REGULAR, not_adversarial=methods)
    assert bool(figure.axes[0].lines) == is_fitted
    assert (FIT_LABEL in legend_entries(figure)) == is_fitted


def test_the_line_is_a_least_squares_fit_with_its_interval() -> None:
    """The fit is to the means of the fitted methods; at their mean, the interval is narrowest."""
    errors, rates = study_tables(("normal", "transformation", "adversarial"))
    rates["success_rate"] *= np.random.default_rng(1).uniform(0.8, 1, len(rates))
    fitted = ["normal", "transformation"]
    axes = plot_robustness(errors, rates, {TRUE: ""}, not_adversarial=fitted).axes[0]
    (line,) = axes.lines
    (band,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    models = errors.merge(rates[rates["attack"] == TRUE])
    models = models[models["method"].isin(fitted)]
    means = models.groupby(["method", "n"])[["test_error", "success_rate"]].mean()
    slope, intercept = np.polyfit(means["test_error"], means["success_rate"], 1)
    assert line.get_ydata() == pytest.approx(intercept + slope * line.get_xdata())
    assert line.get_xdata()[[0, -1]] == pytest.approx(means["test_error"].agg(["min", "max"]))
    vertices = band.get_paths()[0].vertices
    widths = np.array(
        [np.ptp(vertices[np.isclose(vertices[:, 0], x), 1]) for x in line.get_xdata()]
    )
    assert abs(line.get_xdata()[widths.argmin()] - means["test_error"].mean()) < 0.01
    residual = means["success_rate"] - intercept - slope * means["test_error"]
    count = len(means)
    width_at_mean = 2 * t.ppf(0.975, count - 2) * residual.std(ddof=2) / np.sqrt(count)
    assert widths.min() == pytest.approx(width_at_mean, rel=0.02)


@pytest.mark.parametrize("seeds", [1, 3])
def test_means_and_intervals_are_those_over_seeds(seeds: int) -> None:
    errors, rates = study_tables(("normal",), seeds=seeds)
    bars = plot_robustness(errors, rates, REGULAR).axes[1].containers[0]
    for index, n in enumerate(SIZES):
        values = errors.loc[errors["n"] == n, "test_error"]
        mean, low, high = t_interval(values.to_numpy(), bounds=(0, 1))
        assert bars[0].get_ydata()[index] == pytest.approx(mean)
        ends = bars[2][0].get_segments()[index]
        if seeds > 1:
            assert ends[:, 1] == pytest.approx([low, high])
        else:
            assert len(ends) == 0 or np.isnan(ends[:, 1]).all()


def test_a_model_without_a_success_rate_has_no_point() -> None:
    errors, rates = study_tables(("normal",))
    rates.loc[rates["attack"] == "regular", "success_rate"] = [np.nan, *[0.9] * 8]
    points = plot_robustness(errors, rates, REGULAR).axes[0].collections[0]
    assert len(points.get_offsets()) == 8


def test_the_y_axis_names_the_attack_with_its_norm_and_radius() -> None:
    figure = plot_robustness(*study_tables(), REGULAR)
    assert figure.axes[0].get_ylabel() == "success rate of\nregular attack\nL∞ radius 0.3"


def test_several_attacks_on_one_data_set_have_two_columns() -> None:
    attacks = dict.fromkeys(("regular", "strong", "strong_small"), "L∞ radius 0.3")
    cells = [axes.get_subplotspec() for axes in plot_robustness(*study_tables(), attacks).axes]
    columns = [(cell.rowspan.start, *cell.colspan) for cell in cells]
    assert columns == [(0, 0), (0, 1), (1, 0), (2, 0, 1)]


@pytest.mark.parametrize("max_error", [0.67, 0.68, 0.9])
def test_the_label_of_the_last_tick_is_not_cut_off(max_error: float) -> None:
    """The layout makes room for the label, which must not change the ticks."""
    errors, rates = study_tables(tuple(style._FIXED_STYLES)[:5], (500, 1000, 1500))
    errors["test_error"] *= max_error / errors["test_error"].max()
    attacks = REGULAR | {TRUE: "L∞ radius 0.03"}
    fitted = ["normal", "transformation"]
    figure = plot_robustness(errors, rates, attacks, not_adversarial=fitted)
    with matplotlib.rc_context(style.settings()):  # as when a figure is saved
        for _ in range(2):
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
        figure.draw_without_rendering()
        for text in visible_texts(figure):
            assert text.get_window_extent().x1 <= figure.bbox.x1, text
