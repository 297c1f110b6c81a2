"""Fonts for class names with characters that the default font of matplotlib lacks."""

import matplotlib
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib.tables._g_l_y_f import Glyph

from robustgen.figures import fonts, style

CHINESE = "猫"


@pytest.fixture
def install_fonts(monkeypatch):
    """Set the font files that are installed in addition to those of matplotlib."""

    def install(*files):
        monkeypatch.setattr(fonts, "_installed_font_files", lambda: tuple(map(str, files)))
        fonts._family_with.cache_clear()

    yield install
    fonts._family_with.cache_clear()


@pytest.fixture
def chinese_font(tmp_path):
    """A font file of the family "One Cat", with one glyph, which is empty."""
    builder = FontBuilder(1024, isTTF=True)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord(CHINESE): "cat"})
    builder.setupGlyf({".notdef": Glyph(), "cat": Glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "cat": (500, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "One Cat", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "cat.ttf")
    return tmp_path / "cat.ttf"


def test_a_name_that_no_font_has_is_replaced_by_the_number_of_the_class(install_fonts):
    install_fonts()
    assert fonts.drawable_names(["dog", CHINESE, "Ärger α Ж"]) == ["dog", "class 1", "Ärger α Ж"]


def test_a_name_is_drawn_with_a_font_that_has_its_characters(install_fonts, chinese_font, tmp_path):
    damaged = tmp_path / "broken.ttf"
    damaged.write_bytes(b"no font")
    install_fonts(damaged, chinese_font)
    assert fonts.drawable_names(["dog", CHINESE]) == ["dog", CHINESE]
    with matplotlib.rc_context(style.settings()):
        style.format_name("dog")
        assert matplotlib.rcParams["font.family"] == [fonts.DEFAULT_FAMILY]
        style.format_name(CHINESE)
        assert matplotlib.rcParams["font.family"] == [fonts.DEFAULT_FAMILY, "One Cat"]
