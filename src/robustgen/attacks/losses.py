"""Losses that a search increases, each with its gradient with respect to the logits."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.specs import require_name

LossFn = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A function of logits `(M, B, K)` and labels `(M, B)` to losses `(M, B)`, and to the gradients
`(M, B, K)` of each loss with respect to the logits of its example."""


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy, in nat, and its gradients.

    The gradient is written out: softmax minus the one-hot label. It saves a pass of autograd.
    """
    log_probs, label = F.log_softmax(logits, -1), labels[..., None]
    loss = -log_probs.gather(-1, label).squeeze(-1)
    classes = torch.arange(logits.shape[-1], device=logits.device)  # `one_hot` synchronizes
    return loss, log_probs.exp() - (classes == label).to(logits.dtype)


LOSSES: dict[str, LossFn] = {"cross_entropy": cross_entropy}
"""Losses by name."""


def get_loss(name: str) -> LossFn:
    """Return the loss `name`.

    Raises:
        ValueError: there is no loss of this name.
    """
    require_name("loss", name, LOSSES)
    return LOSSES[name]
