"""From logits to predicted classes."""

from torch import Tensor

NO_CLASS = -1
"""The prediction where several classes share the highest logit. It is wrong for every label."""


def predict_class(logits: Tensor) -> Tensor:
    """Return the class with the highest logit, or `NO_CLASS` where several classes share it.

    `argmax` alone returns the first of equal logits, so a model with constant logits would count as
    correct for class 0.

    Args:
        logits: `(..., K)`.

    Returns:
        `(...)` classes, int64.
    """
    highest = logits.max(-1, keepdim=True)
    is_tied = (logits == highest.values).sum(-1) > 1
    return highest.indices.squeeze(-1).masked_fill(is_tied, NO_CLASS)
