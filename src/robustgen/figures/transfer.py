"""Figure 6: transfer of adversarial examples between training methods, as heat maps."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustgen.figures import panels, style

_CELL_SIZE, _LABEL_SIZE, _GAP, _BAR_SIZE, _TITLE_SIZE = 0.32, 1.25, 0.3, 0.45, 1.6
"""Inches of a cell, of the labels on the left of and above the heat maps, between these, of the
colour bar below them, and of a title."""


@style.with_style
def plot_transfer(transfers: pd.DataFrame, attacks: Mapping[str, Sequence[str]]) -> Figure:
    """Plot the transfer rate between the models of each pair of training methods.

    Args:
        transfers: the table `ALL_TRANSFERS`.
        attacks: names of the attacks of each data set.

    Returns:
        A heat map per data set and attack, with a row per method of source models and a column per
        method of target models; the models have the largest N. A colour bar gives the unit.
    """
    largest = transfers[transfers["n"] == transfers["n"].max()].dropna(subset=["transfer_rate"])
    pairs = [
        (dataset, attack)
        for dataset, names in attacks.items()
        for attack in names
        if ((largest["dataset"] == dataset) & (largest["attack"] == attack)).any()
    ]
    if not pairs:
        return panels.message_figure("no transfer: it needs two seeds and successful attacks")
    styles = style.plot_styles({*largest["method"], *largest["target_method"]})
    cells = len(styles) * _CELL_SIZE
    panel_width = max(cells + _GAP, _TITLE_SIZE)
    max_columns = max(int((style.TEXT_WIDTH - _LABEL_SIZE) / panel_width), 1)
    columns = min(len(pairs), max_columns)
    rows = -(-len(pairs) // columns)
    height = rows * (cells + _GAP) + _LABEL_SIZE + _BAR_SIZE
    figure = style.new_figure(columns * panel_width + _LABEL_SIZE, height)
    grid = figure.subplots(rows, columns, squeeze=False)
    letters = panels.panel_letters()
    for index, (dataset, attack) in enumerate(pairs):
        axes = grid.flat[index]
        rates = largest[(largest["dataset"] == dataset) & (largest["attack"] == attack)]
        _plot_rates(axes, rates, styles)
        name = f"{dataset}: {attack}" if len(attacks) > 1 else attack
        panels.set_title(axes, next(letters), style.format_name(name.replace("_", " "), 30))
        is_top, is_left = index < columns, index % columns == 0
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("tried on models of" if is_top else "")
        axes.set_ylabel("made on models of" if is_left else "")
        axes.tick_params(
            length=0, top=False, bottom=False, labelbottom=False, labeltop=is_top, labelleft=is_left
        )
        axes.tick_params("x", rotation=90)
        axes.tick_params("y", rotation=0)
    for axes in grid.flat[len(pairs) :]:
        axes.set_visible(False)
    figure.colorbar(
        grid.flat[0].collections[0],
        ax=list(grid.flat),
        location="bottom",
        aspect=40,
        shrink=0.6,
        label=f"transfer rate in %, N = {panels.format_count(largest['n'].max())}",
    )
    return figure


def _plot_rates(axes: Axes, rates: pd.DataFrame, styles: style.PlotStyles) -> None:
    """Plot the mean rate of each pair of methods, in percent, as a coloured cell with a number."""
    means = rates.pivot_table(index="method", columns="target_method", values="transfer_rate")
    means = 100 * means.reindex(index=list(styles), columns=list(styles))
    labels = [method_style.label for method_style in styles.values()]
    seaborn.heatmap(
        means,
        ax=axes,
        vmin=0,
        vmax=100,
        cmap="cividis",
        annot=True,
        fmt=".0f",
        annot_kws={"fontsize": style.SMALL},
        cbar=False,
        square=True,
        linewidths=0.5,
        xticklabels=labels,
        yticklabels=labels,
        mask=np.isnan(means),
    )
    axes.grid(visible=False)
