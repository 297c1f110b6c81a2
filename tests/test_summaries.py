import io
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustgen.analysis import aggregate as summaries
from robustgen.io.schemas import (
    ALL_DISTANCES,
    ATTACKS,
    DISTANCES,
    ERRORS,
    OVER_SEEDS,
    PREDICTIONS,
    QUALITY,
    SUCCESS_RATES,
)

JOB = {"dataset": "fonts", "method": "normal", "n": 250}


def predictions(answers):
    """A table of one row per (seed, right or wrong)."""
    rows = [
        {"seed": seed, "example": i, "label": 3, "prediction": 3 if right else 4}
        for i, (seed, right) in enumerate(answers)
    ]
    return pa.Table.from_pylist(rows, schema=PREDICTIONS)


def attacks(answers):
    """A table of one row per (seed, right, code_correct, success)."""
    rows = [
        {
            **dict.fromkeys(ATTACKS.names, 0),
            "seed": seed,
            "example": i,
            "prediction": 0 if right else 1,
            "code_correct": start,
            "success": success,
            "iterations": None,
            "restart": None,
        }
        for i, (seed, right, start, success) in enumerate(answers)
    ]
    return pa.Table.from_pylist(rows, schema=ATTACKS)


def distances(rows):
    """A table of one row per (seed, example, attack, neighbour_distance)."""
    found = [
        {"seed": seed, "example": i, "attack": attack, "success": True, "neighbour_distance": d}
        for seed, i, attack, d in rows
    ]
    return pa.Table.from_pylist(found, schema=DISTANCES)


def parquet(table):
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def conforms(table, schema):
    assert table.schema.equals(schema, check_metadata=True)
    assert not any(table[f.name].null_count for f in schema if not f.nullable)


def shuffled(parts, seed):
    """The same rows in other orders, in parts and in chunks."""
    shuffle = random.Random(seed)
    parts = [
        (keys, table.take(shuffle.sample(range(len(table)), len(table)))) for keys, table in parts
    ]
    shuffle.shuffle(parts)
    return [(keys, pa.concat_tables([t.slice(0, 2), t.slice(2)])) for keys, t in parts]


def test_errors_are_counted_per_model():
    parts = [
        ({**JOB, "n": 1000}, predictions([(0, True), (0, True)])),
        (JOB, predictions([(1, True), (1, False), (0, False), (1, True), (1, False)])),
    ]
    table = summaries.errors(iter(parts))
    conforms(table, ERRORS)
    rows = [(r["n"], r["seed"], r["errors"], r["examples"]) for r in table.to_pylist()]
    assert rows == [(250, 0, 1, 1), (250, 1, 2, 4), (1000, 0, 0, 2)]
    assert table["test_error"].to_pylist() == [1, 0.5, 0]
    assert table["low"][2].as_py() == 0 < table["high"][2].as_py() < 1


def test_success_rates_count_only_images_that_the_model_gets_right():
    answers = [
        (0, True, True, True),
        (0, True, True, False),
        (0, True, False, True),
        (0, False, True, True),
        (0, False, False, False),
        (1, False, True, True),
        (2, True, False, True),
    ]
    table = summaries.success_rates([({**JOB, "attack": "regular"}, attacks(answers))])
    conforms(table, SUCCESS_RATES)
    columns = ("attacked", "successes", "attacked_correct_codes", "successes_correct_codes")
    assert [tuple(row[c] for c in columns) for row in table.to_pylist()] == [
        (3, 2, 2, 1),
        (0, 0, 0, 0),
        (1, 1, 0, 0),
    ]
    assert table["success_rate"].to_pylist() == [2 / 3, None, 1]
    assert table["success_rate_correct_codes"].to_pylist() == [0.5, None, None]
    assert table["low"].null_count == table["high"].null_count == 1


def test_over_seeds_averages_what_there_is():
    errors = summaries.errors([(JOB, predictions([(0, True), (1, False), (2, False)]))])
    answers = [(0, True, True, True), (1, True, False, False), (2, False, True, False)]
    rates = summaries.success_rates([({**JOB, "attack": "regular"}, attacks(answers))])
    table = summaries.over_seeds(errors, rates)
    conforms(table, OVER_SEEDS)
    found = [(r["measure"], r["attack"], r["seeds"], r["mean"]) for r in table.to_pylist()]
    assert found == [
        ("success_rate", "regular", 2, 0.5),
        ("success_rate_correct_codes", "regular", 1, 1.0),
        ("test_error", None, 3, pytest.approx(2 / 3)),
    ]
    assert table["low"].to_pylist() == [0, None, 0]
    assert table["high"].to_pylist() == [1, None, 1]


@pytest.mark.parametrize("named", [{"dataset": "fonts"}, JOB], ids=["own part", "with every job"])
def test_clean_images_are_kept_once_and_belong_to_no_model(named):
    clean = distances([(None, i, "clean", 0.25) for i in (1, 0)])
    moved = distances([(1, 0, "regular", 0.5), (0, 0, "regular", 0.75)])
    other = distances([(0, 0, "regular", 1.0), *[(0, i, "clean", 0.25) for i in (0, 1)]])
    parts = [(named, clean), (JOB, moved), ({**JOB, "n": 1000}, other)]
    table = summaries.all_distances(parts)
    conforms(table, ALL_DISTANCES)
    columns = ("method", "n", "seed", "attack", "example", "neighbour_distance")
    assert [tuple(row[c] for c in columns) for row in table.to_pylist()] == [
        ("normal", 250, 0, "regular", 0, 0.75),
        ("normal", 250, 1, "regular", 0, 0.5),
        ("normal", 1000, 0, "regular", 0, 1),
        (None, None, None, "clean", 0, 0.25),
        (None, None, None, "clean", 1, 0.25),
    ]


NO_ERRORS, NO_RATES = ERRORS.empty_table(), SUCCESS_RATES.empty_table()


@pytest.mark.parametrize(
    ("table", "schema"),
    [
        (summaries.errors([]), ERRORS),
        (summaries.errors([(JOB, PREDICTIONS.empty_table())]), ERRORS),
        (summaries.success_rates([]), SUCCESS_RATES),
        (summaries.over_seeds(NO_ERRORS, NO_RATES), OVER_SEEDS),
        (summaries.all_distances([]), ALL_DISTANCES),
        (summaries.all_distances([(JOB, DISTANCES.empty_table())]), ALL_DISTANCES),
    ],
)
def test_of_nothing_is_an_empty_table(table, schema):
    conforms(table, schema)
    assert len(table) == 0


@pytest.mark.parametrize(
    ("summary", "part"),
    [
        (summaries.errors, (JOB, predictions([(0, True)]))),
        (summaries.success_rates, ({**JOB, "attack": "a"}, attacks([(0, True, True, True)]))),
        (summaries.all_distances, (JOB, distances([(0, 0, "regular", 1.0)]))),
    ],
)
def test_the_same_job_twice_is_refused(summary, part):
    with pytest.raises(ValueError, match="occurs twice"):
        summary([part, part])


FLAGS = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.booleans(), st.booleans()),
    min_size=3,
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(some=FLAGS, others=FLAGS, seed=st.integers(0, 99))
def test_any_answers_give_rates_within_0_and_1_whatever_their_order(some, others, seed):
    jobs = [({**JOB, "method": "z", "attack": "a"}, some), ({**JOB, "attack": "a"}, others)]
    answered = [(keys, predictions([row[:2] for row in rows])) for keys, rows in jobs]
    attacked = [(keys, attacks(rows)) for keys, rows in jobs]

    errors, rates = summaries.errors(answered), summaries.success_rates(attacked)
    assert parquet(errors) == parquet(summaries.errors(shuffled(answered, seed)))
    assert parquet(rates) == parquet(summaries.success_rates(shuffled(attacked, seed)))

    over = summaries.over_seeds(errors, rates)
    for table, share in [(errors, "test_error"), (rates, "success_rate"), (over, "mean")]:
        conforms(table, table.schema)
        for row in table.to_pylist():
            if row["low"] is not None:
                assert 0 <= row["low"] <= row[share] <= row["high"] <= 1
    assert all(
        0 <= rate <= 1 for rate in rates["success_rate_correct_codes"].drop_null().to_pylist()
    )


@settings(max_examples=25, deadline=None)
@given(rows=FLAGS, seed=st.integers(0, 99))
def test_all_distances_do_not_depend_on_the_order_of_rows(rows, seed):
    kinds = [(model, "clean" if clean else "a") for model, clean, *_ in rows]
    one, other = (
        distances([(model, i, attack, i / part) for i, (model, attack) in enumerate(kinds)])
        for part in (7, 8)  # so that the clean images of two jobs differ, as by rounding
    )
    parts = [(JOB, one), ({**JOB, "method": "z"}, other)]
    one, other = (summaries.all_distances(p) for p in (parts, shuffled(parts, seed)))
    assert parquet(one) == parquet(other)


def test_quality_in_words_has_a_block_per_manifold_and_a_column_per_class():
    numbers = {n: 0.25 for n in QUALITY.names if QUALITY.field(n).type == pa.float64()}
    rows = [
        {
            **numbers,
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
    first, second = summaries.quality_text(pa.Table.from_pylist(rows, schema=QUALITY)).split("\n\n")
    head, *lines = first.splitlines()
    assert head == "Data set d, learned manifold, random steps of 0.25; per class"
    cells = {line.split()[0]: line.split()[1:] for line in lines}
    assert cells["class"] == ["A", "B", "all"]
    assert cells["images"] == ["10", "11", "20"]
    assert cells["l1"] == ["0.25"] * 3
    assert cells["sample_accuracy"] == ["%", "25", "25", "25"]
    (samples,) = [line for line in second.splitlines() if line.startswith("sample_accuracy")]
    assert samples.split()[2:] == ["-", "25", "25"]
    assert summaries.quality_text(QUALITY.empty_table()) == "No manifold is learned in this study."
