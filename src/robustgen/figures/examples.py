"""Figure 1: a few test images, their adversarial examples, and the differences."""

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

_LEFT_MARGIN, _RIGHT_MARGIN, _GAP, _TITLE_HEIGHT, _EDGE = 0.68, 0.4, 0.04, 0.15, 0.03
_CHARACTER_WIDTH, _MAX_CELL_WIDTH = 0.06, 0.8
"""Lengths of the layout, in inches."""
_DIFFERENCE_CMAP = "RdBu_r"
_DIFFERENCE_LABEL = "difference\n(pixel value)"


@dataclass(frozen=True)
class AttackedImages:
    """The adversarial examples of one attack, one for each column of the figure.

    Attributes:
        images: the adversarial examples, in the shape of the test images.
        predictions: name of the predicted class of each example. None if the attack failed; the
            cell is then left empty.
    """

    images: Images
    predictions: Sequence[str | None]


@dataclass(frozen=True)
class _Layout:
    """The layout of the figure; lengths in inches.

    Attributes:
        width: width of the figure.
        cell_width, cell_height: size of an image.
        title_height: height of the text above an image.
        arrow: text between the true and the predicted class.
        max_name_length: characters to which the name of a class is cut.
    """

    width: float
    cell_width: float
    cell_height: float
    title_height: float
    arrow: str
    max_name_length: int


@style.with_style
def plot_examples(
    test_images: Images, classes: Sequence[str], attacks: Mapping[str, AttackedImages]
) -> Figure:
    """Plot test images in columns, and below each, per attack, its example and the difference.

    The difference is example minus test image, in pixel values from 0 to 1, averaged over the
    channels. Each attack has a colour scale of its own, which is symmetric around 0.

    Args:
        test_images: the test images.
        classes: name of the true class of each test image.
        attacks: examples by name of the attack, in the order of the rows.

    Returns:
        A figure as wide as a text column if the names of the classes fit, otherwise as a page.

    Raises:
        ValueError: the examples of an attack differ in shape from the test images.
    """
    for name, attacked in attacks.items():
        if attacked.images.shape != test_images.shape:
            raise ValueError(
                f"the examples of {name} have shape {attacked.images.shape}, and the test images "
                f"{test_images.shape}"
            )
    if not len(test_images):
        return panels.message_figure("no test image was classified correctly")
    layout = _make_layout(test_images, classes, attacks)
    attack_height = 2 * (layout.cell_height + _GAP) + layout.title_height
    first_row_height = _EDGE + _TITLE_HEIGHT + layout.cell_height
    height = first_row_height + _GAP + len(attacks) * attack_height + _EDGE
    figure = style.new_figure(layout.width, height, layout=None)
    titles = [style.format_name(name, layout.max_name_length) for name in classes]
    first_bottom = height - first_row_height
    _plot_row(figure, layout, first_bottom, test_images, titles, "test image")
    for index, (name, attacked) in enumerate(attacks.items(), 1):
        bottom = first_bottom - index * attack_height
        _plot_attack(figure, layout, bottom, name, test_images, classes, attacked)
    return figure


def _make_layout(
    test_images: Images, classes: Sequence[str], attacks: Mapping[str, AttackedImages]
) -> _Layout:
    """Return the narrowest layout that has room for the names of the classes."""
    predictions = [p for attack in attacks.values() for p in attack.predictions if p is not None]
    title_length = max(len(style.format_name(name)) for name in classes) + 3
    title_length += max((len(style.format_name(name)) for name in predictions), default=0)
    aspect = test_images.shape[-2] / test_images.shape[-1]
    scale_ends = [_max_difference(test_images, attack) for attack in attacks.values()]
    tick_length = max((len(_tick_labels(end)[-1]) for end in scale_ends), default=0)
    right_margin = _RIGHT_MARGIN + _CHARACTER_WIDTH * max(tick_length - len("+0.31"), 0)
    for max_width in (style.COLUMN_WIDTH, style.TEXT_WIDTH):
        room = (max_width - _LEFT_MARGIN - right_margin) / len(test_images) - _GAP
        cell_width = min(room, _MAX_CELL_WIDTH)
        fits = title_length * _CHARACTER_WIDTH <= cell_width
        if fits:
            break
    width = _LEFT_MARGIN + right_margin + len(test_images) * (cell_width + _GAP)
    title_height, arrow = (_TITLE_HEIGHT, " → ") if fits else (2 * _TITLE_HEIGHT, " →\n")
    max_name_length = (
        style.MAX_NAME_LENGTH if fits else max(int(cell_width / _CHARACTER_WIDTH) - 2, 3)
    )
    return _Layout(width, cell_width, cell_width * aspect, title_height, arrow, max_name_length)


def _plot_attack(
    figure: Figure,
    layout: _Layout,
    bottom: float,
    name: str,
    test_images: Images,
    classes: Sequence[str],
    attacked: AttackedImages,
) -> None:
    """Plot two rows, examples and differences, whose lower edge is at `bottom` inches."""
    is_success = _is_success(attacked)
    titles = [
        f"{style.format_name(true_class, layout.max_name_length)}{layout.arrow}"
        f"{style.format_name(prediction, layout.max_name_length)}"
        if prediction is not None
        else ""
        for true_class, prediction in zip(classes, attacked.predictions, strict=True)
    ]
    label = style.label(name).replace(" (", "\n(")
    upper_bottom = bottom + layout.cell_height + _GAP
    _plot_row(figure, layout, upper_bottom, attacked.images, titles, label, is_success=is_success)
    scale_end = _max_difference(test_images, attacked)
    cells = _plot_row(
        figure,
        layout,
        bottom,
        _differences(test_images, attacked),
        [""] * len(classes),
        _DIFFERENCE_LABEL,
        is_success=is_success,
        scale_end=scale_end,
    )
    if any(is_success):
        _add_colour_bar(figure, cells[-1], scale_end)


def _is_success(attacked: AttackedImages) -> list[bool]:
    return [prediction is not None for prediction in attacked.predictions]


def _differences(test_images: Images, attacked: AttackedImages) -> Images:
    """Adversarial minus test images `(B, H, W)`, averaged over the channels."""
    differences = attacked.images - test_images
    return differences.mean(axis=1) if differences.ndim == 4 else differences


def _max_difference(test_images: Images, attacked: AttackedImages) -> float:
    """Return the end of the colour scale: the largest absolute difference of a success; not 0."""
    differences = _differences(test_images, attacked)[_is_success(attacked)]
    return max(float(np.abs(differences).max(initial=0.0)), 1e-3)


def _tick_labels(scale_end: float) -> list[str]:
    """Return the labels of a colour scale from `-scale_end` to `scale_end`."""
    return [f"−{scale_end:.2g}", "0", f"+{scale_end:.2g}"]


def _plot_row(
    figure: Figure,
    layout: _Layout,
    bottom: float,
    images: Images,
    titles: Sequence[str],
    label: str,
    *,
    is_success: Sequence[bool] | None = None,
    scale_end: float | None = None,
) -> list[Axes]:
    """Plot a row of images, or of differences if `scale_end` is given; failures are left empty."""
    width, height = figure.get_size_inches()
    cells: list[Axes] = []
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        x0 = _LEFT_MARGIN + column * (layout.cell_width + _GAP)
        axes = figure.add_axes(
            (
                x0 / width,
                bottom / height,
                layout.cell_width / width,
                layout.cell_height / height,
            ),
            xticks=[],
            yticks=[],
        )
        axes.grid(visible=False)
        axes.set_title(title, fontsize=style.SMALL, pad=2.5, loc="center")
        axes.spines[:].set(visible=True, linewidth=0.4, color="#8a8a8a")
        if is_success is not None and not is_success[column]:
            axes.text(0.5, 0.5, "failed", transform=axes.transAxes, ha="center", va="center")
        elif scale_end is not None:
            scale = Normalize(-scale_end, scale_end)
            axes.imshow(image, cmap=_DIFFERENCE_CMAP, norm=scale, interpolation="nearest")
        else:
            pixels = _to_matplotlib(image)
            axes.imshow(pixels, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        cells.append(axes)
    cells[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=style.SMALL)
    return cells


def _to_matplotlib(image: Images) -> Images:
    """Return the image in the shape that matplotlib expects: (H, W), or (H, W, 3) in colour."""
    if image.ndim == 2:
        return image
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)


def _add_colour_bar(figure: Figure, last_cell: Axes, scale_end: float) -> None:
    """Add the colour scale of the differences, at the right end of their row."""
    cell = last_cell.get_position()
    width, _ = figure.get_size_inches()
    axes = figure.add_axes((cell.x1 + 0.05 / width, cell.y0, 0.06 / width, cell.height))
    colours = ScalarMappable(Normalize(-scale_end, scale_end), cmap=_DIFFERENCE_CMAP)
    bar = figure.colorbar(colours, cax=axes)
    bar.set_ticks([-scale_end, 0.0, scale_end], labels=_tick_labels(scale_end))
    bar.outline.set_linewidth(0.4)
    axes.tick_params(labelsize=style.SMALL, length=2, pad=1.5, width=0.4)
