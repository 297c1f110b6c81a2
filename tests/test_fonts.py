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


def outline(boxes: Sequence[Box]):
    pen = TTGlyphPen(None)
    for left, bottom, right, top in boxes:
        pen.moveTo((left, bottom))
        for point in ((left, top), (right, top), (right, bottom)):
            pen.lineTo(point)
        pen.closePath()
    return pen.glyph()


def make(
    path: Path,
    boxes: dict[str, Sequence[Box]] = BOXES,
    *,
    family: str = "Hand",
    style: str = "Regular",
    weight: int = 400,
    unmapped: str = "",
) -> Path:
    """A font file whose letters are boxes; the letters in `unmapped` are mapped to .notdef."""
    glyphs = {".notdef": outline([NOTDEF]), **{x: outline(b) for x, b in boxes.items()}}
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


def wider(by: int) -> dict[str, Sequence[Box]]:
    return {x: [(a, b, c + by, d) for a, b, c, d in boxes] for x, boxes in BOXES.items()}


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def paper() -> fonts.Prototypes:
    return fonts.prototypes(300, PAPER)


def test_installed_fonts_are_distinct_visible_and_centred(paper):
    images = paper.images
    assert images.shape == (300, 10, 28, 28)
    assert images.dtype == np.uint8
    assert len({font.tobytes() for font in images}) == 300
    for font in images:
        assert len({letter.tobytes() for letter in font}) == 10
    assert images.max(axis=(2, 3)).min() >= fonts.FAINTEST
    for axis in (2, 3):
        ink = images.any(axis=5 - axis)
        before, after = ink.argmax(axis=2), ink[:, :, ::-1].argmax(axis=2)
        assert set(np.unique(after - before)) <= {0, 1}


def test_table_has_a_row_per_font(paper):
    assert paper.table.schema.equals(tables.FONTS, check_metadata=True)
    assert paper.table["font"].to_pylist() == list(range(300))
    rows = paper.table.to_pylist()
    assert all(row[name] for row in rows for name in tables.FONTS.names[1:])
    assert len({(row["sha256"], row["style"]) for row in rows}) == 300


def test_fewer_fonts_are_the_first_of_more_and_the_same_again(paper):
    fewer = fonts.prototypes(40, PAPER)
    assert np.array_equal(fewer.images, paper.images[:40])
    assert fewer.table.equals(paper.table.slice(0, 40))


def test_order_does_not_depend_on_the_order_of_installation(monkeypatch):
    families = fontpkg.families()
    expected = fonts.installed_styles()
    turned = {
        slug: fontpkg.Family(f.name, slug, f.version, f.license, f.files[::-1], f.axes)
        for slug, f in reversed(families.items())
    }
    monkeypatch.setattr(fontpkg, "families", lambda: turned)
    assert fonts.installed_styles() == expected


def test_every_family_comes_before_any_familys_second_style():
    families = fontpkg.families()
    styles = fonts.installed_styles()
    first = styles[: len(families)]
    assert [style.family for style in first] == [f.name for _, f in sorted(families.items())]
    assert len(set(styles)) == len(styles)
    assert not any(style.slanted for style in first)
    oswald = [style for style in styles if style.family == "Oswald"]
    assert [style.weight for style in oswald[:3]] == [400, 700, 200]


def test_named_styles_of_a_variable_font_differ():
    by_name = {s.style: s for s in fonts.installed_styles() if s.family == "Roboto Slab"}
    ink = [fonts.render(by_name[name], PAPER).mean() for name in ("Thin", "Regular", "Black")]
    assert ink == sorted(ink)
    assert ink[0] < 0.7 * ink[1] < 0.7 * 0.7 * ink[2]


def test_letters_are_drawn_white_on_black_in_place(tmp_path):
    (style,) = fonts.folder_styles(make(tmp_path / "a.ttf").parent)
    a, b, c = fonts.render(style, LETTERS)
    assert a.max() == b.max() == c.max() == 255
    assert (a.any(0).sum(), a.any(1).sum()) == (7, 15)  # 0.3 and 0.7 of 21 pixels
    assert a[:6].max() == a[-7:].max() == a[0].max() == 0
    assert fonts.render(style, LETTERS, size=10) is None
    assert fonts.render(style, LETTERS, size=14, points=14).shape == (3, 14, 14)


@pytest.mark.parametrize(
    ("boxes", "unmapped", "reason"),
    [
        ({x: BOXES[x] for x in "AB"}, "", fonts.LACKING),
        (BOXES, "B", fonts.LACKING),
        ({**BOXES, "B": []}, "", fonts.BLANK),
        ({**BOXES, "B": [(0, 0, 8, 700)]}, "", fonts.BLANK),
        ({**BOXES, "B": [(0, 0, 1500, 100)]}, "", fonts.LARGE),
        ({**BOXES, "B": [(0, 0, 16000, 16000)]}, "", fonts.LARGE),
        ({**BOXES, "B": [NOTDEF]}, "", fonts.BOXED),
        ({**BOXES, "B": BOXES["A"]}, "", fonts.ALIKE),
        (BOXES, "", fonts.REPEATED),
    ],
)
def test_a_useless_font_is_left_out(tmp_path, boxes, unmapped, reason):
    make(tmp_path / "good.ttf")
    make(tmp_path / "other.ttf", wider(60), family="Next")
    make(tmp_path / "bad.ttf", boxes, family="Later", unmapped=unmapped)
    said = refused(lambda: fonts.prototypes(3, LETTERS, str(tmp_path)))
    assert said == (
        f"3 fonts are asked for, but only 2 usable ones are in {tmp_path} "
        f"(left out: 1 {reason}): put more .ttf or .otf files there"
    )
    make(tmp_path / "more.ttf", wider(120), family="Z")
    found = fonts.prototypes(3, LETTERS, str(tmp_path))
    assert found.table["file"].to_pylist() == ["good.ttf", "other.ttf", "more.ttf"]
    assert found.left_out == {reason: 1}


def test_a_folder_is_searched_below_and_ordered_by_family(tmp_path):
    make(tmp_path / "x" / "b.TTF", wider(30), family="Alpha", style="Black", weight=900)
    make(tmp_path / "x" / "y" / "a.otf", wider(90), family="Alpha", weight=300, style="Light")
    make(tmp_path / "z.ttf", family="Beta", weight=700, style="Bold")
    make(tmp_path / ".hidden.ttf", wider(120))
    (tmp_path / "read.me").write_text("no font")
    styles = fonts.folder_styles(tmp_path)
    assert [(s.family, s.style) for s in styles] == [
        ("Alpha", "Light"),
        ("Beta", "Bold"),
        ("Alpha", "Black"),
    ]
    assert fonts.prototypes(3, LETTERS, str(tmp_path)).table["license"][0].as_py() == "not stated"


def test_a_font_with_none_of_the_letters_is_named(tmp_path):
    make(tmp_path / "good.ttf")
    bad = make(tmp_path / "signs.ttf", {"x": BOXES["A"]}, family="Signs")
    said = refused(lambda: fonts.prototypes(1, LETTERS, str(tmp_path)))
    assert said == f"{bad} has none of the letters {LETTERS}: take it away"


def cut(whole: bytes) -> bytes:
    return whole[: len(whole) * 2 // 3]


def garble(whole: bytes) -> bytes:
    at = whole.index(b"head") + 8  # the offset of that table
    start = int.from_bytes(whole[at : at + 4], "big")
    return whole[:start] + bytes(54) + whole[start + 54 :]


@pytest.mark.parametrize(
    "damage",
    [cut, garble, lambda _: b"", lambda _: b"no font at all", lambda x: x[:9], lambda x: x[:-8]],
)
def test_a_damaged_file_is_named(tmp_path, monkeypatch, damage):
    make(tmp_path / "good.ttf")
    bad = make(tmp_path / "bad.ttf", family="Bad")
    bad.write_bytes(damage(bad.read_bytes()))
    said = f"{bad} is not a readable font file: "
    assert refused(lambda: fonts.folder_styles(tmp_path)).startswith(said)
    file = fontpkg.FontFile(bad, "normal", 400, False)
    families = {"bad": fontpkg.Family("Bad", "bad", "1", "OFL-1.1", (file,))}
    monkeypatch.setattr(fontpkg, "families", lambda: families)
    assert refused(lambda: fonts.prototypes(1, LETTERS)).startswith(said)


def test_a_file_that_breaks_while_drawing_is_named(tmp_path):
    file = make(tmp_path / "a.ttf")
    (style,) = fonts.folder_styles(tmp_path)
    file.write_bytes(b"gone")
    assert refused(lambda: fonts.render(style, LETTERS)).startswith(f"{file} is not a readable")


def test_a_folder_without_fonts_is_refused(tmp_path):
    nowhere = tmp_path / "nowhere"
    for call in (fonts.folder_styles, fonts.signature):
        said = refused(lambda call=call: call(str(nowhere)))
        assert said == f"there is no folder {nowhere} to take fonts from"
        said = refused(lambda call=call: call(str(tmp_path)))
        assert said == f"the folder {tmp_path} has no font files, which end in .ttf or .otf"


def test_fonts_in_linked_folders_are_found_and_other_files_are_logged(tmp_path, caplog):
    make(tmp_path / "elsewhere/below/a.ttf")
    folder = tmp_path / "fonts"
    make(folder / "b.otf", wider(30))
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(folder)
    for name in ("c.ttc", "d.woff", "e.WOFF2", "OFL.txt", ".hidden.woff"):
        (folder / name).write_bytes(b"")
    before = fonts.signature(str(folder))
    with caplog.at_level(logging.INFO):
        files = {style.file.relative_to(folder).as_posix() for style in fonts.folder_styles(folder)}
    assert files == {"b.otf", "linked/below/a.ttf"}
    assert caplog.messages == [
        "4 files left out, which do not end in .ttf or .otf: 1 .ttc, 1 .txt, 1 .woff, 1 .woff2"
    ]
    make(tmp_path / "elsewhere/below/a.ttf", wider(40))
    assert fonts.signature(str(folder)) != before


def test_too_few_installed_fonts_say_how_to_get_more(monkeypatch):
    families = {slug: fontpkg.families()[slug] for slug in ("abel", "jost", "urbanist")}
    monkeypatch.setattr(fontpkg, "families", lambda: families)
    said = refused(lambda: fonts.prototypes(1000, PAPER))
    assert re.fullmatch(
        r"1000 fonts are asked for, but only \d\d usable ones are installed \(left out: \d+ with a "
        r'blank or barely visible letter\): get more with pip install -e "\.\[paper-fonts\]" '
        r"or any other package fontpkg-<family>",
        said,
    )


def test_no_fonts_installed(monkeypatch):
    monkeypatch.setattr(fontpkg, "families", dict)
    said = refused(lambda: fonts.prototypes(1, PAPER))
    assert said.startswith('no fonts are installed: get some with pip install -e ".[paper-')


def test_signature_changes_with_the_fonts_alone(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        make(folder / "a.ttf")
        (folder / "notes.txt").write_text(folder.name)
    before = fonts.signature(str(here))
    (there / "a.ttf").write_bytes((here / "a.ttf").read_bytes())
    assert fonts.signature(str(there)) == before
    (there / "a.ttf").rename(there / "b.ttf")
    assert fonts.signature(str(there)) != before
    make(here / "a.ttf", wider(30))
    changed = fonts.signature(str(here))
    make(here / "c.ttf")
    assert len({before, changed, fonts.signature(str(here)), fonts.signature()}) == 4


def test_signature_of_installed_fonts_follows_their_versions(monkeypatch):
    class Point:
        name, value = "abel", "fontpkg_abel"

        def __init__(self, version):
            self.dist = type("Dist", (), {"version": version})

    def of(*versions):
        points = [Point(version) for version in versions]
        monkeypatch.setattr(
            "robustgen.data.font_files.entry_points",
            lambda group: points if group == "fontpkg.family" else [],
        )
        return fonts.signature()

    assert of("1") == of("1") != of("2")
    assert of("1", "2") == of("2", "1")


def test_signature_needs_no_heavy_import():
    code = (
        "import sys; from robustgen.data.font_files import signature; signature();"
        "print(sorted({'torch', 'numpy', 'pyarrow', 'fontTools'} & set(sys.modules)))"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "[]"


@pytest.mark.long
def test_the_papers_thousand_fonts():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    try:
        for package in project["optional-dependencies"]["paper-fonts"]:
            version(package.partition(">=")[0])
    except PackageNotFoundError as error:
        pytest.skip(f"the extra paper-fonts is not installed: no {error.name}")
    found = fonts.prototypes(1200, PAPER)
    assert len({font.tobytes() for font in found.images}) == 1200
