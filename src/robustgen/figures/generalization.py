"""Figure 3: robustness on the manifold is generalization."""

from collections.abc import Mapping, Sequence
from itertools import chain

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustgen.figures import legends, panels, style

_Y_LABEL = "on-manifold\nsuccess rate"
_NOT_ATTACKED = "no on-manifold\nattack"
_MAX_COLUMNS = 4
ErrorPanels = dict[str, Axes]
"""The panel of the test error, by data set."""
AttackPanels = dict[tuple[str, str], list[Axes]]
"""The two panels of the success rate, by data set and attack."""


@style.with_style
def plot_generalization(
    errors: pd.DataFrame,
    success_rates: pd.DataFrame,
    attacks: Mapping[str, Sequence[str]],
    rate: str = "success_rate_correct_codes",
) -> Figure:
    """Plot test error and on-manifold success rates against N, and against each other.

    Args:
        errors: the table `ERRORS`.
        success_rates: the table `SUCCESS_RATES`.
        attacks: names of the on-manifold attacks of each data set. A data set without any has the
            panel of the test error only.
        rate: column of `success_rates`. `success_rate_correct_codes` excludes images whose
            unperturbed code decodes to a misclassified image, which is an error of the manifold.

    Returns:
        A panel of the test error per data set, as wide as the panels of its attacks together, and
        below it two panels per attack. The panels of a data set's attacks have the same y limits.
        Each training method has a colour and a marker.
    """
    errors = errors.sort_values(panels.MODEL_KEYS)  # the order decides which marker is on top
    datasets = sorted(errors["dataset"].unique())
    attacks = {dataset: list(attacks.get(dataset, ())) for dataset in datasets}
    areas = panels.marker_areas(errors["n"])
    styles = style.plot_styles(errors["method"])
    figure, error_panels, attack_panels = _make_panels(attacks)
    for dataset, error_panel in error_panels.items():
        models = errors[errors["dataset"] == dataset]
        panels.plot_against_n(error_panel, models, "test_error", styles, panels.TEST_ERROR_LABEL)
        for attack in attacks[dataset]:
            attacked = panels.join_rates(models, success_rates, attack, rate)
            _plot_success(attack_panels[dataset, attack], attacked, styles, areas)
        panels.share_y_limits(
            chain(*(attack_panels[dataset, attack] for attack in attacks[dataset]))
        )
    panels.share_y_labels(figure)
    size_handles = legends.size_handles(areas) if attack_panels else []
    legends.add_legend(figure, legends.method_handles(styles), size_handles)
    return figure


def _make_panels(
    attacks: Mapping[str, Sequence[str]],
) -> tuple[Figure, ErrorPanels, AttackPanels]:
    """Lettered panels, those of a data set above those of its attacks, in as many bands as needed.

    Returns: the figure, the panel of each data set, and the two panels of each attack on it.
    """
    bands = _arrange_in_bands(attacks)
    if not bands:
        return panels.message_figure("no results"), {}, {}
    rows = 3 if any(attacks.values()) else 1
    columns = max(map(len, bands))
    figure = panels.panel_figure(columns, rows * len(bands))
    cells = figure.add_gridspec(rows * len(bands), columns)
    letters = panels.panel_letters()
    error_panels: ErrorPanels = {}
    attack_panels: AttackPanels = {}
    for top_row, band in zip(range(0, rows * len(bands), rows), bands, strict=True):
        for dataset in dict.fromkeys(name for name, _ in band):
            band_columns = [column for column, (name, _) in enumerate(band) if name == dataset]
            cell = cells[top_row, band_columns[0] : band_columns[-1] + 1]
            error_panels[dataset] = figure.add_subplot(cell)
            dataset_title = dataset if len(attacks) > 1 else ""
            panels.set_title(error_panels[dataset], next(letters), dataset_title)
        for row in range(top_row + 1, top_row + rows):
            for column, (dataset, attack) in enumerate(band):
                if attack:
                    panel = figure.add_subplot(cells[row, column])
                    title = _attack_title(attack, columns) if row == top_row + 1 else ""
                    panels.set_title(panel, next(letters), title)
                    attack_panels.setdefault((dataset, attack), []).append(panel)
                elif row == top_row + 1:
                    both_rows = cells[row : top_row + rows, column]
                    panels.show_message(figure.add_subplot(both_rows), _NOT_ATTACKED)
    return figure, error_panels, attack_panels


def _arrange_in_bands(attacks: Mapping[str, Sequence[str]]) -> list[list[tuple[str, str]]]:
    """Return the columns of each band, as pairs of data set and attack; a data set is in one band.

    A data set without attacks has one column, with an empty name of the attack.
    """
    bands: list[list[tuple[str, str]]] = []
    for dataset, names in attacks.items():
        columns = [(dataset, attack) for attack in names or [""]]
        if not bands or len(bands[-1]) + len(columns) > _MAX_COLUMNS:
            bands.append([])
        bands[-1] += columns
    return bands


def _attack_title(attack: str, columns: int) -> str:
    """Return the name of an attack, broken if columns are narrow; empty for the only column."""
    if columns == 1:
        return ""
    return style.label(attack).replace(" (", "\n(" if columns > 2 else " (")


def _plot_success(
    axes: list[Axes], attacked: pd.DataFrame, styles: style.PlotStyles, areas: Mapping[int, float]
) -> None:
    """Plot the success rate against N and against the test error."""
    if attacked.empty:
        for panel in axes:
            panels.show_message(panel, panels.NO_RATE_MESSAGE)
        return
    panels.plot_against_n(axes[0], attacked, "success", styles, _Y_LABEL)
    panels.plot_against_error(axes[1], attacked, styles, areas, _Y_LABEL)
