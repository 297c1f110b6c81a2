"""Figure 2: regular adversarial examples leave the manifold, on-manifold ones do not."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import seaborn
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from robustgen.figures import legends, panels, style
from robustgen.io.schemas import CLEAN

DISTANCE_LABELS = {
    "true_manifold": "$L_2$ distance to\nthe true manifold",
    "learned_manifold": "$L_2$ distance to\nthe learned manifold",
    "neighbour": "$L_2$ distance to span of\nnearest training images",
}
"""Label of the x axis, by the prefix of the columns of a manifold."""
_ANGLE_LABELS = {
    "true_manifold": "true\nmanifold",
    "learned_manifold": "learned\nmanifold",
    "neighbour": "nearest\nimages",
}
_MISSING_MESSAGES = {
    "true_manifold": "true manifold not known",
    "learned_manifold": "manifold not learned",
}
_BINS = 30
_FILL_ALPHA = 0.15
_SINGLE_HISTOGRAM_HEIGHT = 1.5
"""Height of the only histogram of a figure, relative to the usual one."""
_ANGLE_LINE_HEIGHT = 0.105
"""Height of a line of the panel of angles, relative to that of a panel."""


@style.with_style
def plot_distances(
    table: pd.DataFrame,
    attacks: Iterable[str] | None = None,
    method: str | None = "normal",
    n: int | None = None,
) -> Figure:
    """Plot histograms of the distances of adversarial examples, and the angles of perturbations.

    Successful examples against models of one method and one N are plotted, over all seeds, and the
    clean test images for comparison. Clean images lie on the true manifold by construction and
    are not plotted there.

    Args:
        table: the table `ALL_DISTANCES`.
        attacks: names of the attacks; None plots all.
        method: method of the attacked models. In a data set without successes against it, and for
            None, models of all methods are used.
        n: training images of the attacked models; None uses the largest N of each data set.

    Returns:
        A column of panels per data set: one for each distance that is not null everywhere, then
        the angles.
    """
    names = set(table["attack"]) if attacks is None else {CLEAN, *attacks}
    table = table[table["attack"].isin(names)]
    styles = style.plot_styles(table["attack"])
    distance_kinds = [k for k in DISTANCE_LABELS if table[f"{k}_distance"].notna().any()]
    angle_kinds = [k for k in DISTANCE_LABELS if table[f"{k}_angle"].notna().any()]
    datasets = sorted(table["dataset"].unique())
    angle_lines = len(angle_kinds) * (max(len(styles.keys() - {CLEAN}), 2) + 1)
    histogram_height = 1.0 if len(distance_kinds) > 1 else _SINGLE_HISTOGRAM_HEIGHT
    heights = [histogram_height] * len(distance_kinds)
    heights += [_ANGLE_LINE_HEIGHT * angle_lines] if angle_kinds else []
    figure, columns = panels.panel_grid(datasets, heights or [1.0])
    captions: list[str] = []
    for dataset, axes in zip(datasets, columns, strict=True):
        rows, caption = _select_models(table[table["dataset"] == dataset], method, n)
        captions.append(caption)
        for panel, kind in zip(axes, distance_kinds, strict=False):
            _plot_histogram(panel, rows, kind, styles)
        if angle_kinds:
            _plot_angles(axes[-1], rows, angle_kinds, styles)
            axes[-1].tick_params(labelleft=axes is columns[0])
    panels.share_y_labels(figure)
    legends.add_legend(figure, _attack_handles(styles), title="\n".join(dict.fromkeys(captions)))
    return figure


def _select_models(
    table: pd.DataFrame, method: str | None, n: int | None
) -> tuple[pd.DataFrame, str]:
    """Return the plotted rows of one data set, and the models they belong to, in words."""
    is_clean = table["attack"] == CLEAN
    successes = table[~is_clean & table["success"].astype(bool)]
    models = "all methods"
    if method is not None and (successes["method"] == method).any():
        successes = successes[successes["method"] == method]
        models = f"{style.label(method)} training"
    size = n if n is not None else successes["n"].max()
    successes = successes[successes["n"] == size]
    caption = f"attacked models: {models}, N = {panels.format_count(size)}"
    if successes.empty:
        caption = "no successful adversarial examples"
    return pd.concat([table[is_clean], successes]), caption


def _plot_histogram(axes: Axes, table: pd.DataFrame, kind: str, styles: style.PlotStyles) -> None:
    """Plot the share of each attack's examples per distance, in common bins."""
    column = f"{kind}_distance"
    rows = table.dropna(subset=[column])
    if kind == "true_manifold":  # clean images lie on it by construction
        rows = rows[rows["attack"] != CLEAN]
    if rows.empty:
        is_measured = table[column].notna().any() or not (table["attack"] != CLEAN).any()
        no_examples = "no examples"
        message = no_examples if is_measured else _MISSING_MESSAGES.get(kind, no_examples)
        panels.show_message(axes, message)
        return
    edges = np.linspace(0.0, max(float(rows[column].max()), 1e-6), _BINS + 1)
    for name, plot_style in styles.items():
        values = rows.loc[rows["attack"] == name, column]
        if len(values):
            seaborn.histplot(
                x=values,
                bins=edges,
                stat="proportion",
                element="step",
                color=plot_style.colour,
                alpha=_FILL_ALPHA,
                linewidth=1.0,
                ax=axes,
            )
    axes.set_xlabel(DISTANCE_LABELS[kind])
    axes.set_ylabel("share of examples")
    axes.yaxis.set_major_formatter(panels.format_percent)
    axes.set_xlim(0.0, float(edges[-1]))


def _plot_angles(
    axes: Axes, table: pd.DataFrame, kinds: list[str], styles: style.PlotStyles
) -> None:
    """Plot median and quartiles of the angle, per attack, for each manifold."""
    attacks = [name for name in styles if name in set(table["attack"]) - {CLEAN}]
    for row, kind in enumerate(kinds):
        for index, name in enumerate(attacks):
            values = table.loc[table["attack"] == name, f"{kind}_angle"].dropna()
            if len(values):
                y = row + (index + 1) / (len(attacks) + 1) - 0.5
                _plot_median(axes, y, values, styles[name])
    axes.set_yticks(range(len(kinds)), [_ANGLE_LABELS[kind] for kind in kinds])
    axes.set_yticks(np.arange(1, len(kinds)) - 0.5, minor=True)  # lines between the manifolds
    axes.tick_params(axis="y", which="minor", length=0)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_xlim(-4.0, 94.0)  # so that markers at 0° and 90° are not cut off
    axes.set_xticks([0, 30, 60, 90], ["0°", "30°", "60°", "90°"])
    axes.set_xlabel("angle to the manifold\n(median, quartiles)")
    axes.grid(visible=False, axis="y", which="major")
    axes.grid(visible=True, axis="y", which="minor", color="#8a8a8a")


def _plot_median(axes: Axes, y: float, values: pd.Series, plot_style: style.PlotStyle) -> None:
    """Plot the median of `values` with its quartiles, and write the median beside them."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    colour = plot_style.colour
    axes.plot([low, high], [y, y], color=colour, linewidth=1.2, solid_capstyle="butt")
    axes.plot([median], [y], plot_style.marker, color=colour, markersize=3.8, clip_on=False)
    is_text_right = median < 45.0  # towards the middle of the panel, where there is room
    axes.annotate(
        f"{median:.0f}°",
        (high if is_text_right else low, y),
        xytext=(4 if is_text_right else -4, 0),
        textcoords="offset points",
        ha="left" if is_text_right else "right",
        va="center_baseline",
        fontsize=style.SMALL,
    )


def _attack_handles(styles: style.PlotStyles) -> list[Artist]:
    """Return a legend entry for each attack."""
    return [
        Patch(
            facecolor=to_rgba(plot_style.colour, _FILL_ALPHA),
            edgecolor=plot_style.colour,
            label=plot_style.label,
        )
        for plot_style in styles.values()
    ]
