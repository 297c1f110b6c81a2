"""Figure 1: adversarial examples and their differences from the test images."""

import pytest
from figure_data import FIGURES, attacked_images, visible_texts

from robustgen.figures.examples import plot_examples


def test_differences_have_symmetric_scales_and_failures_are_empty() -> None:
    figure = FIGURES["examples"]()
    images = [axes.images[0] for axes in figure.axes if axes.images]
    differences = [image for image in images if image.get_cmap().name.startswith("RdBu")]
    assert len(differences) == 2 * 5
    assert all(image.norm.vmin == -image.norm.vmax for image in differences)
    assert differences[0].norm.vmax == pytest.approx(0.3)
    texts = [text.get_text() for text in visible_texts(figure)]
    assert texts.count("failed") == 4
    assert "A → B" in texts


def test_an_attack_without_success_has_no_colour_scale() -> None:
    figure = FIGURES["examples with small differences"]()
    assert len([axes for axes in figure.axes if axes.collections]) == 1


def test_examples_in_another_shape_are_refused() -> None:
    clean, classes, attacks = attacked_images()
    with pytest.raises(ValueError, match="regular"):
        plot_examples(clean[:, 1:], classes, attacks)
