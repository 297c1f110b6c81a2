"""The test images that figure 1 shows, and the names of the classes that the model predicts."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from robustgen.models.cohort import NO_CLASS


def select_examples(attacks: Iterable[pd.DataFrame], max_count: int = 6) -> list[int]:
    """Return test images of different classes on which every attack succeeded.

    Args:
        attacks: tables of `schemas.ATTACKS`, each of the same model and test images.
        max_count: maximum number of images.

    Returns:
        Rows of the test split, the first of each class, in the order of the classes. If there is
        no image on which all attacks succeeded, the first of each class that the model classifies
        correctly.
    """
    tables = list(attacks)
    first = tables[0]
    is_success = np.logical_and.reduce([table["success"].to_numpy() for table in tables])
    is_correct = (first["prediction"] == first["label"]).to_numpy()
    candidates = first[is_success if is_success.any() else is_correct].drop_duplicates("label")
    return [int(row) for row in candidates.sort_values("label")["example"].head(max_count)]


def predicted_names(examples: pd.DataFrame, classes: Sequence[str]) -> list[str | None]:
    """Return the name of the class that the model predicts for each adversarial example.

    Args:
        examples: rows of `schemas.ATTACKS`.
        classes: names of all classes.

    Returns:
        None without success of the attack; "tie" if the highest logits are equal.
    """
    predictions, success = examples["adversarial_prediction"], examples["success"]
    return [
        None if not is_success else "tie" if prediction == NO_CLASS else classes[prediction]
        for prediction, is_success in zip(predictions, success, strict=True)
    ]
