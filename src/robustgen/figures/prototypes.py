"""Contact sheet: every letter of every font, as the data set FONTS is made from."""

import math

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustgen.figures import style

_PAGE = 1.25  # height of the sheet over its width, about that of a page
_MARGIN, _HEAD, _BETWEEN, _LABEL = 0.06, 0.22, 0.08, 0.16


@style.styled
def prototypes(prototypes: npt.NDArray[np.uint8], letters: str) -> Figure:
    """All prototypes on one sheet, one font per row, in as many blocks as make a page.

    One pixel of a prototype is one pixel of the PNG, so that every glyph can be checked.

    Args:
        prototypes: `(fonts, letters, H, W)`, 0 to 255.
        letters: what the second axis holds.

    Raises:
        ValueError: the letters do not fit the array.
    """
    fonts, count, high, wide = prototypes.shape
    if count != len(letters):
        raise ValueError(f"{count} letters in the array, {len(letters)} named: {letters}")
    block_width, line = count * wide / style.DPI, high / style.DPI
    blocks = _blocks(fonts, block_width + _BETWEEN, line)
    per_block = math.ceil(fonts / blocks)
    blocks = math.ceil(fonts / per_block)  # rounding up can leave the last one empty
    width = 2 * _MARGIN + blocks * block_width + (blocks - 1) * _BETWEEN
    enlarged = max(width / style.TEXT_WIDTH, 1.0)  # keeps words readable on a page shrunk to fit
    head, label = (round(part * enlarged * style.DPI) / style.DPI for part in (_HEAD, _LABEL))
    height = head + label + per_block * line + _MARGIN
    figure = style.page(max(width, 2.0), height, layout=None)
    page, _ = figure.get_size_inches()
    figure.text(
        _MARGIN / page,
        1 - 0.5 * head / height,
        f"{fonts} fonts × {count} letters ({letters})",
        fontsize=style.MEDIUM * enlarged,
        va="center",
    )
    for block in range(blocks):
        rows = range(block * per_block, min((block + 1) * per_block, fonts))
        left, tall = _MARGIN + block * (block_width + _BETWEEN), len(rows) * line
        bottom = height - head - label - tall
        place = (left / page, bottom / height, block_width / page, tall / height)
        axes = figure.add_axes(place, xticks=[], yticks=[], frame_on=False)
        _block(axes, prototypes[rows.start : rows.stop], rows, enlarged)
    return figure


def _block(axes: Axes, part: npt.NDArray[np.uint8], rows: range, enlarged: float) -> None:
    """Some fonts below each other, with the range of their rows in the table of fonts above."""
    fonts, count, high, wide = part.shape
    sheet = part.transpose(0, 2, 1, 3).reshape(fonts * high, count * wide)
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.grid(visible=False)
    words = f"fonts {rows[0]}–{rows[-1]}"
    axes.set_title(words, fontsize=style.SMALL * enlarged, pad=2 * enlarged)


def _blocks(fonts: int, width: float, line: float) -> int:
    """Blocks of columns, each `width` inches, that bring the sheet nearest to a page's shape."""
    return min(
        range(1, fonts + 1),
        key=lambda blocks: abs(
            math.log(math.ceil(fonts / blocks) * line / (blocks * width) / _PAGE)
        ),
    )
