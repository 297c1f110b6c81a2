"""The style of all figures: sizes, colours, markers, names for a reader, and how they are saved."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import Any, Literal, ParamSpec

import matplotlib
import seaborn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from robustgen.figures.fonts import DEFAULT_FAMILY, use_fallback_fonts
from robustgen.io.atomic import atomic_write

COLUMN_WIDTH = 3.25
"""Width of a text column on the printed page, in inches. Figures are printed in their own size."""
TEXT_WIDTH = 6.8
"""Width of the text of a two-column page, in inches."""
DPI = 200
SMALL, MEDIUM = 7.0, 7.5
"""Font sizes in points: of ticks and legends, and of axis labels and titles."""

MAX_NAME_LENGTH = 18
"""Characters to which a user's name is cut."""

_P = ParamSpec("_P")

_AUGMENTATION = "_augmentation"
# Okabe and Ito's colours, which readers with any kind of colour blindness can distinguish. A threat
# has one colour, whether models are trained or attacked with it.
_FIXED_STYLES: dict[str, tuple[str, str, str]] = {
    "normal": ("normal", "#3d3d3d", "o"),
    "adversarial": ("adversarial", "#d55e00", "s"),
    "on_true_manifold": ("on-manifold (true)", "#0072b2", "^"),
    "transformation": ("transformation", "#009e73", "D"),
    "on_learned_manifold": ("on-manifold (learned)", "#56b4e9", "v"),
    "data_manifold": ("on-manifold (all classes)", "#cc79a7", "P"),
}
_ALIASES = {
    "clean": ("clean test images", "normal"),
    "regular": ("regular", "adversarial"),
    "on_data_manifold": ("on-manifold (all classes)", "data_manifold"),
}
_FURTHER_COLOURS = ("#e69f00", "#5c3a21", "#aa3377", "#8c8c3f", "#2f8f9d")
_FURTHER_MARKERS = ("X", "p", "<", "h", ">", "d")


@dataclass(frozen=True)
class PlotStyle:
    """How one method, or one attack, is drawn in every figure."""

    label: str
    colour: str
    marker: str
    line: Literal["-", "--"]
    is_filled: bool

    @property
    def face_colour(self) -> str:
        """Colour inside the marker: white for a random augmentation."""
        return self.colour if self.is_filled else "white"


PlotStyles = Mapping[str, PlotStyle]
"""Styles by name, in the order of a legend."""


def plot_styles(names: Iterable[str]) -> dict[str, PlotStyle]:
    """Return a style for each method or attack, in the order of a legend.

    Names of the demo and of the paper have fixed styles. Other names get further styles in
    alphabetical order, so that all styles depend on nothing but the set of names.
    `x_augmentation` is drawn like `x`, but lighter, dashed and with an open marker.
    """
    names = set(names)
    threats = {name.removesuffix(_AUGMENTATION) for name in names}
    free_aliases = {alias for alias, (_, fixed) in _ALIASES.items() if fixed not in threats}
    further = sorted(threats - _FIXED_STYLES.keys() - free_aliases)
    families = [
        [*(alias for alias, (_, target) in _ALIASES.items() if target == fixed), fixed]
        for fixed in _FIXED_STYLES
    ]
    order = [*chain(*families), *further]
    return {
        name: _plot_style(name, further)
        for name in (threat + suffix for threat in order for suffix in ("", _AUGMENTATION))
        if name in names
    }


def _plot_style(name: str, further: list[str]) -> PlotStyle:
    """Return the style of `name`; `further` are the threats without a fixed style."""
    threat = name.removesuffix(_AUGMENTATION)
    if threat in further:
        index = further.index(threat)
        label = threat.replace("_", " ")
        colour = _FURTHER_COLOURS[index % len(_FURTHER_COLOURS)]
        marker = _FURTHER_MARKERS[index % len(_FURTHER_MARKERS)]
    else:
        alias_label, fixed = _ALIASES.get(threat, ("", threat))
        label, colour, marker = _FIXED_STYLES[fixed]
        label = alias_label or label
    if name == threat:
        return PlotStyle(label, colour, marker, "-", is_filled=True)
    return PlotStyle(f"{label}, random", _lighten(colour), marker, "--", is_filled=False)


def _lighten(colour: str) -> str:
    """`colour` mixed with 30 % of white."""
    red, green, blue = (0.7 * channel + 0.3 for channel in to_rgb(colour))
    return to_hex((red, green, blue))


def line_settings(style: PlotStyle, scale: float = 1.0) -> Any:
    """Return matplotlib's settings of a line with markers."""
    return {
        "color": style.colour,
        "linestyle": style.line,
        "marker": style.marker,
        "markersize": 3.6 * scale,
        "markerfacecolor": style.face_colour,
        "markeredgewidth": 0.9 * scale,
        "linewidth": 1.1 * scale,
    }


def label(name: str) -> str:
    """Return the name of a method or attack for a reader."""
    return plot_styles([name])[name].label


def format_name(text: str, max_length: int = MAX_NAME_LENGTH) -> str:
    """Return a user's name, such as that of a class, as figures draw it: cut, and not as a formula.

    If the default font lacks one of its characters, texts that are created after this call use a
    fallback font.
    """
    use_fallback_fonts(text)
    shortened = text if len(text) <= max_length else f"{text[: max_length - 1]}…"
    return shortened.replace("$", r"\$")  # matplotlib draws text between two $ as a formula


def settings() -> Any:
    """Return matplotlib's settings for every figure, which do not depend on the user's own."""
    font_sizes = {
        "font.size": MEDIUM,
        "axes.titlesize": MEDIUM,
        "axes.labelsize": MEDIUM,
        "figure.titlesize": MEDIUM,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "legend.fontsize": SMALL,
        "legend.title_fontsize": SMALL,
    }
    theme = {**seaborn.axes_style("ticks"), **seaborn.plotting_context("paper"), **font_sizes}
    return {
        **{key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"},
        **theme,
        "font.family": [DEFAULT_FAMILY],
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.linewidth": 0.7,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "xtick.major.size": 3.0,
        "ytick.major.size": 3.0,
        "xtick.minor.size": 1.5,
        "axes.grid": True,
        "grid.linewidth": 0.4,
        "grid.color": "#e3e3e3",
        "axes.axisbelow": True,
        "legend.frameon": False,
        "lines.linewidth": 1.1,
        "pdf.fonttype": 42,
        "svg.hashsalt": "robustgen",
        "savefig.dpi": DPI,
    }


def with_style(plot: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Make `plot` draw its figure with `settings`; the user's settings are restored afterwards."""

    @wraps(plot)
    def plot_with_style(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with matplotlib.rc_context(settings()):
            return plot(*args, **kwargs)

    return plot_with_style


def new_figure(width: float, height: float, layout: Any = "constrained") -> Figure:
    """Return an empty figure of `width` × `height` inches, which needs no display."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, png: str | Path, pdf: str | Path) -> None:
    """Write `figure` to both files; equal figures give equal bytes.

    Raises:
        UserError: a folder cannot be written.
    """
    with matplotlib.rc_context(settings()):
        for _ in range(2):  # the layout needs two drawings to converge
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
        with atomic_write(png) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI)
        with atomic_write(pdf) as temporary:
            figure.savefig(temporary, format="pdf", dpi=DPI, metadata={"CreationDate": None})
