"""From the tables of single jobs to tables over the whole study.

`parts` are pairs of what names a job, as {"dataset": …, "method": …, "n": …} and, for attacks,
"attack", and of its table. They may come in any order and are taken one after the other, so that
a generator that reads files holds one in memory. Equal parts give equal tables: rows are sorted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from robustgen.analysis.statistics import t_interval, wilson
from robustgen.io.schemas import ALL_DISTANCES, CLEAN, DISTANCES, ERRORS, OVER_SEEDS, SUCCESS_RATES

Part = tuple[Mapping[str, Any], pa.Table]

STUDY_KEYS = ("dataset", "method", "n")
MODEL_KEYS = (*STUDY_KEYS, "seed")
RATES = ("success_rate", "success_rate_correct_codes")


def errors(parts: Iterable[Part]) -> pa.Table:
    """The test error of every model and its Wilson interval.

    Args:
        parts: tables with the schema `PREDICTIONS`.

    Returns:
        A table with the schema `ERRORS`, by data set, method, N and seed.

    Raises:
        ValueError: a model occurs twice.
    """
    rows = _per_model(parts, MODEL_KEYS, _count_errors)
    if rows.empty:
        return ERRORS.empty_table()
    rows["test_error"] = rows["errors"] / rows["examples"]
    rows["low"], rows["high"] = wilson(rows["errors"], rows["examples"])
    return _to_arrow(rows, ERRORS)


def success_rates(parts: Iterable[Part]) -> pa.Table:
    """The success rate of every attack on every model.

    Counted are test images that the model classifies correctly; "from right" counts of these only
    the ones whose unperturbed code decodes to a correctly classified image.

    Args:
        parts: tables with the schema `ATTACKS`.

    Returns:
        A table with the schema `SUCCESS_RATES`, by data set, method, N, seed and attack; a rate
        is null where no image is counted.

    Raises:
        ValueError: an attack on a model occurs twice.
    """
    rows = _per_model(parts, (*MODEL_KEYS, "attack"), _count_successes)
    if rows.empty:
        return SUCCESS_RATES.empty_table()
    for suffix in ("", "_correct_codes"):
        rows[f"success_rate{suffix}"] = rows[f"successes{suffix}"] / rows[f"attacked{suffix}"]
    rows["low"], rows["high"] = wilson(rows["successes"], rows["attacked"])
    return _to_arrow(rows, SUCCESS_RATES)


def over_seeds(errors: pa.Table, rates: pa.Table) -> pa.Table:
    """Means over seeds of the test error and of the success rates, with t intervals.

    Args:
        errors: a table with the schema `ERRORS`.
        rates: a table with the schema `SUCCESS_RATES`.

    Returns:
        A table with the schema `OVER_SEEDS`, by data set, method, N, measure and attack. Models
        without a rate are left out, and so is a mean of none.
    """
    long = [
        errors.to_pandas().assign(measure="test_error", attack=None, value=_named("test_error"))
    ]
    long += [rates.to_pandas().assign(measure=rate, value=_named(rate)) for rate in RATES]
    keys = [*STUDY_KEYS, "measure", "attack"]
    rows = []
    for frame in long:
        groups = frame.dropna(subset=["value"]).groupby(keys, dropna=False)
        for group, values in groups["value"]:
            mean, low, high = t_interval(values, bounds=(0, 1))
            found = {"seeds": len(values), "mean": mean, "low": low, "high": high}
            rows.append({**dict(zip(keys, group, strict=True)), **found})
    if not rows:
        return OVER_SEEDS.empty_table()
    return _to_arrow(pd.DataFrame(rows).sort_values(keys), OVER_SEEDS)


def all_distances(parts: Iterable[Part]) -> pa.Table:
    """The distances of the whole study in one table.

    Args:
        parts: tables with the schema `DISTANCES`. The rows of clean images belong to no model;
            they may come with every job or in a part named by its data set alone, and are kept
            once per data set and image.

    Returns:
        A table with the schema `ALL_DISTANCES`, by data set, method, N, seed, attack and example;
        rows of clean images come last in their data set.

    Raises:
        ValueError: an adversarial example occurs twice.
    """
    whole = [_with_keys(keys, table) for keys, table in parts]
    if not whole:
        return ALL_DISTANCES.empty_table()
    keys = [*MODEL_KEYS, "attack", "example"]
    rest = [name for name in ALL_DISTANCES.names if name not in keys]
    table = pa.concat_tables(whole).sort_by([(name, "ascending") for name in [*keys, *rest]])
    again = table.select(keys).to_pandas().duplicated().to_numpy()
    if np.any(again & ~pc.equal(table["attack"], CLEAN).to_numpy()):
        raise ValueError("the distance of an adversarial example occurs twice")
    return table.filter(pa.array(~again)).combine_chunks()


def quality_text(table: pa.Table) -> str:
    """The measures of learned manifolds as text for a reader, a block for each.

    Args:
        table: one with the schema `QUALITY`.
    """
    blocks = []
    for (dataset, space), rows in table.to_pandas().groupby(["dataset", "space"], sort=False):
        shown = rows.drop(columns=["dataset", "space", "label", "radius"])
        shown = shown.fillna({"class": "all"}).set_index("class")
        shares = [field.name for field in table.schema if field.metadata[b"unit"] == b"share"]
        shown[shares] = (100 * shown[shares].astype(float)).round(1)
        shown = shown.rename(columns={name: f"{name} %" for name in shares})
        name = f"Data set {dataset}, {str(space).replace('_', ' ')}"
        shown = shown.T.astype(object)
        shown.loc["images"] = rows["images"].astype(str).to_numpy()
        words = f"{name}, random steps of {rows['radius'].iloc[0]:g}; per class"
        blocks.append(f"{words}\n{shown.to_string(float_format='{:.3g}'.format, na_rep='-')}")
    return "\n\n".join(blocks) or "No manifold is learned in this study."


def _with_keys(keys: Mapping[str, Any], table: pa.Table) -> pa.Table:
    """A table of `DISTANCES` as one of `ALL_DISTANCES`."""
    table = table.select(DISTANCES.names)
    clean = pc.equal(table["attack"], CLEAN)
    columns = {name: table[name] for name in DISTANCES.names}
    for name in STUDY_KEYS:
        kind = ALL_DISTANCES.field(name).type
        value = pa.scalar(keys["dataset"] if name == "dataset" else keys.get(name), kind)
        nothing = value if name == "dataset" else pa.scalar(None, kind)
        columns[name] = pc.if_else(clean, nothing, value)
    columns["seed"] = pc.if_else(clean, pa.scalar(None, pa.int32()), columns["seed"])
    return pa.table(columns).select(ALL_DISTANCES.names).cast(ALL_DISTANCES)


def _per_model(
    parts: Iterable[Part], keys: Sequence[str], count: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """The counts of all parts, one row per model, sorted by `keys`."""
    counted = []
    for named, table in parts:
        frame = count(table.to_pandas()).reset_index()
        counted.append(frame.assign(**{key: named[key] for key in keys if key != "seed"}))
    if not counted:
        return pd.DataFrame()
    rows = pd.concat(counted, ignore_index=True).sort_values(list(keys))
    again = rows[rows.duplicated(list(keys))]
    if len(again):
        raise ValueError(f"occurs twice: {again.iloc[0][list(keys)].to_dict()}")
    return rows


def _count_errors(predictions: pd.DataFrame) -> pd.DataFrame:
    """Test images and errors of each seed."""
    wrong = predictions["prediction"] != predictions["label"]
    counted = pd.DataFrame({"examples": 1, "errors": wrong})
    return counted.groupby(predictions["seed"]).sum()


def _count_successes(attacks: pd.DataFrame) -> pd.DataFrame:
    """Attacked images and successes of each seed, from all and from right starts."""
    right = attacks["prediction"] == attacks["label"]
    from_right = right & attacks["code_correct"]
    counted = pd.DataFrame(
        {
            "attacked": right,
            "successes": right & attacks["success"],
            "attacked_correct_codes": from_right,
            "successes_correct_codes": from_right & attacks["success"],
        }
    )
    return counted.groupby(attacks["seed"]).sum()


def _named(column: str) -> Callable[[pd.DataFrame], "pd.Series[float]"]:
    """The column of a frame, for `DataFrame.assign`."""
    return lambda frame: frame[column]


def _to_arrow(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`, without pandas' own metadata; NaN becomes null."""
    table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    return table.replace_schema_metadata(schema.metadata)
