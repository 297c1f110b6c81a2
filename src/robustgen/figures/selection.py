"""Which test images figure 1 shows."""

from collections.abc import Iterable

import numpy as np
import pandas as pd


def fooled_by_all(attacks: Iterable[pd.DataFrame], most: int = 6) -> list[int]:
    """Test images of different classes on which every attack succeeded.

    Args:
        attacks: tables of `tables.ATTACKS`, of one model each.
        most: how many at most.

    Returns:
        Rows of the test split, the first of each class, in the order of the classes. If no image
        was fooled by all, the first of each class that the model got right.
    """
    tables = list(attacks)
    first = tables[0]
    common = np.logical_and.reduce([table["success"].to_numpy() for table in tables])
    right = (first["prediction"] == first["label"]).to_numpy()
    chosen = first[common if common.any() else right].drop_duplicates("label")
    return [int(example) for example in chosen.sort_values("label")["example"].head(most)]
