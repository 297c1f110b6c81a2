"""Small synthetic tables and images for figures, and what a reader sees of a figure."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from robustgen.figures.distances import DISTANCE_LABELS, plot_distances
from robustgen.figures.examples import AttackedImages, plot_examples
from robustgen.figures.generalization import plot_generalization
from robustgen.figures.manifold import SheetImages, plot_manifold
from robustgen.figures.prototypes import plot_prototypes
from robustgen.figures.robustness import plot_robustness

ERROR_FACTORS = {
    "normal": 1.0,
    "adversarial": 1.15,
    "on_true_manifold": 0.55,
    "transformation": 0.7,
    "on_true_manifold_augmentation": 0.65,
    "transformation_augmentation": 0.78,
}
"""Test error of each method, relative to that of normal training."""
METHODS = tuple(ERROR_FACTORS)
SIZES = (250, 1000, 5000)
PAPER_SIZES = (250, 500, 1000, 2500, 5000, 10000, 20000, 40000)
TRUE, LEARNED = "on_true_manifold", "on_learned_manifold"
ON_MANIFOLD = {"fonts": [TRUE]}
REGULAR = {"regular": "L∞ radius 0.3"}
SEVERAL_ON_MANIFOLD = {
    "fonts": [TRUE, LEARNED],
    "emnist": [LEARNED],
    "fashion_mnist": [LEARNED],
}
MEAN_DISTANCES = {
    "clean": (0.0, 2.0, 2.0),
    "regular": (3.5, 4.0, 5.5),
    "regular_tenth": (0.5, 2.2, 2.2),
    "on_true_manifold": (0.0, 2.5, 2.0),
    "on_learned_manifold": (2.0, 0.0, 1.8),
    "on_data_manifold": (2.5, 0.3, 1.9),
}
"""Distances to the true manifold, to a learned one and to the span of neighbours, by attack."""
ATTACKS = tuple(MEAN_DISTANCES)[1:]
FOUR_DATASETS = ("fonts", "emnist", "fashion_mnist", "celeba")


def study_tables(
    methods: tuple[str, ...] = METHODS,
    sizes: tuple[int, ...] = SIZES,
    seeds: int = 3,
    datasets: tuple[str, ...] = ("fonts",),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test errors that decrease with N, and success rates.

    On-manifold success rates are proportional to the errors, regular ones are constant.
    """
    rng = np.random.default_rng(0)
    errors, rates = [], []
    for dataset in datasets:
        for method in methods:
            for n in sizes:
                for seed in range(seeds):
                    model = {"dataset": dataset, "method": method, "n": n, "seed": seed}
                    mean_error = ERROR_FACTORS.get(method, 0.9) * 0.55 * (n / 250) ** -0.45
                    error = mean_error * np.exp(rng.normal(0, 0.07))
                    regular = 0.3 if method == "adversarial" else 0.98
                    errors.append({**model, "test_error": error})
                    attack_rates = {TRUE: error * 1.5, LEARNED: error * 1.2, "regular": regular}
                    for attack, attack_rate in attack_rates.items():
                        rate = min(attack_rate, 1.0)
                        columns = {"success_rate": rate, "success_rate_correct_codes": 0.9 * rate}
                        rates.append({**model, "attack": attack, **columns})
    return pd.DataFrame(errors), pd.DataFrame(rates)


def distance_table(
    datasets_with_true: tuple[str, ...] | None = None,
    datasets: tuple[str, ...] = ("fonts",),
    datasets_with_learned: tuple[str, ...] = (),
    attacks: tuple[str, ...] = ("regular", "on_true_manifold"),
) -> pd.DataFrame:
    """Distances and angles of successes and failures.

    Args:
        datasets_with_true: data sets whose true manifold is known; None: all.
        datasets: names of the data sets.
        datasets_with_learned: data sets with a learned manifold.
        attacks: names of the attacks.
    """
    rng = np.random.default_rng(0)
    parts = []
    for dataset in datasets:
        for attack in ("clean", *attacks):
            is_clean = attack == "clean"
            for n in (np.nan,) if is_clean else (250, 1000):
                images = 80
                part = {
                    "dataset": dataset,
                    "method": None if is_clean else "normal",
                    "n": n,
                    "attack": attack,
                    "success": ~np.full(images, is_clean) & (np.arange(images) < 60),
                }
                for kind, mean in zip(DISTANCE_LABELS, MEAN_DISTANCES[attack], strict=True):
                    part[f"{kind}_distance"] = np.abs(rng.normal(mean, 0.1, images))
                    angle = rng.normal(10 + 20 * min(mean, 3.5), 2, images)
                    part[f"{kind}_angle"] = np.nan if is_clean else angle
                parts.append(pd.DataFrame(part))
    table = pd.concat(parts, ignore_index=True)
    datasets_with = {
        "true_manifold": datasets if datasets_with_true is None else datasets_with_true,
        "learned_manifold": datasets_with_learned,
    }
    for kind, names in datasets_with.items():
        is_missing = ~table["dataset"].isin(names)
        table.loc[is_missing, [f"{kind}_distance", f"{kind}_angle"]] = np.nan
    return table


def all_distances() -> pd.DataFrame:
    """Distances of four data sets, of which one has a true manifold and three a learned one."""
    datasets = ("celeba", "emnist", "fashion_mnist", "fonts")
    return distance_table(("fonts",), datasets, datasets[1:], ATTACKS)


def attacked_images(
    channels: int = 0, names: Sequence[str] = "ABCDEF"
) -> tuple[Any, list[str], dict[str, AttackedImages]]:
    """Test images, names of their classes, and examples of two attacks that fail on the last."""
    rng = np.random.default_rng(0)
    shape = (len(names), *([channels] if channels else []), 28, 28)
    clean = rng.random(shape)
    noise = 0.3 * rng.choice([-1, 1], shape)
    predictions: list[str | None] = [*names[1:], None]
    attacks = {
        "regular": AttackedImages(np.clip(clean + noise, 0, 1), predictions),
        "on_true_manifold": AttackedImages(np.roll(clean, 1, -1), predictions),
    }
    return clean, list(names), attacks


def slightly_attacked_images() -> tuple[Any, list[str], dict[str, AttackedImages]]:
    """An attack whose largest difference needs many digits, and one that always fails."""
    clean, classes, attacks = attacked_images()
    predictions = attacks["regular"].predictions
    attacks = {
        "regular": AttackedImages(np.clip(clean + 0.0013, 0, 1), predictions),
        "on_true_manifold": AttackedImages(clean, [None] * len(classes)),
    }
    return clean, classes, attacks


def sheet_images(
    classes: int, columns: int = 8, shape: tuple[int, ...] = (1, 28, 28)
) -> SheetImages:
    """Random images for the sheet of a manifold."""
    rng = np.random.default_rng(0)
    return SheetImages(*rng.random((4, classes, columns, *shape)))


FIGURES: dict[str, Callable[[], Figure]] = {
    "examples": lambda: plot_examples(*attacked_images()),
    "examples in colour": lambda: plot_examples(*attacked_images(3)),
    "examples with small differences": lambda: plot_examples(*slightly_attacked_images()),
    "examples of classes with odd names": lambda: plot_examples(
        *attacked_images(names=("a$^x^y$", "b_{$", "$5", "$10", "one with a long name", "F"))
    ),
    "distances": lambda: plot_distances(distance_table()),
    "distances to neighbours only": lambda: plot_distances(
        distance_table((), ("a",), (), ("regular",))
    ),
    "distances of two data sets": lambda: plot_distances(distance_table(datasets=("a", "b"))),
    "distances of four data sets": lambda: plot_distances(distance_table(datasets=FOUR_DATASETS)),
    "distances of all kinds": lambda: plot_distances(
        distance_table(datasets_with_learned=("fonts",), attacks=ATTACKS)
    ),
    "distances of all kinds and four data sets": lambda: plot_distances(all_distances()),
    "generalization": lambda: plot_generalization(*study_tables(), ON_MANIFOLD),
    "generalization of two data sets": lambda: plot_generalization(
        *study_tables(datasets=("a", "b")), {"a": [TRUE], "b": [TRUE]}
    ),
    "generalization without attack": lambda: plot_generalization(*study_tables(), {}),
    "generalization under four attacks": lambda: plot_generalization(
        *study_tables(sizes=PAPER_SIZES, datasets=tuple(SEVERAL_ON_MANIFOLD)), SEVERAL_ON_MANIFOLD
    ),
    "generalization in two bands": lambda: plot_generalization(
        *study_tables(datasets=(*SEVERAL_ON_MANIFOLD, "celeba")),
        {**SEVERAL_ON_MANIFOLD, "emnist": [TRUE, LEARNED]},
    ),
    "robustness": lambda: plot_robustness(
        *study_tables(),
        {**REGULAR, TRUE: "L∞ radius 0.1"},
        not_adversarial=["normal", "transformation"],
    ),
    "robustness of four data sets": lambda: plot_robustness(
        *study_tables(sizes=PAPER_SIZES, datasets=FOUR_DATASETS), REGULAR
    ),
    "robustness of two data sets": lambda: plot_robustness(
        *study_tables(datasets=("a", "b")), REGULAR
    ),
    "manifold": lambda: plot_manifold(["T-shirt/top", "Ankle boot", "@"], sheet_images(3)),
    "manifold of letters": lambda: plot_manifold(list("@W"), sheet_images(2, 1)),
    "manifold in colour": lambda: plot_manifold(
        ["Wearing_lipstick_yes", "MMMMMMMMMMMMMMMMMMMM"], sheet_images(2, 12, (3, 56, 48))
    ),
    "manifold of many classes": lambda: plot_manifold(
        [f"class {k}" for k in range(62)], sheet_images(20)
    ),
    "prototypes": lambda: plot_prototypes(np.full((20, 3, 28, 28), 255, np.uint8), "ABC"),
}
"""Figures by name, with the layouts that are checked for overlapping texts."""


def visible_texts(figure: Figure) -> list[Text]:
    """All texts of a figure; labels of ticks outside their axis are not drawn."""
    invisible: set[Text] = set()
    for axis in (a for axes in figure.axes for a in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        invisible |= {t.label1 for t in axis.get_major_ticks() if not low <= t.get_loc() <= high}
    texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
    return [text for text in texts if text.get_visible() and text not in invisible]


def legend_entries(figure: Figure) -> list[str]:
    entries = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [entry for entry in entries if entry]


def colours(figure: Figure) -> set[str]:
    """The colours of all lines and points in the panels, except white."""
    used: set[str] = set()
    for axes in figure.axes:
        used |= {to_hex(line.get_color()) for line in axes.lines}
        for points in (c for c in axes.collections if isinstance(c, PathCollection)):
            used |= {to_hex(c) for c in (*points.get_facecolors(), *points.get_edgecolors())}
    return used - {"#ffffff"}
