"""Sheet of a learned manifold: how well its VAE-GANs reconstruct, sample and interpolate."""

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

MOST = 20
"""Classes shown at most."""
_HEADS = (
    "upper line: test images\nlower line: their reconstructions",
    "upper line: samples from the prior\nlower line: interpolation of two codes",
)
_HEAD, _WORDS, _EDGE, _BETWEEN, _APART = 0.32, 0.17, 0.03, 0.14, 0.07
_LARGEST, _NAME = 0.6, 12
_GAP = 0.75  # grey, as images can be white or black at their edges


@dataclass(frozen=True)
class Shown:
    """What the sheet shows of each class; all of one shape.

    Attributes:
        images: test images.
        reconstructions: the decoded codes of `images`.
        samples: decoded draws from the prior.
        interpolations: decoded codes on the line from that of one test image, in the first
            column, to that of another, in the last.
    """

    images: Images
    reconstructions: Images
    samples: Images
    interpolations: Images


@style.styled
def manifold(classes: Sequence[str], shown: Shown) -> Figure:
    """Per class its test images over their reconstructions, beside samples over an interpolation.

    Args:
        classes: names of all classes.
        shown: images of all classes, or of the first `MOST`, in this order.

    Returns:
        A figure as wide as a page, with a note where there are more classes than it shows.

    Raises:
        ValueError: the four arrays differ in shape, or do not hold the classes.
    """
    shapes = {name: array.shape for name, array in vars(shown).items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"all arrays of a sheet have one shape, not {shapes}")
    drawn = len(classes[:MOST])
    count, columns = shown.images.shape[:2]
    if count not in (drawn, len(classes)):
        raise ValueError(f"images of {count} classes, where {len(classes)} are named")
    if not drawn or not columns:
        return panels.lone_words("no images")
    return _sheet(classes, shown, drawn)


def _sheet(classes: Sequence[str], shown: Shown, drawn: int) -> Figure:
    """The figure: axes for each block of each of the classes drawn, placed in inches."""
    names = [_broken(name) for name in classes[:drawn]]
    left = 4 * _EDGE + max(_length(line) for name in names for line in name.split("\n"))
    pitch = (style.TEXT_WIDTH - left - _EDGE + _BETWEEN) / 2
    sheets = [
        [_pasted(shown.images[k], shown.reconstructions[k]) for k in range(drawn)],
        [_pasted(shown.samples[k], shown.interpolations[k]) for k in range(drawn)],
    ]
    lines, across = sheets[0][0].shape[:2]
    wide = min(pitch - _BETWEEN, _LARGEST * shown.images.shape[1])
    tall = wide * lines / across
    more = _WORDS if len(classes) > drawn else 0.0
    height = _HEAD + drawn * (tall + _APART) - _APART + _EDGE + more
    figure = style.page(style.TEXT_WIDTH, height, layout=None)
    page = np.tile(figure.get_size_inches(), 2)
    for k, name in enumerate(names):
        bottom = height - _HEAD - tall - k * (tall + _APART)
        for block in range(2):
            place = np.array([left + block * pitch, bottom, wide, tall]) / page
            axes = figure.add_axes(tuple(place), xticks=[], yticks=[], frame_on=False)
            axes.grid(visible=False)
            axes.imshow(sheets[block][k], interpolation="nearest", aspect="auto")
            if k == 0:
                axes.set_title(_HEADS[block], loc="left", fontsize=style.SMALL, pad=2.5)
            if block == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=style.SMALL)
    if more:
        words = f"first {drawn} of {len(classes)} classes"
        figure.text(left / style.TEXT_WIDTH, 0.05 / height, words, fontsize=style.SMALL)
    return figure


def _broken(name: str) -> str:
    """A class's name in lines of about `_NAME` letters; a longer word stays whole."""
    words = style.name(name).replace("_", " ")
    return textwrap.fill(words, _NAME, break_long_words=False)


def _length(words: str) -> float:
    """Inches that a line of small letters takes."""
    points = TextPath((0, 0), words, size=style.SMALL).get_extents().width
    return float(points) / 72 * 1.08  # letters of a PNG are whole pixels wide


def _pasted(upper: Images, lower: Images) -> Images:
    """Two lines of images `(columns, C, H, W)` with thin gaps, as one `(height, width, 3)`."""
    columns, channels, high, wide = upper.shape
    gap = max(1, round(high / 28))
    edges = [(0, 0), (0, 0), (0, 0), (0, gap), (0, gap)]
    padded = np.pad(np.stack([upper, lower]), edges, constant_values=_GAP)
    sheet = padded.transpose(0, 3, 1, 4, 2)
    sheet = sheet.reshape(2 * (high + gap), columns * (wide + gap), channels)[:-gap, :-gap]
    return np.repeat(sheet, 3 // channels, axis=2)
