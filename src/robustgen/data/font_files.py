"""The available fonts: those of installed packages, or those in a folder of the user."""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import fontpkg
from PIL import ImageFont

from robustgen.errors import UserError, reading
from robustgen.io.paths import FONTS_PURPOSE, INSTALLED, count_suffixes, require_folder, walk_files

if TYPE_CHECKING:
    from fontTools.ttLib import TTFont  # imported where it is used, so that `signature` is fast

log = logging.getLogger("robustgen")

SUFFIXES = (".ttf", ".otf")
FONT_FILE = "font file"
INSTALL_HINT = 'pip install -e ".[paper-fonts]" or any other package fontpkg-<family>'
_WIDTHS = (50.0, 62.5, 75.0, 87.5, 100.0, 112.5, 125.0, 150.0, 200.0)
"""Widths in percent of the classes 1 to 9 in the table OS/2 of a font file."""


@dataclass(frozen=True)
class Style:
    """A font: a font file, or a named style of a variable font file.

    Attributes:
        family: name of the font family.
        style: name of the style, e.g. "Regular".
        file: path of the font file.
        axes: design coordinates, in the order of the file's axes; None if the file is not variable.
        license: the licence of the font.
        sha256: digest of the file.
        weight: from 100 (thin) to 900 (black); 400 is regular.
        width: in percent of the normal width.
        slanted: whether the font is italic or oblique.
    """

    family: str
    style: str
    file: Path
    axes: tuple[float, ...] | None
    license: str
    sha256: str
    weight: float = 400.0
    width: float = 100.0
    slanted: bool = False

    def regularity_key(self) -> tuple[bool, float, float, str, tuple[float, ...]]:
        """Return a sort key by which the upright style with the weight nearest to 400 is first."""
        metrics = (self.slanted, abs(self.weight - 400), abs(self.width - 100))
        return (*metrics, self.file.as_posix(), self.axes or ())

    def difference(self, style: "Style") -> float:
        """Return a distance of styles; a slant counts as 300 of weight or 25 % of width."""
        weight, width = abs(self.weight - style.weight) / 300, abs(self.width - style.width) / 25
        return weight + width + (self.slanted != style.slanted)


def _digest_file(file: Path) -> str:
    with reading(file, FONT_FILE):
        return hashlib.sha256(file.read_bytes()).hexdigest()


def _check_file(font: "TTFont", file: Path) -> None:
    """Raise an error if FreeType cannot open the file, or if a table exceeds the file."""
    size = file.stat().st_size
    if any(entry.offset + entry.length > size for entry in font.reader.tables.values()):
        raise UserError(f"{file} is not a readable font file: it is cut short")
    ImageFont.truetype(str(file), layout_engine=ImageFont.Layout.BASIC)


def _style_metrics(font: "TTFont", file: Path) -> tuple[float, float, bool]:
    """Return weight, width and slant of a file at its default coordinates."""
    slanted = "italic" in file.stem.lower()
    if "OS/2" not in font:
        return 400.0, 100.0, slanted
    table = font["OS/2"]
    width = dict(enumerate(_WIDTHS, 1)).get(table.usWidthClass, 100.0)
    return float(table.usWeightClass), width, slanted or bool(table.fsSelection & 1)


def _file_styles(file: Path, family: str = "", license: str = "") -> list[Style]:
    """List the named styles of a variable font file, or the one style of another file.

    Named styles are selected by their coordinates. Pillow selects by name, but drops repeated names
    and so miscounts the styles after them.
    """
    from fontTools.ttLib import TTFont

    digest = _digest_file(file)
    with reading(file, FONT_FILE), TTFont(file, lazy=True) as font:
        _check_file(font, file)
        names, (weight, width, slanted) = font["name"], _style_metrics(font, file)
        family = family or names.getBestFamilyName() or file.stem
        license = license or names.getDebugName(13) or names.getDebugName(14) or "not stated"
        license = license.strip().partition("\n")[0].strip()
        instances = font["fvar"].instances if "fvar" in font else []
        if not instances:
            style = names.getBestSubFamilyName() or "Regular"
            return [Style(family, style, file, None, license, digest, weight, width, slanted)]
        tags = [axis.axisTag for axis in font["fvar"].axes]
        styles = []
        for instance in instances:
            axes = {tag: instance.coordinates[tag] for tag in tags}
            name = names.getDebugName(instance.subfamilyNameID)
            name = name or " ".join(f"{tag} {value:g}" for tag, value in axes.items())
            is_slanted = slanted or bool(axes.get("slnt")) or bool(axes.get("ital"))
            metrics = (axes.get("wght", weight), axes.get("wdth", width), is_slanted)
            styles.append(Style(family, name, file, (*axes.values(),), license, digest, *metrics))
        return list(dict.fromkeys(styles))  # some files list a style twice


@lru_cache(maxsize=4096)
def missing_glyphs(file: Path, sha256: str, letters: str) -> str:  # noqa: ARG001, a cache key
    """Return the letters that a font file maps to no glyph or to its missing-glyph box."""
    from fontTools.ttLib import TTFont

    with reading(file, FONT_FILE), TTFont(file, lazy=True) as font:
        missing_glyph = font.getGlyphOrder()[0]
        glyphs = font.getBestCmap() or {}
        return "".join(
            letter for letter in letters if glyphs.get(ord(letter), missing_glyph) == missing_glyph
        )


def _farthest_first(styles: Iterable[Style]) -> list[Style]:
    """Order a family: first the most regular style, then always the one farthest from all before.

    The distance of a style from several others is that from the nearest of them.
    """
    first, *remaining = sorted(styles, key=Style.regularity_key)
    order = [first]
    distances = [style.difference(first) for style in remaining]
    while remaining:
        index = distances.index(max(distances))
        del distances[index]
        order.append(remaining.pop(index))
        distances = [
            min(distance, style.difference(order[-1]))
            for distance, style in zip(distances, remaining, strict=True)
        ]
    return order


def _round_robin(families: Iterable[Iterable[Style]]) -> list[Style]:
    """Order styles: the first one of every family, then the second one of every family, etc."""
    rounds = zip_longest(*map(_farthest_first, families))
    return [style for styles in rounds for style in styles if style is not None]


def list_installed_styles() -> list[Style]:
    """List the styles of all installed font packages, different ones first.

    In each round, every family contributes one style, in the order of the families' slugs. The
    first round has the most regular styles (upright, weight nearest to 400). In later rounds a
    family contributes the style that differs most from its earlier ones, by weight, width and
    slant. The order depends only on which packages are installed. A new family shifts the families
    after it.

    Raises:
        UserError: no font package is installed, or a font file of a package is damaged.
    """
    families = [family for _, family in sorted(fontpkg.families().items()) if family.files]
    if not families:
        raise UserError(f"no fonts are installed: get some with {INSTALL_HINT}")
    return _round_robin(
        [
            style
            for file in sorted(family.files, key=lambda file: file.path.name)
            for style in _file_styles(file.path, family.name, family.license)
        ]
        for family in families
    )


def _list_font_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the font files in a folder and its subfolders by relative path, and the other files."""
    files = walk_files(folder)
    font_files = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not font_files:
        raise UserError(
            f"the folder {folder} has no font files, which end in {' or '.join(SUFFIXES)}"
        )
    return font_files, [file for file in files if file.suffix.lower() not in SUFFIXES]


def list_folder_styles(path: str | Path) -> list[Style]:
    """List the styles of all font files in a folder, in the order of `list_installed_styles`.

    Family, style and licence are read from the files.

    Raises:
        UserError: the folder does not exist or has no font files, or one of them is damaged.
    """
    font_files, other_files = _list_font_files(require_folder(path, FONTS_PURPOSE))
    if other_files:
        log.warning(
            "%d files left out, which do not end in %s: %s",
            len(other_files),
            " or ".join(SUFFIXES),
            count_suffixes(other_files),
        )
    families: dict[str, list[Style]] = {}
    for file in font_files:
        for style in _file_styles(file):
            families.setdefault(fontpkg.slugify(style.family), []).append(style)
    return _round_robin(styles for _, styles in sorted(families.items()))


def signature(font_source: str = INSTALLED) -> str:
    """Return a digest that changes if the available fonts change; it is fast.

    Installed fonts count by the names and versions of their packages, files in a folder by their
    relative paths and contents.

    Args:
        font_source: "installed", or the path of a folder.

    Raises:
        UserError: no fonts are installed, or the folder does not exist or has no font files.
    """
    if font_source == INSTALLED:
        groups = ("fontpkg.family", "fonts_ttf")  # the groups that `fontpkg.families` reads
        points = [point for group in groups for point in entry_points(group=group)]
        if not points:
            raise UserError(f"no fonts are installed: get some with {INSTALL_HINT}")
        fonts = [
            (point.name, point.value, point.dist.version if point.dist else "") for point in points
        ]
    else:
        folder = require_folder(font_source, FONTS_PURPOSE)
        files, _ = _list_font_files(folder)
        fonts = [(file.relative_to(folder).as_posix(), _digest_file(file), "") for file in files]
    return hashlib.sha256(json.dumps(sorted(fonts)).encode()).hexdigest()
