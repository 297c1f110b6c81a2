"""The legend of a figure, and its entries."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robustgen.figures.panels import format_count
from robustgen.figures.style import PlotStyles, line_settings

_MAX_SIZES = 4
"""Number of N that a legend names at most."""


def method_handles(styles: PlotStyles) -> list[Artist]:
    """Return a legend entry for each method."""
    return [Line2D([], [], label=style.label, **line_settings(style)) for style in styles.values()]


def size_handles(areas: Mapping[int, float]) -> list[Artist]:
    """Return a legend entry for the markers of each N, or of a selection if there are many."""
    if len(areas) < 2:
        return []
    sizes = sorted(areas)
    count = min(len(sizes), _MAX_SIZES)
    selected = np.linspace(0, len(sizes) - 1, count).round().astype(int)
    return [
        Line2D(
            [],
            [],
            color="#8a8a8a",
            linestyle="none",
            marker="o",
            markersize=math.sqrt(areas[n]),
            markeredgewidth=0,
            label=f"N = {format_count(n)}",
        )
        for n in (sizes[index] for index in selected)
    ]


def add_legend(figure: Figure, *groups: Sequence[Artist], title: str | None = None) -> None:
    """Add a legend below the panels of a figure. The figure grows, its panels keep their size.

    Args:
        figure: the figure.
        groups: entries that belong together. Each group begins a column of its own, if the legend
            has enough columns.
        title: title of the legend.
    """
    width, height = figure.get_size_inches()
    for columns in (3, 2, 1):
        handles, rows = _arrange([group for group in groups if group], columns)
        legend = figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=max(len(handles) // rows, 1),
            title=title,
            handlelength=2.1,
            handletextpad=0.5,
            columnspacing=0.9,
            borderpad=0.0,
            labelspacing=0.35,
        )
        extent = legend.get_window_extent()
        if columns == 1 or extent.width <= width * figure.dpi:
            break
        legend.remove()
    figure.set_size_inches(width, height + extent.height / figure.dpi)


def _arrange(groups: Sequence[Sequence[Artist]], max_columns: int) -> tuple[list[Artist], int]:
    """Entries column by column, in at most `max_columns` columns, and the number of rows.

    Empty entries fill the last column of a group. If there are more groups than columns, groups
    share columns.
    """
    if len(groups) > max_columns:
        groups = [[handle for group in groups for handle in group]]
    rows = 1
    while sum(math.ceil(len(group) / rows) for group in groups) > max_columns:
        rows += 1
    handles: list[Artist] = []
    for group in groups:
        gaps = range(-len(group) % rows)
        handles += [*group, *(Line2D([], [], linestyle="none", label="") for _ in gaps)]
    return handles, rows
