"""Figure 1: a few test images, their adversarial examples, and what was changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from robustgen.figures import panels, style

Images = npt.NDArray[np.floating]
"""Images in [0, 1], `(columns, H, W)` or `(columns, C, H, W)` with 1 or 3 channels."""

_LEFT, _RIGHT, _GAP, _TITLE, _EDGE = 0.68, 0.4, 0.04, 0.15, 0.03
_LETTER, _LARGEST = 0.06, 0.8
_DIFFERENCES = "RdBu_r"
_CHANGE = "difference\n(pixel value)"


@dataclass(frozen=True)
class Attacked:
    """One attack's examples for the columns of the figure.

    Attributes:
        images: the adversarial examples, of the originals' shape.
        predictions: name of the predicted class per example; None where the attack found none,
            which leaves the place empty.
    """

    images: Images
    predictions: Sequence[str | None]


@dataclass(frozen=True)
class _Layout:
    """Lengths in inches: of the figure, of one image, and of the words above an image.

    Then what joins the classes in these, and the letters that the name of one may have.
    """

    width: float
    cell: float
    tall: float
    title: float
    arrow: str
    longest: int


@style.styled
def examples(originals: Images, classes: Sequence[str], attacks: Mapping[str, Attacked]) -> Figure:
    """Test images in columns; below each, per attack, its example and the difference.

    The difference is example minus test image, in units of the pixels' range [0, 1], averaged
    over channels; each attack has its own colour scale, which is symmetric around 0.

    Args:
        originals: the test images.
        classes: name of the true class per test image.
        attacks: examples by name of the attack, in the order of the rows.

    Returns:
        A figure as wide as a text column where the names of the classes fit, else as a page.

    Raises:
        ValueError: an attack has other images than there are originals.
    """
    for name, attacked in attacks.items():
        if attacked.images.shape != originals.shape:
            raise ValueError(f"{name}: {attacked.images.shape} examples of {originals.shape}")
    if not len(originals):
        return panels.lone_words("no test image was classified correctly")
    plan = _plan(originals, classes, attacks)
    block = 2 * (plan.tall + _GAP) + plan.title
    top = _EDGE + _TITLE + plan.tall
    height = top + _GAP + len(attacks) * block + _EDGE
    figure = style.page(plan.width, height, layout=None)
    names = [style.name(of, plan.longest) for of in classes]
    _row(figure, plan, height - top, originals, names, "test image")
    for place, (name, attacked) in enumerate(attacks.items(), 1):
        _attack(figure, plan, height - top - place * block, name, originals, classes, attacked)
    return figure


def _plan(originals: Images, classes: Sequence[str], attacks: Mapping[str, Attacked]) -> _Layout:
    """The narrowest layout that has room for the names of the classes."""
    answers = [p for attacked in attacks.values() for p in attacked.predictions if p is not None]
    longest = max(len(style.name(of)) for of in classes) + 3
    longest += max((len(style.name(of)) for of in answers), default=0)
    shape = originals.shape[-2] / originals.shape[-1]
    largest_changes = [_largest_change(originals, attacked) for attacked in attacks.values()]
    longest_label = max((len(_tick_labels(change)[-1]) for change in largest_changes), default=0)
    right = _RIGHT + _LETTER * max(longest_label - len("+0.31"), 0)
    for width in (style.COLUMN_WIDTH, style.TEXT_WIDTH):
        room = (width - _LEFT - right) / len(originals) - _GAP
        cell = min(room, _LARGEST)
        fits = longest * _LETTER <= cell
        if fits:
            break
    width = _LEFT + right + len(originals) * (cell + _GAP)
    title, arrow = (_TITLE, " → ") if fits else (2 * _TITLE, " →\n")
    longest = style.LONGEST if fits else max(int(cell / _LETTER) - 2, 3)
    return _Layout(width, cell, cell * shape, title, arrow, longest)


def _attack(
    figure: Figure,
    plan: _Layout,
    bottom: float,
    name: str,
    originals: Images,
    classes: Sequence[str],
    attacked: Attacked,
) -> None:
    """Two rows that end `bottom` inches above the figure's edge: examples and differences."""
    found = [answer is not None for answer in attacked.predictions]
    titles = [
        f"{style.name(true, plan.longest)}{plan.arrow}{style.name(answer, plan.longest)}"
        if answer is not None
        else ""
        for true, answer in zip(classes, attacked.predictions, strict=True)
    ]
    words = style.label(name).replace(" (", "\n(")
    upper = bottom + plan.tall + _GAP
    _row(figure, plan, upper, attacked.images, titles, words, found=found)
    reach = _largest_change(originals, attacked)
    changes = _changes(originals, attacked)
    nameless = [""] * len(classes)
    row = _row(figure, plan, bottom, changes, nameless, _CHANGE, found=found, reach=reach)
    if any(found):
        _bar(figure, row[-1], reach)


def _changes(originals: Images, attacked: Attacked) -> Images:
    """Adversarial minus test images, `(B, H, W)`: the mean over the channels."""
    changes = attacked.images - originals
    return changes.mean(axis=1) if changes.ndim == 4 else changes


def _largest_change(originals: Images, attacked: Attacked) -> float:
    """The end of the colour scale: the largest absolute change of a success, but not 0."""
    is_success = [answer is not None for answer in attacked.predictions]
    changes = _changes(originals, attacked)[is_success]
    return max(float(np.abs(changes).max(initial=0.0)), 1e-3)


def _tick_labels(reach: float) -> list[str]:
    """The labels of the colour scale from `-reach` to `reach`."""
    return [f"−{reach:.2g}", "0", f"+{reach:.2g}"]


def _row(
    figure: Figure,
    plan: _Layout,
    bottom: float,
    images: Images,
    titles: Sequence[str],
    words: str,
    *,
    found: Sequence[bool] | None = None,
    reach: float | None = None,
) -> list[Axes]:
    """One row of images, or of differences up to `reach`; not `found` are left empty."""
    width, height = figure.get_size_inches()
    drawn: list[Axes] = []
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        left = _LEFT + column * (plan.cell + _GAP)
        place = (left / width, bottom / height, plan.cell / width, plan.tall / height)
        axes = figure.add_axes(place, xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.set_title(title, fontsize=style.SMALL, pad=2.5, loc="center")
        axes.spines[:].set(visible=True, linewidth=0.4, color="#8a8a8a")
        if found is not None and not found[column]:
            axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center")
        elif reach is not None:
            axes.imshow(image, cmap=_DIFFERENCES, vmin=-reach, vmax=reach, interpolation="nearest")
        else:
            axes.imshow(_shown(image), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        drawn.append(axes)
    drawn[0].set_ylabel(words, rotation=0, ha="right", va="center", fontsize=style.SMALL)
    return drawn


def _shown(image: Images) -> Images:
    """The image as matplotlib wants it: (H, W), or (H, W, 3) for colour."""
    if image.ndim == 2:
        return image
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)


def _bar(figure: Figure, beside: Axes, reach: float) -> None:
    """The colour scale of the differences, right of their row."""
    place = beside.get_position()
    width, _ = figure.get_size_inches()
    axes = figure.add_axes((place.x1 + 0.05 / width, place.y0, 0.06 / width, place.height))
    colours = ScalarMappable(Normalize(-reach, reach), cmap=_DIFFERENCES)
    bar = figure.colorbar(colours, cax=axes)
    bar.set_ticks([-reach, 0.0, reach], labels=_tick_labels(reach))
    bar.outline.set_linewidth(0.4)
    axes.tick_params(labelsize=style.SMALL, length=2, pad=1.5, width=0.4)
