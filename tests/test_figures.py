"""The figures, drawn from small made-up tables and looked at as a reader would."""

import filecmp
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import matplotlib
import numpy as np
import pandas as pd
import pytest
from docutils.core import publish_parts
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from scipy.stats import t

from robustgen.analysis.statistics import t_interval
from robustgen.figures import panels, style
from robustgen.figures.distances import KINDS, distances
from robustgen.figures.examples import Attacked, examples
from robustgen.figures.generalization import generalization
from robustgen.figures.manifold import MOST, Shown, manifold
from robustgen.figures.prototypes import prototypes
from robustgen.figures.robustness import robustness

METHODS = {
    "normal": 1.0,
    "adversarial": 1.15,
    "on_true_manifold": 0.55,
    "transformation": 0.7,
    "on_true_manifold_augmentation": 0.65,
    "transformation_augmentation": 0.78,
}
SIZES = (250, 1000, 5000)
PAPER = (250, 500, 1000, 2500, 5000, 10000, 20000, 40000)
TRUE, LEARNED = "on_true_manifold", "on_learned_manifold"
ON = {"fonts": [TRUE]}
REGULAR = {"regular": "L∞ radius 0.3"}
ATTACKED = {"fonts": [TRUE, LEARNED], "emnist": [LEARNED], "fashion_mnist": [LEARNED]}
REPORT = Path(__file__).parents[1] / "workflow" / "report"


def study(
    methods: tuple[str, ...] = tuple(METHODS),
    sizes: tuple[int, ...] = SIZES,
    seeds: int = 3,
    datasets: tuple[str, ...] = ("fonts",),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Errors that fall with N and success rates that follow them (regular ones do not)."""
    draw = np.random.default_rng(0)
    errors, rates = [], []
    for dataset in datasets:
        for method in methods:
            for n in sizes:
                for seed in range(seeds):
                    model = {"dataset": dataset, "method": method, "n": n, "seed": seed}
                    level = METHODS.get(method, 0.9) * 0.55 * (n / 250) ** -0.45
                    error = level * np.exp(draw.normal(0, 0.07))
                    regular = 0.3 if method == "adversarial" else 0.98
                    errors.append({**model, "test_error": error})
                    found = {TRUE: error * 1.5, LEARNED: error * 1.2, "regular": regular}
                    for attack, rate in found.items():
                        both = {"success_rate": min(rate, 1.0)}
                        both["success_rate_correct_codes"] = 0.9 * both["success_rate"]
                        rates.append({**model, "attack": attack, **both})
    return pd.DataFrame(errors), pd.DataFrame(rates)


# Distance to the known manifold, to a learned one and to the span of neighbours
FAR = {
    "clean": (0.0, 2.0, 2.0),
    "regular": (3.5, 4.0, 5.5),
    "regular_tenth": (0.5, 2.2, 2.2),
    "on_true_manifold": (0.0, 2.5, 2.0),
    "on_learned_manifold": (2.0, 0.0, 1.8),
    "on_data_manifold": (2.5, 0.3, 1.9),
}


def measured(
    known: bool | tuple[str, ...] = True,
    datasets: tuple[str, ...] = ("fonts",),
    learned: tuple[str, ...] = (),
    attacks: tuple[str, ...] = ("regular", "on_true_manifold"),
) -> pd.DataFrame:
    """Distances and angles of successes and failures; only `learned` data sets have all kinds."""
    draw = np.random.default_rng(0)
    parts = []
    for dataset in datasets:
        for attack in ("clean", *attacks):
            clean = attack == "clean"
            for n in (np.nan,) if clean else (250, 1000):
                images = 80
                part = {
                    "dataset": dataset,
                    "method": None if clean else "normal",
                    "n": n,
                    "attack": attack,
                    "success": ~np.full(images, clean) & (np.arange(images) < 60),
                }
                for kind, far in zip(KINDS, FAR[attack], strict=True):
                    part[f"{kind}_distance"] = np.abs(draw.normal(far, 0.1, images))
                    angle = draw.normal(10 + 20 * min(far, 3.5), 2, images)
                    part[f"{kind}_angle"] = np.nan if clean else angle
                parts.append(pd.DataFrame(part))
    table = pd.concat(parts, ignore_index=True)
    having = {
        "true_manifold": known if isinstance(known, tuple) else datasets * known,
        "learned_manifold": learned,
    }
    for kind, names in having.items():
        without = ~table["dataset"].isin(names)
        table.loc[without, [f"{kind}_distance", f"{kind}_angle"]] = np.nan
    return table


def all_kinds() -> pd.DataFrame:
    """Four data sets of which one has a known manifold and three a learned one."""
    datasets = ("celeba", "emnist", "fashion_mnist", "fonts")
    return measured(("fonts",), datasets, datasets[1:], tuple(FAR)[1:])


def pictures(
    channels: int = 0, names: Sequence[str] = "ABCDEF"
) -> tuple[Any, list[str], dict[str, Attacked]]:
    draw = np.random.default_rng(0)
    shape = (len(names), *([channels] if channels else []), 28, 28)
    clean = draw.random(shape)
    answers: list[str | None] = [*names[1:], None]
    attacks = {
        "regular": Attacked(np.clip(clean + 0.3 * draw.choice([-1, 1], shape), 0, 1), answers),
        "on_true_manifold": Attacked(np.roll(clean, 1, -1), answers),
    }
    return clean, list(names), attacks


def small_changes() -> tuple[Any, list[str], dict[str, Attacked]]:
    """An attack whose largest change needs many digits, and one without a success."""
    clean, classes, attacks = pictures()
    successes = attacks["regular"].predictions
    return (
        clean,
        classes,
        {
            "regular": Attacked(np.clip(clean + 0.0013, 0, 1), successes),
            "on_true_manifold": Attacked(clean, [None] * len(classes)),
        },
    )


def learned(classes: int, columns: int = 8, shape: tuple[int, ...] = (1, 28, 28)) -> Shown:
    draw = np.random.default_rng(0)
    return Shown(*draw.random((4, classes, columns, *shape)))


FIGURES: dict[str, Callable[[], Figure]] = {
    "examples": lambda: examples(*pictures()),
    "examples in colour": lambda: examples(*pictures(3)),
    "examples with small changes": lambda: examples(*small_changes()),
    "examples of classes with odd names": lambda: examples(
        *pictures(names=("a$^x^y$", "b_{$", "$5", "$10", "one with a long name", "F"))
    ),
    "distances": lambda: distances(measured()),
    "distances to neighbours alone": lambda: distances(measured((), ("a",), (), ("regular",))),
    "distances of two data sets": lambda: distances(measured(datasets=("a", "b"))),
    "generalization": lambda: generalization(*study(), ON),
    "generalization of two data sets": lambda: generalization(
        *study(datasets=("a", "b")), {"a": ["on_true_manifold"], "b": ["on_true_manifold"]}
    ),
    "generalization without attack": lambda: generalization(*study(), {}),
    "generalization under four attacks": lambda: generalization(
        *study(sizes=PAPER, datasets=tuple(ATTACKED)), ATTACKED
    ),
    "generalization in two bands": lambda: generalization(
        *study(datasets=(*ATTACKED, "celeba")), {**ATTACKED, "emnist": [TRUE, LEARNED]}
    ),
    "distances of four data sets": lambda: distances(
        measured(datasets=("fonts", "emnist", "fashion_mnist", "celeba"))
    ),
    "distances of all kinds": lambda: distances(
        measured(learned=("fonts",), attacks=tuple(FAR)[1:])
    ),
    "distances of all kinds and four data sets": lambda: distances(all_kinds()),
    "robustness": lambda: robustness(
        *study(), {**REGULAR, TRUE: "L∞ radius 0.1"}, not_adversarial=["normal", "transformation"]
    ),
    "robustness of four data sets": lambda: robustness(
        *study(sizes=PAPER, datasets=("fonts", "emnist", "fashion_mnist", "celeba")), REGULAR
    ),
    "robustness of two data sets": lambda: robustness(*study(datasets=("a", "b")), REGULAR),
    "manifold": lambda: manifold(["T-shirt/top", "Ankle boot", "@"], learned(3)),
    "manifold of letters": lambda: manifold(list("@W"), learned(2, 1)),
    "manifold in colour": lambda: manifold(
        ["Wearing_lipstick_yes", "MMMMMMMMMMMMMMMMMMMM"], learned(2, 12, (3, 56, 48))
    ),
    "manifold of many classes": lambda: manifold([f"class {k}" for k in range(62)], learned(20)),
    "prototypes": lambda: prototypes(np.full((20, 3, 28, 28), 255, np.uint8), "ABC"),
}


@pytest.fixture(scope="module", params=FIGURES, ids=str)
def figure(request: pytest.FixtureRequest) -> Figure:
    figure = FIGURES[request.param]()
    figure.draw_without_rendering()  # lays it out
    return figure


def texts(figure: Figure) -> list[Text]:
    """All words of the figure; ticks outside of their axis are not drawn."""
    hidden: set[Text] = set()
    for axis in (a for axes in figure.axes for a in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        hidden |= {t.label1 for t in axis.get_major_ticks() if not low <= t.get_loc() <= high}
    words = [text for text in figure.findobj(Text) if text.get_text().strip()]
    return [text for text in words if text.get_visible() and text not in hidden]


def entries(figure: Figure) -> list[str]:
    found = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [text for text in found if text]


def colours(figure: Figure) -> set[str]:
    """Colours of all lines and points of the panels but white."""
    found: set[str] = set()
    for axes in figure.axes:
        found |= {to_hex(line.get_color()) for line in axes.lines}
        for points in (c for c in axes.collections if isinstance(c, PathCollection)):
            drawn = [*points.get_facecolors(), *points.get_edgecolors()]
            found |= {to_hex(colour) for colour in drawn}
    return found - {"#ffffff"}


@pytest.mark.parametrize("name", ["examples", "distances", "robustness", "manifold", "prototypes"])
def test_a_figure_is_saved_as_png_and_pdf_with_the_same_bytes_each_time(
    name: str, tmp_path: Path
) -> None:
    figure = FIGURES[name]()
    for run in ("first", "second"):
        style.save(figure, tmp_path / run / "f.png", tmp_path / run / "f.pdf")
    for kind in ("png", "pdf"):
        first, second = (tmp_path / run / f"f.{kind}" for run in ("first", "second"))
        assert filecmp.cmp(first, second, shallow=False)
        assert b"CreationDate" not in first.read_bytes()
    height, width = imread(tmp_path / "first" / "f.png").shape[:2]
    assert (width, height) == tuple((figure.get_size_inches() * style.DPI).astype(int))
    assert len(np.unique(imread(tmp_path / "first" / "f.png"))) > 2


def test_neither_order_nor_own_settings_change_a_figure(tmp_path: Path) -> None:
    errors, rates = study()
    style.save(robustness(errors, rates, REGULAR), tmp_path / "a.png", tmp_path / "a.pdf")
    with matplotlib.rc_context({"font.size": 20, "legend.handletextpad": 3.0}):
        figure = robustness(errors[::-1], rates[::-1], REGULAR)
        style.save(figure, tmp_path / "b.png", tmp_path / "b.pdf")
        assert matplotlib.rcParams["font.size"] == 20
    assert filecmp.cmp(tmp_path / "a.png", tmp_path / "b.png", shallow=False)


def test_words_are_large_enough_inside_the_page_and_apart(figure: Figure) -> None:
    page = figure.bbox.padded(1.0)
    shown = [(text, text.get_window_extent()) for text in texts(figure)]
    for text, box in shown:
        assert text.get_fontsize() >= 6
        assert page.containsx(box.x0), text
        assert page.containsx(box.x1), text
        assert page.containsy(box.y0), text
        assert page.containsy(box.y1), text
    for (one, first), (other, second) in combinations(shown, 2):
        assert not first.padded(-1).overlaps(second.padded(-1)), (one, other)


def test_no_legend_covers_a_panel(figure: Figure) -> None:
    for legend in figure.legends:
        for axes in figure.axes:
            assert not legend.get_window_extent().overlaps(axes.get_tightbbox())


def test_each_method_has_one_colour_in_figures_3_and_4() -> None:
    looks = style.looks(METHODS)
    assert len({look.colour for look in looks.values()}) == len(METHODS)
    expected = {look.colour for look in looks.values()}
    sizes = ["N = 250", "N = 1k", "N = 5k"]
    for figure in (FIGURES["generalization"](), robustness(*study(), REGULAR)):
        assert colours(figure) == expected
        assert entries(figure) == [*(look.label for look in looks.values()), *sizes]
    held = tuple(method for method in METHODS if method != "adversarial")
    figure = generalization(*study(held, seeds=2), ON)
    assert colours(figure) == expected - {looks["adversarial"].colour}


def test_methods_of_the_user_get_looks_of_their_own() -> None:
    names = [*METHODS, "mine", "mine_augmentation", "regular", *(f"m{i}" for i in range(8))]
    looks = style.looks(names)
    drawn = {(look.colour, look.marker, look.line) for look in looks.values()}
    assert len(drawn) == len(names)
    assert looks == style.looks(reversed(names))
    assert looks["normal"] == style.looks(["normal"])["normal"]
    assert (looks["mine"].marker, looks["mine"].filled) == (looks["mine_augmentation"].marker, True)
    assert not looks["mine_augmentation"].filled
    figure = generalization(*study(("normal", "mine")), ON)
    assert entries(figure)[:2] == ["normal", "mine"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_means_and_intervals_are_those_over_seeds(seeds: int) -> None:
    errors, rates = study(("normal",), seeds=seeds)
    bars = robustness(errors, rates, REGULAR).axes[1].containers[0]
    for place, n in enumerate(SIZES):
        values = errors.loc[errors["n"] == n, "test_error"]
        mean, low, high = t_interval(values.to_numpy(), bounds=(0, 1))
        assert bars[0].get_ydata()[place] == pytest.approx(mean)
        ends = bars[2][0].get_segments()[place]
        if seeds > 1:
            assert ends[:, 1] == pytest.approx([low, high])
        else:
            assert len(ends) == 0 or np.isnan(ends[:, 1]).all()


def test_points_are_the_models() -> None:
    errors, rates = study(("normal", "adversarial"))
    points = generalization(errors, rates, ON).axes[2].collections[0]
    own = rates[(rates["method"] == "normal") & (rates["attack"] == "on_true_manifold")]
    assert sorted(points.get_offsets()[:, 1]) == pytest.approx(
        sorted(own["success_rate_correct_codes"])
    )
    assert points.get_sizes()[0] < points.get_sizes()[-1]


@pytest.mark.parametrize("highest", [0.67, 0.68, 0.9])
def test_the_last_tick_of_test_error_is_not_cut_off(highest: float) -> None:
    """The layout makes room for its name, and with less room there may be other ticks."""
    errors, rates = study(tuple(style._KNOWN)[:5], (500, 1000, 1500))
    errors["test_error"] *= highest / errors["test_error"].max()
    attacks = REGULAR | {TRUE: "L∞ radius 0.03"}
    figure = robustness(errors, rates, attacks, not_adversarial=["normal", "transformation"])
    with matplotlib.rc_context(style.settings()):  # as a figure is saved
        for _ in range(2):
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
        figure.draw_without_rendering()
        for text in texts(figure):
            assert text.get_window_extent().x1 <= figure.bbox.x1, text


@pytest.mark.parametrize("methods", [1, 2, 5, 8])
def test_methods_stand_near_their_n(methods: int) -> None:
    names = [f"m{i}" for i in range(methods)]
    errors, _ = study(tuple(names))
    figure = Figure()
    axes = figure.subplots()
    panels.against_n(axes, errors, "test_error", style.looks(names), "")
    places = np.array([bars.lines[0].get_xdata() for bars in axes.containers], float)
    span = np.log(max(SIZES) / min(SIZES))
    aside = np.log(places / np.array(SIZES, float))
    assert np.ptp(aside, axis=0).max() <= 0.15 * span
    assert methods == 1 or np.diff(np.sort(aside[:, 0])).min() > 0.005 * span


def test_sizes_begin_a_column_of_the_legend() -> None:
    figure = generalization(*study(tuple(style._KNOWN)[:5]), ON)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    left = {text.get_text(): text.get_window_extent().x0 for text in legend.get_texts()}
    methods = {place for name, place in left.items() if name and not name.startswith("N = ")}
    sizes = {place for name, place in left.items() if name.startswith("N = ")}
    assert len(sizes) == 1
    assert max(methods) < min(sizes)


def test_panels_of_a_data_sets_attacks_are_of_one_height() -> None:
    errors, rates = study(datasets=("a", "b"))
    weak = (rates["dataset"] == "a") & (rates["attack"] == LEARNED)
    rates.loc[weak, "success_rate_correct_codes"] /= 10
    figure = generalization(errors, rates, {"a": [TRUE, LEARNED], "b": [LEARNED]})
    high = [axes.get_ylim()[1] for axes in figure.axes[2:]]
    of_a, of_b = {*high[:2], *high[3:5]}, {high[2], high[5]}
    assert len(of_a) == len(of_b) == 1
    assert of_a != of_b
    drawn = rates[(rates["dataset"] == "a") & rates["attack"].isin([TRUE, LEARNED])]
    assert drawn["success_rate_correct_codes"].max() <= of_a.pop() <= 1.2


def test_success_is_named_with_norm_and_radius() -> None:
    figure = robustness(*study(), REGULAR)
    assert figure.axes[0].get_ylabel() == "regular\nL∞ radius 0.3\nsuccess rate"


def test_each_attack_has_its_column_below_its_data_set() -> None:
    errors, rates = study(datasets=tuple(ATTACKED))
    figure = generalization(errors, rates, ATTACKED)
    figure.draw_without_rendering()
    words = [axes.get_title("left").partition("$  ")[2] for axes in figure.axes]
    learned, true = "on-manifold\n(learned)", "on-manifold\n(true)"
    named = ["emnist", "fashion_mnist", "fonts", learned, learned, true, learned]
    assert words == [*named, *[""] * 4]
    letters = [axes.get_title("left")[5] for axes in figure.axes]
    assert letters == list("abcdefghijk"), "in reading order"
    assert figure.get_size_inches()[0] == style.TEXT_WIDTH
    edges = [(axes.get_position().x0, axes.get_position().x1) for axes in figure.axes]
    assert edges[:2] == [pytest.approx(edge) for edge in edges[3:5]]
    assert edges[2] == pytest.approx((edges[5][0], edges[6][1])), "spans its attacks"
    labelled = [place for place, axes in enumerate(figure.axes) if axes.get_ylabel()]
    assert labelled == [0, 3, 7]
    for place, (dataset, attack) in enumerate(
        (name, attack) for name in sorted(ATTACKED) for attack in ATTACKED[name]
    ):
        own = rates[(rates["dataset"] == dataset) & (rates["attack"] == attack)]
        points = np.concatenate([c.get_offsets() for c in figure.axes[7 + place].collections])
        assert sorted(points[:, 1]) == pytest.approx(sorted(own["success_rate_correct_codes"]))


def test_data_sets_that_do_not_fit_beside_each_other_stand_below() -> None:
    """Five attacks: two on EMNIST, one on FASHION and none on CELEBA, and below two on FONTS."""
    figure = FIGURES["generalization in two bands"]()
    figure.draw_without_rendering()
    (without,) = [axes for axes in figure.axes if axes.texts]
    titles = {axes.get_title("left").partition("$  ")[2]: axes for axes in figure.axes}
    top = {name: titles[name].get_position().y1 for name in (*ATTACKED, "celeba")}
    assert top["celeba"] == pytest.approx(top["emnist"]) == pytest.approx(top["fashion_mnist"])
    bottom = min(axes.get_position().y0 for axes in figure.axes[:10])
    assert top["fonts"] < bottom
    assert without.texts[0].get_text() == "not attacked\non the manifold"
    assert without.get_position().x0 == pytest.approx(titles["celeba"].get_position().x0)


@pytest.mark.parametrize("columns", [1, 4])
def test_a_lone_panel_names_more_sizes_than_a_narrow_one(columns: int) -> None:
    names = tuple("abcd")[:columns]
    figure = generalization(*study(("normal",), PAPER, 1, names), {})
    figure.draw_without_rendering()
    named = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert named[0] == "40k"
    assert len(named) == (5 if columns == 1 else 3)


@pytest.mark.parametrize(
    ("draw", "panels"),
    [
        (lambda: generalization(*study(seeds=1), ON), 3),
        (lambda: generalization(*study(sizes=(250,)), ON), 3),
        (lambda: generalization(*study(), {"fonts": ["absent"]}), 3),
        (lambda: generalization(*study(), {"another": [TRUE], "fonts": []}), 1),
        (lambda: generalization(*(table.head(0) for table in study()), ON), 1),
        (lambda: generalization(*study(datasets=("a", "fonts")), ON), 5),
        (lambda: robustness(*study(), {}), 1),
        (lambda: robustness(*study(("transformation",)), REGULAR), 2),
        (lambda: robustness(*study(), REGULAR, normal=None, adversarial=None), 2),
        (lambda: robustness(*(table.head(0) for table in study()), REGULAR), 2),
        (lambda: robustness(*study(), {**REGULAR, "absent": ""}, not_adversarial=["normal"]), 3),
        (lambda: distances(measured()), 3),
        (lambda: distances(measured(known=False)), 2),
        (lambda: distances(measured().assign(success=False), method=None), 3),
        (lambda: distances(measured().query("attack == 'clean'")), 2),
        (lambda: distances(measured(), attacks=["regular"], method="absent", n=250), 3),
        (lambda: distances(measured().head(0)), 1),
        (lambda: distances(measured(learned=("fonts",))), 4),
        (lambda: distances(measured(known=False, learned=("fonts",))), 3),
        (lambda: distances(all_kinds()), 16),
        (lambda: examples(np.zeros((0, 28, 28)), [], {}), 1),
        (lambda: examples(*pictures()[:2], {}), 6),
        (lambda: manifold([], learned(0)), 1),
        (lambda: manifold(["A"], learned(1, 0)), 1),
        (lambda: manifold(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), learned(26)), 2 * MOST),
    ],
)
def test_what_is_missing_is_left_out(draw: Callable[[], Figure], panels: int) -> None:
    figure = draw()
    figure.draw_without_rendering()
    assert len(figure.axes) == panels


def test_the_line_is_that_of_least_squares_with_its_interval() -> None:
    """Through the models asked for; at their mean the interval is that of a mean."""
    errors, rates = study(("normal", "transformation", "adversarial"))
    rates["success_rate"] *= np.random.default_rng(1).uniform(0.8, 1, len(rates))
    fitted = ["normal", "transformation"]
    axes = robustness(errors, rates, {TRUE: ""}, not_adversarial=fitted).axes[0]
    (line,) = axes.lines
    (band,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    models = errors.merge(rates[rates["attack"] == "on_true_manifold"])
    models = models[models["method"].isin(fitted)]
    models = models.groupby(["method", "n"])[["test_error", "success_rate"]].mean()
    slope, height = np.polyfit(models["test_error"], models["success_rate"], 1)
    assert line.get_ydata() == pytest.approx(height + slope * line.get_xdata())
    assert line.get_xdata()[[0, -1]] == pytest.approx(models["test_error"].agg(["min", "max"]))
    ends = band.get_paths()[0].vertices
    reach = np.array([np.ptp(ends[np.isclose(ends[:, 0], x), 1]) for x in line.get_xdata()])
    assert abs(line.get_xdata()[reach.argmin()] - models["test_error"].mean()) < 0.01
    residual = models["success_rate"] - height - slope * models["test_error"]
    count = len(models)
    at_mean = 2 * t.ppf(0.975, count - 2) * residual.std(ddof=2) / np.sqrt(count)
    assert reach.min() == pytest.approx(at_mean, rel=0.02)


def test_a_lost_success_rate_loses_one_point() -> None:
    errors, rates = study(("normal",))
    rates.loc[rates["attack"] == "regular", "success_rate"] = [np.nan, *[0.9] * 8]
    points = robustness(errors, rates, REGULAR).axes[0].collections[0]
    assert len(points.get_offsets()) == 8


def test_axes_say_what_and_in_which_unit() -> None:
    error, success, both = FIGURES["generalization"]().axes
    assert (error.get_xlabel(), error.get_ylabel()) == ("training images N", "test error")
    assert success.get_ylabel() == both.get_ylabel() == "on-manifold\nsuccess rate"
    assert [label.get_text() for label in error.get_xticklabels()] == ["5k", "1k", "250"]
    assert all(label.get_text().endswith("%") for label in both.get_xticklabels())
    known, span, angle = FIGURES["distances"]().axes
    assert known.get_xlabel() == "$L_2$ distance to\nthe known manifold"
    assert span.get_xlabel() == "$L_2$ distance to the\nspan of neighbours"
    assert known.get_ylabel() == span.get_ylabel() == "share of examples"
    assert angle.get_xticklabels()[-1].get_text() == "90°"


def test_distances_are_of_successes_at_the_largest_n() -> None:
    table = measured()
    table.loc[(table["n"] == 250) | ~table["success"], "true_manifold_distance"] = 50.0
    table.loc[(table["n"] == 250) | ~table["success"], "true_manifold_angle"] = 0.0
    known, _, angle = distances(table).axes
    assert known.get_xlim()[1] < 5
    (legend,) = distances(table).legends
    assert legend.get_title().get_text() == "on models of normal training, N = 1k"
    assert angle.texts[0].get_text() == "80°"
    for outline in known.collections:
        heights = outline.get_paths()[0].vertices[:, 1]
        assert 0 < heights.max() <= 1


def test_clean_images_are_the_yardstick_where_they_do_not_lie_on_the_manifold() -> None:
    table = measured(learned=("fonts",))
    known, learned, span, _ = distances(table).axes
    looks = style.looks(table["attack"])
    for axes in (known, learned, span):
        drawn = {to_hex(outline.get_edgecolor()[0]) for outline in axes.collections}
        expected = {look.colour for name, look in looks.items() if name != "clean"}
        assert drawn == expected | (set() if axes is known else {looks["clean"].colour})
    outline = learned.collections[0].get_paths()[0].vertices
    assert outline[outline[:, 1].argmax(), 0] == pytest.approx(FAR["clean"][1], abs=0.3)


def test_a_panel_says_which_manifold_a_data_set_lacks() -> None:
    figure = distances(all_kinds())
    said = {place: axes.texts[0].get_text() for place, axes in enumerate(figure.axes) if axes.texts}
    unknown = dict.fromkeys([0, 1, 2], "manifold not known")
    assert {place: said[place] for place in range(12) if place in said} == {
        **unknown,
        4: "manifold not learned",
    }
    labelled = [place for place, axes in enumerate(figure.axes) if axes.get_ylabel()]
    assert labelled == [3, 5, 8], "the first panel of each row that has an axis"


def test_angles_stand_beside_each_other_and_are_medians() -> None:
    table = measured(learned=("fonts",), attacks=tuple(FAR)[1:])
    table.loc[table["attack"] == "on_learned_manifold", "learned_manifold_angle"] = 0.0
    angles = distances(table).axes[-1]
    drawn = table[table["success"] & (table["n"] == 1000)]
    attacks = [name for name in style.looks(table["attack"]) if name != "clean"]
    medians = drawn.groupby("attack")[[f"{kind}_angle" for kind in KINDS]].median().loc[attacks]
    expected = [f"{angle:.0f}°" for angle in medians.to_numpy().T.flat]
    assert [text.get_text() for text in angles.texts] == expected
    assert "0°" in expected
    heights = [text.xy[1] for text in angles.texts]
    assert len(set(heights)) == len(heights)
    assert heights == sorted(heights)


def test_differences_are_centred_and_failures_left_empty() -> None:
    figure = FIGURES["examples"]()
    images = [axes.images[0] for axes in figure.axes if axes.images]
    changes = [image for image in images if image.get_cmap().name.startswith("RdBu")]
    assert len(changes) == 2 * 5
    assert all(image.norm.vmin == -image.norm.vmax for image in changes)
    assert changes[0].norm.vmax == pytest.approx(0.3)
    shown = [text.get_text() for text in texts(figure)]
    assert shown.count("none") == 4
    assert "A → B" in shown
    clean, classes, attacks = pictures()
    scales = [axes for axes in FIGURES["examples with small changes"]().axes if axes.collections]
    assert len(scales) == 1, "no colour scale where there is no success"
    with pytest.raises(ValueError, match="regular"):
        examples(clean[:, 1:], classes, attacks)


@pytest.mark.parametrize("fonts", [1, 7, 200, 1000])
def test_every_prototype_is_on_the_sheet(fonts: int) -> None:
    bank = np.arange(fonts, dtype=np.uint8)[:, None, None, None] * np.ones((2, 4, 4), np.uint8)
    figure = prototypes(bank, "AB")
    sheets = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert np.array_equal(np.concatenate(sheets)[::4, 0], bank[:, 0, 0, 0])
    assert f"{fonts} fonts × 2 letters" in figure.texts[0].get_text()
    with pytest.raises(ValueError, match="3 named"):
        prototypes(bank, "ABC")


@pytest.mark.parametrize("fonts", [30, 700])
def test_prototypes_are_saved_pixel_by_pixel(fonts: int, tmp_path: Path) -> None:
    bank = np.random.default_rng(0).integers(0, 256, (fonts, 3, 8, 8), np.uint8)
    figure = prototypes(bank, "ABC")
    style.save(figure, tmp_path / "f.png", tmp_path / "f.pdf")
    page = np.round(255 * imread(tmp_path / "f.png")[..., 0])
    for axes in figure.axes:
        sheet = np.asarray(axes.images[0].get_array())
        box = axes.get_position()
        left, top = round(box.x0 * page.shape[1]), round((1 - box.y1) * page.shape[0])
        saved = page[top:, left:][: sheet.shape[0], : sheet.shape[1]]
        assert np.abs(saved - sheet).max() <= 1  # the map to grey rounds


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 56, 48)], ids=str)
def test_the_sheet_of_a_manifold_shows_every_image_in_its_place(shape: tuple[int, ...]) -> None:
    shown = learned(3, 5, shape)
    figure = manifold(list("ABC"), shown)
    assert figure.get_size_inches()[0] == style.TEXT_WIDTH
    assert [axes.get_ylabel() for axes in figure.axes] == ["A", "", "B", "", "C", ""]
    heads = [axes.get_title("left") for axes in figure.axes[:2]]
    blocks = ((shown.images, shown.reconstructions), (shown.samples, shown.interpolations))
    words = (("test images", "reconstructions"), ("samples", "interpolation"))
    _, high, wide = shape
    gap = high // 28
    for block, (head, lines) in enumerate(zip(heads, blocks, strict=True)):
        for line, (said, word) in enumerate(zip(head.split("\n"), words[block], strict=True)):
            assert said.startswith("lower" if line else "upper")
            assert word in said
            for label, column in np.ndindex(3, 5):
                axes = figure.axes[2 * label + block]
                top, left = line * (high + gap), column * (wide + gap)
                pixels = np.asarray(axes.images[0].get_array())[top:, left:][:high, :wide]
                image = np.moveaxis(lines[line][label, column], 0, -1)
                assert np.array_equal(pixels, np.broadcast_to(image, pixels.shape))
    drawn = figure.axes[0].get_position().size * figure.get_size_inches()
    pixels = np.asarray(figure.axes[0].images[0].get_array())
    assert drawn[1] / drawn[0] == pytest.approx(pixels.shape[0] / pixels.shape[1])


def test_a_sheet_of_many_classes_says_how_many_it_leaves_out() -> None:
    names = [f"class {k}" for k in range(62)]
    for count in (MOST, 62):
        figure = manifold(names, learned(count, 2))
        assert [text.get_text() for text in figure.texts] == ["first 20 of 62 classes"]
        assert figure.axes[-2].get_ylabel() == "class 19"
    assert not manifold(names[:MOST], learned(MOST, 2)).texts


@pytest.mark.parametrize(
    ("names", "shown", "words"),
    [
        ("AB", learned(3), "images of 3 classes, where 2 are named"),
        ("A" * 30, learned(25), "images of 25 classes, where 30"),
        ("AB", replace(learned(2), samples=learned(2, 7).samples), "one shape"),
    ],
)
def test_a_sheet_of_other_arrays_is_refused(names: str, shown: Shown, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        manifold(list(names), shown)


@pytest.mark.parametrize(
    ("space", "words"),
    [("data_manifold", "learned all classes"), ("learned_manifold", "a VAE-GAN of its own")],
)
def test_the_caption_of_a_sheet_says_who_learned_it(space: str, words: str) -> None:
    job = SimpleNamespace(wildcards=SimpleNamespace(dataset="fonts", space=space))
    text = jinja2.Template((REPORT / "manifold.rst").read_text("utf-8")).render(snakemake=job)
    assert words in " ".join(text.split())
    assert ("no class" in text) == (space == "data_manifold")


@pytest.mark.parametrize("config", [{"study": "demo", "seeds": 3}, {"study": "demo"}])
def test_captions_render(config: dict[str, Any]) -> None:
    params = SimpleNamespace(
        models_caption="normal training", attacks_caption="Attacks (regular: L∞ radius 0.3)"
    )
    wildcards = SimpleNamespace(dataset="fonts", space="data_manifold")
    job = SimpleNamespace(config=config, params=params, wildcards=wildcards)
    for caption in REPORT.glob("*.rst"):
        text = jinja2.Template(caption.read_text("utf-8")).render(snakemake=job)
        made = publish_parts(text, writer="html", settings_overrides={"halt_level": 2})
        assert len(made["body"]) > 100
