"""Figure 2: distances of adversarial examples to the manifold, and angles of perturbations."""

import pytest
from figure_data import ATTACKS, FIGURES, MEAN_DISTANCES, all_distances, distance_table
from matplotlib.colors import to_hex

from robustgen.figures import style
from robustgen.figures.distances import DISTANCE_LABELS, plot_distances


def test_axes_have_labels_with_units() -> None:
    to_true, to_span, angle = FIGURES["distances"]().axes
    assert to_true.get_xlabel() == "$L_2$ distance to\nthe true manifold"
    assert to_span.get_xlabel() == "$L_2$ distance to span of\nnearest training images"
    assert to_true.get_ylabel() == to_span.get_ylabel() == "share of examples"
    assert angle.get_xticklabels()[-1].get_text() == "90°"


def test_only_successes_at_the_largest_n_are_plotted() -> None:
    table = distance_table()
    is_excluded = (table["n"] == 250) | ~table["success"]
    table.loc[is_excluded, "true_manifold_distance"] = 50.0
    table.loc[is_excluded, "true_manifold_angle"] = 0.0
    figure = plot_distances(table)
    to_true, _, angle = figure.axes
    assert to_true.get_xlim()[1] < 5
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "attacked models: normal training, N = 1k"
    assert angle.texts[0].get_text() == "80°"
    for outline in to_true.collections:
        heights = outline.get_paths()[0].vertices[:, 1]
        assert 0 < heights.max() <= 1


def test_clean_images_are_plotted_except_for_the_true_manifold() -> None:
    table = distance_table(datasets_with_learned=("fonts",))
    to_true, to_learned, to_span, _ = plot_distances(table).axes
    styles = style.plot_styles(table["attack"])
    for axes in (to_true, to_learned, to_span):
        outline_colours = {to_hex(outline.get_edgecolor()[0]) for outline in axes.collections}
        expected = {styles[name].colour for name in styles if name != "clean"}
        if axes is not to_true:
            expected.add(styles["clean"].colour)
        assert outline_colours == expected
    outline = to_learned.collections[0].get_paths()[0].vertices
    mode = outline[outline[:, 1].argmax(), 0]
    assert mode == pytest.approx(MEAN_DISTANCES["clean"][1], abs=0.3)


def test_an_empty_panel_names_the_manifold_that_a_data_set_lacks() -> None:
    figure = plot_distances(all_distances())
    messages = {
        i: axes.texts[0].get_text() for i, axes in enumerate(figure.axes[:12]) if axes.texts
    }
    assert messages == {
        **dict.fromkeys([0, 1, 2], "true manifold not known"),
        4: "manifold not learned",
    }
    labelled = [i for i, axes in enumerate(figure.axes) if axes.get_ylabel()]
    assert labelled == [3, 5, 8], "the first panel of each row that has an axis"


def test_angles_are_medians_on_lines_of_their_own() -> None:
    table = distance_table(datasets_with_learned=("fonts",), attacks=ATTACKS)
    table.loc[table["attack"] == "on_learned_manifold", "learned_manifold_angle"] = 0.0
    angles = plot_distances(table).axes[-1]
    plotted = table[table["success"] & (table["n"] == 1000)]
    attacks = [name for name in style.plot_styles(table["attack"]) if name != "clean"]
    columns = [f"{kind}_angle" for kind in DISTANCE_LABELS]
    medians = plotted.groupby("attack")[columns].median().loc[attacks]
    expected = [f"{angle:.0f}°" for angle in medians.to_numpy().T.flat]
    assert [text.get_text() for text in angles.texts] == expected
    assert "0°" in expected
    heights = [text.xy[1] for text in angles.texts]
    assert len(set(heights)) == len(heights)
    assert heights == sorted(heights)
