"""Figure 4 names a fit in its legend exactly where it draws one."""

import pytest
from test_figures import REGULAR, study

from robustgen.figures.robustness import robustness

SIZES = {"two N of two methods": ((250, 1000), True), "a single N of two methods": ((250,), False)}


@pytest.mark.parametrize(("sizes", "is_fitted"), SIZES.values(), ids=SIZES)
def test_the_legend_names_a_fit_only_where_one_is_drawn(sizes, is_fitted):
    methods = ("normal", "on_true_manifold")
    figure = robustness(*study(methods, sizes), REGULAR, not_adversarial=methods)
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert bool(figure.axes[0].lines) == is_fitted
    assert ("fit without adversarial" in entries) == is_fitted
