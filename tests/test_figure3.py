"""Figure 3: test error and on-manifold success rates against N, and against each other."""

import numpy as np
import pytest
from figure_data import (
    FIGURES,
    LEARNED,
    ON_MANIFOLD,
    PAPER_SIZES,
    SEVERAL_ON_MANIFOLD,
    TRUE,
    study_tables,
)

from robustgen.figures import style
from robustgen.figures.generalization import plot_generalization


def test_axes_have_labels_with_units() -> None:
    error, success, success_by_error = FIGURES["generalization"]().axes
    assert (error.get_xlabel(), error.get_ylabel()) == ("training images N", "test error")
    assert success.get_ylabel() == success_by_error.get_ylabel() == "on-manifold\nsuccess rate"
    assert [label.get_text() for label in error.get_xticklabels()] == ["5k", "1k", "250"]
    assert all(label.get_text().endswith("%") for label in success_by_error.get_xticklabels())


def test_points_are_the_models() -> None:
    errors, rates = study_tables(("normal", "adversarial"))
    points = plot_generalization(errors, rates, ON_MANIFOLD).axes[2].collections[0]
    normal_rates = rates[(rates["method"] == "normal") & (rates["attack"] == TRUE)]
    assert sorted(points.get_offsets()[:, 1]) == pytest.approx(
        sorted(normal_rates["success_rate_correct_codes"])
    )
    assert points.get_sizes()[0] < points.get_sizes()[-1]


def test_panels_of_the_attacks_on_a_data_set_have_the_same_y_limits() -> None:
    errors, rates = study_tables(datasets=("a", "b"))
    is_weak = (rates["dataset"] == "a") & (rates["attack"] == LEARNED)
    rates.loc[is_weak, "success_rate_correct_codes"] /= 10
    figure = plot_generalization(errors, rates, {"a": [TRUE, LEARNED], "b": [LEARNED]})
    limits = [axes.get_ylim()[1] for axes in figure.axes[2:]]
    limits_of_a, limits_of_b = {*limits[:2], *limits[3:5]}, {limits[2], limits[5]}
    assert len(limits_of_a) == len(limits_of_b) == 1
    assert limits_of_a != limits_of_b
    plotted = rates[(rates["dataset"] == "a") & rates["attack"].isin([TRUE, LEARNED])]
    assert plotted["success_rate_correct_codes"].max() <= limits_of_a.pop() <= 1.2


def test_each_attack_has_a_column_below_its_data_set() -> None:
    errors, rates = study_tables(datasets=tuple(SEVERAL_ON_MANIFOLD))
    figure = plot_generalization(errors, rates, SEVERAL_ON_MANIFOLD)
    figure.draw_without_rendering()
    titles = [axes.get_title("left").partition("$  ")[2] for axes in figure.axes]
    learned, true = "on-manifold\n(learned)", "on-manifold\n(true)"
    upper_titles = ["emnist", "fashion_mnist", "fonts", learned, learned, true, learned]
    assert titles == [*upper_titles, *[""] * 4]
    letters = [axes.get_title("left")[5] for axes in figure.axes]
    assert letters == list("abcdefghijk"), "in reading order"
    assert figure.get_size_inches()[0] == style.TEXT_WIDTH
    edges = [(axes.get_position().x0, axes.get_position().x1) for axes in figure.axes]
    assert edges[:2] == [pytest.approx(edge) for edge in edges[3:5]]
    assert edges[2] == pytest.approx((edges[5][0], edges[6][1])), "spans its attacks"
    labelled = [i for i, axes in enumerate(figure.axes) if axes.get_ylabel()]
    assert labelled == [0, 3, 7]
    columns = [
        (name, attack)
        for name in sorted(SEVERAL_ON_MANIFOLD)
        for attack in SEVERAL_ON_MANIFOLD[name]
    ]
    for axes, (dataset, attack) in zip(figure.axes[7:], columns, strict=True):
        models = rates[(rates["dataset"] == dataset) & (rates["attack"] == attack)]
        points = np.concatenate([c.get_offsets() for c in axes.collections])
        assert sorted(points[:, 1]) == pytest.approx(sorted(models["success_rate_correct_codes"]))


def test_data_sets_that_do_not_fit_in_a_band_are_below_it() -> None:
    """Two attacks on EMNIST, one on FASHION, none on CELEBA, and in a second band two on FONTS."""
    figure = FIGURES["generalization in two bands"]()
    figure.draw_without_rendering()
    (message_panel,) = [axes for axes in figure.axes if axes.texts]
    panels = {axes.get_title("left").partition("$  ")[2]: axes for axes in figure.axes}
    top = {name: panels[name].get_position().y1 for name in (*SEVERAL_ON_MANIFOLD, "celeba")}
    assert top["celeba"] == pytest.approx(top["emnist"]) == pytest.approx(top["fashion_mnist"])
    bottom = min(axes.get_position().y0 for axes in figure.axes[:10])
    assert top["fonts"] < bottom
    assert message_panel.texts[0].get_text() == "no on-manifold\nattack"
    assert message_panel.get_position().x0 == pytest.approx(panels["celeba"].get_position().x0)


@pytest.mark.parametrize("columns", [1, 4])
def test_a_wide_panel_labels_more_sizes_than_a_narrow_one(columns: int) -> None:
    datasets = tuple("abcd")[:columns]
    figure = plot_generalization(*study_tables(("normal",), PAPER_SIZES, 1, datasets), {})
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels[0] == "40k"
    assert len(labels) == (5 if columns == 1 else 3)


def test_sizes_begin_a_column_of_the_legend() -> None:
    figure = plot_generalization(*study_tables(tuple(style._FIXED_STYLES)[:5]), ON_MANIFOLD)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    x0 = {text.get_text(): text.get_window_extent().x0 for text in legend.get_texts()}
    method_x0 = {x for entry, x in x0.items() if entry and not entry.startswith("N = ")}
    size_x0 = {x for entry, x in x0.items() if entry.startswith("N = ")}
    assert len(size_x0) == 1
    assert max(method_x0) < min(size_x0)
