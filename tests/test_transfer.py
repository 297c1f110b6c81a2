"""Transfer: counts compared with loops over single models and images, its table and its figure."""

from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from figure_data import visible_texts
from tiny import TinyCohort, make_tiny_split

from robustgen.analysis.aggregate import aggregate_transfers
from robustgen.evaluation.transfer import TransferTarget, count_transfers
from robustgen.figures.transfer import plot_transfer
from robustgen.io.schemas import ALL_TRANSFERS, TRANSFERS


def make_case():
    """Return images of two source models, their successes, labels, seeds and two targets."""
    data = make_tiny_split(24)
    clean = data.expand(1).images()[0]
    generator = torch.Generator().manual_seed(0)
    images = (clean + 0.4 * torch.randn(2, *clean.shape, generator=generator)).clamp(0, 1)
    success = torch.rand(2, 24, generator=generator) < 0.6
    targets = []
    for method, members in (("a", 2), ("b", 3)):
        cohort = TinyCohort(members)
        cohort.seeds = list(range(members))
        with torch.no_grad():
            predictions = cohort(clean.expand(members, *clean.shape)).argmax(-1)
        targets.append(TransferTarget(method, cohort, predictions == data.labels))
    return images, success, data.labels, [0, 1], targets


def test_counts_equal_a_loop_over_models_and_images():
    images, success, labels, seeds, targets = make_case()
    rows = count_transfers(images, success, labels, seeds, targets)
    by_key = {(r["seed"], r["target_method"], r["target_seed"]): r for r in rows}
    assert len(by_key) == len(rows)
    expected_keys = set()
    for source, target in product(range(2), targets):
        for position, target_seed in enumerate(target.cohort.seeds):
            if target_seed == seeds[source]:
                continue
            key = (seeds[source], target.method, target_seed)
            expected_keys.add(key)
            model, tried, transferred = target.cohort.member(position), 0, 0
            for i in range(24):
                if success[source, i] and target.is_correct[position, i]:
                    tried += 1
                    predicted = model(images[source, i][None]).argmax(1)
                    transferred += int(predicted != labels[i])
            assert (by_key[key]["tried"], by_key[key]["transferred"]) == (tried, transferred)
    assert set(by_key) == expected_keys
    assert any(0 < row["transferred"] < row["tried"] for row in rows)


def test_models_of_the_same_seed_are_left_out():
    images, success, labels, _, targets = make_case()
    rows = count_transfers(images, success, labels, [0, 1], targets)
    assert all(row["seed"] != row["target_seed"] for row in rows)
    assert len(rows) == 2 * (1 + 2)


def test_without_successes_nothing_is_tried():
    images, success, labels, seeds, targets = make_case()
    rows = count_transfers(images, torch.zeros_like(success), labels, seeds, targets)
    assert rows
    assert all(row["tried"] == row["transferred"] == 0 for row in rows)


def test_a_target_in_train_mode_is_refused():
    images, success, labels, seeds, targets = make_case()
    targets[0].cohort.train()
    with pytest.raises(ValueError, match="cohort is in train mode"):
        count_transfers(images, success, labels, seeds, targets)


def make_part(n: int, counts: dict[tuple[str, str], tuple[int, int]]):
    """Return the keys and the table of one N; `counts` by source and target method."""
    rows = [
        {
            "attack": "regular",
            "method": source,
            "seed": seed,
            "target_method": target,
            "target_seed": 1 - seed,
            "tried": tried,
            "transferred": transferred,
        }
        for (source, target), (tried, transferred) in counts.items()
        for seed in (0, 1)
    ]
    return {"dataset": "fonts", "n": n}, pa.Table.from_pylist(rows, schema=TRANSFERS)


COUNTS = {
    ("adversarial", "adversarial"): (10, 9),
    ("adversarial", "normal"): (8, 4),
    ("normal", "adversarial"): (0, 0),
    ("normal", "normal"): (10, 1),
}


def test_the_table_has_rates_and_keys_of_all_parts():
    table = aggregate_transfers([make_part(500, COUNTS), make_part(250, COUNTS)])
    assert table.schema.equals(ALL_TRANSFERS, check_metadata=True)
    assert table["n"].to_pylist() == [250] * 8 + [500] * 8
    rows = [row for row in table.to_pylist() if row["n"] == 250 and row["seed"] == 0]
    assert [row["transfer_rate"] for row in rows] == [0.9, 0.5, None, 0.1]
    assert all(row["low"] <= row["transfer_rate"] <= row["high"] for row in rows if row["tried"])
    with pytest.raises(ValueError, match="two results of the same model"):
        aggregate_transfers([make_part(500, COUNTS)] * 2)
    empty = aggregate_transfers([({"dataset": "fonts", "n": 1}, TRANSFERS.empty_table())])
    assert len(empty) == len(aggregate_transfers([])) == 0


def test_the_heat_map_has_the_mean_rates_of_the_largest_n():
    smaller = dict.fromkeys(COUNTS, (10, 0))
    table = aggregate_transfers([make_part(500, COUNTS), make_part(250, smaller)]).to_pandas()
    figure = plot_transfer(table, {"fonts": ["regular"]})
    axes, colour_bar = figure.axes
    assert colour_bar.get_xlabel() == "transfer rate in %, N = 500"
    assert [text.get_text() for text in axes.texts] == ["10", "50", "90"]
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels == ["normal", "adversarial"]
    assert [text.get_text() for text in axes.get_yticklabels()] == labels


def test_each_attack_has_a_panel_and_labels_are_not_repeated():
    _, part = make_part(500, COUNTS)
    names = ("one", "two", "three", "four", "five", "six", "seven")
    frame = pd.concat([part.to_pandas().assign(attack=name) for name in names])
    table = pa.Table.from_pandas(frame, schema=TRANSFERS, preserve_index=False)
    rates = aggregate_transfers([({"dataset": "fonts", "n": 500}, table)]).to_pandas()
    figure = plot_transfer(rates, {"fonts": names})
    *visible_panels, _colour_bar = (axes for axes in figure.axes if axes.get_visible())
    assert [axes.get_title(loc="left").split("  ")[1] for axes in visible_panels] == list(names)
    assert [bool(axes.get_xlabel()) for axes in visible_panels] == [True] * 3 + [False] * 4
    assert [bool(axes.get_ylabel()) for axes in visible_panels] == [i % 3 == 0 for i in range(7)]


def test_without_pairs_the_figure_says_what_is_missing():
    empty = ALL_TRANSFERS.empty_table().to_pandas()
    (text,) = visible_texts(plot_transfer(empty, {"fonts": ["regular"]}))
    assert text.get_text() == "no transfer: it needs two seeds and successful attacks"
    assert np.isnan(empty["n"].max())
