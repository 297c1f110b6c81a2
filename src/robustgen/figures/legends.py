"""The one legend of a figure, and its entries."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robustgen.figures.panels import short
from robustgen.figures.style import Looks, line

_NAMED_SIZES = 4


def method_handles(looks: Looks) -> list[Artist]:
    """An entry for the legend per method."""
    return [Line2D([], [], label=look.label, **line(look)) for look in looks.values()]


def size_handles(areas: Mapping[int, float]) -> list[Artist]:
    """Entries for the legend: the points of each N, or of a few of many."""
    if len(areas) < 2:
        return []
    sizes = sorted(areas)
    few = np.linspace(0, len(sizes) - 1, min(len(sizes), _NAMED_SIZES)).round().astype(int)
    return [
        Line2D(
            [],
            [],
            color="#8a8a8a",
            linestyle="none",
            marker="o",
            markersize=math.sqrt(areas[n]),
            markeredgewidth=0,
            label=f"N = {short(n)}",
        )
        for n in (sizes[place] for place in few)
    ]


def legend(figure: Figure, *groups: Sequence[Artist], title: str | None = None) -> None:
    """One legend for the whole figure below its panels, which stay as large as without it.

    Args:
        groups: entries that belong together; each begins a column where columns are enough.
        title: words above them.
    """
    width, height = figure.get_size_inches()
    for columns in (3, 2, 1):
        handles, rows = _in_columns([group for group in groups if group], columns)
        made = figure.legend(
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
        size = made.get_window_extent()
        if columns == 1 or size.width <= width * figure.dpi:
            break
        made.remove()
    figure.set_size_inches(width, height + size.height / figure.dpi)


def _in_columns(groups: Sequence[Sequence[Artist]], columns: int) -> tuple[list[Artist], int]:
    """Entries column by column, in no more than so many, and the number of rows.

    Empty entries fill the last column of a group. Where columns are not enough, groups share them.
    """
    if len(groups) > columns:
        groups = [[handle for group in groups for handle in group]]
    rows = 1
    while sum(math.ceil(len(group) / rows) for group in groups) > columns:
        rows += 1
    placed: list[Artist] = []
    for group in groups:
        gaps = range(-len(group) % rows)
        placed += [*group, *(Line2D([], [], linestyle="none", label="") for _ in gaps)]
    return placed, rows
