"""From the tables of single jobs to tables over the whole study.

`parts` are pairs of the keys of a job, {"dataset": …, "method": …, "n": …} and for attacks
"attack", and its table. They may come in any order and are read one after the other, so that a
generator that reads files has only one of them in memory. The rows of the results are sorted, so
that the order of the parts does not matter.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from robustgen.analysis.statistics import t_interval, wilson_interval
from robustgen.io.schemas import (
    ALL_DISTANCES,
    ALL_TRANSFERS,
    CLEAN,
    DISTANCES,
    ERRORS,
    OVER_SEEDS,
    SUCCESS_RATES,
)

Part = tuple[Mapping[str, Any], pa.Table]

STUDY_KEYS = ("dataset", "method", "n")
MODEL_KEYS = (*STUDY_KEYS, "seed")
RATES = ("success_rate", "success_rate_correct_codes", "success_rate_single")


def aggregate_errors(parts: Iterable[Part]) -> pa.Table:
    """Return the test error of every model and its Wilson interval.

    Args:
        parts: tables with the schema `PREDICTIONS`.

    Returns:
        A table with the schema `ERRORS`, sorted by data set, method, N and seed.

    Raises:
        ValueError: a model occurs twice.
    """
    rows = _count_per_model(parts, MODEL_KEYS, _count_errors)
    if rows.empty:
        return ERRORS.empty_table()
    rows["test_error"] = rows["errors"] / rows["examples"]
    rows["low"], rows["high"] = wilson_interval(rows["errors"], rows["examples"])
    return to_arrow(rows, ERRORS)


def aggregate_success_rates(parts: Iterable[Part]) -> pa.Table:
    """Return the success rates of every attack on every model.

    The success rate is over the test images that the model classifies correctly; the one on
    correct codes is over those of them whose unperturbed code decodes to a correctly classified
    image. The rate of a single attempt counts the successes of the first random start. Its mean is
    the mean over attempts, which the paper reports.

    Args:
        parts: tables with the schema `ATTACKS`.

    Returns:
        A table with the schema `SUCCESS_RATES`, sorted by data set, method, N, seed and attack. A
        rate over no image is null.

    Raises:
        ValueError: an attack on a model occurs twice.
    """
    rows = _count_per_model(parts, (*MODEL_KEYS, "attack"), _count_successes)
    if rows.empty:
        return SUCCESS_RATES.empty_table()
    for suffix in ("", "_correct_codes"):
        rows[f"success_rate{suffix}"] = rows[f"successes{suffix}"] / rows[f"attacked{suffix}"]
    rows["success_rate_single"] = rows["successes_single"] / rows["attacked"]
    rows["low"], rows["high"] = wilson_interval(rows["successes"], rows["attacked"])
    return to_arrow(rows, SUCCESS_RATES)


def aggregate_transfers(parts: Iterable[Part]) -> pa.Table:
    """Return how often adversarial examples of each model mislead each other model.

    Args:
        parts: tables with the schema `TRANSFERS`; the keys of a part are its data set and N.

    Returns:
        A table with the schema `ALL_TRANSFERS`, sorted by all its keys. A rate over no image is
        null.
    """
    frames = [table.to_pandas().assign(**keys) for keys, table in parts]
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    if rows.empty:
        return ALL_TRANSFERS.empty_table()
    keys = ["dataset", "n", "attack", "method", "seed", "target_method", "target_seed"]
    require_distinct_models(rows, keys)
    rows = rows.sort_values(keys)
    rows["transfer_rate"] = rows["transferred"] / rows["tried"]
    rows["low"], rows["high"] = wilson_interval(rows["transferred"], rows["tried"])
    return to_arrow(rows, ALL_TRANSFERS)


def average_over_seeds(errors: pa.Table, rates: pa.Table, smallest: pa.Table) -> pa.Table:
    """Return the means over seeds of test error, success rates and half radius, with t intervals.

    Args:
        errors: a table with the schema `ERRORS`.
        rates: a table with the schema `SUCCESS_RATES`.
        smallest: a table with the schema `SMALLEST_PERTURBATIONS`.

    Returns:
        A table with the schema `OVER_SEEDS`, sorted by data set, method, N, measure and attack.
        Null values are ignored; there is no row where all are null.
    """
    error_frame, rate_frame = errors.to_pandas().assign(attack=None), rates.to_pandas()
    columns = [
        (error_frame, "test_error"),
        *((rate_frame, rate) for rate in RATES),
        (smallest.to_pandas(), "half_radius"),
    ]
    frames = [frame.assign(measure=name, value=frame[name]) for frame, name in columns]
    keys = [*STUDY_KEYS, "measure", "attack"]
    rows = []
    for frame in frames:
        groups = frame.dropna(subset=["value"]).groupby(keys, dropna=False)
        for group, values in groups["value"]:
            highest = np.inf if frame["measure"].iloc[0] == "half_radius" else 1
            mean, low, high = t_interval(values, bounds=(0, highest))
            statistics = {"seeds": len(values), "mean": mean, "low": low, "high": high}
            rows.append({**dict(zip(keys, group, strict=True)), **statistics})
    if not rows:
        return OVER_SEEDS.empty_table()
    return to_arrow(pd.DataFrame(rows).sort_values(keys), OVER_SEEDS)


def concatenate_distances(parts: Iterable[Part]) -> pa.Table:
    """Return the distances of the whole study in one table.

    Args:
        parts: tables with the schema `DISTANCES`. Rows of clean images do not belong to a model.
            They may be in the table of every job, or in a part whose only key is its data set; one
            row per data set and image is kept.

    Returns:
        A table with the schema `ALL_DISTANCES`, sorted by data set, method, N, seed, attack and
        example. Rows of clean images are the last ones of their data set.

    Raises:
        ValueError: an adversarial example occurs twice.
    """
    tables = [_add_study_keys(job_keys, table) for job_keys, table in parts]
    if not tables:
        return ALL_DISTANCES.empty_table()
    keys = [*MODEL_KEYS, "attack", "example"]
    other_columns = [name for name in ALL_DISTANCES.names if name not in keys]
    order = [(name, "ascending") for name in [*keys, *other_columns]]
    table = pa.concat_tables(tables).sort_by(order)
    is_repeated = table.select(keys).to_pandas().duplicated().to_numpy()
    if np.any(is_repeated & ~pc.equal(table["attack"], CLEAN).to_numpy()):
        raise ValueError("two distances of the same adversarial example")
    return table.filter(pa.array(~is_repeated)).combine_chunks()


def format_quality(table: pa.Table) -> str:
    """Return the quality of learned manifolds as text, a block for each manifold.

    Args:
        table: a table with the schema `QUALITY`.
    """
    shares = [field.name for field in table.schema if field.metadata[b"unit"] == b"share"]
    by_manifold = table.to_pandas().groupby(["dataset", "space"], sort=False)
    blocks = [
        _format_manifold(str(dataset), str(space), rows, shares)
        for (dataset, space), rows in by_manifold
    ]
    return "\n\n".join(blocks) or "No manifold is learned in this study."


def _format_manifold(dataset: str, space: str, rows: pd.DataFrame, shares: Sequence[str]) -> str:
    """Format the quality of one manifold: a line per measure, a column per class; `shares` in %."""
    measures = rows.drop(columns=["dataset", "space", "label", "radius"])
    measures = measures.fillna({"class": "all"}).set_index("class")
    measures[shares] = (100 * measures[shares].astype(float)).round(1)
    measures = measures.rename(columns={name: f"{name} %" for name in shares})
    by_class = measures.T.astype(object)
    by_class.loc["images"] = rows["images"].astype(str).to_numpy()
    radius = rows["radius"].iloc[0]
    heading = f"Data set {dataset}, {space.replace('_', ' ')}, radius of random steps {radius:g}"
    return f"{heading}\n{by_class.to_string(float_format='{:.3g}'.format, na_rep='-')}"


def _add_study_keys(keys: Mapping[str, Any], table: pa.Table) -> pa.Table:
    """Add the keys of a job to its table of `DISTANCES`, which gives one of `ALL_DISTANCES`."""
    table = table.select(DISTANCES.names)
    is_clean = pc.equal(table["attack"], CLEAN)
    columns = {name: table[name] for name in DISTANCES.names}
    for name in STUDY_KEYS:
        dtype = ALL_DISTANCES.field(name).type
        value = pa.scalar(keys["dataset"] if name == "dataset" else keys.get(name), dtype)
        clean_value = value if name == "dataset" else pa.scalar(None, dtype)
        columns[name] = pc.if_else(is_clean, clean_value, value)
    columns["seed"] = pc.if_else(is_clean, pa.scalar(None, pa.int32()), columns["seed"])
    return pa.table(columns).select(ALL_DISTANCES.names).cast(ALL_DISTANCES)


def _count_per_model(
    parts: Iterable[Part], keys: Sequence[str], count: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """Return the counts of all parts, a row per model, sorted by `keys`."""
    frames = []
    for job_keys, table in parts:
        counts = count(table.to_pandas()).reset_index()
        frames.append(counts.assign(**{key: job_keys[key] for key in keys if key != "seed"}))
    if not frames:
        return pd.DataFrame()
    rows = pd.concat(frames, ignore_index=True).sort_values(list(keys))
    require_distinct_models(rows, keys)
    return rows


def require_distinct_models(rows: pd.DataFrame, keys: Sequence[str]) -> None:
    """Raise a `ValueError` if two rows have equal `keys`."""
    repeated = rows[rows.duplicated(list(keys))]
    if len(repeated):
        raise ValueError(f"two results of the same model: {repeated.iloc[0][list(keys)].to_dict()}")


def _count_errors(predictions: pd.DataFrame) -> pd.DataFrame:
    """Count the test images and the errors, for each seed."""
    is_wrong = predictions["prediction"] != predictions["label"]
    flags = pd.DataFrame({"examples": 1, "errors": is_wrong})
    return flags.groupby(predictions["seed"]).sum()


def _count_successes(attacks: pd.DataFrame) -> pd.DataFrame:
    """Count attacked images and successes for each seed, of all codes and of correct ones."""
    is_correct = attacks["prediction"] == attacks["label"]
    is_code_correct = is_correct & attacks["code_correct"]
    flags = pd.DataFrame(
        {
            "attacked": is_correct,
            "successes": is_correct & attacks["success"],
            "attacked_correct_codes": is_code_correct,
            "successes_correct_codes": is_code_correct & attacks["success"],
            "successes_single": is_correct & attacks["success"] & (attacks["restart"] == 0),
        }
    )
    counts = flags.groupby(attacks["seed"]).sum()
    if attacks["member"].notna().any():  # restarts of the members of an ensemble
        counts["successes_single"] = (
            counts["successes_single"].astype("Int64").mask(counts["attacked"] >= 0)
        )
    return counts


def to_arrow(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """Return the columns of `schema`, without pandas' own metadata; NaN becomes null."""
    table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    return table.replace_schema_metadata(schema.metadata)
