"""Figure 4: robustness to regular adversarial examples does not contradict generalization."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from robustgen.analysis.statistics import CONFIDENCE
from robustgen.figures import legends, panels, style

_LINE = "#8a8a8a"
_BAND = 0.25


@style.styled
def robustness(
    errors: pd.DataFrame,
    success_rates: pd.DataFrame,
    regular_attacks: Mapping[str, str],
    normal: str | None = "normal",
    adversarial: str | None = "adversarial",
    not_adversarial: Sequence[str] = (),
) -> Figure:
    """Regular success rate against test error, and what adversarial training costs at each N.

    Args:
        errors: the table `ERRORS`.
        success_rates: the table `SUCCESS_RATES`.
        regular_attacks: the attacks drawn by name, with their norm and radius in words; without
            one only the test error is.
        normal: method without attacks in training.
        adversarial: method trained on regular adversarial examples.
        not_adversarial: methods through whose means over the seeds a line is fitted.

    Returns:
        One column of panels per data set: one per attack, and then the test error; one colour and
        marker per training method.
    """
    errors = errors.sort_values(panels.MODEL_KEYS)  # points cover each other in this order
    datasets = sorted(errors["dataset"].unique())
    areas = panels.areas_of(errors["n"])
    looks = style.looks(errors["method"])
    figure, columns = panels.grid(datasets, [1.0] * (len(regular_attacks) + 1))
    is_any_line_drawn = False
    for dataset, axes in zip(datasets, columns, strict=True):
        models = errors[errors["dataset"] == dataset]
        for panel, (attack, budget) in zip(axes, regular_attacks.items(), strict=False):
            attacked = panels.with_rate(models, success_rates, attack, "success_rate")
            label = f"{style.label(attack)}\n{budget}\nsuccess rate"
            is_line_drawn = _success(panel, attacked, looks, areas, label, not_adversarial)
            is_any_line_drawn |= is_line_drawn
        _cost(axes[-1], models[models["method"].isin([normal, adversarial])], looks)
    panels.share_labels(figure)
    if regular_attacks:
        methods = legends.method_handles(looks)
        legends.legend(figure, methods, _further_handles(areas, is_any_line_drawn))
    else:
        compared = {name: looks[name] for name in looks if name in (normal, adversarial)}
        legends.legend(figure, legends.method_handles(compared))
    return figure


def _success(
    axes: Axes,
    attacked: pd.DataFrame,
    looks: style.Looks,
    areas: Mapping[int, float],
    label: str,
    fitted_methods: Sequence[str],
) -> bool:
    """Success rate against test error, and the line through the means of `fitted_methods`.

    Returns:
        Whether the line is drawn: it needs the means of three or more methods and N.
    """
    if attacked.empty:
        panels.nothing(axes, panels.NO_RATE)
        return False
    fitted = attacked[attacked["method"].isin(fitted_methods)]
    means = fitted.groupby(["method", "n"])[["test_error", "success"]].mean()
    has_line = means["test_error"].nunique() > 2
    if has_line:
        _fit(axes, means["test_error"].to_numpy(), means["success"].to_numpy())
    panels.scatter(axes, attacked, looks, areas, label)
    return has_line


def _fit(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """The least-squares line, whose slope is tested as a claim, and the t interval of its height.

    The interval is that of the mean: s sqrt(1/n + (x - mean x)² / sum (x_i - mean x)²).
    """
    line = stats.linregress(x, y)
    at = np.linspace(x.min(), x.max(), 50)
    height = line.intercept + line.slope * at
    freedom = len(x) - 2
    spread = np.sum((x - x.mean()) ** 2)
    residual = np.sum((y - line.intercept - line.slope * x) ** 2) / freedom
    error = np.sqrt(residual * (1 / len(x) + (at - x.mean()) ** 2 / spread))
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * error
    axes.fill_between(
        at, height - reach, np.minimum(height + reach, 1), color=_LINE, alpha=_BAND, linewidth=0
    )
    axes.plot(at, height, color=_LINE, zorder=2)


def _further_handles(areas: Mapping[int, float], is_line_drawn: bool) -> list[Artist]:
    """Entries for the legend beside methods: sizes, and the line where one is drawn."""
    handles = legends.size_handles(areas)
    if is_line_drawn:
        label = "fit without adversarial"
        handles.append(Line2D([], [], color=_LINE, linewidth=1.1, label=label))
    return handles


def _cost(axes: Axes, compared: pd.DataFrame, looks: style.Looks) -> None:
    """Test error against N of the two methods compared."""
    if compared.empty:
        panels.nothing(axes, "neither method was trained")
        return
    panels.against_n(axes, compared, "test_error", looks, panels.TEST_ERROR_LABEL)
