"""The test images that figure 1 shows, and what the model predicts for them."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from robustgen.models.predictions import NO_CLASS


def fooled_by_all(attacks: Iterable[pd.DataFrame], most: int = 6) -> list[int]:
    """Test images of different classes on which every attack succeeded.

    Args:
        attacks: tables of `schemas.ATTACKS`, of one model each.
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


def predicted_names(examples: pd.DataFrame, classes: Sequence[str]) -> list[str | None]:
    """The name of the class that the model predicts for each adversarial example.

    Args:
        examples: rows of `schemas.ATTACKS`.
        classes: names of all classes.

    Returns:
        None where the attack had no success, "tie" where the highest logits are equal.
    """
    return [
        None if not success else "tie" if prediction == NO_CLASS else classes[prediction]
        for prediction, success in zip(
            examples["adversarial_prediction"], examples["success"], strict=True
        )
    ]
