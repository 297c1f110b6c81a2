"""Figure 4: robustness to regular adversarial examples does not contradict generalization."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustgen.figures import panels, style


@style.styled
def robustness(
    errors: pd.DataFrame,
    success_rates: pd.DataFrame,
    regular_attack: str | None,
    normal: str | None = "normal",
    adversarial: str | None = "adversarial",
) -> Figure:
    """Regular success rate against test error, and what adversarial training costs at each N.

    Args:
        errors: the table `ERRORS`.
        success_rates: the table `SUCCESS_RATES`.
        regular_attack: name of the attack drawn; without one only the test error is drawn.
        normal: method without attacks in training.
        adversarial: method trained on regular adversarial examples.

    Returns:
        One row of two panels per data set, one colour and marker per training method.
    """
    errors = errors.sort_values(panels.MODEL_KEYS)  # points cover each other in this order
    datasets = sorted(errors["dataset"].unique())
    areas = panels.areas_of(errors["n"])
    looks = style.looks(errors["method"])
    figure, rows = panels.grid(datasets, [1.0] if regular_attack is None else [1.0, 1.0])
    for dataset, axes in zip(datasets, rows, strict=True):
        models = errors[errors["dataset"] == dataset]
        if regular_attack is not None:
            attacked = panels.with_rate(models, success_rates, regular_attack, "success_rate")
            _success(axes[0], attacked, looks, areas)
        _cost(axes[-1], models[models["method"].isin([normal, adversarial])], looks)
    if regular_attack is None:
        compared = {name: looks[name] for name in looks if name in (normal, adversarial)}
        panels.legend(figure, panels.method_handles(compared))
    else:
        panels.legend(figure, panels.method_handles(looks) + panels.size_handles(areas))
    return figure


def _success(
    axes: Axes, attacked: pd.DataFrame, looks: panels.Looks, areas: Mapping[int, float]
) -> None:
    """Success rate against test error."""
    if attacked.empty:
        panels.nothing(axes, "not attacked")
        return
    panels.scatter(axes, attacked, looks, areas, "regular success rate")


def _cost(axes: Axes, compared: pd.DataFrame, looks: panels.Looks) -> None:
    """Test error against N of the two methods compared."""
    if compared.empty:
        panels.nothing(axes, "neither method was trained")
        return
    panels.against_n(axes, compared, "test_error", looks, panels.TEST_ERROR_LABEL)
