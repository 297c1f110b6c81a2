"""Step rules: from the gradient of the loss to a step of the search."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.optimizers import BETA1, BETA2, EPS
from robustgen.specs import require_name


class StepRule(Protocol):
    """Turns gradients into steps.

    Attributes:
        state: tensors by name, each of the shape of the codes `(M, B, *D)`.
    """

    state: dict[str, Tensor]

    def __call__(self, gradient: Tensor) -> Tensor:
        """The step for a gradient: about 1 per coordinate (L-infinity) or of L2 norm 1."""
        ...


class AdamStep:
    """Ascent with Adam (Kingma and Ba, ICLR 2015), as the paper's published code does."""

    def __init__(self, template: Tensor) -> None:
        self.state = {
            "exp_avg": torch.zeros_like(template),
            "exp_avg_sq": torch.zeros_like(template),
        }
        self.step_count = 0

    def __call__(self, gradient: Tensor) -> Tensor:
        """The bias-corrected mean over the root of the bias-corrected mean square."""
        bias_correction1, bias_correction2 = self.bias_corrections()
        exp_avg = self.state["exp_avg"].lerp_(gradient, 1 - BETA1)
        exp_avg_sq = self.state["exp_avg_sq"]
        exp_avg_sq.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        denominator = exp_avg_sq.div(bias_correction2).sqrt_().add_(EPS)
        return exp_avg.div(bias_correction1).div_(denominator)

    def bias_corrections(self) -> tuple[float, float]:
        """Count a step; return the factors by which mean and mean square are too small."""
        self.step_count += 1
        return 1 - BETA1**self.step_count, 1 - BETA2**self.step_count


class SignStep:
    """The sign of the gradient (Goodfellow et al. 2015; Madry et al. 2018)."""

    def __init__(self, template: Tensor) -> None:
        del template
        self.state: dict[str, Tensor] = {}

    def __call__(self, gradient: Tensor) -> Tensor:
        """A step of -1, 0 or 1 in each coordinate."""
        return gradient.sign()


class L2NormalizedStep:
    """The gradient divided by its L2 norm, for each example."""

    def __init__(self, template: Tensor) -> None:
        del template
        self.state: dict[str, Tensor] = {}

    def __call__(self, gradient: Tensor) -> Tensor:
        """A step of L2 norm 1; a zero gradient gives a zero step."""
        return F.normalize(gradient.flatten(2), dim=2, eps=1e-20).view_as(gradient)


STEP_RULES: dict[str, Callable[[Tensor], StepRule]] = {
    "adam": AdamStep,
    "signed": SignStep,
    "normalized": L2NormalizedStep,
}
"""Step rules by name; each is made for codes `(M, B, *D)`."""


def make_step_rule(name: str, codes: Tensor) -> StepRule:
    """The step rule called `name`, for codes `(M, B, *D)`.

    Raises:
        ValueError: there is no such step rule.
    """
    require_name("step_rule", name, STEP_RULES)
    return STEP_RULES[name](codes)
