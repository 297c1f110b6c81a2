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

KINDS = {
    "true_manifold": "$L_2$ distance to\nthe known manifold",
    "learned_manifold": "$L_2$ distance to\nthe learned manifold",
    "neighbour": "$L_2$ distance to the\nspan of neighbours",
}
_BESIDE = {
    "true_manifold": "known\nmanifold",
    "learned_manifold": "learned\nmanifold",
    "neighbour": "span of\nneighbours",
}
_LACKING = {"true_manifold": "manifold not known", "learned_manifold": "manifold not learned"}
_BINS = 30
_FILL = 0.15
_LONE = 1.5  # height of the only histogram, from which the legend takes its own
_ROW = 0.105  # height of a line of the panel of angles, as share of a panel's


@style.styled
def distances(
    table: pd.DataFrame,
    attacks: Iterable[str] | None = None,
    method: str | None = "normal",
    n: int | None = None,
) -> Figure:
    """Histograms of the distances of adversarial examples, and the angles of perturbations.

    Drawn are successful examples against models of one method and one N, seeds pooled, and the
    clean test images as the yardstick. Those lie on the known manifold, where they are left out.

    Args:
        table: the table `ALL_DISTANCES`.
        attacks: the attacks drawn; all in the table unless given.
        method: method of the attacked models; all pooled where a data set has none of it.
        n: training images of the attacked models; the largest N of each data set unless given.

    Returns:
        One column of panels per data set: one panel per kind of distance that is not null
        throughout, then the angles.
    """
    names = set(table["attack"]) if attacks is None else {CLEAN, *attacks}
    table = table[table["attack"].isin(names)]
    looks = style.looks(table["attack"])
    kinds = [kind for kind in KINDS if table[f"{kind}_distance"].notna().any()]
    angles = [kind for kind in KINDS if table[f"{kind}_angle"].notna().any()]
    datasets = sorted(table["dataset"].unique())
    lines = len(angles) * (max(len(looks.keys() - {CLEAN}), 2) + 1)
    tall = 1.0 if len(kinds) > 1 else _LONE
    heights = [tall] * len(kinds) + ([_ROW * lines] if angles else [])
    figure, columns = panels.grid(datasets, heights or [1.0])
    words: list[str] = []
    for dataset, axes in zip(datasets, columns, strict=True):
        own, shown = _selected(table[table["dataset"] == dataset], method, n)
        words.append(shown)
        for panel, kind in zip(axes, kinds, strict=False):
            _histogram(panel, own, kind, looks)
        if angles:
            _angles(axes[-1], own, angles, looks)
            axes[-1].tick_params(labelleft=axes is columns[0])
    panels.share_labels(figure)
    legends.legend(figure, _handles(looks), title="\n".join(dict.fromkeys(words)))
    return figure


def _selected(table: pd.DataFrame, method: str | None, n: int | None) -> tuple[pd.DataFrame, str]:
    """Rows of one data set that are drawn, and in words which models they are of."""
    clean = table["attack"] == CLEAN
    found = table[~clean & table["success"].astype(bool)]
    words = "models of all methods"
    if method is not None and (found["method"] == method).any():
        found = found[found["method"] == method]
        words = f"models of {style.label(method)} training"
    size = n if n is not None else found["n"].max()
    found = found[found["n"] == size]
    words = "no successes" if found.empty else f"on {words}, N = {panels.short(size)}"
    return pd.concat([table[clean], found]), words


def _histogram(axes: Axes, table: pd.DataFrame, kind: str, looks: style.Looks) -> None:
    """Share of each attack's examples per distance, all in the same bins."""
    column = f"{kind}_distance"
    drawn = table.dropna(subset=[column])
    if kind == "true_manifold":  # clean images of a known manifold lie on it: nothing to see
        drawn = drawn[drawn["attack"] != CLEAN]
    if drawn.empty:
        known = table[column].notna().any() or not (table["attack"] != CLEAN).any()
        panels.nothing(axes, "no examples" if known else _LACKING.get(kind, "no examples"))
        return
    edges = np.linspace(0.0, max(float(drawn[column].max()), 1e-6), _BINS + 1)
    for name, look in looks.items():
        values = drawn.loc[drawn["attack"] == name, column]
        if len(values):
            seaborn.histplot(
                x=values,
                bins=edges,
                stat="proportion",
                element="step",
                color=look.colour,
                alpha=_FILL,
                linewidth=1.0,
                ax=axes,
            )
    axes.set_xlabel(KINDS[kind])
    axes.set_ylabel("share of examples")
    axes.yaxis.set_major_formatter(panels.percent)
    axes.set_xlim(0.0, float(edges[-1]))


def _angles(axes: Axes, table: pd.DataFrame, kinds: list[str], looks: style.Looks) -> None:
    """Median and quartiles of the angle, per attack, for each kind of manifold."""
    present = [name for name in looks if name in set(table["attack"]) - {CLEAN}]
    height = len(present)
    for row, kind in enumerate(kinds):
        for place, name in enumerate(present):
            values = table.loc[table["attack"] == name, f"{kind}_angle"].dropna()
            if len(values):
                y = row + (place + 1) / (height + 1) - 0.5
                _median(axes, y, values, looks[name])
    axes.set_yticks(range(len(kinds)), [_BESIDE[kind] for kind in kinds])
    axes.set_yticks(np.arange(1, len(kinds)) - 0.5, minor=True)  # between the kinds
    axes.tick_params(axis="y", which="minor", length=0)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_xlim(-4.0, 94.0)  # room for the value at 0°
    axes.set_xticks([0, 30, 60, 90], ["0°", "30°", "60°", "90°"])
    axes.set_xlabel("angle to the manifold\n(median, quartiles)")
    axes.grid(visible=False, axis="y", which="major")
    axes.grid(visible=True, axis="y", which="minor", color="#8a8a8a")


def _median(axes: Axes, y: float, values: pd.Series, look: style.Look) -> None:
    """The median of `values` with its quartiles, and its value in numbers beside them."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    axes.plot([low, high], [y, y], color=look.colour, linewidth=1.2, solid_capstyle="butt")
    axes.plot([middle], [y], look.marker, color=look.colour, markersize=3.8, clip_on=False)
    right = middle < 45.0  # towards the middle of the panel, where there is room
    axes.annotate(
        f"{middle:.0f}°",
        (high if right else low, y),
        xytext=(4 if right else -4, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center_baseline",
        fontsize=style.SMALL,
    )


def _handles(looks: style.Looks) -> list[Artist]:
    """An entry for the legend per attack."""
    return [
        Patch(
            facecolor=to_rgba(look.colour, _FILL),
            edgecolor=look.colour,
            label=look.label,
        )
        for look in looks.values()
    ]
