"""Fonts for names that the default font of matplotlib cannot draw, such as Chinese class names."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import fontpkg
import matplotlib
from matplotlib.font_manager import findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font

DEFAULT_FAMILY = "DejaVu Sans"
"""The font that matplotlib includes, so that figures look the same on every machine."""


def drawable_names(classes: Sequence[str]) -> list[str]:
    """Return the names of classes as a figure can draw them, in their order.

    A name with characters that no installed font has would be drawn as empty boxes. It is replaced
    by "class" and the number of the class, such as "class 3".
    """
    return [
        name if fallback_family(name) is not None else f"class {number}"
        for number, name in enumerate(classes)
    ]


def use_fallback_fonts(text: str) -> None:
    """Let texts that are created from now on use an installed font with the characters of `text`.

    Changes matplotlib's setting `font.family` until the end of the current `rc_context`.
    """
    family = fallback_family(text)
    families = matplotlib.rcParams["font.family"]
    if family and family not in families:
        matplotlib.rcParams["font.family"] = [*families, family]


def fallback_family(text: str) -> str | None:
    """Return a font family that has the characters of `text` which the default family lacks.

    Returns:
        An empty text if the default family has all characters, None if no installed font has them.
    """
    default_file = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    missing = frozenset(map(ord, text)) - _characters(str(default_file))
    return _family_with(missing) if missing else ""


@lru_cache
def _family_with(characters: frozenset[int]) -> str | None:
    """Return the first installed font family, by file name, that has all `characters`."""
    for file in _installed_font_files():
        if characters <= _characters(file):
            fontManager.addfont(file)
            return str(FT2Font(file).family_name)
    return None


@lru_cache
def _installed_font_files() -> tuple[str, ...]:
    """Return the font files of the system and of font packages, sorted by name."""
    packaged = [str(file.path) for family in fontpkg.families().values() for file in family.files]
    return tuple(sorted({*findSystemFonts(), *packaged}, key=lambda file: (Path(file).name, file)))


@lru_cache(maxsize=4096)
def _characters(file: str) -> frozenset[int]:
    """Return the code points for which a font file has glyphs; empty if the file cannot be read."""
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
