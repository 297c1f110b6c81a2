"""Figure 3: robustness on the manifold is generalization."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustgen.figures import legends, panels, style

_LABEL = "on-manifold\nsuccess rate"


@style.styled
def generalization(
    errors: pd.DataFrame,
    success_rates: pd.DataFrame,
    on_manifold_attack: str | None,
    rate: str = "success_rate",
) -> Figure:
    """Test error and on-manifold success rate against N, and against each other.

    Args:
        errors: the table `ERRORS`.
        success_rates: the table `SUCCESS_RATES`.
        on_manifold_attack: name of the attack drawn; without one only the test error is drawn.
        rate: column of `success_rates`; `success_rate_from_right` leaves out images whose own
            code decodes to a misclassified image.

    Returns:
        One column of three panels per data set, one colour and marker per training method.
    """
    errors = errors.sort_values(panels.MODEL_KEYS)  # points cover each other in this order
    datasets = sorted(errors["dataset"].unique())
    areas = panels.areas_of(errors["n"])
    looks = style.looks(errors["method"])
    figure, columns = panels.grid(datasets, [1.0] if on_manifold_attack is None else [1.0] * 3)
    for dataset, axes in zip(datasets, columns, strict=True):
        models = errors[errors["dataset"] == dataset]
        panels.against_n(axes[0], models, "test_error", looks, panels.TEST_ERROR_LABEL)
        if on_manifold_attack is not None:
            attacked = panels.with_rate(models, success_rates, on_manifold_attack, rate)
            _success(axes[1:], attacked, looks, areas)
    panels.share_labels(columns)
    handles = legends.method_handles(looks)
    if on_manifold_attack is not None:
        handles += legends.size_handles(areas)
    legends.legend(figure, handles)
    return figure


def _success(
    axes: list[Axes], attacked: pd.DataFrame, looks: style.Looks, areas: Mapping[int, float]
) -> None:
    """Success rate against N and against test error."""
    if attacked.empty:
        for panel in axes:
            panels.nothing(panel, "not attacked on the manifold")
        return
    panels.against_n(axes[0], attacked, "success", looks, _LABEL)
    panels.scatter(axes[1], attacked, looks, areas, _LABEL)
