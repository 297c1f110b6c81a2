# ruff: noqa: ARG001, ARG002, ARG005 - functions of a study take the same arguments
"""Statistics, claims and verdicts, from tables of a study whose outcome is known."""

import itertools
import re

import numpy as np
import pyarrow as pa
import pytest

from robustgen.analysis.claims import (
    NOT_SUPPORTED,
    NOT_TESTED,
    STATISTICS,
    SUPPORTED,
    UNDECIDED,
    evaluate_claims,
)
from robustgen.analysis.statistics import Interval
from robustgen.analysis.verdicts import combine_verdicts, format_verdicts
from robustgen.io.schemas import (
    ALL_DISTANCES,
    CLAIMS,
    ERRORS,
    QUALITY,
    ROBUSTNESS_CHECKS,
    SUCCESS_RATES,
)

ROLES = {
    "normal": "normal",
    "adversarial": "adversarial",
    "adversarial_methods": ["adversarial"],
    "regular_attack": "regular",
    "regular_attacks": {"regular": "L∞ radius 0.3"},
    "strong_attacks": ["regular"],
    "robust_pairs": [("adversarial", "regular")],
    "not_adversarial": ["normal", "on_true_manifold"],
    "minimal_attacks": {"image": ["smallest"], "true_manifold": ["smallest_along"]},
}
NO_CHECKS = ROBUSTNESS_CHECKS.empty_table()
TRUE = {"manifold": "true_manifold", "method": "on_true_manifold", "attack": "along"}
ON_MANIFOLD = {"a": [TRUE], "fonts": [TRUE]}
CLAIM_KEYS = [(1, "true_manifold"), (2, "true_manifold"), (3, "true_manifold"), (4, None)]
"""Claims and the manifolds on which they are tested."""
SIZES = (100, 200, 400)
NORMAL_ERRORS = (0.4, 0.3, 0.2)
"""Test error of normal training, for each N."""


class SyntheticStudy:
    """A study of one data set that supports all claims. Tests replace one of its functions."""

    seeds = 3
    examples = 4
    methods = ("normal", "adversarial", "on_true_manifold")

    def error(self, method, n, seed):
        shift = {"normal": 0, "adversarial": 0.1, "on_true_manifold": -0.05}[method]
        return round(
            NORMAL_ERRORS[SIZES.index(n)] + shift + 0.001 * seed, 6
        )  # so that ties are exact

    def rate(self, method, n, seed, attack):
        if attack == "regular":
            return 0.2 if method == "adversarial" else 0.95 + 0.01 * seed
        return round(self.error(method, n, seed) + 0.1, 6)

    def distance(self, n, seed, example, attack):
        return 2 + 0.1 * example if attack == "regular" else 1 + 0.1 * seed

    def angle(self, seed, example, attack):
        return 80 + seed if attack == "regular" else 20

    def tables(self, has_true_manifold=True):
        models = [(m, n, s) for m in self.methods for n in SIZES for s in range(self.seeds)]
        attacked = [(*model, attack) for model in models for attack in ("regular", "along")]
        errors = [
            {**_model(*model), "examples": 10, "errors": 1, "test_error": self.error(*model)}
            for model in models
        ]
        rates = [
            {
                **_model(*key[:3]),
                "attack": key[3],
                **dict.fromkeys(COUNTS, 9),
                "success_rate": self.rate(*key) if key[3] == "regular" else 1,
                "success_rate_correct_codes": self.rate(*key) if key[3] == "along" else None,
            }
            for key in attacked
        ]
        distances = [
            {
                **_model(method, n, seed),
                "attack": attack,
                "example": i,
                "success": (i, attack) != (0, "along"),
                "true_manifold_distance": self.distance(n, seed, i, attack)
                if has_true_manifold
                else None,
                "true_manifold_angle": self.angle(seed, i, attack) if has_true_manifold else None,
                "learned_manifold_distance": None,
                "learned_manifold_angle": None,
                # If the manifold is known, distances to neighbours must not be used.
                "neighbour_distance": 1 if has_true_manifold else self.distance(n, seed, i, attack),
                "neighbour_angle": None if has_true_manifold else self.angle(seed, i, attack),
            }
            for method, n, seed, attack in attacked
            for i in range(self.examples)
        ]
        clean = {"dataset": "fonts", "attack": "clean", "example": 0, "success": False}
        distances.append({**clean, "neighbour_distance": 0.5})
        return (
            pa.Table.from_pylist(errors, schema=ERRORS),
            pa.Table.from_pylist(rates, schema=SUCCESS_RATES),
            pa.Table.from_pylist(distances, schema=ALL_DISTANCES),
        )


COUNTS = ("attacked", "successes", "attacked_correct_codes", "successes_correct_codes")


def _model(method, n, seed):
    return {"dataset": "fonts", "method": method, "n": n, "seed": seed}


def study(**replacements):
    """A synthetic study with some functions replaced by functions of the same arguments."""
    synthetic = SyntheticStudy()
    for name, value in replacements.items():
        setattr(synthetic, name, value)
    return synthetic


def evaluate(tables, quality=(), on_manifold=ON_MANIFOLD, **roles):
    """The table of claims. `roles` replace roles; `method` and `attack` those on a manifold."""
    replaced = {key: roles.pop(key) for key in ("method", "attack") if key in roles}
    on_manifold = {
        dataset: [{**manifold, **replaced} for manifold in manifolds]
        for dataset, manifolds in on_manifold.items()
    }
    quality_table = pa.Table.from_pylist(list(quality), schema=QUALITY)
    return evaluate_claims(*tables, quality_table, {**ROLES, **roles}, on_manifold)


def rows_of(table, statistic):
    return [row for row in table.to_pylist() if row["statistic"] == statistic]


def interval_of(row):
    return row["estimate"], row["low"], row["high"]


def test_a_study_with_the_results_of_the_paper_supports_all_claims():
    table = evaluate(SyntheticStudy().tables())
    assert table.schema.equals(CLAIMS, check_metadata=True)
    assert combine_verdicts(table) == {("fonts", *key): SUPPORTED for key in CLAIM_KEYS}
    assert interval_of(rows_of(table, "share_farther")[0]) == (1, 1, 1)
    angle = rows_of(table, "angle_difference")[0]
    half_width = 4.302652729911275 / 3**0.5  # t with 2 degrees of freedom; deviation 1, 3 seeds
    assert interval_of(angle) == pytest.approx((61, 61 - half_width, 61 + half_width))
    success = rows_of(table, "on_manifold_success")
    assert [row["n"] for row in success] == [100, 200, 400]
    assert [row["estimate"] for row in success] == pytest.approx([0.501, 0.401, 0.301])
    assert interval_of(rows_of(table, "rank_correlation")[0]) == (1, 1, 1)
    assert [row["estimate"] for row in rows_of(table, "error_reduction")] == pytest.approx(
        [0.05] * 3
    )
    assert -0.2 < rows_of(table, "regular_slope")[0]["estimate"] < 0.2
    (gain,) = rows_of(table, "robustness_gain")
    assert gain["n"] == 400
    assert gain["estimate"] == pytest.approx(0.96 - 0.2)
    # Adversarial training needs 200 and 400 images for the errors 0.4 and 0.3 that normal training
    # reaches with 100 and 200; its error with 100 images is above all errors of normal training.
    factors = rows_of(table, "adversarial_images_factor")
    assert [row["n"] for row in factors] == [100, 200, 400]
    assert interval_of(factors[0]) == (None, None, None)
    for row in factors[1:]:
        assert interval_of(row) == pytest.approx((2, 2, 2))
    assert [row["verdict"] for row in factors] == [NOT_TESTED, NOT_TESTED, SUPPORTED]


def test_distances_are_to_the_nearest_images_if_the_manifold_is_not_known():
    to_manifold, to_span = (evaluate(SyntheticStudy().tables(flag)) for flag in (True, False))
    assert to_manifold.drop_columns("rule").equals(to_span.drop_columns("rule"))
    tables = {"true manifold": to_manifold, "span of the nearest training images": to_span}
    for reference, table in tables.items():
        for name in ("share_farther", "angle_difference"):
            assert f". Note: measured to the {reference}" in rows_of(table, name)[0]["rule"]


def test_pairs_are_successes_on_the_same_image_and_models_have_equal_weight():
    def distance(n, seed, example, attack):
        if attack == "along":
            return 1  # image 0 is not a success on the manifold, so that it is in no pair
        if n == 100 and example > 1:
            return None  # only one pair at this N
        return [9, 2 * (n == 100), seed, 3 * (seed == 2)][example]

    row = rows_of(evaluate(study(distance=distance).tables()), "share_farther")[0]
    # Farther at N > 100, by seed: none; image 2, tied; images 2 and 3. At N = 100: image 1.
    shares = [(1 + 2 * share) / 3 for share in (0, 0.5 / 3, 2 / 3)]
    assert row["estimate"] == pytest.approx(np.mean(shares))
    assert row["verdict"] == UNDECIDED


def test_factors_are_averaged_geometrically_over_seeds():
    def error(method, n, seed):
        delay = seed if method == "adversarial" else 0
        return (0.9, 0.9, *NORMAL_ERRORS)[SIZES.index(n) - delay + 2]

    row = rows_of(evaluate(study(error=error).tables()), "adversarial_images_factor")[-1]
    # The factors of the three seeds are 1, 2 and 4.
    half_width = 4.302652729911275 / 3**0.5 * np.log(2)
    assert interval_of(row) == pytest.approx((2, 2 / np.exp(half_width), 2 * np.exp(half_width)))


def constant_error(method, n, seed):
    return 0.3


def trade_off(method, n, seed, attack):
    return 1 - SyntheticStudy().error(method, n, seed) if attack == "regular" else 0


def hidden_trade_off(method, n, seed, attack):
    """A trade-off within each method, hidden by a method with more errors and more successes."""
    error = SyntheticStudy().error(method, n, seed)
    return 0.4 - 0.7 * error + 0.5 * (method == "normal") if attack == "regular" else 0


@pytest.mark.parametrize(
    ("statistic", "changes", "verdict"),
    [
        pytest.param(
            "share_farther",
            {"distance": lambda n, s, i, a: 1},
            NOT_SUPPORTED,
            id="all distances equal",
        ),
        pytest.param(
            "share_farther",
            {"distance": lambda n, s, i, a: (a == "along") + i},
            NOT_SUPPORTED,
            id="regular examples nearer",
        ),
        pytest.param(
            "angle_difference",
            {"angle": lambda s, i, a: 45 + (s - 1) * (a == "regular")},
            UNDECIDED,
            id="angle differs in both directions",
        ),
        pytest.param(
            "angle_difference",
            {"angle": lambda s, i, a: 10 if a == "regular" else 20},
            NOT_SUPPORTED,
            id="smaller angle",
        ),
        pytest.param("on_manifold_success", {"rate": lambda *_: 0}, NOT_SUPPORTED, id="no success"),
        pytest.param(
            "on_manifold_success",
            {"rate": lambda m, n, s, a: 0.1 * (s == 0)},
            UNDECIDED,
            id="success in one seed",
        ),
        pytest.param(
            "on_manifold_success",
            {"rate": lambda m, n, s, a: None if n < 400 else 0.5},
            SUPPORTED,
            id="models without a rate are ignored",
        ),
        pytest.param(
            "rank_correlation",
            {"rate": lambda m, n, s, a: 1 - SyntheticStudy().error(m, n, s)},
            NOT_SUPPORTED,
            id="fewer successes with more errors",
        ),
        pytest.param("rank_correlation", {"rate": lambda *_: 0.5}, UNDECIDED, id="all rates equal"),
        pytest.param(
            "rank_correlation", {"error": constant_error}, UNDECIDED, id="all errors equal"
        ),
        pytest.param(
            "error_reduction", {"error": constant_error}, NOT_SUPPORTED, id="no reduction"
        ),
        pytest.param("error_reduction", {"error": lambda *_: 0}, UNDECIDED, id="no error"),
        pytest.param("regular_slope", {"rate": trade_off}, NOT_SUPPORTED, id="a trade-off"),
        pytest.param(
            "regular_slope",
            {"rate": lambda m, n, s, a: 0.9 - 0.3 * SyntheticStudy().error(m, n, s)},
            SUPPORTED,
            id="a slope within the margin",
        ),
        pytest.param(
            "regular_slope",
            {"rate": lambda m, n, s, a: 0.9 * (n == 200)},
            UNDECIDED,
            id="scattered rates",
        ),
        pytest.param("regular_slope", {"rate": lambda *_: 0.999}, UNDECIDED, id="saturated attack"),
        pytest.param(
            "regular_slope",
            {"rate": lambda m, n, s, a: 0.98 if (n, s) == (100, 0) else 1},
            UNDECIDED,
            id="attack saturated but for one model",
        ),
        pytest.param("regular_slope_within_methods", {}, SUPPORTED, id="no slope within methods"),
        pytest.param(
            "regular_slope_within_methods",
            {"rate": hidden_trade_off},
            NOT_SUPPORTED,
            id="hidden trade-off",
        ),
        pytest.param(
            "adversarial_images_factor",
            {
                "error": lambda m, n, s: (
                    NORMAL_ERRORS[SIZES.index(n)] + 0.5 * (m != "normal") * (s == 0)
                )
            },
            UNDECIDED,
            id="one seed never reaches an error of normal training",
        ),
        pytest.param(
            "regular_slope", {"error": constant_error}, UNDECIDED, id="slope with equal errors"
        ),
        pytest.param(
            "adversarial_images_factor",
            {"error": lambda m, n, s: NORMAL_ERRORS[SIZES.index(n)] - 0.1 * (m == "adversarial")},
            NOT_SUPPORTED,
            id="fewer images",
        ),
        pytest.param(
            "adversarial_images_factor",
            {"error": lambda m, n, s: NORMAL_ERRORS[SIZES.index(n)]},
            NOT_SUPPORTED,
            id="as many images",
        ),
        pytest.param(
            "adversarial_images_factor",
            {"error": lambda m, n, s: NORMAL_ERRORS[SIZES.index(n)] + 0.5 * (m == "adversarial")},
            UNDECIDED,
            id="never reaches an error of normal training",
        ),
        pytest.param(
            "adversarial_images_factor", {"error": lambda *_: 0.5}, UNDECIDED, id="all models equal"
        ),
    ],
)
def test_the_verdict_of_a_statistic_follows_from_the_study(statistic, changes, verdict):
    rows = rows_of(evaluate(study(**changes).tables()), statistic)
    assert {row["verdict"] for row in rows} - {NOT_TESTED} == {verdict}


def test_a_constant_learning_curve_is_the_reason_for_no_factor():
    *_, row = rows_of(evaluate(study(error=lambda *_: 0.5).tables()), "adversarial_images_factor")
    assert row["rule"].endswith("the test error of normal training does not change with N")


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda s: s.name)
def test_statistics_over_seeds_are_undecided_with_one_seed(statistic):
    rows = rows_of(evaluate(study(seeds=1).tables()), statistic.name)
    rows = [row for row in rows if row["verdict"] != NOT_TESTED]
    assert all(row["estimate"] is not None for row in rows)
    if "over seeds" in statistic.description:
        for row in rows:
            assert row["low"] is row["high"] is None
            assert row["verdict"] == UNDECIDED
            reason = "there are too few seeds or models for an interval"
            assert row["rule"].endswith(f". Note: undecided because {reason}")


@pytest.mark.parametrize(
    ("role", "missing", "reason"),
    [
        ("normal", {1: 2, 2: 1, 3: 1, 4: 2}, "the study has no normal method"),
        ("adversarial", {4: 2}, "the study has no adversarial method"),
        ("method", {3: 1}, "the study has no on-manifold method"),
        ("regular_attack", {1: 2, 4: 4}, "the study has no regular attack"),
        ("attack", {1: 2, 2: 1, 3: 1}, "the study has no on-manifold attack"),
    ],
)
@pytest.mark.parametrize("absent", ["role", "rows"])
def test_a_missing_method_or_attack_is_named_as_the_reason(role, missing, reason, absent):
    name = {**ROLES, **TRUE}[role]
    if absent == "role":
        table = evaluate(SyntheticStudy().tables(), **{role: None})
    else:
        tables = [
            t.filter([name not in (r["method"], r.get("attack")) for r in t.to_pylist()])
            for t in SyntheticStudy().tables()
        ]
        table = evaluate(tables)
        reason = f"there are no .*{name}"
    tested_rows = [row for row in table.to_pylist() if row["verdict"] != NOT_TESTED]
    without_estimate = [row for row in tested_rows if row["estimate"] is None]
    counts = {claim: sum(row["claim"] == claim for row in without_estimate) for claim in missing}
    assert counts == missing
    assert len(without_estimate) == sum(missing.values())
    for row in without_estimate:
        assert row["verdict"] == UNDECIDED
        assert re.search(f"Note: undecided because {reason}", row["rule"])
    verdicts = combine_verdicts(table)
    assert {claim for (_, claim, _), v in verdicts.items() if v != SUPPORTED} == set(missing)


def test_empty_tables_give_no_claims():
    tables = [schema.empty_table() for schema in (ERRORS, SUCCESS_RATES, ALL_DISTANCES)]
    table = evaluate(tables)
    assert table.equals(CLAIMS.empty_table())
    assert format_verdicts(table, NO_CHECKS, ROLES, ON_MANIFOLD) == ""


def test_claims_do_not_depend_on_the_order_of_rows():
    generator = np.random.default_rng(0)
    noisy = study(rate=lambda m, n, s, a: (hash((len(m), n, s, len(a))) % 89) / 100)
    tables = noisy.tables()
    shuffled = [table.take(generator.permutation(len(table))) for table in tables]
    assert evaluate(tables).equals(evaluate(shuffled))


def test_each_data_set_has_verdicts_of_its_own():
    tables = []
    studies = (SyntheticStudy(), study(rate=trade_off))
    for good, bad in zip(*(synthetic.tables() for synthetic in studies), strict=True):
        renamed = bad.set_column(0, bad.schema.field(0), pa.array(["a"] * len(bad)))
        tables.append(pa.concat_tables([good, renamed]))
    verdicts = combine_verdicts(evaluate(tables))
    assert list(verdicts) == [(name, *key) for name in ("a", "fonts") for key in CLAIM_KEYS]
    assert [verdicts["a", *key] for key in CLAIM_KEYS] == [
        SUPPORTED,
        NOT_SUPPORTED,
        UNDECIDED,
        NOT_SUPPORTED,
    ]
    assert {verdicts["fonts", *key] for key in CLAIM_KEYS} == {SUPPORTED}


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((1.5, 1.1, 2), SUPPORTED),
        ((1.5, 1, 2), UNDECIDED),
        ((1, 1, 1), NOT_SUPPORTED),
        ((0.5, 0.2, 0.9), NOT_SUPPORTED),
        ((1, 0.5, 1.5), UNDECIDED),
        ((2, np.nan, np.nan), UNDECIDED),
    ],
)
def test_the_verdict_compares_the_whole_interval_with_the_threshold(interval, verdict):
    factor = next(s for s in STATISTICS if s.threshold == 1)
    assert factor.verdict(Interval(*interval)) == verdict
    assert "above 1, not supported if none" in factor.rule()


def test_the_text_shows_verdicts_estimates_intervals_and_reasons():
    text = format_verdicts(
        evaluate(SyntheticStudy().tables(), method=None), NO_CHECKS, ROLES, ON_MANIFOLD
    )
    for line in (
        "Data set fonts",
        "  methods compared: normal, on_true_manifold, adversarial",
        "  attacks compared: regular, along",
        "  1. Regular adversarial examples leave the data manifold, on the true manifold: "
        "supported",
        "       angle difference                     61 [58.5, 63.5]          > 0     supported",
        "       on manifold success, N = 100         0.501 [0.499, 0.503]     > 0     supported",
        "  3. Robustness to adversarial examples on the manifold is generalization, on the true "
        "manifold: undecided",
        "       error reduction                      no estimate              > 0     undecided",
        "         (the study has no on-manifold method)",
    ):
        assert line in text.splitlines()


def test_the_slope_of_a_saturated_attack_is_estimated_but_undecided():
    (row,) = rows_of(evaluate(study(rate=lambda *_: 0.999).tables()), "regular_slope")
    assert row["estimate"] == pytest.approx(0, abs=1e-9)
    assert row["low"] <= 1e-9
    assert row["high"] >= -1e-9
    assert "add an attack with a smaller radius" in row["rule"]


def evaluate_attacks(rates, slopes, *, robust_models=()):
    """The table of claims of a study with several regular attacks.

    Args:
        rates: success rate of each attack at a test error of 0.
        slopes: by how much it falls per test error, for each attack.
        robust_models: pairs of method and N on whose models every attack has a low success rate.
    """
    errors, _, distances = SyntheticStudy().tables()
    rows = []
    for row, (attack, rate) in itertools.product(errors.to_pylist(), rates.items()):
        is_robust = (row["method"], row["n"]) in robust_models
        success_rate = rate - slopes[attack] * row["test_error"]
        rows.append(
            {
                **{key: row[key] for key in ("dataset", "method", "n", "seed")},
                "attack": attack,
                **dict.fromkeys(COUNTS, 9),
                "success_rate": 0.2 if is_robust else success_rate,
                "success_rate_correct_codes": None,
            }
        )
    table = pa.Table.from_pylist(rows, schema=SUCCESS_RATES)
    return evaluate((errors, table, distances), **roles_of(rates))


def roles_of(names):
    """Roles of a study with these regular attacks."""
    attacks = {name: f"L∞ radius of {name}" for name in names}
    pairs = [("adversarial", name) for name in names]
    return {"regular_attacks": attacks, "strong_attacks": list(names), "robust_pairs": pairs}


def test_an_attack_is_saturated_even_if_one_model_resists_it():
    """The median over methods and N decides; one robust model would lower the mean enough."""
    rates = {"regular": 1.0, "small": 0.7}
    slopes = {"regular": 0.0, "small": 0.002}
    table = evaluate_attacks(rates, slopes, robust_models=[("normal", 100)])
    (row,) = rows_of(table, "regular_slope")
    assert row["rule"].endswith(". Note: measured with the attack small (L∞ radius of small)")


@pytest.mark.parametrize(
    ("rates", "selected"),
    [
        ({"regular": 0.999, "small": 0.8, "smaller": 0.6}, "small"),
        ({"regular": 0.97, "small": 0.8, "smaller": 0.6}, "regular"),
        ({"regular": 0.999, "small": 0.999, "smaller": 0.6}, "smaller"),
        ({"regular": 1.0, "small": 0.9999, "smaller": 0.999}, None),
    ],
)
def test_the_slope_is_that_of_the_strongest_attack_that_is_not_saturated(rates, selected):
    """The slopes differ, so that the estimate shows which attack was selected."""
    slopes = dict(zip(rates, (0.001, 0.002, 0.003), strict=True))
    table = evaluate_attacks(rates, slopes)
    roles = {**ROLES, **roles_of(rates)}
    (row,) = rows_of(table, "regular_slope")
    if selected is None:
        assert row["verdict"] == UNDECIDED
        assert "add an attack with a smaller radius" in row["rule"]
        return
    assert row["estimate"] == pytest.approx(-slopes[selected])
    assert row["verdict"] == SUPPORTED
    note = f"measured with the attack {selected} (L∞ radius of {selected})"
    assert row["rule"].endswith(f". Note: {note}")
    assert f"({note})" in format_verdicts(table, NO_CHECKS, roles, ON_MANIFOLD)


def test_the_factor_is_that_of_the_method_that_is_most_robust_at_its_own_radius():
    """Models trained at a radius that no model withstands gain nothing; others do."""

    class TwoRadii(SyntheticStudy):
        methods = ("normal", "hopeless", "adversarial", "on_true_manifold")

        def error(self, method, n, seed):
            if method == "hopeless":
                return NORMAL_ERRORS[SIZES.index(n)] + 0.2  # four times as many images
            return super().error(method, n, seed)

        def rate(self, method, n, seed, attack):
            return 1.0 if method == "hopeless" else super().rate(method, n, seed, attack)

    pairs = [("hopeless", "regular"), ("adversarial", "regular")]
    table = evaluate(TwoRadii().tables(), robust_pairs=pairs)
    *_, factor = rows_of(table, "adversarial_images_factor")
    assert factor["estimate"] == pytest.approx(2)
    note = "adversarial training under the attack regular (L∞ radius 0.3)"
    assert factor["rule"].endswith(f". Note: {note}")
    (gain,) = rows_of(table, "robustness_gain")
    assert gain["rule"].endswith(f". Note: {note}")
    *_, factor = rows_of(evaluate(TwoRadii().tables(), robust_pairs=pairs[:1]), factor["statistic"])
    assert factor["estimate"] == pytest.approx(4, rel=0.02)


def test_a_factor_at_a_small_n_does_not_decide_the_claim():
    """At small N both methods err on most images, so that the factor is 1."""
    errors = {"normal": (0.9, 0.5, 0.2), "adversarial": (0.9, 0.6, 0.5)}

    def error(method, n, seed):
        return errors.get(method, errors["normal"])[SIZES.index(n)]

    table = evaluate(study(error=error).tables())
    rows = rows_of(table, "adversarial_images_factor")
    assert [row["estimate"] for row in rows] == pytest.approx([1, 200 / (100 * 2**0.75), 2])
    assert [row["verdict"] for row in rows] == [NOT_TESTED, NOT_TESTED, SUPPORTED]
    assert combine_verdicts(table)["fonts", 4, None] == SUPPORTED


def test_adversarial_training_that_is_not_more_robust_does_not_support_claim_4():
    def rate(method, n, seed, attack):
        return 0.95 if attack == "regular" else SyntheticStudy().rate(method, n, seed, attack)

    table = evaluate(study(rate=rate).tables())
    assert rows_of(table, "robustness_gain")[0]["verdict"] == NOT_SUPPORTED
    assert combine_verdicts(table)["fonts", 4, None] == NOT_SUPPORTED


GOOD = {"accuracy": 0.9, "reconstruction_agreement": 0.95, "step_agreement": 0.95}


def quality_rows(space, **shares):
    """The quality of a manifold: a class with poor shares, and all classes with good `shares`."""
    names = [field.name for field in QUALITY if field.type == pa.float64()]
    common = {"dataset": "fonts", "space": space, "images": 10, **dict.fromkeys(names, 1.0)}
    return [
        {**common, **dict.fromkeys(GOOD, 0.3), "label": 0},
        {**common, **GOOD, **shares, "label": None},
    ]


LEARNED = {"manifold": "learned_manifold", "method": "on_true_manifold", "attack": "along"}
POOR = "the learned manifold is too poor: of the "
QUALITIES = {
    "good": ({}, ""),
    "at the limits": (
        {"reconstruction_agreement": 0.9, "step_agreement": 0.9, "accuracy": 0.5},
        "",
    ),
    "poor reconstructions": (
        {"reconstruction_agreement": 0.899},
        f"{POOR}test images .* only 89.9% are .* after reconstruction, and at least 90% are needed",
    ),
    "poor steps": (
        {"step_agreement": 0.7},
        f"{POOR}reconstructions .* only 70.0% are .* after a random step, and at least 90%",
    ),
    "no correct reconstruction": (
        {"reconstruction_agreement": 0.0, "step_agreement": None},
        f"{POOR}test images .* only 0.0% are",
    ),
    "no step": ({"step_agreement": None}, f"{POOR}reconstructions .* none is classified correctly"),
    "poor judge": (
        {"accuracy": 0.1},
        "the quality of the learned manifold cannot be measured: .* only 10.0% of the test images",
    ),
}


@pytest.mark.parametrize(("shares", "reason"), QUALITIES.values(), ids=QUALITIES)
def test_no_claim_is_decided_on_a_poor_learned_manifold(shares, reason):
    """The true manifold, with the same methods and attacks, supports all claims."""
    on_manifold = {"fonts": [TRUE, LEARNED]}
    quality = quality_rows("learned_manifold", **shares)
    table = evaluate(SyntheticStudy().tables(), quality, on_manifold)
    verdicts = combine_verdicts(table)
    manifolds = ("true_manifold", "learned_manifold")
    assert list(verdicts) == [
        *(("fonts", claim, manifold) for claim in (1, 2, 3) for manifold in manifolds),
        ("fonts", 4, None),
    ]
    for (_, _, manifold), verdict in verdicts.items():
        is_poor = reason and manifold == "learned_manifold"
        assert verdict == (UNDECIDED if is_poor else SUPPORTED)
    rows = [row for row in table.to_pylist() if row["manifold"] == "learned_manifold"]
    assert all(row["estimate"] is not None for row in rows)
    if reason:
        assert all(re.search(f"Note: undecided because {reason}", row["rule"]) for row in rows)
        text = format_verdicts(table, NO_CHECKS, ROLES, on_manifold)
        assert len(re.findall(reason, text)) == 3  # once per claim


def test_the_quality_of_another_manifold_does_not_matter():
    quality = quality_rows("data_manifold", reconstruction_agreement=0.1)
    table = evaluate(SyntheticStudy().tables(), quality, {"fonts": [LEARNED]})
    assert set(combine_verdicts(table).values()) == {SUPPORTED}
