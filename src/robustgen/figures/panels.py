"""What several figures share: panels of rates, their axes and letters."""

import math
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_lowercase
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from robustgen.analysis.statistics import t_interval
from robustgen.figures.style import COLUMN_WIDTH, MEDIUM, SMALL, TEXT_WIDTH, Look, Looks, line, page

N_LABEL = "training images N"
TEST_ERROR_LABEL = "test error"
NO_RATE = "no success rate: not attacked, or\nno image was classified correctly"
MODEL_KEYS = ["dataset", "method", "n", "seed"]
_AREAS = (8.0, 34.0)
_HEIGHT = 1.6
_NAME, _BESIDE = 0.36, 0.65
"""Inches that the name of an N takes on its axis, and that the other axis takes of a panel."""


def with_rate(errors: pd.DataFrame, rates: pd.DataFrame, attack: str, rate: str) -> pd.DataFrame:
    """Models of `errors` with their success rate under `attack`, as column `success`.

    Models that were not attacked, or got no image right, are left out.
    """
    found = rates.loc[rates["attack"] == attack, [*MODEL_KEYS, rate]]
    joined = errors.merge(found.rename(columns={rate: "success"}), on=MODEL_KEYS)
    return joined.dropna(subset=["success"])


def grid(datasets: Sequence[str], heights: Sequence[float]) -> tuple[Figure, list[list[Axes]]]:
    """Lettered panels below each other, one column per data set; a lone one fits a text column.

    Args:
        datasets: their names.
        heights: of the panels, as shares of the usual one.

    Returns: the figure, and the panels of each data set from top to bottom.
    """
    columns = max(len(datasets), 1)
    figure = page_of(columns, sum(heights))
    axes = figure.subplots(
        len(heights), columns, squeeze=False, gridspec_kw={"height_ratios": list(heights)}
    )
    letters = iter(ascii_lowercase)
    for row, panels in enumerate(axes):
        for column, panel in enumerate(panels):
            named = columns > 1 and row == 0
            title(panel, next(letters, ""), datasets[column] if named else "")
    if not datasets:
        nothing(axes[0, 0], "no results")
    return figure, [list(panels) for panels in axes.T[: len(datasets)]]


def page_of(columns: int, rows: float) -> Figure:
    """An empty figure for so many panels: one column of them fits a text column."""
    return page(COLUMN_WIDTH if columns == 1 else TEXT_WIDTH, _HEIGHT * rows + 0.1)


def share_labels(figure: Figure) -> None:
    """Leave the words of the vertical axes to the first panel of each row that has them."""
    rows: set[int] = set()
    for axes in (panel for panel in figure.axes if panel.get_ylabel()):
        place = axes.get_subplotspec()
        if place is None or place.rowspan.start in rows:
            axes.set_ylabel("")
        else:
            rows.add(place.rowspan.start)


def share_heights(panels: Iterable[Axes]) -> None:
    """Let the vertical axes of panels that show the same rate end where the highest one does."""
    drawn = [panel for panel in panels if panel.has_data()]
    limits = max((panel.get_ylim() for panel in drawn), key=lambda ends: ends[1], default=None)
    for panel in drawn:
        panel.set_ylim(limits)


def title(axes: Axes, letter: str, text: str = "") -> None:
    """The panel's letter, in bold, and a few words after it."""
    axes.set_title(rf"$\bf{{{letter}}}$  {text}".rstrip(), loc="left", fontsize=MEDIUM)


def nothing(axes: Axes, why: str) -> None:
    """Say in an empty panel why it is empty."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", fontsize=SMALL)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def lone_words(why: str) -> Figure:
    """A figure that only says why it is empty."""
    figure = page(COLUMN_WIDTH, 0.5)
    nothing(figure.subplots(), why)
    return figure


def means(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean over seeds and its t interval per N, one row each, of one method's models."""
    rows = [
        (n, *t_interval(group.to_numpy(), bounds=(0.0, 1.0)))
        for n, group in frame.groupby("n")[value]
    ]
    return pd.DataFrame(rows, columns=["n", "mean", "low", "high"]).astype(float)


def against_n(axes: Axes, frame: pd.DataFrame, value: str, looks: Looks, label: str) -> None:
    """Rate `value` against N: per method the means with t intervals, and each model as a point.

    Methods stand a little beside each other so that their intervals can be told apart.
    """
    sizes = sorted(frame["n"].unique())
    present = [name for name in looks if name in set(frame["method"])]
    step = _step(sizes, len(present))
    for place, name in enumerate(present):
        aside = math.exp(step * (place - (len(present) - 1) / 2))
        beside = aside * math.exp(0.5 * step)
        own = frame[frame["method"] == name]
        _curve(axes, own, value, looks[name], (aside, beside), _crowding(len(sizes) * len(present)))
    n_axis(axes, sizes, step * len(present))
    rate_axis(axes, "y", label)


def _curve(
    axes: Axes,
    models: pd.DataFrame,
    value: str,
    look: Look,
    shifts: tuple[float, float],
    scale: float,
) -> None:
    """One method's means and intervals at N times the first shift, its models at the second.

    A lone model of its N is its own mean and gets no second point.
    """
    mean = means(models, value)
    axes.errorbar(
        mean["n"] * shifts[0],
        mean["mean"],
        yerr=[mean["mean"] - mean["low"], mean["high"] - mean["mean"]],
        elinewidth=0.8,
        capsize=1.6,
        capthick=0.8,
        zorder=3,
        **line(look, scale),
    )
    several = models[models.groupby("n")["n"].transform("size") > 1]
    axes.scatter(
        several["n"] * shifts[1],
        several[value],
        s=4.0 * scale**2,
        color=look.colour,
        edgecolors="white",
        linewidths=0.25,
        zorder=4,
    )


def _step(sizes: Sequence[int], methods: int) -> float:
    """How far methods stand from each other, in natural logarithms of N."""
    if len(sizes) < 2:
        return 0.05
    logs = np.log(sizes)
    all_of_them = min(0.5 * np.diff(logs).min(), 0.15 * (logs[-1] - logs[0]))
    return float(min(all_of_them / methods, 0.05 * (logs[-1] - logs[0])))


def _crowding(means: int) -> float:
    """How much smaller than usual marks are drawn in a panel of so many means."""
    return max(0.65, min(1.0, math.sqrt(24 / means)))


def scatter(
    axes: Axes, frame: pd.DataFrame, looks: Looks, areas: Mapping[int, float], y_label: str
) -> None:
    """Success rate against test error, one point per model, of the area of its N."""
    for name, look in looks.items():
        own = frame[frame["method"] == name]
        axes.scatter(
            own["test_error"],
            own["success"],
            s=[areas[n] for n in own["n"]],
            marker=look.marker,
            facecolors=look.face,
            edgecolors=look.colour if not look.filled else "white",
            linewidths=0.9 if not look.filled else 0.3,
            alpha=0.8,
            zorder=3,
        )
    rate_axis(axes, "x", TEST_ERROR_LABEL)
    rate_axis(axes, "y", y_label)


def areas_of(sizes: Iterable[int]) -> dict[int, float]:
    """Area of the points of each N, in square points, even steps on the log scale."""
    known = sorted(set(sizes))
    logs = np.log(known)
    span = logs[-1] - logs[0] if len(known) > 1 else 1.0
    low, high = _AREAS if len(known) > 1 else (20.0, 20.0)
    return {
        n: low + (high - low) * (log - logs[0]) / span for n, log in zip(known, logs, strict=True)
    }


def short(n: float) -> str:
    """A number of images as on an axis: 250, 1k, 2.5k."""
    return f"{n / 1000:g}k" if n >= 1000 else f"{n:g}"


def n_axis(axes: Axes, sizes: Sequence[int], spread: float) -> None:
    """A log axis with a tick at each N of the study, named where there is room.

    Args:
        spread: of what is drawn at one N, in natural logarithms.
    """
    axes.set_xscale("log")
    room = _NAME / _width(axes) * math.log(sizes[-1] / sizes[0])
    named = [sizes[-1]]
    for n in reversed(sizes[:-1]):
        if math.log(named[-1] / n) >= room:
            named.append(n)
    axes.xaxis.set_major_locator(FixedLocator(named))
    axes.xaxis.set_major_formatter(lambda n, _: short(n))
    axes.xaxis.set_minor_locator(FixedLocator(sizes) if len(sizes) > 1 else NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    margin = math.exp(0.6 * spread + max(0.05 * math.log(sizes[-1] / sizes[0]), 0.1))
    axes.set_xlim(sizes[0] / margin, sizes[-1] * margin)
    axes.set_xlabel(N_LABEL)


def _width(axes: Axes) -> float:
    """About the length of the horizontal axis in inches, which the layout settles later."""
    width = float(axes.figure.bbox.width / axes.figure.dpi)
    place = axes.get_subplotspec()
    if place is not None:
        width *= len(place.colspan) / place.get_gridspec().ncols
    return max(width - _BESIDE, _NAME)


def percent(share: float, _: object = None) -> str:
    """A share as on an axis."""
    return f"{100 * share:g}%"


def rate_axis(axes: Axes, which: Literal["x", "y"], label: str) -> None:
    """Percent on one axis, from a little below 0 so that points at 0 stay whole."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(percent)
    axis.set_label_text(label)
    _, high = axes.dataLim.intervalx if which == "x" else axes.dataLim.intervaly
    high = high if np.isfinite(high) and high > 0 else 1.0
    limits = (-0.035 * high, 1.06 * high)
    if which == "x":
        axes.set_xlim(*limits)
        # As many ticks as the width has room for: by themselves they would follow the layout, which
        # makes room for a name at the edge, so that the axis has fewer ticks, and none there.
        axes.xaxis.set_major_locator(MaxNLocator(int(_width(axes) / _NAME), steps=[1, 2, 5, 10]))
    else:
        axes.set_ylim(*limits)
