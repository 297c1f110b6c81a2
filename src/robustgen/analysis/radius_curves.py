"""Success against the radius, from the smallest perturbation of each image.

An attack for the smallest perturbation succeeds within every radius that is at least the size of
the perturbation. One run therefore gives the success rate at all radii.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from robustgen.analysis.aggregate import (
    MODEL_KEYS,
    STUDY_KEYS,
    Part,
    require_distinct_models,
    to_arrow,
)
from robustgen.analysis.statistics import t_interval
from robustgen.io.schemas import RADIUS_CURVES, SMALLEST_PERTURBATIONS

RADII = 80
"""Number of radii of a curve."""
FIRST_QUANTILE = 0.01
"""Quantile of the sizes at which the curves of an attack begin."""

Sizes = npt.NDArray[np.float64]
"""Sizes of the smallest perturbations of the images that a model classifies correctly, in ascending
order; infinity where none is known."""


def collect_sizes(parts: Iterable[Part], norms: Mapping[str, str]) -> pd.DataFrame:
    """Return the sizes of the perturbations of every model.

    Args:
        parts: tables with the schema `ATTACKS`, of attacks for the smallest perturbation.
        norms: the norm that each attack minimizes.

    Returns:
        A row per model and attack with the keys of the model, `attack` and `sizes`, sorted by them.

    Raises:
        ValueError: an attack on a model occurs twice.
    """
    rows: list[dict[str, Any]] = []
    for keys, table in parts:
        size_column = f"code_{norms[keys['attack']]}"
        columns = ["seed", "label", "prediction", "success", size_column]
        attacked = table.select(columns).to_pandas()
        for seed, images in attacked.groupby("seed"):
            is_correct = images["prediction"] == images["label"]
            sizes = images[size_column].where(images["success"], np.inf)[is_correct]
            rows.append({**keys, "seed": seed, "sizes": np.sort(sizes.to_numpy(np.float64))})
    keys_of_rows = [*MODEL_KEYS, "attack"]
    if not rows:
        return pd.DataFrame(columns=[*keys_of_rows, "sizes"])
    models = pd.DataFrame(rows).sort_values(keys_of_rows, ignore_index=True)
    require_distinct_models(models, keys_of_rows)
    return models


def tabulate_smallest(models: pd.DataFrame) -> pa.Table:
    """Return how large the smallest perturbations of each model are.

    Args:
        models: the result of `collect_sizes`.

    Returns:
        A table with the schema `SMALLEST_PERTURBATIONS`, in the order of `models`.
    """
    if models.empty:
        return SMALLEST_PERTURBATIONS.empty_table()
    rows = models.drop(columns="sizes").assign(
        attacked=[len(sizes) for sizes in models["sizes"]],
        successes=[np.isfinite(sizes).sum() for sizes in models["sizes"]],
        half_radius=[find_half_radius(sizes) for sizes in models["sizes"]],
        mean_size=[_average_finite(sizes) for sizes in models["sizes"]],
    )
    return to_arrow(rows, SMALLEST_PERTURBATIONS)


def find_half_radius(sizes: Sizes) -> float:
    """Return the smallest radius within which half of the images have a perturbation.

    It is NaN if fewer than half of them have one at any radius.
    """
    if not len(sizes):
        return np.nan
    half_radius = float(sizes[(len(sizes) + 1) // 2 - 1])
    return half_radius if np.isfinite(half_radius) else np.nan


def _average_finite(sizes: Sizes) -> float:
    """Return the mean of the sizes that are known; NaN if there are none."""
    finite = sizes[np.isfinite(sizes)]
    return float(finite.mean()) if len(finite) else np.nan


def tabulate_curves(models: pd.DataFrame) -> pa.Table:
    """Return the mean over seeds of the success rate at each radius, with its t interval.

    The radii of an attack on a data set are the same for all methods and N. They are evenly spaced
    in their logarithm.

    Args:
        models: the result of `collect_sizes`.

    Returns:
        A table with the schema `RADIUS_CURVES`, sorted by data set, method, N, attack and radius.
    """
    frames = []
    for _, attacked in models.groupby(["dataset", "attack"]):
        radii = _choose_radii(np.concatenate(attacked["sizes"].tolist()))
        for group, seeds in attacked.groupby([*STUDY_KEYS, "attack"]):
            sizes_by_seed = [sizes for sizes in seeds["sizes"] if len(sizes)]
            if not sizes_by_seed or not len(radii):
                continue
            rates = [np.searchsorted(s, radii, side="right") / len(s) for s in sizes_by_seed]
            intervals = [t_interval(rate, bounds=(0, 1)) for rate in np.transpose(rates)]
            frame = pd.DataFrame(intervals).rename(columns={"estimate": "mean"})
            keys: dict[str, Any] = dict(zip([*STUDY_KEYS, "attack"], group, strict=True))
            frames.append(frame.assign(**keys, seeds=len(rates), radius=radii))
    if not frames:
        return RADIUS_CURVES.empty_table()
    order = [*STUDY_KEYS, "attack", "radius"]
    return to_arrow(pd.concat(frames).sort_values(order), RADIUS_CURVES)


def _choose_radii(sizes: Sizes) -> Sizes:
    """Return the radii from a low quantile of the sizes to the largest one; none without sizes."""
    positive = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not len(positive):
        return np.empty(0)
    return np.geomspace(np.quantile(positive, FIRST_QUANTILE), positive.max(), RADII)
