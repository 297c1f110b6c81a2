"""Transfer: whether adversarial examples of one model mislead other models of the same data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustgen.models.cohort import Cohort, predict_class
from robustgen.tensor_checks import require_eval_mode

BATCH_SIZE = 1000
"""Number of images that are classified together."""


@dataclass(frozen=True)
class TransferTarget:
    """Models on which adversarial examples of other models are tried.

    Attributes:
        method: training method of the models.
        cohort: M models in eval mode.
        is_correct: `(M, N)` whether each model classifies each clean test image correctly.
    """

    method: str
    cohort: Cohort
    is_correct: Tensor


def count_transfers(
    images: Tensor,
    success: Tensor,
    labels: Tensor,
    seeds: Sequence[int],
    targets: Sequence[TransferTarget],
) -> list[dict[str, Any]]:
    """Count how many adversarial examples of S models mislead the models of other seeds.

    An example is tried on a model that classifies its clean image correctly. Models of the seed of
    the source are left out, since they share initial weights and batch order with it.

    Args:
        images: `(S, B, C, H, W)` adversarial images of the first B test images.
        success: `(S, B)` whether each one misleads the model that it was made on.
        labels: `(B,)` true classes.
        seeds: seeds of the S models.
        targets: the models to try the examples on.

    Returns:
        A row per source model and target model with `seed`, `target_method`, `target_seed`, the
        number of examples that were `tried`, and how many `transferred`.
    """
    for target in targets:
        require_eval_mode("cohort", target.cohort)
    rows = []
    for source_images, source_success, seed in zip(images, success, seeds, strict=True):
        columns = source_success.nonzero()[:, 0]
        for target in targets:
            if set(target.cohort.seeds) == {seed}:
                continue
            is_wrong = _classify(target.cohort, source_images[columns]) != labels[columns]
            is_tried = target.is_correct[:, columns]
            tried, transferred = is_tried.sum(1), (is_tried & is_wrong).sum(1)
            rows += [
                {
                    "seed": seed,
                    "target_method": target.method,
                    "target_seed": target_seed,
                    "tried": int(tried[position]),
                    "transferred": int(transferred[position]),
                }
                for position, target_seed in enumerate(target.cohort.seeds)
                if target_seed != seed
            ]
    return rows


def _classify(cohort: Cohort, images: Tensor) -> Tensor:
    """Return the classes `(M, B)` that each model predicts for the images `(B, C, H, W)`."""
    members = len(cohort.seeds)
    predictions = [torch.empty(members, 0, dtype=torch.int64, device=images.device)]
    for batch in torch.split(images, BATCH_SIZE):
        logits = cohort.reference_forward(batch.expand(members, *batch.shape))
        predictions.append(predict_class(logits))
    return torch.cat(predictions, 1)
