"""Predicted classes, in particular of images whose highest logits are equal."""

import logging

import pandas as pd
import pytest
import torch
from conftest import make_cohort, make_split

from robustgen.evaluation.attacks import predict
from robustgen.figures.selection import predicted_names
from robustgen.models.cohort import NO_CLASS, predict_class

LOGITS = {
    "a single highest logit": ([0.0, 2.0, 1.0], 1),
    "the highest logit is the first": ([2.0, 1.0, 1.0], 0),
    "all logits are equal": ([0.0, 0.0, 0.0], NO_CLASS),
    "the two highest logits are equal": ([1.0, 3.0, 3.0], NO_CLASS),
    "the two lowest logits are equal": ([1.0, 1.0, 3.0], 2),
}


@pytest.mark.parametrize(("logits", "prediction"), LOGITS.values(), ids=LOGITS)
def test_equal_highest_logits_predict_no_class(logits, prediction):
    assert predict_class(torch.tensor([[logits]])).tolist() == [[prediction]]


def test_a_model_with_equal_logits_classifies_no_image_correctly(caplog):
    cohort = make_cohort([0]).eval()
    for name, weights in cohort.state_dict().items():
        if weights.is_floating_point() and "running" not in name:
            weights.zero_()
    with caplog.at_level(logging.WARNING, "robustgen"):
        table = predict(cohort, make_split("test").select(slice(12)))
    assert set(table["prediction"]) == {NO_CLASS}
    assert "12 of 12 predictions count as wrong" in caplog.text


def test_figure_1_names_ties_and_omits_failed_attacks():
    examples = pd.DataFrame(
        {"adversarial_prediction": [1, NO_CLASS, 0], "success": [True, True, False]}
    )
    assert predicted_names(examples, ["cat", "dog"]) == ["dog", "tie", None]
