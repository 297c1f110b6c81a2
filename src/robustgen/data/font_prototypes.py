"""Prototypes of FONTS: letters of fonts, drawn before any transformation."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, floor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from robustgen.data.font_files import (
    FONT_FILE,
    INSTALL_HINT,
    Style,
    list_folder_styles,
    list_installed_styles,
    missing_glyphs,
    signature,
)
from robustgen.errors import UserError, reading
from robustgen.io.paths import INSTALLED
from robustgen.io.schemas import FONTS
from robustgen.specs import FONTS_IMAGE_SIZE

__all__ = [
    "Exclusion",
    "Prototypes",
    "Style",
    "draw_prototypes",
    "list_folder_styles",
    "list_installed_styles",
    "render",
    "signature",
]

log = logging.getLogger("robustgen")

Images = npt.NDArray[np.uint8]

FONT_SIZE = 21
"""Pixels per em of a font; the paper's setting for FONTS."""
MIN_PEAK_VALUE = 77
"""Least value of the brightest pixel of a letter: 0.3 of white, the radius of the paper's attacks.
These attacks could erase a fainter letter, so that its label would be wrong."""
_UNASSIGNED_CHARACTER = "\uffff"
"""A character that no font has, so that the missing-glyph box is drawn."""


class Exclusion(StrEnum):
    """Why a font is left out."""

    MISSING = "without some letter"
    BLANK = "with a blank or barely visible letter"
    LARGE = f"with a letter larger than {FONTS_IMAGE_SIZE}×{FONTS_IMAGE_SIZE} pixels"
    BOXED = "with the missing-glyph box for a letter"
    ALIKE = "with two letters alike"
    REPEATED = "looking like an earlier font"


@dataclass(frozen=True)
class Prototypes:
    """Letters of fonts, white on black.

    Attributes:
        images: `(fonts, letters, 28, 28)`, in 0…255.
        table: one row per font, by `schemas.FONTS`.
        left_out: number of fonts that were left out, by `Exclusion`.
    """

    images: Images
    table: pa.Table
    left_out: dict[str, int]


def _draw_letter(font: ImageFont.FreeTypeFont, letter: str, size: int) -> Images | None:
    """Draw a letter with its ink centred in a black square; None if it does not fit."""
    box = font.getbbox(letter)
    x_min, y_min = floor(box[0]), floor(box[1])
    width, height = max(ceil(box[2]) - x_min, 1), max(ceil(box[3]) - y_min, 1)
    if max(width, height) > 8 * size:  # a canvas of this size would waste memory
        return None
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).text((-x_min, -y_min), letter, fill=255, font=font)
    image = np.zeros((size, size), np.uint8)
    ink_box = canvas.getbbox()
    if ink_box is not None:
        ink = np.asarray(canvas.crop(ink_box))
        height, width = ink.shape
        if max(height, width) > size:
            return None
        y, x = (size - height) // 2, (size - width) // 2
        image[y : y + height, x : x + width] = ink
    return image


def _draw_letters(style: Style, letters: str, size: int, font_size: float) -> list[Images | None]:
    with reading(style.file, FONT_FILE):
        layout = ImageFont.Layout.BASIC
        font = ImageFont.truetype(str(style.file), font_size, layout_engine=layout)
        if style.axes is not None:
            font.set_variation_by_axes(list(style.axes))
        return [_draw_letter(font, letter, size) for letter in letters]


def render(
    style: Style, letters: str, size: int = FONTS_IMAGE_SIZE, font_size: float = FONT_SIZE
) -> Images | None:
    """Draw letters in white on black, anti-aliased, each with the box around its ink centred.

    Args:
        style: the font.
        letters: the letters, one character each.
        size: side of the images, in pixels.
        font_size: size of the font, in pixels per em.

    Returns:
        `(letters, size, size)`, in 0…255; None if a letter does not fit the image.

    Raises:
        UserError: the font file is damaged.
    """
    letter_images = _draw_letters(style, letters, size, font_size)
    images = [image for image in letter_images if image is not None]
    return np.stack(images) if len(images) == len(letters) else None


def _glyphs_or_exclusion(style: Style, letters: str) -> Images | Exclusion:
    """Draw the letters of a font, or return why the font is left out."""
    if missing_glyphs(style.file, style.sha256, letters):
        return Exclusion.MISSING
    characters = letters + _UNASSIGNED_CHARACTER
    *letter_images, box = _draw_letters(style, characters, FONTS_IMAGE_SIZE, FONT_SIZE)
    images = [image for image in letter_images if image is not None]
    if len(images) < len(letters):
        return Exclusion.LARGE
    if min(image.max() for image in images) < MIN_PEAK_VALUE:
        return Exclusion.BLANK
    if box is not None and any(np.array_equal(image, box) for image in images):
        return Exclusion.BOXED
    if len({image.tobytes() for image in images}) < len(letters):
        return Exclusion.ALIKE
    return np.stack(images)


def _select_fonts(
    styles: Iterable[Style], letters: str, fonts: int
) -> tuple[list[Style], list[Images], Counter[str]]:
    """Select the first `fonts` usable and distinct fonts.

    Returns:
        The fonts, their letters, and the number of fonts left out before the last of them, by
        `Exclusion`.
    """
    selected: list[Style] = []
    images: list[Images] = []
    contents: set[bytes] = set()
    left_out: Counter[str] = Counter()
    for style in styles:
        if len(selected) == fonts:
            break
        glyphs = _glyphs_or_exclusion(style, letters)
        if not isinstance(glyphs, Exclusion) and glyphs.tobytes() in contents:
            glyphs = Exclusion.REPEATED
        if isinstance(glyphs, Exclusion):
            left_out[glyphs] += 1
            log.info("left out: %s %s (%s), %s", style.family, style.style, style.file, glyphs)
        else:
            selected.append(style)
            images.append(glyphs)
            contents.add(glyphs.tobytes())
    return selected, images, left_out


def draw_prototypes(fonts: int, letters: str, font_source: str = INSTALLED) -> Prototypes:
    """Draw the letters of the first `fonts` usable and distinct fonts.

    A font is left out if it lacks a letter; if a letter is blank, barely visible, larger than 28×28
    pixels or drawn as the missing-glyph box; if two letters are equal, so that their labels would
    be ambiguous; or if all letters are equal to those of an earlier font.

    Args:
        fonts: number of fonts, at least 1.
        letters: the classes, one character each.
        font_source: "installed", or a folder of .ttf and .otf files.

    Raises:
        UserError: there are not enough usable fonts, a file is damaged, or a file in the folder has
            none of the letters.
    """
    if font_source == INSTALLED:
        styles, location, hint = (
            list_installed_styles(),
            "installed",
            f"get more with {INSTALL_HINT}",
        )
    else:
        styles, location = list_folder_styles(font_source), f"in {font_source}"
        hint = "put more .ttf or .otf files there"
        for style in styles:
            if missing_glyphs(style.file, style.sha256, letters) == letters:
                raise UserError(f"{style.file} has none of the letters {letters}: remove it")
    selected, images, left_out = _select_fonts(styles, letters, fonts)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    log.info("%d fonts selected; left out: %s", len(selected), reasons or "none")
    if len(selected) < fonts:
        raise UserError(
            f"{fonts} fonts are needed, but only {len(selected)} usable ones are {location} "
            f"(left out: {reasons or 'none'}): {hint}"
        )
    return Prototypes(np.stack(images), _make_table(selected), dict(left_out))


def _make_table(styles: Sequence[Style]) -> pa.Table:
    columns = {
        "font": range(len(styles)),
        "family": [style.family for style in styles],
        "style": [style.style for style in styles],
        "file": [style.file.name for style in styles],
        "sha256": [style.sha256 for style in styles],
        "license": [style.license for style in styles],
    }
    return pa.table(columns, schema=FONTS)
