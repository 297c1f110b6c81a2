"""Figure 3: robustness on the manifold is generalization."""

from collections.abc import Mapping, Sequence
from itertools import chain
from string import ascii_lowercase

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustgen.figures import legends, panels, style

_LABEL = "on-manifold\nsuccess rate"
_NOT_ATTACKED = "not attacked\non the manifold"
_COLUMNS = 4
Upper = dict[str, Axes]
Lower = dict[tuple[str, str], list[Axes]]


@style.styled
def generalization(
    errors: pd.DataFrame,
    success_rates: pd.DataFrame,
    attacks: Mapping[str, Sequence[str]],
    rate: str = "success_rate_correct_codes",
) -> Figure:
    """Test error and on-manifold success rates against N, and against each other.

    Args:
        errors: the table `ERRORS`.
        success_rates: the table `SUCCESS_RATES`.
        attacks: names of the on-manifold attacks drawn, per data set; of a data set without any
            only the test error is drawn.
        rate: column of `success_rates`; `success_rate_correct_codes` leaves out images whose own
            code decodes to a misclassified image, which is an error of the manifold.

    Returns:
        One panel of the test error per data set, as wide as its attacks together, and below it
        two panels per attack, those of a data set to the same height; one colour and marker per
        training method.
    """
    errors = errors.sort_values(panels.MODEL_KEYS)  # points cover each other in this order
    drawn = {name: list(attacks.get(name, ())) for name in sorted(errors["dataset"].unique())}
    areas = panels.areas_of(errors["n"])
    looks = style.looks(errors["method"])
    figure, upper, lower = _grid(drawn)
    for dataset, top in upper.items():
        models = errors[errors["dataset"] == dataset]
        panels.against_n(top, models, "test_error", looks, panels.TEST_ERROR_LABEL)
        for attack in drawn[dataset]:
            attacked = panels.with_rate(models, success_rates, attack, rate)
            _success(lower[dataset, attack], attacked, looks, areas)
        panels.share_heights(chain(*(lower[dataset, attack] for attack in drawn[dataset])))
    panels.share_labels(figure)
    sizes = legends.size_handles(areas) if lower else []
    legends.legend(figure, legends.method_handles(looks), sizes)
    return figure


def _grid(drawn: Mapping[str, Sequence[str]]) -> tuple[Figure, Upper, Lower]:
    """Lettered panels, those of a data set above those of its attacks, in as many bands as needed.

    Returns: the figure, the upper panel of each data set, and the two panels of each attack on it.
    """
    bands = _bands(drawn)
    if not bands:
        return panels.lone_words("no results"), {}, {}
    rows = 3 if any(drawn.values()) else 1
    columns = max(map(len, bands))
    figure = panels.page_of(columns, rows * len(bands))
    cells = figure.add_gridspec(rows * len(bands), columns)
    letters = iter(ascii_lowercase)
    upper: Upper = {}
    lower: Lower = {}
    for first, band in zip(range(0, rows * len(bands), rows), bands, strict=True):
        for dataset in dict.fromkeys(of for of, _ in band):
            places = [place for place, (of, _) in enumerate(band) if of == dataset]
            upper[dataset] = figure.add_subplot(cells[first, places[0] : places[-1] + 1])
            panels.title(upper[dataset], next(letters, ""), dataset if len(drawn) > 1 else "")
        for row in range(first + 1, first + rows):
            for place, (dataset, attack) in enumerate(band):
                if attack:
                    panel = figure.add_subplot(cells[row, place])
                    words = _named(attack, columns) if row == first + 1 else ""
                    panels.title(panel, next(letters, ""), words)
                    lower.setdefault((dataset, attack), []).append(panel)
                elif row == first + 1:
                    both = cells[row : first + rows, place]
                    panels.nothing(figure.add_subplot(both), _NOT_ATTACKED)
    return figure, upper, lower


def _bands(drawn: Mapping[str, Sequence[str]]) -> list[list[tuple[str, str]]]:
    """Pairs of data set and attack, those of a data set together, by the line they stand on.

    A data set without attacks takes the place of one, whose name is empty.
    """
    bands: list[list[tuple[str, str]]] = []
    for dataset, attacks in drawn.items():
        own = [(dataset, attack) for attack in attacks or [""]]
        if not bands or len(bands[-1]) + len(own) > _COLUMNS:
            bands.append([])
        bands[-1] += own
    return bands


def _named(attack: str, columns: int) -> str:
    """The name of an attack as it fits the width of a column; a lone one needs none."""
    if columns == 1:
        return ""
    return style.label(attack).replace(" (", "\n(" if columns > 2 else " (")


def _success(
    axes: list[Axes], attacked: pd.DataFrame, looks: style.Looks, areas: Mapping[int, float]
) -> None:
    """Success rate against N and against test error."""
    if attacked.empty:
        for panel in axes:
            panels.nothing(panel, panels.NO_RATE)
        return
    panels.against_n(axes[0], attacked, "success", looks, _LABEL)
    panels.scatter(axes[1], attacked, looks, areas, _LABEL)
