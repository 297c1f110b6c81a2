"""The fonts on hand: those of installed packages, or those in a folder of the user's."""

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
    from fontTools.ttLib import TTFont  # loaded where it is used, so that `signature` is quick

log = logging.getLogger("robustgen")

SUFFIXES = (".ttf", ".otf")
FONT_FILE = "font file"
MORE = 'pip install -e ".[paper-fonts]" or any other package fontpkg-<family>'
_WIDTHS = (50.0, 62.5, 75.0, 87.5, 100.0, 112.5, 125.0, 150.0, 200.0)  # of OS/2 classes 1 to 9


@dataclass(frozen=True)
class Style:
    """One font: a font file, or one named style of a variable font file."""

    family: str
    style: str
    file: Path
    axes: tuple[float, ...] | None
    """Design coordinates, in the order of the file's axes; None for the file as it is."""
    license: str
    sha256: str
    weight: float = 400.0
    width: float = 100.0
    slanted: bool = False

    def irregularity(self) -> tuple[bool, float, float, str, tuple[float, ...]]:
        """A key that is least for the upright style whose weight is nearest to 400."""
        look = (self.slanted, abs(self.weight - 400), abs(self.width - 100))
        return (*look, self.file.as_posix(), self.axes or ())

    def difference(self, other: "Style") -> float:
        """How unlike two styles look; a slant counts as 300 of weight or 25 % of width."""
        weight, width = abs(self.weight - other.weight) / 300, abs(self.width - other.width) / 25
        return weight + width + (self.slanted != other.slanted)


def _digest(file: Path) -> str:
    with reading(file, FONT_FILE):
        return hashlib.sha256(file.read_bytes()).hexdigest()


def _check(font: "TTFont", file: Path) -> None:
    """Raise an error if FreeType cannot open the file or a table lies beyond its end."""
    size = file.stat().st_size
    if any(entry.offset + entry.length > size for entry in font.reader.tables.values()):
        raise UserError(f"{file} is not a readable font file: it is cut short")
    ImageFont.truetype(str(file), layout_engine=ImageFont.Layout.BASIC)


def _look(font: "TTFont", file: Path) -> tuple[float, float, bool]:
    """Weight, width and slant of the file as it is."""
    slanted = "italic" in file.stem.lower()
    if "OS/2" not in font:
        return 400.0, 100.0, slanted
    about = font["OS/2"]
    width = dict(enumerate(_WIDTHS, 1)).get(about.usWidthClass, 100.0)
    return float(about.usWeightClass), width, slanted or bool(about.fsSelection & 1)


def _file_styles(file: Path, family: str = "", license: str = "") -> list[Style]:
    """The styles of one file: its named ones if it is variable, else one.

    Named styles are taken by their coordinates. By name, Pillow would drop repeated names and
    count the styles after them wrongly.
    """
    from fontTools.ttLib import TTFont

    digest = _digest(file)
    with reading(file, FONT_FILE), TTFont(file, lazy=True) as font:
        _check(font, file)
        names, (weight, width, slanted) = font["name"], _look(font, file)
        family = family or names.getBestFamilyName() or file.stem
        license = license or names.getDebugName(13) or names.getDebugName(14) or "not stated"
        license = license.strip().partition("\n")[0].strip()
        instances = font["fvar"].instances if "fvar" in font else []
        if not instances:
            style = names.getBestSubFamilyName() or "Regular"
            return [Style(family, style, file, None, license, digest, weight, width, slanted)]
        styles = []
        for instance in instances:
            at = {axis.axisTag: instance.coordinates[axis.axisTag] for axis in font["fvar"].axes}
            name = names.getDebugName(instance.subfamilyNameID)
            name = name or " ".join(f"{tag} {value:g}" for tag, value in at.items())
            slant = slanted or bool(at.get("slnt")) or bool(at.get("ital"))
            look = (at.get("wght", weight), at.get("wdth", width), slant)
            styles.append(Style(family, name, file, (*at.values(),), license, digest, *look))
        return list(dict.fromkeys(styles))  # some files name a style twice


@lru_cache(maxsize=4096)
def lacking(file: Path, sha256: str, letters: str) -> str:  # noqa: ARG001, the digest is a key
    """The letters that a font file maps to no glyph or to the missing-glyph one."""
    from fontTools.ttLib import TTFont

    with reading(file, FONT_FILE), TTFont(file, lazy=True) as font:
        missing = font.getGlyphOrder()[0]
        glyphs = font.getBestCmap() or {}
        return "".join(x for x in letters if glyphs.get(ord(x), missing) == missing)


def _varied(styles: Iterable[Style]) -> list[Style]:
    """A family's styles: the most regular one, then always the one least like those before."""
    first, *rest = sorted(styles, key=Style.irregularity)
    order = [first]
    gaps = [style.difference(first) for style in rest]
    while rest:
        at = gaps.index(max(gaps))
        del gaps[at]
        order.append(rest.pop(at))
        gaps = [min(g, s.difference(order[-1])) for g, s in zip(gaps, rest, strict=True)]
    return order


def _in_turn(families: Iterable[Iterable[Style]]) -> list[Style]:
    """Every family's first style, then every family's second, and so on."""
    rounds = zip_longest(*map(_varied, families))
    return [style for styles in rounds for style in styles if style is not None]


def installed_styles() -> list[Style]:
    """The styles of all installed font packages, in an order that puts variety first.

    The families take turns, sorted by their slugs: first each gives its most regular style
    (upright, weight nearest 400), then each the style least like that one (in weight, width and
    slant), then each the style least like those two, and so on. The order depends on which
    packages are installed, not on when or where they were; a family more shifts those after it.

    Raises:
        UserError: no font package is installed, or a package's font file is damaged.
    """
    families = [family for _, family in sorted(fontpkg.families().items()) if family.files]
    if not families:
        raise UserError(f"no fonts are installed: get some with {MORE}")
    return _in_turn(
        [
            style
            for file in sorted(family.files, key=lambda file: file.path.name)
            for style in _file_styles(file.path, family.name, family.license)
        ]
        for family in families
    )


def _list_font_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The font files in a folder and below, ordered by relative path, and the other files."""
    files = walk_files(folder)
    font_files = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not font_files:
        raise UserError(
            f"the folder {folder} has no font files, which end in {' or '.join(SUFFIXES)}"
        )
    return font_files, [file for file in files if file.suffix.lower() not in SUFFIXES]


def folder_styles(path: str | Path) -> list[Style]:
    """The styles of all font files in a folder and below, ordered as by `installed_styles`.

    Family, style and licence are those the files name themselves.

    Raises:
        UserError: there is no such folder, it has no font files or one of them is damaged.
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
    return _in_turn(styles for _, styles in sorted(families.items()))


def signature(fonts_from: str = INSTALLED) -> str:
    """A digest that changes when the fonts on hand do; quick, as it is taken at every start.

    Installed fonts count by the names and versions of their packages, files in a folder by their
    relative paths and contents.

    Raises:
        UserError: no fonts are installed, there is no such folder, or it has no font files.
    """
    if fonts_from == INSTALLED:
        groups = ("fontpkg.family", "fonts_ttf")  # those that `fontpkg.families` goes through
        points = [point for group in groups for point in entry_points(group=group)]
        if not points:
            raise UserError(f"no fonts are installed: get some with {MORE}")
        have = [(p.name, p.value, p.dist.version if p.dist else "") for p in points]
    else:
        folder = require_folder(fonts_from, FONTS_PURPOSE)
        files, _ = _list_font_files(folder)
        have = [(file.relative_to(folder).as_posix(), _digest(file), "") for file in files]
    return hashlib.sha256(json.dumps(sorted(have)).encode()).hexdigest()
