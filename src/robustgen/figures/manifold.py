"""Sheet of a learned manifold: reconstructions, samples and interpolations of its VAE-GANs."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from robustgen.figures import panels, style

Images = npt.NDArray[np.floating]
"""Images in [0, 1], `(K, columns, C, H, W)` with 1 or 3 channels."""

MAX_CLASSES = 20
"""Number of classes that a sheet shows at most."""
_TITLES = (
    "upper row: test images\nlower row: their reconstructions",
    "upper row: samples from the prior\nlower row: interpolation between two codes",
)
_TITLE_HEIGHT, _NOTE_HEIGHT, _EDGE, _BLOCK_GAP, _CLASS_GAP = 0.32, 0.17, 0.03, 0.14, 0.07
_MAX_IMAGE_WIDTH = 0.6
"""Lengths of the layout, in inches."""
_NAME_LENGTH = 12
"""Characters after which the name of a class is broken."""
_GAP_GREY = 0.75
"""Value of the gaps between images: grey, because images can be white or black at their edges."""


@dataclass(frozen=True)
class SheetImages:
    """The images of each class on a sheet; all arrays have the same shape.

    Attributes:
        images: test images.
        reconstructions: the decoded codes of `images`.
        samples: decoded samples from the prior.
        interpolations: decoded codes on the line from the code of one test image, in the first
            column, to that of another one, in the last column.
    """

    images: Images
    reconstructions: Images
    samples: Images
    interpolations: Images


@style.with_style
def plot_manifold(classes: Sequence[str], sheet: SheetImages) -> Figure:
    """Plot, per class, test images above their reconstructions, and samples above interpolations.

    Args:
        classes: names of all classes.
        sheet: images of all classes, or of the first `MAX_CLASSES`, in this order.

    Returns:
        A figure as wide as a page. If there are more classes than it shows, a note says so.

    Raises:
        ValueError: the four arrays differ in shape, or do not match the classes.
    """
    shapes = {name: array.shape for name, array in vars(sheet).items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"all arrays of a sheet must have the same shape, not {shapes}")
    shown_count = len(classes[:MAX_CLASSES])
    count, columns = sheet.images.shape[:2]
    if count not in (shown_count, len(classes)):
        raise ValueError(f"the sheet has images of {count} classes, but {len(classes)} names")
    if not shown_count or not columns:
        return panels.message_figure("no images")
    return _plot_sheet(classes, sheet, shown_count)


def _plot_sheet(classes: Sequence[str], sheet: SheetImages, shown_count: int) -> Figure:
    """Plot two blocks for each of the first `shown_count` classes, at positions in inches."""
    names = [_wrap(name) for name in classes[:shown_count]]
    name_width = max(_text_width(line) for name in names for line in name.split("\n"))
    x0 = 4 * _EDGE + name_width
    block_pitch = (style.TEXT_WIDTH - x0 - _EDGE + _BLOCK_GAP) / 2
    blocks = [
        [_tile(sheet.images[k], sheet.reconstructions[k]) for k in range(shown_count)],
        [_tile(sheet.samples[k], sheet.interpolations[k]) for k in range(shown_count)],
    ]
    pixel_rows, pixel_columns = blocks[0][0].shape[:2]
    width = min(block_pitch - _BLOCK_GAP, _MAX_IMAGE_WIDTH * sheet.images.shape[1])
    height = width * pixel_rows / pixel_columns
    note_height = _NOTE_HEIGHT if len(classes) > shown_count else 0.0
    classes_height = shown_count * (height + _CLASS_GAP) - _CLASS_GAP
    page_height = _TITLE_HEIGHT + classes_height + _EDGE + note_height
    figure = style.new_figure(style.TEXT_WIDTH, page_height, layout=None)
    page_size = np.tile(figure.get_size_inches(), 2)
    for k, name in enumerate(names):
        bottom = page_height - _TITLE_HEIGHT - height - k * (height + _CLASS_GAP)
        for block, tiles in enumerate(blocks):
            position = np.array([x0 + block * block_pitch, bottom, width, height]) / page_size
            axes = figure.add_axes(tuple(position), xticks=[], yticks=[], frame_on=False)
            axes.grid(visible=False)
            axes.imshow(tiles[k], interpolation="nearest", aspect="auto")
            if k == 0:
                axes.set_title(_TITLES[block], loc="left", fontsize=style.SMALL, pad=2.5)
            if block == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=style.SMALL)
    if note_height:
        note = f"first {shown_count} of {len(classes)} classes"
        figure.text(x0 / style.TEXT_WIDTH, 0.05 / page_height, note, fontsize=style.SMALL)
    return figure


def _wrap(name: str) -> str:
    """Break the name of a class into lines of about `_NAME_LENGTH` characters, between words."""
    text = style.format_name(name).replace("_", " ")
    return textwrap.fill(text, _NAME_LENGTH, break_long_words=False)


def _text_width(line: str) -> float:
    """Return the width of a line of small text, in inches."""
    points = TextPath((0, 0), line, size=style.SMALL).get_extents().width
    return float(points) / 72 * 1.08  # characters of a PNG are whole pixels wide


def _tile(upper: Images, lower: Images) -> Images:
    """Two rows of images `(columns, C, H, W)` with thin gaps, as one image `(height, width, 3)`."""
    columns, channels, height, width = upper.shape
    gap = max(1, round(height / 28))
    padding = [(0, 0), (0, 0), (0, 0), (0, gap), (0, gap)]
    with_gaps = np.pad(np.stack([upper, lower]), padding, constant_values=_GAP_GREY)
    pixels = with_gaps.transpose(0, 3, 1, 4, 2)
    pixels = pixels.reshape(2 * (height + gap), columns * (width + gap), channels)[:-gap, :-gap]
    return np.repeat(pixels, 3 // channels, axis=2)
