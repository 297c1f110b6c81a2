"""Tables over the whole study, from small tables of single jobs."""

import io
import math
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustgen.analysis.aggregate import (
    aggregate_errors,
    aggregate_success_rates,
    average_over_seeds,
    concatenate_distances,
    format_quality,
)
from robustgen.analysis.statistics import t_interval
from robustgen.io.schemas import (
    ALL_DISTANCES,
    ATTACKS,
    DISTANCES,
    ERRORS,
    OVER_SEEDS,
    PREDICTIONS,
    QUALITY,
    SMALLEST_PERTURBATIONS,
    SUCCESS_RATES,
)

JOB = {"dataset": "fonts", "method": "normal", "n": 250}


def predictions(models):
    """A table with a row per pair of seed and whether the prediction is correct."""
    rows = [
        {"seed": seed, "example": i, "label": 3, "prediction": 3 if is_correct else 4}
        for i, (seed, is_correct) in enumerate(models)
    ]
    return pa.Table.from_pylist(rows, schema=PREDICTIONS)


def attacks(examples):
    """A table with a row per tuple of seed, correct prediction, correct code, and success."""
    rows = [
        {
            **dict.fromkeys(ATTACKS.names, 0),
            "seed": seed,
            "example": i,
            "prediction": 0 if is_correct else 1,
            "code_correct": is_code_correct,
            "success": is_success,
            "iterations": None,
            "restart": None,
            "member": None,
            "refuted": False,
        }
        for i, (seed, is_correct, is_code_correct, is_success) in enumerate(examples)
    ]
    return pa.Table.from_pylist(rows, schema=ATTACKS)


def distances(examples):
    """A table with a row per tuple of seed, example, attack, and distance to neighbours."""
    rows = [
        {"seed": seed, "example": i, "attack": attack, "success": True, "neighbour_distance": d}
        for seed, i, attack, d in examples
    ]
    return pa.Table.from_pylist(rows, schema=DISTANCES)


def to_parquet(table):
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def assert_schema(table, schema):
    assert table.schema.equals(schema, check_metadata=True)
    assert not any(table[f.name].null_count for f in schema if not f.nullable)


def shuffle(parts, seed):
    """The same parts in another order, with rows in another order and in two chunks."""
    rng = random.Random(seed)
    parts = [(keys, table.take(rng.sample(range(len(table)), len(table)))) for keys, table in parts]
    rng.shuffle(parts)
    return [(keys, pa.concat_tables([t.slice(0, 2), t.slice(2)])) for keys, t in parts]


def test_errors_are_counted_per_model():
    parts = [
        ({**JOB, "n": 1000}, predictions([(0, True), (0, True)])),
        (JOB, predictions([(1, True), (1, False), (0, False), (1, True), (1, False)])),
    ]
    table = aggregate_errors(iter(parts))
    assert_schema(table, ERRORS)
    rows = [(r["n"], r["seed"], r["errors"], r["examples"]) for r in table.to_pylist()]
    assert rows == [(250, 0, 1, 1), (250, 1, 2, 4), (1000, 0, 0, 2)]
    assert table["test_error"].to_pylist() == [1, 0.5, 0]
    assert table["low"][2].as_py() == 0 < table["high"][2].as_py() < 1


def test_success_rates_are_over_correctly_classified_images():
    examples = [
        (0, True, True, True),
        (0, True, True, False),
        (0, True, False, True),
        (0, False, True, True),
        (0, False, False, False),
        (1, False, True, True),
        (2, True, False, True),
    ]
    table = aggregate_success_rates([({**JOB, "attack": "regular"}, attacks(examples))])
    assert_schema(table, SUCCESS_RATES)
    columns = ("attacked", "successes", "attacked_correct_codes", "successes_correct_codes")
    assert [tuple(row[c] for c in columns) for row in table.to_pylist()] == [
        (3, 2, 2, 1),
        (0, 0, 0, 0),
        (1, 1, 0, 0),
    ]
    assert table["success_rate"].to_pylist() == [2 / 3, None, 1]
    assert table["success_rate_correct_codes"].to_pylist() == [0.5, None, None]
    assert table["low"].null_count == table["high"].null_count == 1


def test_a_single_attempt_counts_successes_of_the_first_start():
    rows = attacks([(0, True, True, True)] * 3 + [(0, True, True, False), (0, False, True, False)])
    first_starts = pa.array([0, 1, 0, None, None], rows.schema.field("restart").type)
    rows = rows.set_column(rows.schema.get_field_index("restart"), "restart", first_starts)
    table = aggregate_success_rates([({**JOB, "attack": "regular"}, rows)])
    assert_schema(table, SUCCESS_RATES)
    assert table["success_rate"].to_pylist() == [3 / 4]
    assert table["successes_single"].to_pylist() == [2]
    assert table["success_rate_single"].to_pylist() == [2 / 4]


def test_an_ensemble_has_no_single_attempt():
    rows = attacks([(0, True, True, True), (0, True, True, False)])
    members = pa.array(["random", None])
    rows = rows.set_column(rows.schema.get_field_index("member"), "member", members)
    single = attacks([(0, True, True, False)])
    parts = [({**JOB, "attack": "strong"}, rows), ({**JOB, "attack": "regular"}, single)]
    table = aggregate_success_rates(parts)
    assert table["attack"].to_pylist() == ["regular", "strong"]
    assert table["success_rate"].to_pylist() == [0, 0.5]
    assert table["successes_single"].to_pylist() == [0, None]
    assert table["success_rate_single"].to_pylist() == [0, None]


def test_means_over_seeds_ignore_missing_rates():
    errors = aggregate_errors([(JOB, predictions([(0, True), (1, False), (2, False)]))])
    examples = [(0, True, True, True), (1, True, False, False), (2, False, True, False)]
    rates = aggregate_success_rates([({**JOB, "attack": "regular"}, attacks(examples))])
    table = average_over_seeds(errors, rates, NO_SMALLEST)
    assert_schema(table, OVER_SEEDS)
    rows = [(r["measure"], r["attack"], r["seeds"], r["mean"]) for r in table.to_pylist()]
    assert rows == [
        ("success_rate", "regular", 2, 0.5),
        ("success_rate_correct_codes", "regular", 1, 1.0),
        ("success_rate_single", "regular", 2, 0.0),
        ("test_error", None, 3, pytest.approx(2 / 3)),
    ]
    assert table["low"].to_pylist() == [0, None, 0, 0]
    assert table["high"].to_pylist() == [1, None, 0, 1]


def test_half_radii_are_averaged_over_seeds_and_may_exceed_1():
    rows = [
        {**JOB, "seed": seed, "attack": "smallest", "attacked": 4, "successes": 4, "half_radius": r}
        for seed, r in enumerate((1.0, 2.0, 6.0, None))
    ]
    smallest = pa.Table.from_pylist(rows, schema=SMALLEST_PERTURBATIONS)
    (row,) = average_over_seeds(NO_ERRORS, NO_RATES, smallest).to_pylist()
    assert (row["measure"], row["attack"], row["seeds"]) == ("half_radius", "smallest", 3)
    mean, low, high = t_interval([1.0, 2.0, 6.0], bounds=(0, math.inf))
    assert (row["mean"], row["low"], row["high"]) == (mean, low, high)
    assert high > 1


@pytest.mark.parametrize("keys", [{"dataset": "fonts"}, JOB], ids=["own part", "in every job"])
def test_each_clean_image_has_one_row_without_a_model(keys):
    clean = distances([(None, i, "clean", 0.25) for i in (1, 0)])
    attacked = distances([(1, 0, "regular", 0.5), (0, 0, "regular", 0.75)])
    with_clean = distances([(0, 0, "regular", 1.0), *[(0, i, "clean", 0.25) for i in (0, 1)]])
    parts = [(keys, clean), (JOB, attacked), ({**JOB, "n": 1000}, with_clean)]
    table = concatenate_distances(parts)
    assert_schema(table, ALL_DISTANCES)
    columns = ("method", "n", "seed", "attack", "example", "neighbour_distance")
    assert [tuple(row[c] for c in columns) for row in table.to_pylist()] == [
        ("normal", 250, 0, "regular", 0, 0.75),
        ("normal", 250, 1, "regular", 0, 0.5),
        ("normal", 1000, 0, "regular", 0, 1),
        (None, None, None, "clean", 0, 0.25),
        (None, None, None, "clean", 1, 0.25),
    ]


NO_ERRORS, NO_RATES = ERRORS.empty_table(), SUCCESS_RATES.empty_table()
NO_SMALLEST = SMALLEST_PERTURBATIONS.empty_table()


@pytest.mark.parametrize(
    ("table", "schema"),
    [
        (aggregate_errors([]), ERRORS),
        (aggregate_errors([(JOB, PREDICTIONS.empty_table())]), ERRORS),
        (aggregate_success_rates([]), SUCCESS_RATES),
        (average_over_seeds(NO_ERRORS, NO_RATES, NO_SMALLEST), OVER_SEEDS),
        (concatenate_distances([]), ALL_DISTANCES),
        (concatenate_distances([(JOB, DISTANCES.empty_table())]), ALL_DISTANCES),
    ],
)
def test_no_rows_give_an_empty_table(table, schema):
    assert_schema(table, schema)
    assert len(table) == 0


@pytest.mark.parametrize(
    ("aggregate", "part"),
    [
        (aggregate_errors, (JOB, predictions([(0, True)]))),
        (aggregate_success_rates, ({**JOB, "attack": "a"}, attacks([(0, True, True, True)]))),
        (concatenate_distances, (JOB, distances([(0, 0, "regular", 1.0)]))),
    ],
)
def test_a_job_that_occurs_twice_is_refused(aggregate, part):
    with pytest.raises(ValueError, match=r"two .* of the same"):
        aggregate([part, part])


FLAGS = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.booleans(), st.booleans()),
    min_size=3,
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(first=FLAGS, second=FLAGS, seed=st.integers(0, 99))
def test_rates_lie_within_0_and_1_and_do_not_depend_on_the_order_of_rows(first, second, seed):
    jobs = [({**JOB, "method": "z", "attack": "a"}, first), ({**JOB, "attack": "a"}, second)]
    predicted = [(keys, predictions([row[:2] for row in rows])) for keys, rows in jobs]
    attacked = [(keys, attacks(rows)) for keys, rows in jobs]

    errors, rates = aggregate_errors(predicted), aggregate_success_rates(attacked)
    assert to_parquet(errors) == to_parquet(aggregate_errors(shuffle(predicted, seed)))
    assert to_parquet(rates) == to_parquet(aggregate_success_rates(shuffle(attacked, seed)))

    means = average_over_seeds(errors, rates, NO_SMALLEST)
    for table, share in [(errors, "test_error"), (rates, "success_rate"), (means, "mean")]:
        assert_schema(table, table.schema)
        for row in table.to_pylist():
            if row["low"] is not None:
                assert 0 <= row["low"] <= row[share] <= row["high"] <= 1
    assert all(
        0 <= rate <= 1 for rate in rates["success_rate_correct_codes"].drop_null().to_pylist()
    )


@settings(max_examples=25, deadline=None)
@given(rows=FLAGS, seed=st.integers(0, 99))
def test_distances_do_not_depend_on_the_order_of_rows(rows, seed):
    keys = [(model, "clean" if is_clean else "a") for model, is_clean, *_ in rows]
    first, second = (
        distances([(model, i, attack, i / divisor) for i, (model, attack) in enumerate(keys)])
        for divisor in (7, 8)  # the clean images of two jobs can differ by rounding
    )
    parts = [(JOB, first), ({**JOB, "method": "z"}, second)]
    table, shuffled = (concatenate_distances(p) for p in (parts, shuffle(parts, seed)))
    assert to_parquet(table) == to_parquet(shuffled)


def test_the_text_of_qualities_has_a_block_per_manifold_and_a_column_per_class():
    measures = {n: 0.25 for n in QUALITY.names if QUALITY.field(n).type == pa.float64()}
    rows = [
        {
            **measures,
            "dataset": "d",
            "space": space,
            "label": label,
            "class": None if label is None else "AB"[label],
            "images": 20 if label is None else 10 + label,
        }
        for space in ("learned_manifold", "data_manifold")
        for label in (0, 1, None)
    ]
    rows[3]["sample_accuracy"] = None
    first, second = format_quality(pa.Table.from_pylist(rows, schema=QUALITY)).split("\n\n")
    heading, *lines = first.splitlines()
    assert heading == "Data set d, learned manifold, radius of random steps 0.25"
    cells = {line.split()[0]: line.split()[1:] for line in lines}
    assert cells["class"] == ["A", "B", "all"]
    assert cells["images"] == ["10", "11", "20"]
    assert cells["l1"] == ["0.25"] * 3
    assert cells["sample_accuracy"] == ["%", "25", "25", "25"]
    (samples,) = [line for line in second.splitlines() if line.startswith("sample_accuracy")]
    assert samples.split()[2:] == ["-", "25", "25"]
    assert format_quality(QUALITY.empty_table()) == "No manifold is learned in this study."
