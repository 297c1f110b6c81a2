"""Requirements of all figures: layout, legends, colours, saving, missing results and captions."""

import filecmp
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import matplotlib
import numpy as np
import pytest
from docutils.core import publish_parts
from figure_data import (
    FIGURES,
    METHODS,
    ON_MANIFOLD,
    REGULAR,
    SIZES,
    TRUE,
    all_distances,
    attacked_images,
    colours,
    distance_table,
    legend_entries,
    sheet_images,
    study_tables,
    visible_texts,
)
from matplotlib.figure import Figure
from matplotlib.image import imread

from robustgen.figures import panels, style
from robustgen.figures.distances import plot_distances
from robustgen.figures.examples import plot_examples
from robustgen.figures.generalization import plot_generalization
from robustgen.figures.manifold import MAX_CLASSES, plot_manifold
from robustgen.figures.robustness import plot_robustness

REPORT = Path(__file__).parents[1] / "workflow" / "report"


@pytest.fixture(scope="module", params=FIGURES, ids=str)
def figure(request: pytest.FixtureRequest) -> Figure:
    figure = FIGURES[request.param]()
    figure.draw_without_rendering()  # computes the layout
    return figure


@pytest.mark.parametrize("name", ["examples", "distances", "robustness", "manifold", "prototypes"])
def test_a_figure_is_saved_as_png_and_pdf_with_the_same_bytes_each_time(
    name: str, tmp_path: Path
) -> None:
    figure = FIGURES[name]()
    for run in ("first", "second"):
        style.save(figure, tmp_path / run / "f.png", tmp_path / run / "f.pdf")
    for suffix in ("png", "pdf"):
        first, second = (tmp_path / run / f"f.{suffix}" for run in ("first", "second"))
        assert filecmp.cmp(first, second, shallow=False)
        assert b"CreationDate" not in first.read_bytes()
    height, width = imread(tmp_path / "first" / "f.png").shape[:2]
    assert (width, height) == tuple((figure.get_size_inches() * style.DPI).astype(int))
    assert len(np.unique(imread(tmp_path / "first" / "f.png"))) > 2


def test_a_figure_depends_neither_on_the_order_of_rows_nor_on_user_settings(
    tmp_path: Path,
) -> None:
    errors, rates = study_tables()
    style.save(plot_robustness(errors, rates, REGULAR), tmp_path / "a.png", tmp_path / "a.pdf")
    with matplotlib.rc_context({"font.size": 20, "legend.handletextpad": 3.0}):
        figure = plot_robustness(errors[::-1], rates[::-1], REGULAR)
        style.save(figure, tmp_path / "b.png", tmp_path / "b.pdf")
        assert matplotlib.rcParams["font.size"] == 20
    assert filecmp.cmp(tmp_path / "a.png", tmp_path / "b.png", shallow=False)


def test_texts_are_large_enough_inside_the_page_and_do_not_overlap(figure: Figure) -> None:
    page = figure.bbox.padded(1.0)
    boxes = [(text, text.get_window_extent()) for text in visible_texts(figure)]
    for text, box in boxes:
        assert text.get_fontsize() >= 6
        assert page.containsx(box.x0), text
        assert page.containsx(box.x1), text
        assert page.containsy(box.y0), text
        assert page.containsy(box.y1), text
    for (text, box), (other_text, other_box) in combinations(boxes, 2):
        assert not box.padded(-1).overlaps(other_box.padded(-1)), (text, other_text)


def test_no_legend_covers_a_panel(figure: Figure) -> None:
    for legend in figure.legends:
        for axes in figure.axes:
            assert not legend.get_window_extent().overlaps(axes.get_tightbbox())


def test_each_method_has_one_colour_in_figures_3_and_4() -> None:
    styles = style.plot_styles(METHODS)
    expected = {plot_style.colour for plot_style in styles.values()}
    assert len(expected) == len(METHODS)
    sizes = ["N = 250", "N = 1k", "N = 5k"]
    for figure in (FIGURES["generalization"](), plot_robustness(*study_tables(), REGULAR)):
        assert colours(figure) == expected
        assert legend_entries(figure) == [*(s.label for s in styles.values()), *sizes]
    methods = tuple(method for method in METHODS if method != "adversarial")
    figure = plot_generalization(*study_tables(methods, seeds=2), ON_MANIFOLD)
    assert colours(figure) == expected - {styles["adversarial"].colour}


def test_methods_of_the_user_get_styles_of_their_own() -> None:
    names = [*METHODS, "mine", "mine_augmentation", "regular", *(f"m{i}" for i in range(8))]
    styles = style.plot_styles(names)
    assert len({(s.colour, s.marker, s.line) for s in styles.values()}) == len(names)
    assert styles == style.plot_styles(reversed(names))
    assert styles["normal"] == style.plot_styles(["normal"])["normal"]
    assert styles["mine"].marker == styles["mine_augmentation"].marker
    assert styles["mine"].is_filled
    assert not styles["mine_augmentation"].is_filled
    figure = plot_generalization(*study_tables(("normal", "mine")), ON_MANIFOLD)
    assert legend_entries(figure)[:2] == ["normal", "mine"]


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_methods_are_plotted_near_their_n(count: int) -> None:
    methods = [f"m{i}" for i in range(count)]
    errors, _ = study_tables(tuple(methods))
    axes = Figure().subplots()
    panels.plot_against_n(axes, errors, "test_error", style.plot_styles(methods), "")
    x = np.array([bars.lines[0].get_xdata() for bars in axes.containers], float)
    span = np.log(max(SIZES) / min(SIZES))
    shifts = np.log(x / np.array(SIZES, float))
    assert np.ptp(shifts, axis=0).max() <= 0.15 * span
    assert count == 1 or np.diff(np.sort(shifts[:, 0])).min() > 0.005 * span


@pytest.mark.parametrize(
    ("plot", "panel_count"),
    [
        (lambda: plot_generalization(*study_tables(seeds=1), ON_MANIFOLD), 3),
        (lambda: plot_generalization(*study_tables(sizes=(250,)), ON_MANIFOLD), 3),
        (lambda: plot_generalization(*study_tables(), {"fonts": ["absent"]}), 3),
        (lambda: plot_generalization(*study_tables(), {"another": [TRUE], "fonts": []}), 1),
        (lambda: plot_generalization(*(t.head(0) for t in study_tables()), ON_MANIFOLD), 1),
        (lambda: plot_generalization(*study_tables(datasets=("a", "fonts")), ON_MANIFOLD), 5),
        (lambda: plot_robustness(*study_tables(), {}), 1),
        (lambda: plot_robustness(*study_tables(("transformation",)), REGULAR), 2),
        (lambda: plot_robustness(*study_tables(), REGULAR, compared_methods=()), 2),
        (lambda: plot_robustness(*(t.head(0) for t in study_tables()), REGULAR), 2),
        (
            lambda: plot_robustness(
                *study_tables(), {**REGULAR, "absent": ""}, not_adversarial=["normal"]
            ),
            3,
        ),
        (lambda: plot_distances(distance_table()), 3),
        (lambda: plot_distances(distance_table(())), 2),
        (lambda: plot_distances(distance_table().assign(success=False), method=None), 3),
        (lambda: plot_distances(distance_table().query("attack == 'clean'")), 2),
        (lambda: plot_distances(distance_table(), attacks=["regular"], method="absent", n=250), 3),
        (lambda: plot_distances(distance_table().head(0)), 1),
        (lambda: plot_distances(distance_table(datasets_with_learned=("fonts",))), 4),
        (lambda: plot_distances(distance_table((), datasets_with_learned=("fonts",))), 3),
        (lambda: plot_distances(all_distances()), 16),
        (lambda: plot_examples(np.zeros((0, 28, 28)), [], {}), 1),
        (lambda: plot_examples(*attacked_images()[:2], {}), 6),
        (lambda: plot_manifold([], sheet_images(0)), 1),
        (lambda: plot_manifold(["A"], sheet_images(1, 0)), 1),
        (
            lambda: plot_manifold(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), sheet_images(26)),
            2 * MAX_CLASSES,
        ),
    ],
)
def test_panels_of_missing_results_are_omitted(
    plot: Callable[[], Figure], panel_count: int
) -> None:
    figure = plot()
    figure.draw_without_rendering()
    assert len(figure.axes) == panel_count


@pytest.mark.parametrize(
    ("space", "sentence"),
    [("data_manifold", "learned all classes"), ("learned_manifold", "a VAE-GAN of its own")],
)
def test_the_caption_of_a_sheet_names_the_kind_of_manifold(space: str, sentence: str) -> None:
    job = SimpleNamespace(wildcards=SimpleNamespace(dataset="fonts", space=space))
    text = jinja2.Template((REPORT / "manifold.rst").read_text("utf-8")).render(snakemake=job)
    assert sentence in " ".join(text.split())
    assert ("no class" in text) == (space == "data_manifold")


@pytest.mark.parametrize("config", [{"study": "demo", "seeds": 3}, {"study": "demo"}])
def test_captions_are_valid_restructured_text(config: dict[str, Any]) -> None:
    params = SimpleNamespace(
        models_caption="normal training", attacks_caption="Attacks (regular: L∞ radius 0.3)"
    )
    wildcards = SimpleNamespace(dataset="fonts", space="data_manifold")
    job = SimpleNamespace(config=config, params=params, wildcards=wildcards)
    for caption in REPORT.glob("*.rst"):
        text = jinja2.Template(caption.read_text("utf-8")).render(snakemake=job)
        parts = publish_parts(text, writer="html", settings_overrides={"halt_level": 2})
        assert len(parts["body"]) > 100
