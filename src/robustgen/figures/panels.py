"""Panels that several figures share: rates against N and against the test error, and their axes."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from string import ascii_lowercase
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from robustgen.analysis.statistics import t_interval
from robustgen.figures.style import (
    COLUMN_WIDTH,
    MEDIUM,
    SMALL,
    TEXT_WIDTH,
    PlotStyle,
    PlotStyles,
    line_settings,
    new_figure,
)

N_LABEL = "training images N"
TEST_ERROR_LABEL = "test error"
NO_RATE_MESSAGE = "no success rate: not attacked, or\nno image was classified correctly"
MODEL_KEYS = ["dataset", "method", "n", "seed"]
_MARKER_AREAS = (8.0, 34.0)
"""Areas of the markers of the smallest and of the largest N, in square points."""
_SINGLE_MARKER_AREA = 20.0
_PANEL_HEIGHT = 1.6
_TICK_LABEL_WIDTH, _Y_AXIS_WIDTH = 0.36, 0.65
"""Inches that the label of a tick takes along the x axis, and that the y axis takes of a panel."""


def join_rates(errors: pd.DataFrame, rates: pd.DataFrame, attack: str, rate: str) -> pd.DataFrame:
    """Return the models of `errors` with their success rate under `attack`, as column `success`.

    Models without a success rate are dropped: they were not attacked, or classified no image
    correctly.
    """
    attack_rates = rates.loc[rates["attack"] == attack, [*MODEL_KEYS, rate]]
    joined = errors.merge(attack_rates.rename(columns={rate: "success"}), on=MODEL_KEYS)
    return joined.dropna(subset=["success"])


def panel_grid(
    datasets: Sequence[str], heights: Sequence[float]
) -> tuple[Figure, list[list[Axes]]]:
    """Return lettered panels below each other, a column per data set.

    Args:
        datasets: names of the data sets.
        heights: heights of the panels, as shares of the usual height.

    Returns: the figure, and the panels of each data set from top to bottom.
    """
    columns = max(len(datasets), 1)
    figure = panel_figure(columns, sum(heights))
    axes = figure.subplots(
        len(heights), columns, squeeze=False, gridspec_kw={"height_ratios": list(heights)}
    )
    letters = panel_letters()
    for row, panels in enumerate(axes):
        for column, panel in enumerate(panels):
            has_name = columns > 1 and row == 0
            set_title(panel, next(letters), datasets[column] if has_name else "")
    if not datasets:
        show_message(axes[0, 0], "no results")
    return figure, [list(panels) for panels in axes.T[: len(datasets)]]


def panel_figure(columns: int, rows: float) -> Figure:
    """Return an empty figure for so many panels; a single column of panels fits a text column."""
    width = COLUMN_WIDTH if columns == 1 else TEXT_WIDTH
    return new_figure(width, _PANEL_HEIGHT * rows + 0.1)


def share_y_labels(figure: Figure) -> None:
    """Keep the label of the y axis only in the first panel of each row that has one."""
    labelled_rows: set[int] = set()
    for axes in (panel for panel in figure.axes if panel.get_ylabel()):
        cell = axes.get_subplotspec()
        if cell is None or cell.rowspan.start in labelled_rows:
            axes.set_ylabel("")
        else:
            labelled_rows.add(cell.rowspan.start)


def share_y_limits(panels: Iterable[Axes]) -> None:
    """Set the y limits of all panels with data to those of the panel that reaches highest."""
    with_data = [panel for panel in panels if panel.has_data()]
    limits = max((panel.get_ylim() for panel in with_data), key=lambda pair: pair[1], default=None)
    for panel in with_data:
        panel.set_ylim(limits)


def panel_letters() -> Iterator[str]:
    """Yield the letters of panels, a to z, and then empty texts."""
    return chain(ascii_lowercase, repeat(""))


def set_title(axes: Axes, letter: str, text: str = "") -> None:
    """Set the title of a panel: its letter in bold, and a few words."""
    axes.set_title(rf"$\bf{{{letter}}}$  {text}".rstrip(), loc="left", fontsize=MEDIUM)


def show_message(axes: Axes, message: str) -> None:
    """Write in an empty panel why it is empty."""
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", fontsize=SMALL)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def message_figure(message: str) -> Figure:
    """Return a figure that contains nothing but a message."""
    figure = new_figure(COLUMN_WIDTH, 0.5)
    show_message(figure.subplots(), message)
    return figure


def mean_intervals(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the mean over seeds and its t interval for each N, from the models of one method."""
    rows = [
        (n, *t_interval(values.to_numpy(), bounds=(0.0, 1.0)))
        for n, values in frame.groupby("n")[column]
    ]
    return pd.DataFrame(rows, columns=["n", "mean", "low", "high"]).astype(float)


def plot_against_n(
    axes: Axes, frame: pd.DataFrame, column: str, styles: PlotStyles, label: str
) -> None:
    """Plot a rate against N: means with t intervals of each method, and each model as a point.

    Methods are shifted sideways, so that their intervals do not cover each other.

    Args:
        axes: the panel.
        frame: a row per model.
        column: name of the rate.
        styles: styles of the methods.
        label: label of the y axis.
    """
    sizes = sorted(frame["n"].unique())
    methods = [name for name in styles if name in set(frame["method"])]
    step = _dodge_step(sizes, len(methods))
    scale = _marker_scale(len(sizes) * len(methods))
    for index, name in enumerate(methods):
        mean_shift = math.exp(step * (index - (len(methods) - 1) / 2))
        point_shift = mean_shift * math.exp(0.5 * step)
        models = frame[frame["method"] == name]
        _plot_curve(axes, models, column, styles[name], (mean_shift, point_shift), scale)
    set_n_axis(axes, sizes, step * len(methods))
    set_rate_axis(axes, "y", label)


def _plot_curve(
    axes: Axes,
    models: pd.DataFrame,
    column: str,
    style: PlotStyle,
    shifts: tuple[float, float],
    scale: float,
) -> None:
    """Plot the means of one method at N times the first shift, its models at N times the second.

    The only model of an N equals the mean and is not drawn again.
    """
    means = mean_intervals(models, column)
    axes.errorbar(
        means["n"] * shifts[0],
        means["mean"],
        yerr=[means["mean"] - means["low"], means["high"] - means["mean"]],
        elinewidth=0.8,
        capsize=1.6,
        capthick=0.8,
        zorder=3,
        **line_settings(style, scale),
    )
    repeated = models[models.groupby("n")["n"].transform("size") > 1]
    axes.scatter(
        repeated["n"] * shifts[1],
        repeated[column],
        s=4.0 * scale**2,
        color=style.colour,
        edgecolors="white",
        linewidths=0.25,
        zorder=4,
    )


def _dodge_step(sizes: Sequence[int], methods: int) -> float:
    """Return the distance between neighbouring methods at one N, in natural logarithms of N."""
    if len(sizes) < 2:
        return 0.05
    logs = np.log(sizes)
    max_spread = min(0.5 * np.diff(logs).min(), 0.15 * (logs[-1] - logs[0]))
    return float(min(max_spread / methods, 0.05 * (logs[-1] - logs[0])))


def _marker_scale(mean_count: int) -> float:
    """Return the size of markers relative to the usual one, in a panel of so many means."""
    return max(0.65, min(1.0, math.sqrt(24 / mean_count)))


def plot_against_error(
    axes: Axes, frame: pd.DataFrame, styles: PlotStyles, areas: Mapping[int, float], y_label: str
) -> None:
    """Plot the success rate against the test error, a point per model.

    Args:
        axes: the panel.
        frame: a row per model, with columns `test_error` and `success`.
        styles: styles of the methods.
        areas: area of a marker by N, in square points.
        y_label: label of the y axis.
    """
    for name, style in styles.items():
        models = frame[frame["method"] == name]
        axes.scatter(
            models["test_error"],
            models["success"],
            s=[areas[n] for n in models["n"]],
            marker=style.marker,
            facecolors=style.face_colour,
            edgecolors=style.colour if not style.is_filled else "white",
            linewidths=0.9 if not style.is_filled else 0.3,
            alpha=0.8,
            zorder=3,
        )
    set_rate_axis(axes, "x", TEST_ERROR_LABEL)
    set_rate_axis(axes, "y", y_label)


def marker_areas(sizes: Iterable[int]) -> dict[int, float]:
    """Return the area of the markers of each N, in square points, evenly spaced in log N."""
    unique_sizes = sorted(set(sizes))
    if len(unique_sizes) < 2:
        return dict.fromkeys(unique_sizes, _SINGLE_MARKER_AREA)
    logs = np.log(unique_sizes)
    low, high = _MARKER_AREAS
    areas = low + (high - low) * (logs - logs[0]) / (logs[-1] - logs[0])
    return dict(zip(unique_sizes, map(float, areas), strict=True))


def format_count(n: float) -> str:
    """Return a number of images as axes show it: 250, 1k, 2.5k."""
    return f"{n / 1000:g}k" if n >= 1000 else f"{n:g}"


def set_n_axis(axes: Axes, sizes: Sequence[int], spread: float) -> None:
    """Set up a logarithmic x axis with a tick at each N, labelled where there is room.

    Args:
        axes: the panel.
        sizes: all N, in ascending order.
        spread: width of what is drawn at one N, in natural logarithms of N.
    """
    axes.set_xscale("log")
    min_distance = _TICK_LABEL_WIDTH / _axis_width(axes) * math.log(sizes[-1] / sizes[0])
    labelled = [sizes[-1]]
    for n in reversed(sizes[:-1]):
        if math.log(labelled[-1] / n) >= min_distance:
            labelled.append(n)
    axes.xaxis.set_major_locator(FixedLocator(labelled))
    axes.xaxis.set_major_formatter(lambda n, _: format_count(n))
    axes.xaxis.set_minor_locator(FixedLocator(sizes) if len(sizes) > 1 else NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    margin = math.exp(0.6 * spread + max(0.05 * math.log(sizes[-1] / sizes[0]), 0.1))
    axes.set_xlim(sizes[0] / margin, sizes[-1] * margin)
    axes.set_xlabel(N_LABEL)


def _axis_width(axes: Axes) -> float:
    """Return the approximate length of the x axis in inches; the layout fixes it later."""
    width = float(axes.figure.bbox.width / axes.figure.dpi)
    cell = axes.get_subplotspec()
    if cell is not None:
        width *= len(cell.colspan) / cell.get_gridspec().ncols
    return max(width - _Y_AXIS_WIDTH, _TICK_LABEL_WIDTH)


def format_percent(share: float, _: object = None) -> str:
    """Return a share as axes show it, such as 50%."""
    return f"{100 * share:g}%"


def set_rate_axis(axes: Axes, axis_name: Literal["x", "y"], label: str) -> None:
    """Set up an axis of percentages, which starts below 0 so that no marker at 0 is cut off."""
    axis = axes.xaxis if axis_name == "x" else axes.yaxis
    axis.set_major_formatter(format_percent)
    axis.set_label_text(label)
    _, high = axes.dataLim.intervalx if axis_name == "x" else axes.dataLim.intervaly
    high = high if np.isfinite(high) and high > 0 else 1.0
    limits = (-0.035 * high, 1.06 * high)
    if axis_name == "y":
        axes.set_ylim(*limits)
        return
    axes.set_xlim(*limits)
    # The number of ticks is fixed by the width. Otherwise it depends on the layout, which in turn
    # makes room for the label of the last tick: it could end up with a tick that is cut off.
    max_ticks = int(_axis_width(axes) / _TICK_LABEL_WIDTH)
    axes.xaxis.set_major_locator(MaxNLocator(max_ticks, steps=[1, 2, 5, 10]))
