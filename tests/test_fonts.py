import logging
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import fontpkg
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from robustgen.data import font_prototypes as fonts
from robustgen.errors import UserError
from robustgen.io import schemas as tables

LETTERS = "ABC"
PAPER = "ABCDEFGHIJ"
Box = tuple[int, int, int, int]
NOTDEF: Box = (50, 0, 550, 650)
BOXES: dict[str, Sequence[Box]] = {
    "A": [(0, 0, 300, 700)],
    "B": [(0, 0, 500, 400)],
    "C": [(0, 0, 100, 700), (0, 0, 400, 100)],
}


def make_glyph(boxes: Sequence[Box]):
    pen = TTGlyphPen(None)
    for x_min, y_min, x_max, y_max in boxes:
        pen.moveTo((x_min, y_min))
        for point in ((x_min, y_max), (x_max, y_max), (x_max, y_min)):
            pen.lineTo(point)
        pen.closePath()
    return pen.glyph()


def make_font(
    path: Path,
    boxes: dict[str, Sequence[Box]] = BOXES,
    *,
    family: str = "Hand",
    style: str = "Regular",
    weight: int = 400,
    unmapped: str = "",
) -> Path:
    """Write a font file whose letters are boxes; those in `unmapped` are mapped to .notdef."""
    glyphs = {".notdef": make_glyph([NOTDEF]), **{x: make_glyph(b) for x, b in boxes.items()}}
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(list(glyphs))
    font.setupCharacterMap({ord(x): ".notdef" if x in unmapped else x for x in boxes})
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (600, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": family, "styleName": style})
    font.setupOS2(usWeightClass=weight)
    font.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    font.save(path)
    return path


def widen(units: int) -> dict[str, Sequence[Box]]:
    return {
        letter: [(x_min, y_min, x_max + units, y_max) for x_min, y_min, x_max, y_max in boxes]
        for letter, boxes in BOXES.items()
    }


def refusal(call: Callable[[], object]) -> str:
    """The error message of a call."""
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def paper() -> fonts.Prototypes:
    return fonts.draw_prototypes(300, PAPER)


def test_installed_fonts_are_distinct_visible_and_centred(paper):
    images = paper.images
    assert images.shape == (300, 10, 28, 28)
    assert images.dtype == np.uint8
    assert len({font.tobytes() for font in images}) == 300
    for font in images:
        assert len({letter.tobytes() for letter in font}) == 10
    assert images.max(axis=(2, 3)).min() >= fonts.MIN_PEAK_VALUE
    for axis in (2, 3):
        ink = images.any(axis=5 - axis)
        margins = ink.argmax(axis=2), ink[:, :, ::-1].argmax(axis=2)
        assert set(np.unique(margins[1] - margins[0])) <= {0, 1}


def test_the_table_has_a_row_per_font(paper):
    assert paper.table.schema.equals(tables.FONTS, check_metadata=True)
    assert paper.table["font"].to_pylist() == list(range(300))
    rows = paper.table.to_pylist()
    assert all(row[name] for row in rows for name in tables.FONTS.names[1:])
    assert len({(row["sha256"], row["style"]) for row in rows}) == 300


def test_fewer_fonts_are_the_first_ones_of_more_fonts(paper):
    fewer = fonts.draw_prototypes(40, PAPER)
    assert np.array_equal(fewer.images, paper.images[:40])
    assert fewer.table.equals(paper.table.slice(0, 40))


def test_order_does_not_depend_on_the_order_of_installation(monkeypatch):
    families = fontpkg.families()
    expected = fonts.list_installed_styles()
    reversed_families = {
        slug: fontpkg.Family(f.name, slug, f.version, f.license, f.files[::-1], f.axes)
        for slug, f in reversed(families.items())
    }
    monkeypatch.setattr(fontpkg, "families", lambda: reversed_families)
    assert fonts.list_installed_styles() == expected


def test_every_family_comes_before_the_second_style_of_any_family():
    families = fontpkg.families()
    styles = fonts.list_installed_styles()
    first = styles[: len(families)]
    assert [style.family for style in first] == [f.name for _, f in sorted(families.items())]
    assert len(set(styles)) == len(styles)
    assert not any(style.slanted for style in first)
    oswald = [style for style in styles if style.family == "Oswald"]
    assert [style.weight for style in oswald[:3]] == [400, 700, 200]


def test_named_styles_of_a_variable_font_differ():
    by_name = {s.style: s for s in fonts.list_installed_styles() if s.family == "Roboto Slab"}
    ink = [fonts.render(by_name[name], PAPER).mean() for name in ("Thin", "Regular", "Black")]
    assert ink == sorted(ink)
    assert ink[0] < 0.7 * ink[1] < 0.7 * 0.7 * ink[2]


def test_letters_are_drawn_centred_in_white_on_black(tmp_path):
    (style,) = fonts.list_folder_styles(make_font(tmp_path / "a.ttf").parent)
    a, b, c = fonts.render(style, LETTERS)
    assert a.max() == b.max() == c.max() == 255
    assert (a.any(0).sum(), a.any(1).sum()) == (7, 15)  # 0.3 and 0.7 of 21 pixels
    assert a[:6].max() == a[-7:].max() == a[0].max() == 0
    assert fonts.render(style, LETTERS, size=10) is None
    assert fonts.render(style, LETTERS, size=14, font_size=14).shape == (3, 14, 14)


@pytest.mark.parametrize(
    ("boxes", "unmapped", "reason"),
    [
        ({x: BOXES[x] for x in "AB"}, "", fonts.Exclusion.MISSING),
        (BOXES, "B", fonts.Exclusion.MISSING),
        ({**BOXES, "B": []}, "", fonts.Exclusion.BLANK),
        ({**BOXES, "B": [(0, 0, 8, 700)]}, "", fonts.Exclusion.BLANK),
        ({**BOXES, "B": [(0, 0, 1500, 100)]}, "", fonts.Exclusion.LARGE),
        ({**BOXES, "B": [(0, 0, 16000, 16000)]}, "", fonts.Exclusion.LARGE),
        ({**BOXES, "B": [NOTDEF]}, "", fonts.Exclusion.BOXED),
        ({**BOXES, "B": BOXES["A"]}, "", fonts.Exclusion.ALIKE),
        (BOXES, "", fonts.Exclusion.REPEATED),
    ],
)
def test_an_unusable_font_is_left_out(tmp_path, boxes, unmapped, reason):
    make_font(tmp_path / "good.ttf")
    make_font(tmp_path / "other.ttf", widen(60), family="Next")
    make_font(tmp_path / "bad.ttf", boxes, family="Later", unmapped=unmapped)
    message = refusal(lambda: fonts.draw_prototypes(3, LETTERS, str(tmp_path)))
    assert message == (
        f"3 fonts are needed, but only 2 usable ones are in {tmp_path} "
        f"(left out: 1 {reason}): put more .ttf or .otf files there"
    )
    make_font(tmp_path / "third.ttf", widen(120), family="Z")
    prototypes = fonts.draw_prototypes(3, LETTERS, str(tmp_path))
    assert prototypes.table["file"].to_pylist() == ["good.ttf", "other.ttf", "third.ttf"]
    assert prototypes.left_out == {reason: 1}


def test_subfolders_are_searched_and_styles_ordered_by_family(tmp_path):
    make_font(tmp_path / "x" / "b.TTF", widen(30), family="Alpha", style="Black", weight=900)
    make_font(tmp_path / "x" / "y" / "a.otf", widen(90), family="Alpha", weight=300, style="Light")
    make_font(tmp_path / "z.ttf", family="Beta", weight=700, style="Bold")
    make_font(tmp_path / ".hidden.ttf", widen(120))
    (tmp_path / "read.me").write_text("no font")
    styles = fonts.list_folder_styles(tmp_path)
    assert [(s.family, s.style) for s in styles] == [
        ("Alpha", "Light"),
        ("Beta", "Bold"),
        ("Alpha", "Black"),
    ]
    assert (
        fonts.draw_prototypes(3, LETTERS, str(tmp_path)).table["license"][0].as_py() == "not stated"
    )


def test_a_font_with_none_of_the_letters_is_named(tmp_path):
    make_font(tmp_path / "good.ttf")
    bad = make_font(tmp_path / "signs.ttf", {"x": BOXES["A"]}, family="Signs")
    message = refusal(lambda: fonts.draw_prototypes(1, LETTERS, str(tmp_path)))
    assert message == f"{bad} has none of the letters {LETTERS}: remove it"


def truncate(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def erase_head(content: bytes) -> bytes:
    """Fill the table "head" of a font file with zeros."""
    entry = content.index(b"head") + 8  # the position of the table's offset
    start = int.from_bytes(content[entry : entry + 4], "big")
    return content[:start] + bytes(54) + content[start + 54 :]


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        erase_head,
        lambda _: b"",
        lambda _: b"no font at all",
        lambda x: x[:9],
        lambda x: x[:-8],
    ],
)
def test_a_damaged_file_is_named(tmp_path, monkeypatch, damage):
    make_font(tmp_path / "good.ttf")
    bad = make_font(tmp_path / "bad.ttf", family="Bad")
    bad.write_bytes(damage(bad.read_bytes()))
    message = f"{bad} is not a readable font file: "
    assert refusal(lambda: fonts.list_folder_styles(tmp_path)).startswith(message)
    file = fontpkg.FontFile(bad, "normal", 400, False)
    families = {"bad": fontpkg.Family("Bad", "bad", "1", "OFL-1.1", (file,))}
    monkeypatch.setattr(fontpkg, "families", lambda: families)
    assert refusal(lambda: fonts.draw_prototypes(1, LETTERS)).startswith(message)


def test_a_file_that_is_damaged_later_is_named(tmp_path):
    file = make_font(tmp_path / "a.ttf")
    (style,) = fonts.list_folder_styles(tmp_path)
    file.write_bytes(b"gone")
    assert refusal(lambda: fonts.render(style, LETTERS)).startswith(f"{file} is not a readable")


def test_a_folder_without_fonts_is_refused(tmp_path):
    nowhere = tmp_path / "nowhere"
    for call in (fonts.list_folder_styles, fonts.signature):
        message = refusal(lambda call=call: call(str(nowhere)))
        assert message == f"there is no folder {nowhere} to take fonts from"
        message = refusal(lambda call=call: call(str(tmp_path)))
        assert message == f"the folder {tmp_path} has no font files, which end in .ttf or .otf"


def test_fonts_in_linked_folders_are_found_and_other_files_are_logged(tmp_path, caplog):
    make_font(tmp_path / "elsewhere/below/a.ttf")
    folder = tmp_path / "fonts"
    make_font(folder / "b.otf", widen(30))
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(folder)
    for name in ("c.ttc", "d.woff", "e.WOFF2", "OFL.txt", ".hidden.woff"):
        (folder / name).write_bytes(b"")
    signature = fonts.signature(str(folder))
    with caplog.at_level(logging.INFO):
        files = {
            style.file.relative_to(folder).as_posix() for style in fonts.list_folder_styles(folder)
        }
    assert files == {"b.otf", "linked/below/a.ttf"}
    assert caplog.messages == [
        "4 files left out, which do not end in .ttf or .otf: 1 .ttc, 1 .txt, 1 .woff, 1 .woff2"
    ]
    make_font(tmp_path / "elsewhere/below/a.ttf", widen(40))
    assert fonts.signature(str(folder)) != signature


def test_the_message_about_too_few_fonts_says_how_to_get_more(monkeypatch):
    families = {slug: fontpkg.families()[slug] for slug in ("abel", "jost", "urbanist")}
    monkeypatch.setattr(fontpkg, "families", lambda: families)
    message = refusal(lambda: fonts.draw_prototypes(1000, PAPER))
    assert re.fullmatch(
        r"1000 fonts are needed, but only \d\d usable ones are installed \(left out: \d+ with a "
        r'blank or barely visible letter\): get more with pip install -e "\.\[paper-fonts\]" '
        r"or any other package fontpkg-<family>",
        message,
    )


def test_without_installed_fonts_the_message_says_how_to_get_some(monkeypatch):
    monkeypatch.setattr(fontpkg, "families", dict)
    message = refusal(lambda: fonts.draw_prototypes(1, PAPER))
    assert message.startswith('no fonts are installed: get some with pip install -e ".[paper-')


def test_the_signature_changes_with_fonts_only(tmp_path):
    folder, copy = tmp_path / "folder", tmp_path / "copy"
    for fonts_folder in (folder, copy):
        make_font(fonts_folder / "a.ttf")
        (fonts_folder / "notes.txt").write_text(fonts_folder.name)
    signature = fonts.signature(str(folder))
    (copy / "a.ttf").write_bytes((folder / "a.ttf").read_bytes())
    assert fonts.signature(str(copy)) == signature
    (copy / "a.ttf").rename(copy / "b.ttf")
    assert fonts.signature(str(copy)) != signature
    make_font(folder / "a.ttf", widen(30))
    changed = fonts.signature(str(folder))
    make_font(folder / "c.ttf")
    assert len({signature, changed, fonts.signature(str(folder)), fonts.signature()}) == 4


def test_the_signature_changes_with_the_versions_of_installed_fonts(monkeypatch):
    class EntryPoint:
        name, value = "abel", "fontpkg_abel"

        def __init__(self, version):
            self.dist = type("Dist", (), {"version": version})

    def signature_of(*versions):
        points = [EntryPoint(version) for version in versions]
        monkeypatch.setattr(
            "robustgen.data.font_files.entry_points",
            lambda group: points if group == "fontpkg.family" else [],
        )
        return fonts.signature()

    assert signature_of("1") == signature_of("1") != signature_of("2")
    assert signature_of("1", "2") == signature_of("2", "1")


def test_the_signature_needs_no_slow_import():
    code = (
        "import sys; from robustgen.data.font_files import signature; signature();"
        "print(sorted({'torch', 'numpy', 'pyarrow', 'fontTools'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.long
def test_the_extra_paper_fonts_has_more_than_the_thousand_fonts_of_the_paper():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    try:
        for package in project["optional-dependencies"]["paper-fonts"]:
            version(package.partition(">=")[0])
    except PackageNotFoundError as error:
        pytest.skip(f"the extra paper-fonts is not installed: no {error.name}")
    prototypes = fonts.draw_prototypes(1200, PAPER)
    assert len({font.tobytes() for font in prototypes.images}) == 1200
