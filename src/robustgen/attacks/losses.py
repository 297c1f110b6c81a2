"""Losses that a search increases, each with its gradient with respect to the logits.

A step of a search depends on the direction of the gradient. The cross-entropy has none where a
model is so sure that its probabilities round to 0 and 1, for example because its logits are large.
The directions of the other losses do not change if all logits are multiplied by a number.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.specs import TARGETED_LOSSES, require_name

LossFn = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""A function of logits `(M, B, K)`, labels `(M, B)` and targets `(M, B)` to losses `(M, B)`, and to
the gradients `(M, B, K)` of each loss with respect to the logits of its example. The target is the
class that a targeted loss makes likely; other losses ignore it."""


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy, in nat, and its gradients.

    The gradient is written out: softmax minus the one-hot label. It saves a pass of autograd.
    """
    del targets
    log_probs = F.log_softmax(logits, -1)
    loss = -_pick(log_probs, labels)
    return loss, log_probs.exp() - _one_hot(logits, labels)


def scaled_cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of logits that are scaled to the standard deviation `LOGIT_SCALE`.

    The gradients are those for a constant scale: with the derivative of the scale, they would be
    orthogonal to the logits, and attacks succeed less often. With two classes the scaled logits
    have only two values, and the margin is returned.
    """
    if logits.shape[-1] == 2:
        return margin(logits, labels, targets)
    deviation = logits.std(-1, correction=0, keepdim=True).clamp_min(MIN_LOGIT_DIFFERENCE)
    scale = LOGIT_SCALE / deviation
    loss, gradient = cross_entropy(scale * logits, labels, targets)
    return loss, scale * gradient


def margin(logits: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest logit of another class minus that of the true class, and its gradients.

    It is positive where the model is wrong (Carlini and Wagner, S&P 2017, with the other sign).
    """
    del targets
    is_label = _one_hot(logits, labels)
    rivals = logits.masked_fill(is_label.bool(), -torch.inf).argmax(-1)
    loss = _pick(logits, rivals) - _pick(logits, labels)
    return loss, _one_hot(logits, rivals) - is_label


def dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the difference of logits ratio (Croce and Hein, ICML 2020, equation 6).

    It is the margin divided by the difference of the highest and the third highest logit. With two
    classes there is no third one, and the margin is returned.
    """
    numerator, grad_numerator = margin(logits, labels, targets)
    if logits.shape[-1] == 2:
        return numerator, grad_numerator
    ranked = logits.topk(3).indices
    grad_denominator = _one_hot(logits, ranked[..., 0]) - _one_hot(logits, ranked[..., 2])
    return _divide(logits, numerator, grad_numerator, grad_denominator)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the targeted difference of logits ratio (Croce and Hein, ICML 2020, equation 7).

    It is the logit of the target minus that of the true class, divided by the difference of the
    highest logit and the mean of the third and fourth highest ones. With three classes, it is the
    mean of the second and third one, because the quotient would else be constant for the target
    with the lowest logit.

    Raises:
        ValueError: there are two classes.
    """
    require_enough_classes("targeted_dlr", logits.shape[-1])
    numerator = _pick(logits, targets) - _pick(logits, labels)
    grad_numerator = _one_hot(logits, targets) - _one_hot(logits, labels)
    ranked = logits.topk(min(4, logits.shape[-1])).indices
    lower = (_one_hot(logits, ranked[..., -2]) + _one_hot(logits, ranked[..., -1])) / 2
    grad_denominator = _one_hot(logits, ranked[..., 0]) - lower
    return _divide(logits, numerator, grad_numerator, grad_denominator)


LOGIT_SCALE = 4.0
"""Standard deviation of the logits over the classes to which `scaled_cross_entropy` scales them.
Of 1, 2, 4 and 8, the values 4 and 8 gave the most successes on the demo's models."""
MIN_LOGIT_DIFFERENCE = 1e-12
"""Smallest divisor of a loss, for models whose highest logits are equal."""


def _divide(
    logits: Tensor, numerator: Tensor, grad_numerator: Tensor, grad_denominator: Tensor
) -> tuple[Tensor, Tensor]:
    """Return a quotient of two linear functions of the logits, and its gradients.

    Args:
        logits: `(M, B, K)`.
        numerator: `(M, B)` values of the numerator.
        grad_numerator: `(M, B, K)` its coefficients.
        grad_denominator: `(M, B, K)` the coefficients of the denominator.
    """
    denominator = (logits * grad_denominator).sum(-1).clamp_min(MIN_LOGIT_DIFFERENCE)
    ratio = numerator / denominator
    gradient = grad_numerator - ratio[..., None] * grad_denominator
    return ratio, gradient / denominator[..., None]


def _pick(values: Tensor, classes: Tensor) -> Tensor:
    """Return the values `(M, B)` of the given classes, from `(M, B, K)`."""
    return values.gather(-1, classes[..., None]).squeeze(-1)


def _one_hot(logits: Tensor, classes: Tensor) -> Tensor:
    """Return 1 at the given classes `(M, B)` and 0 elsewhere, like `logits`.

    `F.one_hot` would synchronize with the GPU.
    """
    numbers = torch.arange(logits.shape[-1], device=logits.device)
    return (numbers == classes[..., None]).to(logits.dtype)


LOSSES: dict[str, LossFn] = {
    "cross_entropy": cross_entropy,
    "scaled_cross_entropy": scaled_cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "targeted_dlr": targeted_dlr,
}
"""Losses by name."""


def get_loss(name: str) -> LossFn:
    """Return the loss `name`.

    Raises:
        ValueError: there is no loss of this name.
    """
    require_name("loss", name, LOSSES)
    return LOSSES[name]


def require_enough_classes(name: str, classes: int) -> None:
    """Raise a `ValueError` if a loss is targeted and there are only two classes.

    The only target would then be the class that any other loss makes likely, too.
    """
    if name in TARGETED_LOSSES and classes < 3:
        raise ValueError(
            f"loss is {name!r}, which needs 3 or more classes, but there are {classes}; use margin"
        )


def rank_targets(logits: Tensor, labels: Tensor) -> Tensor:
    """Rank the other classes `(M, B, K - 1)` of each example, the most likely one first.

    Args:
        logits: `(M, B, K)` of the clean codes.
        labels: `(M, B)` true classes, which are left out.
    """
    rivals = logits.masked_fill(_one_hot(logits, labels).bool(), -torch.inf)
    return rivals.argsort(dim=-1, descending=True, stable=True)[..., :-1]
