"""Figure 5: success against the radius, from the smallest perturbation of each image."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from robustgen.figures import legends, panels, style
from robustgen.figures.style import line_settings
from robustgen.specs import NORM_SYMBOLS, MinimalAttack

_POINT_COLOUR = "#6a6a6a"
_POINT_MARKERS = ("+", "1", "2", "3", "4", "|")
"""Markers of attacks with a radius; no training method has one of them."""
_HALF = 0.5
_HALF_LINE: Any = {"color": _POINT_COLOUR, "linewidth": 0.7, "linestyle": ":"}
_HALF_DODGE = 0.025
"""Vertical distance of the half radii of two methods, so that their intervals stay visible."""
_MAX_COLUMNS = 2


@style.with_style
def plot_radius_curves(
    curves: pd.DataFrame,
    over_seeds: pd.DataFrame,
    attacks: Mapping[str, Mapping[str, MinimalAttack]],
) -> Figure:
    """Plot the success rate against the radius of the models of the largest N.

    Args:
        curves: the table `RADIUS_CURVES`.
        over_seeds: the table `OVER_SEEDS`, for the attacks with a radius.
        attacks: by data set and name, the attacks for the smallest perturbation.

    Returns:
        A panel per data set and attack. Each training method has a line, the mean over seeds, and
        near 50 % its half radius with the t interval over seeds. Attacks with a radius in the same
        space and norm are points.
    """
    pairs = [
        (dataset, name) for dataset, minimal_attacks in attacks.items() for name in minimal_attacks
    ]
    if not pairs:
        return panels.message_figure("no attack for the smallest perturbation")
    columns = min(len(pairs), _MAX_COLUMNS)
    rows = -(-len(pairs) // columns)
    figure = panels.panel_figure(columns, 1.15 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    n = curves["n"].max()
    largest, means = curves[curves["n"] == n], over_seeds[over_seeds["n"] == n]
    styles = style.plot_styles(largest["method"])
    markers = _choose_markers(attacks)
    for axes, letter, (dataset, name) in zip(grid, panels.panel_letters(), pairs, strict=False):
        attack = attacks[dataset][name]
        title = f"{dataset}: {name}" if len(attacks) > 1 else name
        panels.set_title(axes, letter, style.format_name(title.replace("_", " "), 30))
        _plot_curves(axes, _select(largest, dataset, name), styles, attack)
        axes.set_ylabel(f"success rate, N = {panels.format_count(n)}")
        _plot_half_radii(axes, _select(means, dataset, name, "half_radius"), styles)
        for point, radius in attack["points"].items():
            rates = _select(means, dataset, point, "success_rate")
            _plot_points(axes, rates, styles, radius, markers[point])
    for axes in grid[len(pairs) :]:
        axes.set_visible(False)
    panels.share_y_labels(figure)
    half_line = Line2D([], [], **_HALF_LINE, label="half of the images")
    legends.add_legend(
        figure, legends.method_handles(styles), [*_point_handles(markers), half_line]
    )
    return figure


def _choose_markers(attacks: Mapping[str, Mapping[str, MinimalAttack]]) -> dict[str, str]:
    """Return a marker for each attack with a radius."""
    names = [
        name
        for minimal_attacks in attacks.values()
        for attack in minimal_attacks.values()
        for name in attack["points"]
    ]
    unique_names = dict.fromkeys(names)
    return {name: _POINT_MARKERS[i % len(_POINT_MARKERS)] for i, name in enumerate(unique_names)}


def _select(
    frame: pd.DataFrame, dataset: str, attack: str, measure: str | None = None
) -> pd.DataFrame:
    """Return the rows of an attack on a data set, and of one measure, indexed by the method."""
    rows = frame[(frame["dataset"] == dataset) & (frame["attack"] == attack)]
    if measure is not None:
        rows = rows[rows["measure"] == measure]
    return rows.set_index("method")


def _plot_curves(
    axes: Axes, curves: pd.DataFrame, styles: style.PlotStyles, attack: MinimalAttack
) -> None:
    """Plot the line of each method, on a logarithmic axis of radii."""
    if curves.empty:
        panels.show_message(axes, panels.NO_RATE_MESSAGE)
        return
    for method in curves.index.unique():
        rows, line = curves.loc[[method]], styles[method]
        axes.plot(rows["radius"], rows["mean"], color=line.colour, linestyle=line.line)
    axes.axhline(_HALF, **_HALF_LINE, zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=12))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda radius, _: f"{radius:g}")
    axes.set_xlabel(f"{NORM_SYMBOLS[attack['norm']]} radius, {attack['space'].replace('_', ' ')}")
    panels.set_rate_axis(axes, "y", "success rate")


def _plot_half_radii(axes: Axes, half_radii: pd.DataFrame, styles: style.PlotStyles) -> None:
    """Plot the mean half radius of each method with its interval, one above the other."""
    methods = [method for method in styles if method in half_radii.index]
    for index, method in enumerate(methods):
        row = half_radii.loc[method]
        height = _HALF + _HALF_DODGE * ((len(methods) - 1) / 2 - index)
        axes.errorbar(
            row["mean"],
            height,
            xerr=[[row["mean"] - row["low"]], [row["high"] - row["mean"]]],
            elinewidth=0.8,
            capsize=1.6,
            capthick=0.8,
            zorder=3,
            **{**line_settings(styles[method]), "linestyle": "none"},
        )


def _plot_points(
    axes: Axes, rates: pd.DataFrame, styles: style.PlotStyles, radius: float, marker: str
) -> None:
    """Plot the mean success rate of an attack with a radius, for each method."""
    for method in rates.index:
        axes.plot(
            [radius],
            [rates.loc[method, "mean"]],
            color=styles[method].colour,
            marker=marker,
            markersize=5.0,
            markeredgewidth=1.1,
            zorder=4,
        )


def _point_handles(markers: Mapping[str, str]) -> Sequence[Artist]:
    """Return a legend entry for each attack with a radius."""
    return [
        Line2D(
            [], [], color=_POINT_COLOUR, linestyle="none", marker=marker, markersize=5.0,
            markeredgewidth=1.1,
            label=f"attack {style.format_name(name.replace('_', ' '), 30)}",
        )
        for name, marker in markers.items()
    ]  # fmt: skip
