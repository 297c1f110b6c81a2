"""Contact sheet: every letter of every font from which the data set FONTS is made."""

import math

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustgen.figures import style

_PAGE_ASPECT = 1.25
"""Height of the sheet over its width, about that of a page."""
_MARGIN, _TITLE_HEIGHT, _BLOCK_GAP, _LABEL_HEIGHT = 0.06, 0.22, 0.08, 0.16
_MIN_WIDTH = 2.0
"""Lengths of the layout, in inches."""


@style.with_style
def plot_prototypes(prototypes: npt.NDArray[np.uint8], letters: str) -> Figure:
    """Plot all prototypes on one sheet, a row per font, in blocks side by side.

    One pixel of a prototype is one pixel of the PNG, so that every glyph can be checked.

    Args:
        prototypes: `(fonts, letters, H, W)`, 0 to 255.
        letters: the letters of the second dimension.

    Raises:
        ValueError: the letters do not match the array.
    """
    fonts, count, height_px, width_px = prototypes.shape
    if count != len(letters):
        raise ValueError(f"{count} letters in the array, but {len(letters)} names: {letters}")
    block_width, row_height = count * width_px / style.DPI, height_px / style.DPI
    blocks = _block_count(fonts, block_width + _BLOCK_GAP, row_height)
    fonts_per_block = math.ceil(fonts / blocks)
    blocks = math.ceil(fonts / fonts_per_block)  # rounding up can leave the last block empty
    width = 2 * _MARGIN + blocks * block_width + (blocks - 1) * _BLOCK_GAP
    text_scale = max(width / style.TEXT_WIDTH, 1.0)  # text is readable on a sheet shrunk to a page
    title_height, label_height = (
        round(length * text_scale * style.DPI) / style.DPI
        for length in (_TITLE_HEIGHT, _LABEL_HEIGHT)
    )
    height = title_height + label_height + fonts_per_block * row_height + _MARGIN
    figure = style.new_figure(max(width, _MIN_WIDTH), height, layout=None)
    page_width, _ = figure.get_size_inches()
    figure.text(
        _MARGIN / page_width,
        1 - 0.5 * title_height / height,
        f"{fonts} fonts × {count} letters ({letters})",
        fontsize=style.MEDIUM * text_scale,
        va="center",
    )
    for block in range(blocks):
        rows = range(block * fonts_per_block, min((block + 1) * fonts_per_block, fonts))
        x0 = _MARGIN + block * (block_width + _BLOCK_GAP)
        block_height = len(rows) * row_height
        bottom = height - title_height - label_height - block_height
        position = (
            x0 / page_width,
            bottom / height,
            block_width / page_width,
            block_height / height,
        )
        axes = figure.add_axes(position, xticks=[], yticks=[], frame_on=False)
        _plot_block(axes, prototypes[rows.start : rows.stop], rows, text_scale)
    return figure


def _plot_block(
    axes: Axes, prototypes: npt.NDArray[np.uint8], rows: range, text_scale: float
) -> None:
    """Plot fonts below each other, with their rows in the table of fonts as a title."""
    fonts, count, height_px, width_px = prototypes.shape
    sheet = prototypes.transpose(0, 2, 1, 3).reshape(fonts * height_px, count * width_px)
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.grid(visible=False)
    title = f"fonts {rows[0]}–{rows[-1]}"
    axes.set_title(title, fontsize=style.SMALL * text_scale, pad=2 * text_scale)


def _block_count(fonts: int, block_pitch: float, row_height: float) -> int:
    """Return into how many columns of fonts to divide a sheet, to come closest to a page's aspect.

    Args:
        fonts: number of fonts.
        block_pitch: width of a column of fonts and the gap beside it, in inches.
        row_height: height of the row of a font, in inches.
    """

    def aspect_error(blocks: int) -> float:
        height = math.ceil(fonts / blocks) * row_height
        return abs(math.log(height / (blocks * block_pitch) / _PAGE_ASPECT))

    return min(range(1, fonts + 1), key=aspect_error)
