"""How every figure looks: sizes, colours, markers, names for a reader, and how it is saved."""

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
"""Width of a text column on the printed page, in inches; figures are printed as they are drawn."""
TEXT_WIDTH = 6.8
"""Width of the text of a page of two columns, in inches."""
DPI = 200
SMALL, MEDIUM = 7.0, 7.5
"""Sizes of letters in points: ticks and legends; axis labels and titles."""

LONGEST = 18
"""Letters of a user's name that are drawn."""

_P = ParamSpec("_P")

_AUGMENTATION = "_augmentation"
# Okabe and Ito's colours, which readers with any kind of colour blindness tell apart. A threat has
# one colour, whether models are trained or attacked with it.
_KNOWN: dict[str, tuple[str, str, str]] = {
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
class Look:
    """How one method, or one attack, is drawn in every figure."""

    label: str
    colour: str
    marker: str
    line: Literal["-", "--"]
    filled: bool

    @property
    def face(self) -> str:
        """Colour inside of the marker: white for a random augmentation."""
        return self.colour if self.filled else "white"


Looks = Mapping[str, Look]
"""By name, in the order of a legend."""


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name, in the order of a legend.

    Names of the demo and of the paper have fixed looks; others get further ones in alphabetical
    order, so that the looks follow from the set of names alone. `x_augmentation` is drawn like
    `x`, but lighter, dashed and with an open marker.
    """
    names = set(names)
    threats = {name.removesuffix(_AUGMENTATION) for name in names}
    free = {alias for alias, (_, known) in _ALIASES.items() if known not in threats}
    further = sorted(threats - _KNOWN.keys() - free)
    akin = [[*(a for a, (_, of) in _ALIASES.items() if of == known), known] for known in _KNOWN]
    order = [*chain(*akin), *further]
    chosen: dict[str, Look] = {}
    for name in (each + suffix for each in order for suffix in ("", _AUGMENTATION)):
        if name in names:
            chosen[name] = _look(name, further)
    return chosen


def _look(name: str, further: list[str]) -> Look:
    """The look of `name`; `further` are the threats without a fixed one."""
    threat = name.removesuffix(_AUGMENTATION)
    if threat in further:
        place = further.index(threat)
        label = threat.replace("_", " ")
        colour = _FURTHER_COLOURS[place % len(_FURTHER_COLOURS)]
        marker = _FURTHER_MARKERS[place % len(_FURTHER_MARKERS)]
    else:
        alias, known = _ALIASES.get(threat, ("", threat))
        label, colour, marker = _KNOWN[known]
        label = alias or label
    if name == threat:
        return Look(label, colour, marker, "-", filled=True)
    lighter = _lighter(colour)
    return Look(f"{label}, random", lighter, marker, "--", filled=False)


def _lighter(colour: str) -> str:
    """`colour` with three tenths of white."""
    red, green, blue = (0.7 * part + 0.3 for part in to_rgb(colour))
    return to_hex((red, green, blue))


def line(look: Look, scale: float = 1.0) -> Any:
    """Matplotlib's settings of a line with markers."""
    return {
        "color": look.colour,
        "linestyle": look.line,
        "marker": look.marker,
        "markersize": 3.6 * scale,
        "markerfacecolor": look.face,
        "markeredgewidth": 0.9 * scale,
        "linewidth": 1.1 * scale,
    }


def label(name: str) -> str:
    """What a reader calls the method or attack `name`."""
    return looks([name])[name].label


def name(text: str, longest: int = LONGEST) -> str:
    """A user's name, of a class for example, cut if long, and drawn letter by letter.

    Texts that are made after the call use a fallback font where the usual one lacks a character.
    """
    use_fallback_fonts(text)
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return cut.replace("$", r"\$")  # else what stands between two of them is set as a formula


def settings() -> Any:
    """Matplotlib's settings for every figure: they do not depend on the user's own."""
    sizes = {
        "font.size": MEDIUM,
        "axes.titlesize": MEDIUM,
        "axes.labelsize": MEDIUM,
        "figure.titlesize": MEDIUM,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "legend.fontsize": SMALL,
        "legend.title_fontsize": SMALL,
    }
    theme = {**seaborn.axes_style("ticks"), **seaborn.plotting_context("paper"), **sizes}
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


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Let `draw` make its figure under `settings`, which end with it."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with matplotlib.rc_context(settings()):
            return draw(*args, **kwargs)

    return drawn


def page(width: float, height: float, layout: Any = "constrained") -> Figure:
    """An empty figure of `width` × `height` inches, which needs no display."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, png: str | Path, pdf: str | Path) -> None:
    """Write `figure` to both files; the same figure gives the same bytes.

    Raises:
        UserError: a folder cannot be written.
    """
    with matplotlib.rc_context(settings()):
        for _ in range(2):  # a layout takes two drawings to settle
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
        with atomic_write(png) as partial:
            figure.savefig(partial, format="png", dpi=DPI)
        with atomic_write(pdf) as partial:
            figure.savefig(partial, format="pdf", dpi=DPI, metadata={"CreationDate": None})
