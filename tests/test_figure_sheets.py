"""The sheets of letter prototypes and of learned manifolds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from figure_data import sheet_images
from matplotlib.image import imread

from robustgen.figures import style
from robustgen.figures.manifold import MAX_CLASSES, SheetImages, plot_manifold
from robustgen.figures.prototypes import plot_prototypes


@pytest.mark.parametrize("fonts", [1, 7, 200, 1000])
def test_every_prototype_is_on_the_sheet(fonts: int) -> None:
    rows = np.arange(fonts, dtype=np.uint8)[:, None, None, None]
    prototypes = rows * np.ones((2, 4, 4), np.uint8)
    figure = plot_prototypes(prototypes, "AB")
    sheets = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert np.array_equal(np.concatenate(sheets)[::4, 0], prototypes[:, 0, 0, 0])
    assert f"{fonts} fonts × 2 letters" in figure.texts[0].get_text()
    with pytest.raises(ValueError, match="2 letters in the array, but 3 names: ABC"):
        plot_prototypes(prototypes, "ABC")


@pytest.mark.parametrize("fonts", [30, 700])
def test_prototypes_are_saved_pixel_by_pixel(fonts: int, tmp_path: Path) -> None:
    prototypes = np.random.default_rng(0).integers(0, 256, (fonts, 3, 8, 8), np.uint8)
    figure = plot_prototypes(prototypes, "ABC")
    style.save(figure, tmp_path / "f.png", tmp_path / "f.pdf")
    page = np.round(255 * imread(tmp_path / "f.png")[..., 0])
    for axes in figure.axes:
        sheet = np.asarray(axes.images[0].get_array())
        box = axes.get_position()
        column, row = round(box.x0 * page.shape[1]), round((1 - box.y1) * page.shape[0])
        saved = page[row:, column:][: sheet.shape[0], : sheet.shape[1]]
        assert np.abs(saved - sheet).max() <= 1  # the colour map rounds


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 56, 48)], ids=str)
def test_every_image_of_a_manifold_is_in_its_place(shape: tuple[int, ...]) -> None:
    sheet = sheet_images(3, 5, shape)
    figure = plot_manifold(list("ABC"), sheet)
    assert figure.get_size_inches()[0] == style.TEXT_WIDTH
    assert [axes.get_ylabel() for axes in figure.axes] == ["A", "", "B", "", "C", ""]
    titles = [axes.get_title("left") for axes in figure.axes[:2]]
    blocks = ((sheet.images, sheet.reconstructions), (sheet.samples, sheet.interpolations))
    words = (("test images", "reconstructions"), ("samples", "interpolation"))
    _, height, width = shape
    gap = height // 28
    for block, (title, rows) in enumerate(zip(titles, blocks, strict=True)):
        for row, (line, word) in enumerate(zip(title.split("\n"), words[block], strict=True)):
            assert line.startswith("lower row" if row else "upper row")
            assert word in line
            for label, column in np.ndindex(3, 5):
                axes = figure.axes[2 * label + block]
                y, x = row * (height + gap), column * (width + gap)
                pixels = np.asarray(axes.images[0].get_array())[y:, x:][:height, :width]
                image = np.moveaxis(rows[row][label, column], 0, -1)
                assert np.array_equal(pixels, np.broadcast_to(image, pixels.shape))
    size = figure.axes[0].get_position().size * figure.get_size_inches()
    pixels = np.asarray(figure.axes[0].images[0].get_array())
    assert size[1] / size[0] == pytest.approx(pixels.shape[0] / pixels.shape[1])


def test_a_sheet_of_many_classes_notes_how_many_it_shows() -> None:
    names = [f"class {k}" for k in range(62)]
    for count in (MAX_CLASSES, 62):
        figure = plot_manifold(names, sheet_images(count, 2))
        assert [text.get_text() for text in figure.texts] == ["first 20 of 62 classes"]
        assert figure.axes[-2].get_ylabel() == "class 19"
    assert not plot_manifold(names[:MAX_CLASSES], sheet_images(MAX_CLASSES, 2)).texts


@pytest.mark.parametrize(
    ("names", "sheet", "message"),
    [
        ("AB", sheet_images(3), "images of 3 classes, but 2 names"),
        ("A" * 30, sheet_images(25), "images of 25 classes, but 30 names"),
        ("AB", replace(sheet_images(2), samples=sheet_images(2, 7).samples), "the same shape"),
    ],
)
def test_arrays_that_do_not_match_are_refused(names: str, sheet: SheetImages, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_manifold(list(names), sheet)
