# ruff: noqa: ARG001, ARG002, ARG005 - functions of a world take the same arguments
import itertools
import re

import numpy as np
import pyarrow as pa
import pytest

from robustgen.analysis.claims import NOT_SUPPORTED, STATISTICS, SUPPORTED, UNDECIDED, claims
from robustgen.analysis.statistics import Interval
from robustgen.analysis.verdicts import describe, verdicts
from robustgen.io.schemas import ALL_DISTANCES, CLAIMS, ERRORS, QUALITY, SUCCESS_RATES

ROLES = {
    "normal": "normal",
    "adversarial": "adversarial",
    "regular_attack": "regular",
    "regular_attacks": ["regular"],
    "not_adversarial": ["normal", "on_true_manifold"],
}
TRUE = {"manifold": "true_manifold", "method": "on_true_manifold", "attack": "along"}
ON = {"a": [TRUE], "fonts": [TRUE]}
PLACES = [(1, "true_manifold"), (2, "true_manifold"), (3, "true_manifold"), (4, None)]
"""Claims and the manifolds that they are tested on."""
SIZES = (100, 200, 400)
NORMAL = (0.4, 0.3, 0.2)
"""Test error of normal training, by N."""


class World:
    """What a study of one data set finds, as functions to be replaced: a world per claim."""

    seeds = 3
    examples = 4
    methods = ("normal", "adversarial", "on_true_manifold")

    def error(self, method, n, seed):
        shift = {"normal": 0, "adversarial": 0.1, "on_true_manifold": -0.05}[method]
        return round(NORMAL[SIZES.index(n)] + shift + 0.001 * seed, 6)  # ties are ties

    def rate(self, method, n, seed, attack):
        if attack == "regular":
            return 0.2 if method == "adversarial" else 0.95 + 0.01 * seed
        return round(self.error(method, n, seed) + 0.1, 6)

    def distance(self, n, seed, example, attack):
        return 2 + 0.1 * example if attack == "regular" else 1 + 0.1 * seed

    def angle(self, seed, example, attack):
        return 80 + seed if attack == "regular" else 20

    def tables(self, known=True):
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
                "true_manifold_distance": self.distance(n, seed, i, attack) if known else None,
                "true_manifold_angle": self.angle(seed, i, attack) if known else None,
                "learned_manifold_distance": None,
                "learned_manifold_angle": None,
                # where the manifold is known, what the neighbours say must not be looked at
                "neighbour_distance": 1 if known else self.distance(n, seed, i, attack),
                "neighbour_angle": None if known else self.angle(seed, i, attack),
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


def world(**changes):
    """A world in which these are otherwise; functions take the arguments of those they replace."""
    made = World()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def outcome(tables, quality=(), on=ON, **roles):
    """The claims of a study; `roles` are other than usual, `method` and `attack` on a manifold."""
    other = {key: roles.pop(key) for key in ("method", "attack") if key in roles}
    on = {name: [{**of, **other} for of in many] for name, many in on.items()}
    held = pa.Table.from_pylist(list(quality), schema=QUALITY)
    return claims(*tables, held, {**ROLES, **roles}, on)


def of(table, statistic):
    return [row for row in table.to_pylist() if row["statistic"] == statistic]


def ends(row):
    return row["estimate"], row["low"], row["high"]


def test_a_world_as_the_paper_says_supports_all_claims():
    table = outcome(World().tables())
    assert table.schema.equals(CLAIMS, check_metadata=True)
    assert verdicts(table) == {("fonts", *place): SUPPORTED for place in PLACES}
    assert ends(of(table, "share_farther")[0]) == (1, 1, 1)
    angle = of(table, "angle_difference")[0]
    reach = 4.302652729911275 / 3**0.5  # t with 2 degrees of freedom; deviation 1 over 3 seeds
    assert ends(angle) == pytest.approx((61, 61 - reach, 61 + reach))
    found = of(table, "on_manifold_success")
    assert [row["n"] for row in found] == [100, 200, 400]
    assert [row["estimate"] for row in found] == pytest.approx([0.501, 0.401, 0.301])
    assert ends(of(table, "rank_correlation")[0]) == (1, 1, 1)
    assert [row["estimate"] for row in of(table, "error_reduction")] == pytest.approx([0.05] * 3)
    assert -0.2 < of(table, "regular_slope")[0]["estimate"] < 0.2
    # At 0.4 and 0.3 it has 200 and 400 images where normal training has 100 and 200.
    assert ends(of(table, "adversarial_images_factor")[0]) == pytest.approx((2, 2, 2))


def test_where_the_manifold_is_not_known_the_nearest_images_stand_in():
    known, unknown = (outcome(World().tables(known=k)) for k in (True, False))
    assert known.drop_columns("rule").equals(unknown.drop_columns("rule"))
    said = {"known manifold": known, "span of the nearest training images": unknown}
    for words, table in said.items():
        for name in ("share_farther", "angle_difference"):
            assert f"Here measured to the {words}" in of(table, name)[0]["rule"]


def test_pairs_are_two_successes_on_one_image_and_models_and_seeds_weigh_the_same():
    def distance(n, seed, example, attack):
        if attack == "along":
            return 1  # but image 0 is no success on the manifold, and so no pair
        if n == 100 and example > 1:
            return None  # one pair alone at this N
        return [9, 2 * (n == 100), seed, 3 * (seed == 2)][example]

    row = of(outcome(world(distance=distance).tables()), "share_farther")[0]
    # Of images 1, 2 and 3, by seed: none; image 2 as a tie; images 2 and 3. At N = 100: image 1.
    shares = [(1 + 2 * share) / 3 for share in (0, 0.5 / 3, 2 / 3)]
    assert row["estimate"] == pytest.approx(np.mean(shares))
    assert row["verdict"] == UNDECIDED


def test_factors_of_seeds_are_averaged_as_ratios():
    def error(method, n, seed):
        later = seed if method == "adversarial" else 0
        return (0.9, 0.9, *NORMAL)[SIZES.index(n) - later + 2]

    row = of(outcome(world(error=error).tables()), "adversarial_images_factor")[0]
    # Factors 1, 2 and 4: one, two and four times the images by seed.
    reach = 4.302652729911275 / 3**0.5 * np.log(2)
    assert ends(row) == pytest.approx((2, 2 / np.exp(reach), 2 * np.exp(reach)))


def flat_error(method, n, seed):
    return 0.3


def steep(method, n, seed, attack):
    return 1 - World().error(method, n, seed) if attack == "regular" else 0


def hidden(method, n, seed, attack):
    """A trade-off within each method, hidden by one that errs and is broken more."""
    error = World().error(method, n, seed)
    return 0.4 - 0.7 * error + 0.5 * (method == "normal") if attack == "regular" else 0


@pytest.mark.parametrize(
    ("statistic", "changes", "verdict"),
    [
        pytest.param("share_farther", {"distance": lambda n, s, i, a: 1}, NOT_SUPPORTED, id="tied"),
        pytest.param(
            "share_farther",
            {"distance": lambda n, s, i, a: (a == "along") + i},
            NOT_SUPPORTED,
            id="nearer",
        ),
        pytest.param(
            "angle_difference",
            {"angle": lambda s, i, a: 45 + (s - 1) * (a == "regular")},
            UNDECIDED,
            id="angle either way",
        ),
        pytest.param(
            "angle_difference",
            {"angle": lambda s, i, a: 10 if a == "regular" else 20},
            NOT_SUPPORTED,
            id="smaller angle",
        ),
        pytest.param(
            "on_manifold_success", {"rate": lambda *_: 0}, NOT_SUPPORTED, id="no success at all"
        ),
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
            id="models without a rate are left out",
        ),
        pytest.param(
            "rank_correlation",
            {"rate": lambda m, n, s, a: 1 - World().error(m, n, s)},
            NOT_SUPPORTED,
            id="more robust with more errors",
        ),
        pytest.param("rank_correlation", {"rate": lambda *_: 0.5}, UNDECIDED, id="one rate"),
        pytest.param("rank_correlation", {"error": flat_error}, UNDECIDED, id="one error"),
        pytest.param("error_reduction", {"error": flat_error}, NOT_SUPPORTED, id="no reduction"),
        pytest.param("error_reduction", {"error": lambda *_: 0}, UNDECIDED, id="no error"),
        pytest.param("regular_slope", {"rate": steep}, NOT_SUPPORTED, id="a trade-off"),
        pytest.param(
            "regular_slope",
            {"rate": lambda m, n, s, a: 0.9 - 0.3 * World().error(m, n, s)},
            SUPPORTED,
            id="a slope within the margin",
        ),
        pytest.param(
            "regular_slope",
            {"rate": lambda m, n, s, a: 0.9 * (n == 200)},
            UNDECIDED,
            id="scattered",
        ),
        pytest.param("regular_slope", {"rate": lambda *_: 0.999}, UNDECIDED, id="at the ceiling"),
        pytest.param(
            "regular_slope",
            {"rate": lambda m, n, s, a: 0.98 if (n, s) == (100, 0) else 1},
            UNDECIDED,
            id="one model off the ceiling",
        ),
        pytest.param("regular_slope_within_methods", {}, SUPPORTED, id="no slope within"),
        pytest.param("regular_slope_within_methods", {"rate": hidden}, NOT_SUPPORTED, id="hidden"),
        pytest.param(
            "adversarial_images_factor",
            {"error": lambda m, n, s: NORMAL[SIZES.index(n)] + 0.5 * (m != "normal") * (s == 0)},
            UNDECIDED,
            id="it never comes down in one seed",
        ),
        pytest.param("regular_slope", {"error": flat_error}, UNDECIDED, id="slope, one error"),
        pytest.param(
            "adversarial_images_factor",
            {"error": lambda m, n, s: NORMAL[SIZES.index(n)] - 0.1 * (m == "adversarial")},
            NOT_SUPPORTED,
            id="it needs fewer",
        ),
        pytest.param(
            "adversarial_images_factor",
            {"error": lambda m, n, s: NORMAL[SIZES.index(n)]},
            NOT_SUPPORTED,
            id="it needs as many",
        ),
        pytest.param(
            "adversarial_images_factor",
            {"error": lambda m, n, s: NORMAL[SIZES.index(n)] + 0.5 * (m == "adversarial")},
            UNDECIDED,
            id="it never comes down",
        ),
        pytest.param(
            "adversarial_images_factor", {"error": lambda *_: 0.5}, UNDECIDED, id="all models alike"
        ),
    ],
)
def test_verdict_of(statistic, changes, verdict):
    found = of(outcome(world(**changes).tables()), statistic)
    assert {row["verdict"] for row in found} == {verdict}


def test_a_curve_that_does_not_fall_is_the_reason():
    (row,) = of(outcome(world(error=lambda *_: 0.5).tables()), "adversarial_images_factor")
    assert row["rule"].endswith("the test error of normal training does not change with N")


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda s: s.name)
def test_one_seed_decides_nothing_over_seeds(statistic):
    rows = of(outcome(world(seeds=1).tables()), statistic.name)
    assert all(row["estimate"] is not None for row in rows)
    if "over seeds" in statistic.about:
        for row in rows:
            assert row["low"] is row["high"] is None
            assert row["verdict"] == UNDECIDED
            assert row["rule"].endswith("Here undecided: too few seeds or models for an interval")


@pytest.mark.parametrize(
    ("role", "lost", "reason"),
    [
        ("normal", {1: 2, 2: 1, 3: 1, 4: 1}, "the study has no normal method"),
        ("adversarial", {4: 1}, "the study has no adversarial method"),
        ("method", {3: 1}, "the study has no on-manifold method"),
        ("regular_attack", {1: 2, 4: 2}, "the study has no regular attack"),
        ("attack", {1: 2, 2: 1, 3: 1}, "the study has no on-manifold attack"),
    ],
)
@pytest.mark.parametrize("absent", ["role", "rows"])
def test_what_a_study_lacks_is_said_and_undecided(role, lost, reason, absent):
    name = {**ROLES, **TRUE}[role]
    if absent == "role":
        table = outcome(World().tables(), **{role: None})
    else:
        tables = [
            t.filter([name not in (r["method"], r.get("attack")) for r in t.to_pylist()])
            for t in World().tables()
        ]
        table = outcome(tables)
        reason = f"there are no .*{name}"
    empty = [row for row in table.to_pylist() if row["estimate"] is None]
    assert {c: sum(row["claim"] == c for row in empty) for c in lost} == lost
    assert len(empty) == sum(lost.values())
    for row in empty:
        assert row["verdict"] == UNDECIDED
        assert re.search(f"Here undecided: {reason}", row["rule"])
    assert {claim for (_, claim, _), v in verdicts(table).items() if v != SUPPORTED} == set(lost)


def test_a_study_of_nothing_has_no_claims():
    tables = [schema.empty_table() for schema in (ERRORS, SUCCESS_RATES, ALL_DISTANCES)]
    table = outcome(tables)
    assert table.equals(CLAIMS.empty_table())
    assert describe(table, ROLES, ON) == ""


def test_claims_do_not_depend_on_the_order_of_rows():
    generator = np.random.default_rng(0)
    noisy = world(rate=lambda m, n, s, a: (hash((len(m), n, s, len(a))) % 89) / 100)
    tables = noisy.tables()
    turned = [table.take(generator.permutation(len(table))) for table in tables]
    assert outcome(tables).equals(outcome(turned))


def test_data_sets_are_judged_apart():
    tables = []
    for good, bad in zip(World().tables(), world(rate=steep).tables(), strict=True):
        other = bad.set_column(0, bad.schema.field(0), pa.array(["a"] * len(bad)))
        tables.append(pa.concat_tables([good, other]))
    table = outcome(tables)
    found = verdicts(table)
    assert list(found) == [(name, *place) for name in ("a", "fonts") for place in PLACES]
    assert [found["a", *place] for place in PLACES] == [
        SUPPORTED,
        NOT_SUPPORTED,
        UNDECIDED,
        NOT_SUPPORTED,
    ]
    assert {found["fonts", *place] for place in PLACES} == {SUPPORTED}


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
def test_the_rule(interval, verdict):
    factor = next(s for s in STATISTICS if s.bar == 1)
    assert factor.verdict(Interval(*interval)) == verdict
    assert "above 1, not supported if none" in factor.rule()


def test_description_shows_verdict_estimate_interval_and_reason():
    text = describe(outcome(World().tables(), method=None), ROLES, ON)
    for line in (
        "Data set fonts",
        "  methods compared: normal, on_true_manifold, adversarial",
        "  attacks compared: regular, along",
        "  1. Regular adversarial examples leave the data manifold, on the true manifold: "
        "supported",
        "       angle difference                 61 [58.5, 63.5]          > 0     supported",
        "       on manifold success, N = 100     0.501 [0.499, 0.503]     > 0     supported",
        "  3. Robustness to adversarial examples on the manifold is generalization, on the true "
        "manifold: undecided",
        "       error reduction                  no estimate              > 0     undecided",
        "         (the study has no on-manifold method)",
    ):
        assert line in text.splitlines()


def test_a_slope_at_the_ceiling_is_measured_all_the_same():
    (row,) = of(outcome(world(rate=lambda *_: 0.999).tables()), "regular_slope")
    assert row["estimate"] == pytest.approx(0, abs=1e-9)
    assert row["low"] <= 1e-9
    assert row["high"] >= -1e-9
    assert "a smaller radius would show it" in row["rule"]


def outcome_of_attacks(rates, slopes, *, unbroken=()):
    """The claims where each attack has this success rate, which falls along its slope.

    unbroken: pairs of method and N whose models are hardly ever fooled, by whatever attack.
    """
    errors, _, distances = World().tables()
    rows = []
    for row, (attack, rate) in itertools.product(errors.to_pylist(), rates.items()):
        fooled = rate - slopes[attack] * row["test_error"]
        rows.append(
            {
                **{key: row[key] for key in ("dataset", "method", "n", "seed")},
                "attack": attack,
                **dict.fromkeys(COUNTS, 9),
                "success_rate": 0.2 if (row["method"], row["n"]) in unbroken else fooled,
                "success_rate_correct_codes": None,
            }
        )
    table = pa.Table.from_pylist(rows, schema=SUCCESS_RATES)
    return outcome((errors, table, distances), regular_attacks=list(rates))


def test_an_attack_that_breaks_most_models_is_not_taken_for_one_that_it_leaves():
    """The median over methods and N decides: one unbroken model lowers the mean far enough."""
    rates = {"regular": 1.0, "small": 0.7}
    slopes = {"regular": 0.0, "small": 0.002}
    made = outcome_of_attacks(rates, slopes, unbroken=[("normal", 100)])
    (row,) = of(made, "regular_slope")
    assert row["rule"].endswith("Here measured with the attack small")


@pytest.mark.parametrize(
    ("rates", "taken"),
    [
        ({"regular": 0.999, "small": 0.8, "smaller": 0.6}, "small"),
        ({"regular": 0.97, "small": 0.8, "smaller": 0.6}, "regular"),
        ({"regular": 0.999, "small": 0.999, "smaller": 0.6}, "smaller"),
        ({"regular": 1.0, "small": 0.9999, "smaller": 0.999}, None),
    ],
)
def test_the_slope_is_of_the_strongest_attack_that_leaves_a_model(rates, taken):
    """Each attack's rates have a slope of their own, which tells which was taken."""
    slopes = dict(zip(rates, (0.001, 0.002, 0.003), strict=True))
    made = outcome_of_attacks(rates, slopes)
    roles = {**ROLES, "regular_attacks": list(rates)}
    (row,) = of(made, "regular_slope")
    if taken is None:
        assert row["verdict"] == UNDECIDED
        assert "a smaller radius would show it" in row["rule"]
        return
    assert row["estimate"] == pytest.approx(-slopes[taken])
    assert row["verdict"] == SUPPORTED
    assert row["rule"].endswith(f"Here measured with the attack {taken}")
    assert f"(measured with the attack {taken})" in describe(made, roles, ON)


GOOD = {"accuracy": 0.9, "reconstruction_agreement": 0.95, "step_agreement": 0.95}


def quality(space, **shares):
    """What is known of a learned manifold, over all classes and in one, whose shares are others."""
    rest = {name: 1.0 for name in QUALITY.names if QUALITY.field(name).type == pa.float64()}
    about = {"dataset": "fonts", "space": space, "images": 10, **rest}
    return [
        {**about, **dict.fromkeys(GOOD, 0.3), "label": 0},
        {**about, **GOOD, **shares, "label": None},
    ]


LEARNED = {"manifold": "learned_manifold", "method": "on_true_manifold", "attack": "along"}
POOR = "the learned manifold is too poor: of the "
QUALITIES = [
    ({}, ""),
    ({"reconstruction_agreement": 0.9, "step_agreement": 0.9, "accuracy": 0.5}, ""),
    (
        {"reconstruction_agreement": 0.899},
        f"{POOR}test images .* 89.9% stay so as reconstructed, 90%",
    ),
    ({"step_agreement": 0.7}, f"{POOR}reconstructions .* 70.0% stay so after random steps, 90%"),
    (
        {"reconstruction_agreement": 0.0, "step_agreement": None},
        f"{POOR}test images .* 0.0% stay so",
    ),
    ({"step_agreement": None}, f"{POOR}reconstructions .* none stays so after random steps"),
    (
        {"accuracy": 0.1},
        "how good the learned manifold is cannot be told: .* only 10.0% of the test",
    ),
]


@pytest.mark.parametrize(("shares", "why"), QUALITIES)
def test_a_poor_learned_manifold_carries_no_claim(shares, why):
    """The true one beside it, with the same methods and attacks, carries them."""
    on = {"fonts": [TRUE, LEARNED]}
    table = outcome(World().tables(), quality("learned_manifold", **shares), on)
    found = verdicts(table)
    both = ("true_manifold", "learned_manifold")
    assert list(found) == [
        *(("fonts", claim, manifold) for claim in (1, 2, 3) for manifold in both),
        ("fonts", 4, None),
    ]
    for (_, _, manifold), said in found.items():
        poor = why and manifold == "learned_manifold"
        assert said == (UNDECIDED if poor else SUPPORTED)
    rows = [row for row in table.to_pylist() if row["manifold"] == "learned_manifold"]
    assert all(row["estimate"] is not None for row in rows)
    if why:
        assert all(re.search(f"Here undecided: {why}", row["rule"]) for row in rows)
        assert len(re.findall(why, describe(table, ROLES, on))) == 3  # once a claim


def test_the_quality_of_another_manifold_does_not_matter():
    table = outcome(
        World().tables(),
        quality("data_manifold", reconstruction_agreement=0.1),
        {"fonts": [LEARNED]},
    )
    assert set(verdicts(table).values()) == {SUPPORTED}
