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


def legend(figure: Figure, handles: Sequence[Artist], title: str | None = None) -> None:
    """One legend for the whole figure below its panels, which stay as large as without it."""
    width, height = figure.get_size_inches()
    for columns in (3, 2, 1):
        made = figure.legend(
            handles=list(handles),
            loc="outside lower center",
            ncols=columns,
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
