"""Success against the radius: tables from small tables of attacks, and figure 5."""

from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from figure_data import legend_entries, visible_texts
from hypothesis import given
from hypothesis import strategies as st
from studies import changed, valid

from robustgen.analysis.radius_curves import (
    RADII,
    collect_sizes,
    find_half_radius,
    tabulate_curves,
    tabulate_smallest,
)
from robustgen.analysis.statistics import t_interval
from robustgen.config.roles import (
    attacks_caption,
    find_minimal_attacks,
    find_on_manifold,
    find_roles,
)
from robustgen.config.study import Study
from robustgen.figures.radius_curves import plot_radius_curves
from robustgen.io.schemas import ATTACKS, OVER_SEEDS, RADIUS_CURVES, SMALLEST_PERTURBATIONS

KEYS = {"dataset": "fonts", "method": "normal", "n": 250, "attack": "smallest"}


def make_table(models: dict[int, list[tuple[bool, float | None]]]) -> pa.Table:
    """Return a table of `ATTACKS`.

    Args:
        models: for each seed, whether each image is classified correctly, and the L2 norm of its
            smallest perturbation or None.
    """
    rows = [
        {
            **dict.fromkeys(ATTACKS.names, 0),
            "seed": seed,
            "example": i,
            "prediction": 0 if is_correct else 1,
            "code_correct": True,
            "success": size is not None,
            "code_l2": size or 0.0,
            "code_linf": 99.0,
            "iterations": None,
            "restart": None,
            "member": None,
            "refuted": False,
        }
        for seed, images in models.items()
        for i, (is_correct, size) in enumerate(images)
    ]
    return pa.Table.from_pylist(rows, schema=ATTACKS)


def test_sizes_are_those_of_correctly_classified_images_in_the_norm_of_the_attack():
    table = make_table({3: [(True, 0.5), (False, 0.1), (True, None), (True, 0.25)], 1: [(True, 2)]})
    models = collect_sizes([(KEYS, table)], {"smallest": "l2"})
    assert models["seed"].tolist() == [1, 3]
    assert [sizes.tolist() for sizes in models["sizes"]] == [[2.0], [0.25, 0.5, np.inf]]
    rows = tabulate_smallest(models).to_pylist()
    assert [row["attacked"] for row in rows] == [1, 3]
    assert [row["successes"] for row in rows] == [1, 2]
    assert [row["half_radius"] for row in rows] == [2.0, 0.5]
    assert [row["mean_size"] for row in rows] == [2.0, 0.375]


@given(st.lists(st.one_of(st.floats(0, 5), st.just(np.inf)), max_size=9))
def test_the_half_radius_is_the_first_at_which_half_of_the_images_fall(sizes: list[float]):
    half_radius = find_half_radius(np.sort(sizes))
    reached = [r for r in sizes if np.isfinite(r) and np.mean(np.array(sizes) <= r) >= 0.5]
    assert half_radius == min(reached) if reached else np.isnan(half_radius)


def test_a_curve_is_the_mean_over_seeds_of_the_share_within_each_radius():
    rng = np.random.default_rng(0)
    sizes = {seed: rng.uniform(0.1, 2, 7) for seed in range(3)}
    table = make_table({seed: [(True, size) for size in row] for seed, row in sizes.items()})
    curves = tabulate_curves(collect_sizes([(KEYS, table)], {"smallest": "l2"}))
    assert curves.schema.equals(RADIUS_CURVES, check_metadata=True)
    assert len(curves) == RADII
    for row in curves.to_pylist():
        shares = [np.mean(row_sizes <= row["radius"] * (1 + 1e-6)) for row_sizes in sizes.values()]
        mean, low, high = t_interval(shares, bounds=(0, 1))
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((mean, low, high))
        assert row["seeds"] == 3
    assert curves["mean"][-1].as_py() == 1


def test_methods_and_sizes_of_an_attack_share_their_radii():
    parts = [
        ({**KEYS, "method": method, "n": n}, make_table({0: [(True, size)], 1: [(True, 1.0)]}))
        for (method, n), size in zip(product("ab", (250, 500)), (0.1, 0.2, 0.3, 3.0), strict=True)
    ]
    curves = tabulate_curves(collect_sizes(parts, {"smallest": "l2"})).to_pandas()
    radii = [rows["radius"].tolist() for _, rows in curves.groupby(["method", "n"])]
    assert len(radii) == 4
    assert all(row == radii[0] for row in radii)
    assert radii[0][-1] == pytest.approx(3.0)


NOTHING = {
    "no attacks": [],
    "no image is classified correctly": [(KEYS, make_table({0: [(False, None)]}))],
    "no perturbation is found": [(KEYS, make_table({0: [(True, None)]}))],
}


@pytest.mark.parametrize("parts", NOTHING.values(), ids=NOTHING)
def test_without_a_perturbation_there_are_no_curves(parts):
    models = collect_sizes(parts, {"smallest": "l2"})
    smallest = tabulate_smallest(models)
    assert smallest.schema.equals(SMALLEST_PERTURBATIONS, check_metadata=True)
    assert smallest["half_radius"].null_count == len(smallest) == len(parts)
    assert len(tabulate_curves(models)) == 0


def make_study(*changes):
    """Return a valid study with an attack for the smallest perturbation, before all others."""
    config = changed((("threats", "any"), {"space": "image", "norm": "linf"}), *changes)
    smallest = {"smallest": {"threat": "any", "step_rule": "fmn", "examples": 5}}
    return Study.parse({**config, "attacks": {**smallest, **config["attacks"]}})


def test_an_attack_for_the_smallest_perturbation_has_no_role_of_an_attack_with_a_radius():
    study, plain_study = make_study(), Study.parse(valid())
    minimal_attacks = {"minimal_attacks": {"image": ["smallest"]}}
    assert find_roles(study) == {**find_roles(plain_study), **minimal_attacks}
    assert find_on_manifold(study, "letters") == find_on_manifold(plain_study, "letters")
    assert study.distances == plain_study.distances
    assert study.attacks["smallest"].loss == "margin"
    assert attacks_caption(study, ["smallest"]) == (
        "Attacks (smallest: smallest L∞ radius, 5 test images)"
    )


def test_a_job_that_occurs_twice_is_refused():
    part = (KEYS, make_table({0: [(True, 1.0)]}))
    with pytest.raises(ValueError, match="two results of the same model: "):
        collect_sizes([part, part], {"smallest": "l2"})


def test_points_on_a_curve_are_the_attacks_in_the_same_space_and_norm():
    round_threat = {"space": "image", "norm": "l2", "radius": 1.0}
    study = make_study(
        (("threats", "round"), round_threat),
        (("attacks", "round"), {"threat": "round", "examples": 5}),
    )
    expected = {"smallest": {"space": "image", "norm": "linf", "points": {"pixels": 0.3}}}
    assert find_minimal_attacks(study, "letters") == expected


def make_figure(datasets=("fonts",), seeds=3):
    """Return figure 5 of two methods, and its tables."""
    rng = np.random.default_rng(0)
    parts, rates = [], []
    for dataset, method, n in product(datasets, ("normal", "adversarial"), (250, 500)):
        keys = {"dataset": dataset, "method": method, "n": n}
        scale = 0.01 if method == "normal" else 0.1
        for seed in range(seeds):
            sizes = scale * rng.lognormal(0, 0.5, 40)
            table = make_table({seed: [(True, float(size)) for size in sizes]})
            parts.append(({**keys, "attack": "smallest"}, table))
        for attack, measure, mean in (
            ("regular", "success_rate", 0.8),
            ("smallest", "half_radius", scale),
        ):
            interval = {"mean": mean, "low": 0.9 * mean, "high": 1.1 * mean}
            rates.append({**keys, "measure": measure, "attack": attack, "seeds": 3, **interval})
    curves = tabulate_curves(collect_sizes(parts, {"smallest": "l2"})).to_pandas()
    over_seeds = pa.Table.from_pylist(rates, schema=OVER_SEEDS).to_pandas()
    attack = {"space": "image", "norm": "l2", "points": {"regular": 0.3}}
    attacks = {dataset: {"smallest": attack} for dataset in datasets}
    return plot_radius_curves(curves, over_seeds, attacks), curves


def test_the_figure_plots_the_curves_of_the_largest_number_of_images():
    figure, curves = make_figure()
    (axes,) = figure.axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == RADII]
    assert len(lines) == 2
    for line, method in zip(lines, ("adversarial", "normal"), strict=True):
        rows = curves[(curves["method"] == method) & (curves["n"] == 500)]
        assert line.get_xdata() == pytest.approx(rows["radius"].to_numpy())
        assert line.get_ydata() == pytest.approx(rows["mean"].to_numpy())
    assert axes.get_xlabel() == "L2 radius, image"
    assert "attack regular" in legend_entries(figure)


def test_the_figure_has_a_panel_for_each_data_set_and_no_empty_one():
    figure, _ = make_figure(("fonts", "letters", "digits"))
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left").split("  ")[1] for axes in panels] == [
        "fonts: smallest",
        "letters: smallest",
        "digits: smallest",
    ]


def test_the_figure_of_a_study_without_such_attacks_says_so():
    empty = pd.DataFrame(columns=RADIUS_CURVES.names)
    figure = plot_radius_curves(empty, pd.DataFrame(columns=OVER_SEEDS.names), {})
    assert [t.get_text() for t in visible_texts(figure)] == [
        "no attack for the smallest perturbation"
    ]
