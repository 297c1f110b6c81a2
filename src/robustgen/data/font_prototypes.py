"""Letters drawn from fonts: the prototypes that FONTS images are made of."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from robustgen.data.font_files import (
    FONT_FILE,
    MORE,
    Style,
    folder_styles,
    installed_styles,
    lacking,
    signature,
)
from robustgen.errors import UserError, reading
from robustgen.io import schemas as tables
from robustgen.io.paths import INSTALLED

__all__ = [
    "Prototypes",
    "Style",
    "folder_styles",
    "installed_styles",
    "prototypes",
    "render",
    "signature",
]

log = logging.getLogger("robustgen")

Images = npt.NDArray[np.uint8]

SIZE, POINTS = 28, 21
FAINTEST = 77
"""Least value of a letter's brightest pixel: 0.3 of white, the radius of the paper's attacks. A
fainter letter could be wiped out by them, and with it what its label is about."""
_UNASSIGNED = "\uffff"  # never a character, so it draws the missing-glyph box

LACKING = "without some letter"
BLANK = "with a blank or barely visible letter"
LARGE = f"with a letter larger than {SIZE}×{SIZE} pixels"
BOXED = "with the missing-glyph box for a letter"
ALIKE = "with two letters alike"
REPEATED = "looking like an earlier font"


@dataclass(frozen=True)
class Prototypes:
    """Letters of fonts, white on black."""

    images: Images
    """(fonts, letters, 28, 28), in 0…255."""
    table: pa.Table
    """A row per font, by `schemas.FONTS`."""
    left_out: dict[str, int]
    """How many fonts were passed over, by reason."""


def _draw(font: ImageFont.FreeTypeFont, letter: str, size: int) -> Images | None:
    """A letter, its ink centred in a black square; None if it does not fit."""
    box = font.getbbox(letter)
    left, top = floor(box[0]), floor(box[1])
    width, height = max(ceil(box[2]) - left, 1), max(ceil(box[3]) - top, 1)
    if max(width, height) > 8 * size:  # too large by far to be worth the memory
        return None
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).text((-left, -top), letter, fill=255, font=font)
    image = np.zeros((size, size), np.uint8)
    inked = canvas.getbbox()
    if inked is not None:
        ink = np.asarray(canvas.crop(inked))
        height, width = ink.shape
        if max(height, width) > size:
            return None
        y, x = (size - height) // 2, (size - width) // 2
        image[y : y + height, x : x + width] = ink
    return image


def _draw_all(style: Style, letters: str, size: int, points: float) -> list[Images | None]:
    with reading(style.file, FONT_FILE):
        basic = ImageFont.Layout.BASIC
        font = ImageFont.truetype(str(style.file), points, layout_engine=basic)
        if style.axes is not None:
            font.set_variation_by_axes(list(style.axes))
        return [_draw(font, letter, size) for letter in letters]


def render(style: Style, letters: str, size: int = SIZE, points: float = POINTS) -> Images | None:
    """Letters in white on black, anti-aliased, each with the box around its ink centred.

    Args:
        style: the font.
        letters: the letters, one character each.
        size: side of the square, in pixels.
        points: size of the font, in pixels per em.

    Returns:
        (letters, size, size), in 0…255; None if a letter does not fit the square.

    Raises:
        UserError: the font file is damaged.
    """
    drawn = [image for image in _draw_all(style, letters, size, points) if image is not None]
    return np.stack(drawn) if len(drawn) == len(letters) else None


def _judge(style: Style, letters: str) -> Images | str:
    """The letters of a font, or why it cannot serve."""
    if lacking(style.file, style.sha256, letters):
        return LACKING
    *drawn, box = _draw_all(style, letters + _UNASSIGNED, SIZE, POINTS)
    images = [image for image in drawn if image is not None]
    if len(images) < len(letters):
        return LARGE
    if min(image.max() for image in images) < FAINTEST:
        return BLANK
    if box is not None and any(np.array_equal(image, box) for image in images):
        return BOXED
    if len({image.tobytes() for image in images}) < len(letters):
        return ALIKE
    return np.stack(images)


def _select(
    styles: Iterable[Style], letters: str, fonts: int
) -> tuple[list[Style], list[Images], Counter[str]]:
    """The first `fonts` usable, distinct fonts, their letters, and how many were passed over."""
    chosen: list[Style] = []
    images: list[Images] = []
    seen: set[bytes] = set()
    left_out: Counter[str] = Counter()
    for style in styles:
        if len(chosen) == fonts:
            break
        drawn = _judge(style, letters)
        if not isinstance(drawn, str) and drawn.tobytes() in seen:
            drawn = REPEATED
        if isinstance(drawn, str):
            left_out[drawn] += 1
            log.info("left out: %s %s (%s), %s", style.family, style.style, style.file, drawn)
        else:
            chosen.append(style)
            images.append(drawn)
            seen.add(drawn.tobytes())
    return chosen, images, left_out


def prototypes(fonts: int, letters: str, fonts_from: str = INSTALLED) -> Prototypes:
    """Letters of exactly `fonts` distinct fonts, the first usable ones in order.

    A font is left out if it lacks a letter, draws one blank or barely visible, larger than 28×28
    pixels or as the missing-glyph box, draws two of the letters alike (so that their labels would
    be a guess), or draws all of them as an earlier font does. Letters are drawn at 21 pixels per
    em, the paper's setting for FONTS.

    Args:
        fonts: number of fonts, at least 1.
        letters: the classes, one character each.
        fonts_from: "installed", or a folder of .ttf and .otf files.

    Raises:
        UserError: no fonts or too few, a damaged file, or a file in the folder that has none of
            the letters.
    """
    if fonts_from == INSTALLED:
        styles, where, more = installed_styles(), "installed", f"get more with {MORE}"
    else:
        styles, where = folder_styles(fonts_from), f"in {fonts_from}"
        more = "put more .ttf or .otf files there"
        for style in styles:
            if lacking(style.file, style.sha256, letters) == letters:
                raise UserError(f"{style.file} has none of the letters {letters}: take it away")
    chosen, images, left_out = _select(styles, letters, fonts)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    log.info("%d fonts taken; left out: %s", len(chosen), reasons or "none")
    if len(chosen) < fonts:
        raise UserError(
            f"{fonts} fonts are asked for, but only {len(chosen)} usable ones are {where} "
            f"(left out: {reasons or 'none'}): {more}"
        )
    return Prototypes(np.stack(images), _table(chosen), dict(left_out))


def _table(styles: Sequence[Style]) -> pa.Table:
    columns = {
        "font": range(len(styles)),
        "family": [style.family for style in styles],
        "style": [style.style for style in styles],
        "file": [style.file.name for style in styles],
        "sha256": [style.sha256 for style in styles],
        "license": [style.license for style in styles],
    }
    return pa.table(columns, schema=tables.FONTS)
