"""Figure 4: robustness to regular adversarial examples does not contradict generalization."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from robustgen.analysis.statistics import CONFIDENCE
from robustgen.figures import legends, panels, style

_FIT_COLOUR = "#8a8a8a"
_BAND_ALPHA = 0.25
_FIT_LABEL = "fit without adversarial"


@style.with_style
def plot_robustness(
    errors: pd.DataFrame,
    success_rates: pd.DataFrame,
    regular_attacks: Mapping[str, str],
    compared_methods: Sequence[str] = ("normal", "adversarial"),
    not_adversarial: Sequence[str] = (),
) -> Figure:
    """Plot regular success rates against the test error, and the test error against N.

    Args:
        errors: the table `ERRORS`.
        success_rates: the table `SUCCESS_RATES`.
        regular_attacks: norm and radius in words, by name of the attack. Without attacks only the
            test error is plotted.
        compared_methods: normal training and the methods trained on regular adversarial examples.
        not_adversarial: methods to whose means over the seeds a line is fitted.

    Returns:
        A column of panels per data set: one per attack, and then the test error of the
        `compared_methods`. The attacks on a single data set have two columns. Each training method
        has a colour and a marker.
    """
    errors = errors.sort_values(panels.MODEL_KEYS)  # the order decides which marker is on top
    datasets = sorted(errors["dataset"].unique())
    areas = panels.marker_areas(errors["n"])
    styles = style.plot_styles(errors["method"])
    figure, columns = _make_panels(datasets, len(regular_attacks))
    has_fit = False
    for dataset, axes in zip(datasets, columns, strict=True):
        models = errors[errors["dataset"] == dataset]
        for panel, (attack, threat) in zip(axes, regular_attacks.items(), strict=False):
            attacked = panels.join_rates(models, success_rates, attack, "success_rate")
            label = f"success rate of\n{style.label(attack)} attack\n{threat}"
            has_fit |= _plot_success(panel, attacked, styles, areas, label, not_adversarial)
        compared = models[models["method"].isin(compared_methods)]
        _plot_test_error(axes[-1], compared, styles)
    if len(datasets) > 1:
        panels.share_y_labels(figure)
    if regular_attacks:
        further_handles = [*legends.size_handles(areas), *([_fit_handle()] if has_fit else [])]
        legends.add_legend(figure, legends.method_handles(styles), further_handles)
    else:
        compared_styles = {k: styles[k] for k in styles if k in compared_methods}
        legends.add_legend(figure, legends.method_handles(compared_styles))
    return figure


def _make_panels(datasets: Sequence[str], attacks: int) -> tuple[Figure, list[list[Axes]]]:
    """Return the figure, and for each data set a panel per attack and one of the test error."""
    if len(datasets) != 1 or attacks < 2:
        return panels.panel_grid(datasets, [1.0] * (attacks + 1))
    attack_rows = -(-attacks // 2)
    figure = panels.panel_figure(columns=2, rows=attack_rows + 1)
    cells = figure.add_gridspec(attack_rows + 1, 2)
    axes = [figure.add_subplot(cells[divmod(index, 2)]) for index in range(attacks)]
    axes.append(figure.add_subplot(cells[attack_rows, :]))
    for panel, letter in zip(axes, panels.panel_letters(), strict=False):
        panels.set_title(panel, letter)
    return figure, [axes]


def _plot_success(
    axes: Axes,
    attacked: pd.DataFrame,
    styles: style.PlotStyles,
    areas: Mapping[int, float],
    label: str,
    fitted_methods: Sequence[str],
) -> bool:
    """Plot the success rate against the test error, and the line fitted to `fitted_methods`.

    Returns:
        Whether the line is drawn: it needs the means of three or more methods and N.
    """
    if attacked.empty:
        panels.show_message(axes, panels.NO_RATE_MESSAGE)
        return False
    fitted = attacked[attacked["method"].isin(fitted_methods)]
    means = fitted.groupby(["method", "n"])[["test_error", "success"]].mean()
    has_fit = means["test_error"].nunique() > 2
    if has_fit:
        _plot_fit(axes, means["test_error"].to_numpy(), means["success"].to_numpy())
    panels.plot_against_error(axes, attacked, styles, areas, label)
    return has_fit


def _plot_fit(axes: Axes, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> None:
    """Plot the least-squares line, whose slope tests a claim, and the t interval of its height.

    The interval is that of the mean of y: ± t s sqrt(1/n + (x - mean x)² / sum (x_i - mean x)²).
    """
    fit = stats.linregress(x, y)
    grid = np.linspace(x.min(), x.max(), 50)
    height = fit.intercept + fit.slope * grid
    dof = len(x) - 2
    sum_of_squares = np.sum((x - x.mean()) ** 2)
    variance = np.sum((y - fit.intercept - fit.slope * x) ** 2) / dof
    standard_error = np.sqrt(variance * (1 / len(x) + (grid - x.mean()) ** 2 / sum_of_squares))
    half_width = stats.t.ppf((1 + CONFIDENCE) / 2, dof) * standard_error
    low, high = height - half_width, np.minimum(height + half_width, 1)
    axes.fill_between(grid, low, high, color=_FIT_COLOUR, alpha=_BAND_ALPHA, linewidth=0)
    axes.plot(grid, height, color=_FIT_COLOUR, zorder=2)


def _fit_handle() -> Artist:
    """Return the legend entry of the fitted line."""
    return Line2D([], [], color=_FIT_COLOUR, linewidth=1.1, label=_FIT_LABEL)


def _plot_test_error(axes: Axes, models: pd.DataFrame, styles: style.PlotStyles) -> None:
    """Plot the test error of normal and adversarial training against N."""
    if models.empty:
        panels.show_message(axes, "no models of normal or\nadversarial training")
        return
    panels.plot_against_n(axes, models, "test_error", styles, panels.TEST_ERROR_LABEL)
